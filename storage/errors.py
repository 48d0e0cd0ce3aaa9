"""The exception for errors that a user can fix."""

from collections.abc import Callable
from functools import partial


class UserError(Exception):
    """An error that the user can fix: it says what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 2; nothing is retried.
    """

    def __init__(self, what: str, *, where: str, remedy: str) -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __reduce__(self) -> tuple[Callable[..., "UserError"], tuple[str]]:
        """Workers of a cluster send their errors pickled; one of a subclass arrives as a UserError."""
        return partial(UserError, where=self.where, remedy=self.remedy), (self.what,)

    def __str__(self) -> str:
        return f"{self.what}\n  where:  {self.where}\n  remedy: {self.remedy}"
