"""The exception for errors that a user can fix."""


class UserError(Exception):
    """An error that the user can fix: it says what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 2; nothing is retried.
    """

    def __init__(self, what: str, *, where: str, remedy: str) -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  where:  {self.where}\n  remedy: {self.remedy}"
