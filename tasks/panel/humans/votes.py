"""What people said: votes.jsonl, to which the page appends, and any further files votes-*.jsonl laid beside it.

One line a vote. Of several by one person on one comparison the last one holds: files are read by name, votes.jsonl
last. A line that cannot be read is named and left out; the others count.
"""

import fcntl
import functools
import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from storage.files import sync_folder
from tasks.panel.humans.batch import Shown

VOTES = "votes.jsonl"
MORE_VOTES = "votes-*.jsonl"

#: withdrawn: as if the person had not voted.
Said = Literal["a", "b", "tie", "skip", "withdrawn"]

_LONGEST_NAME = 40  # characters
_LONGEST_NOTE = 2000  # characters


def clean_person(name: str) -> str:
    """A person's name as it stands in votes: lower case, letters, digits, '.', '_' and '-', at most 40 characters.

    Raises ValueError when nothing is left of it.
    """
    plain = unicodedata.normalize("NFC", name).lower()
    cleaned = re.sub(r"[^\w.]+", "-", plain).strip("-._")[:_LONGEST_NAME].strip("-._")
    if not cleaned:
        raise ValueError("a person needs a name, with a letter or digit in it")
    return cleaned


class HumanVote(BaseModel):
    """One line: what a person says of a comparison of the batch. a and b are those of batch.jsonl."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    person: Annotated[str, AfterValidator(clean_person)]
    outcome: Said
    order: Shown = "ab"  # ba: b was shown first
    at: str | None = None  # when it was said; for people to read
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)  # from sight to vote
    note: str | None = Field(None, max_length=_LONGEST_NOTE)


@dataclass
class Arrived:
    """All that was said on a batch."""

    votes: dict[str, dict[str, HumanVote]] = field(default_factory=dict)  # by comparison, then person
    faults: list[str] = field(default_factory=list)  # lines that could not be read: file, line, why
    strangers: list[str] = field(default_factory=list)  # lines about comparisons that are not in the batch

    def complete(self, votes: int) -> int:
        """Comparisons that so many people have answered."""
        return sum(len(people) >= votes for people in self.votes.values())


def read_votes(folder: Path, known: Collection[str]) -> Arrived:
    """Read what people have said so far of the comparisons `known`; comparisons and people come sorted."""
    standing: dict[tuple[str, str], HumanVote] = {}
    arrived = Arrived()
    for path in sorted([*folder.glob(MORE_VOTES), *folder.glob(VOTES)], key=lambda path: (path.name == VOTES, path)):
        for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            vote = _parse(line)
            if isinstance(vote, str):
                arrived.faults.append(f"{where}: {vote}")
                continue
            if vote.id not in known:
                arrived.strangers.append(f"{where}: {vote.id}")
                continue
            standing[vote.id, vote.person] = vote
    for (name, person), vote in sorted(standing.items()):
        if vote.outcome != "withdrawn":
            arrived.votes.setdefault(name, {})[person] = vote
    return arrived


@functools.lru_cache(maxsize=1 << 17)  # the page's server reads the same lines after every vote
def _parse(line: bytes) -> HumanVote | str:
    """The vote that a line holds, or what is wrong with it."""
    try:
        return HumanVote.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        return f"{place}: {first['msg']}" if place else str(first["msg"])


def append_vote(folder: Path, vote: HumanVote) -> None:
    """Add a vote to votes.jsonl; when this returns, it is on the disk. Safe for several processes at once."""
    path = folder / VOTES
    new = not path.exists()
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        torn = b""
        if size:
            file.seek(size - 1)
            torn = b"" if file.read(1) == b"\n" else b"\n"  # a line cut by a crash, or an editor that ends without one
        file.write(torn + vote.model_dump_json(exclude_none=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(folder)
