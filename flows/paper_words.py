"""The words of `python -m flows.paper`: those of its own, and those of the configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.compare import apart
from storage.errors import UserError

_OWN = ("methods", "seeds", "name", "h", "limit", "data")


@dataclass(frozen=True)
class Words:
    """The words of a command: those of its own, and the configuration's."""

    figure: str
    own: Mapping[str, str]
    rest: list[str]

    @classmethod
    def of(cls, figure: str, words: Sequence[str]) -> "Words":
        own = {key: value for key, _, value in (word.partition("=") for word in words) if key in _OWN}
        rest = [word for word in words if word.partition("=")[0] not in _OWN]
        return cls(figure, own, rest)

    @property
    def name(self) -> str:
        return self.own.get("name", self.figure)

    def listed(self, key: str, default: str = "") -> list[str]:
        text = self.own.get(key, default).strip()
        return [item for item in apart(text.removeprefix("[").removesuffix("]"), ",") if item]

    def numbers(self, key: str, default: str) -> list[int]:
        """Raises UserError for a value that is no whole number."""
        values = self.listed(key, default)
        if not all(value.isdecimal() for value in values):
            raise UserError(
                f"{key} is no list of whole numbers", where=f"{key}={self.own.get(key)}", remedy=f"{key}=[1,2]"
            )
        return [int(value) for value in values]

    def methods(self) -> list[str]:
        if not (methods := self.listed("methods")):
            raise UserError("no methods are named", where="command line", remedy='"methods=[irepo, dpo]"')
        return methods

    def objective(self) -> str:
        """The word of objective= (irepo without one)."""
        found = [word.partition("=")[2] for word in self.rest if word.startswith("objective=")]
        return found[-1] if found else "irepo"

    def without_objective(self) -> list[str]:
        return [word for word in self.rest if not word.startswith("objective=")]
