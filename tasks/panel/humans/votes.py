"""Votes of people: votes.jsonl, to which the page appends, and any further files votes-*.jsonl beside it.

One vote per line. If a person votes twice on a comparison, the last vote counts: files are read in the order of their
names, votes.jsonl last. A line that cannot be read is reported and ignored.
"""

import fcntl
import functools
import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from storage.files import sync_folder
from tasks.panel.humans.attention import Attention, attention
from tasks.panel.humans.batch import Batch, Shown

VOTES = "votes.jsonl"
MORE_VOTES = "votes-*.jsonl"

#: withdrawn: the person has not voted on the comparison.
Choice = Literal["a", "b", "tie", "skip", "withdrawn"]

_LONGEST_NAME = 40  # characters
_LONGEST_NOTE = 2000  # characters


def clean_person(name: str) -> str:
    """A person's name as votes have it: lower case letters, digits, '.', '_' and '-', at most 40 characters.

    Raises ValueError when the name has no letter or digit.
    """
    plain = unicodedata.normalize("NFC", name).lower()
    cleaned = re.sub(r"[^\w.]+", "-", plain).strip("-._")[:_LONGEST_NAME].strip("-._")
    if not cleaned:
        raise ValueError("the name needs a letter or a digit")
    return cleaned


class HumanVote(BaseModel):
    """One line: a person's vote on a comparison of the batch. a and b are those of batch.jsonl."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    person: Annotated[str, AfterValidator(clean_person)]
    outcome: Choice
    order: Shown = "ab"  # ba: b was shown first
    at: str | None = None  # when the vote was cast; for information
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)  # from first sight to vote
    note: str | None = Field(None, max_length=_LONGEST_NOTE)  # the reason, in the person's words
    strength: Literal["slight", "clear"] | None = None  # how much better the chosen response is
    second: Literal["a", "b", "tie"] | None = None  # the answer to the batch's second question


@dataclass
class ReceivedVotes:
    """All votes on a batch."""

    votes: dict[str, dict[str, HumanVote]] = field(default_factory=dict)  # by comparison, then person
    attention: dict[str, Attention] = field(default_factory=dict)  # of everyone who answered a check
    checked: dict[str, set[str]] = field(default_factory=dict)  # by person: checks that need no vote of theirs
    left_out: dict[str, int] = field(default_factory=dict)  # votes of people who passed too few checks, by person
    faults: list[str] = field(default_factory=list)  # lines that could not be read: file, line, reason
    unknown: list[str] = field(default_factory=list)  # lines about comparisons that are not in the batch

    def complete(self, votes: int) -> int:
        """Number of comparisons that at least `votes` people have answered."""
        return sum(len(people) >= votes for people in self.votes.values())


def read_batch_votes(batch: Batch) -> ReceivedVotes:
    """The votes on a batch: those that count, and how people did in its attention checks."""
    received = read_votes(batch.folder, {*batch.items, *batch.checks})
    outcomes: dict[str, dict[str, str]] = {}
    for item in batch.checks:
        for person, vote in received.votes.pop(item, {}).items():
            received.checked.setdefault(person, set()).add(item)
            outcomes.setdefault(person, {})[item] = vote.outcome
    received.attention = {person: attention(batch.checks, given) for person, given in sorted(outcomes.items())}
    for person, how in received.attention.items():
        if how.too_few(batch.info.least_passed, len(batch.checks)):
            received.left_out[person] = _without(received.votes, person)
    return received


def _without(votes: Mapping[str, dict[str, HumanVote]], person: str) -> int:
    """Leave out a person's votes; returns how many there were."""
    return sum(people.pop(person, None) is not None for people in votes.values())


def read_votes(folder: Path, known: Collection[str]) -> ReceivedVotes:
    """Read the votes so far on the comparisons `known`, sorted by comparison and person."""
    last: dict[tuple[str, str], HumanVote] = {}
    received = ReceivedVotes()
    for path in sorted([*folder.glob(MORE_VOTES), *folder.glob(VOTES)], key=lambda path: (path.name == VOTES, path)):
        for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            vote = _parse(line)
            if isinstance(vote, str):
                received.faults.append(f"{where}: {vote}")
                continue
            if vote.id not in known:
                received.unknown.append(f"{where}: {vote.id}")
                continue
            last[vote.id, vote.person] = vote
    for (item, person), vote in sorted(last.items()):
        if vote.outcome != "withdrawn":
            received.votes.setdefault(item, {})[person] = vote
    return received


@functools.lru_cache(maxsize=1 << 17)  # the server reads the same lines after every vote
def _parse(line: bytes) -> HumanVote | str:
    """The vote in a line, or what is wrong with the line."""
    try:
        return HumanVote.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else str(first["msg"])


def append_vote(folder: Path, vote: HumanVote) -> None:
    """Append a vote to votes.jsonl and sync it to the disk. Safe for several processes at once."""
    path = folder / VOTES
    new = not path.exists()
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        newline = b""
        if size:
            file.seek(size - 1)
            newline = b"" if file.read(1) == b"\n" else b"\n"  # after a crash, or an editor that leaves none
        file.write(newline + vote.model_dump_json(exclude_none=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(folder)
