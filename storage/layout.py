"""Paths inside a run folder: `runs/<name>/round-NN/<stage>/`."""

import re
from dataclasses import dataclass
from pathlib import Path

from storage.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RunLayout:
    """Paths of one run. Round 0 is the initial policy: it has an evaluate stage only."""

    root: Path

    @classmethod
    def of(cls, runs: Path, name: str) -> "RunLayout":
        """The layout of run `name` below `runs`. Raises UserError for an invalid name."""
        if not _NAME.fullmatch(name) or ".." in name:
            raise UserError(
                f"{name!r} is not a run name",
                where="name",
                remedy="use letters, digits, '.', '_' and '-' only, starting with a letter or digit (e.g. name=demo-2)",
            )
        return cls(runs / name)

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def prompts(self) -> Path:
        """Stage folder with train.parquet and heldout.parquet."""
        return self.root / "prompts"

    @property
    def data(self) -> Path:
        """Stage folder of offline training: pairs.parquet and prompts.parquet."""
        return self.root / "data"

    @property
    def answers(self) -> Path:
        """Answers of remote annotators by content: no question is asked twice."""
        return self.root / "answers"

    def policy(self, name: str) -> Path:
        """A policy from outside the run with the run's arguments of the chat template; its weights are links."""
        return self.root / "policies" / name

    def round(self, number: int) -> Path:
        return self.root / f"round-{number:02d}"

    def stage(self, number: int, stage: str) -> Path:
        return self.round(number) / stage
