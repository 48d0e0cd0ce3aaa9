"""The one exception a user of irepo is meant to read."""


class UserError(Exception):
    """An error that the user can fix: it says what is wrong, where, and what to do.

    Commands print it on one screen and leave with exit code 2; nothing is retried.
    """

    def __init__(self, what: str, *, where: str, remedy: str) -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  where:  {self.where}\n  remedy: {self.remedy}"
