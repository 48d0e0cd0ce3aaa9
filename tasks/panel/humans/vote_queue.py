"""The open batches below a folder, and each person's queue of comparisons in them."""

import hashlib
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict

from storage.errors import UserError
from storage.manifest import MANIFEST
from tasks.panel.humans.agreement import agreement_of
from tasks.panel.humans.batch import INFO, Batch, Shown, batch_label, read_batch, shown_order
from tasks.panel.humans.rendered import rendered
from tasks.panel.humans.votes import Choice, HumanVote, ReceivedVotes, append_vote, read_batch_votes

_AHEAD = 6  # comparisons that a page gets at once, so that it works on while the server is down
_RESCAN = 1.0  # seconds between scans of the folder for batches
_MIRRORED: dict[Any, Any] = {"a": "b", "b": "a"}
_RESERVED = 120.0  # seconds for which a comparison given to one person is last in the queues of others


class SubmittedVote(BaseModel):
    """A vote as the page sends it. a is the response shown on the left (or on top)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: str
    id: str
    person: str
    choice: Choice
    order: Shown
    seconds: float | None = None
    note: str | None = None
    strength: Literal["slight", "clear"] | None = None
    second: Literal["a", "b", "tie"] | None = None


class BatchRow(TypedDict):
    """A batch as the page lists it. mine: votes of this person; left: comparisons that still need one of theirs.

    agrees, shared: once nothing is left for this person, the comparisons on which they said the same as somebody else,
    and those that somebody else voted on too. Before, both are None, so that nobody votes as others did.
    """

    batch: str
    label: str
    name: str
    title: str
    instructions: str
    needed: int
    comparisons: int
    complete: int
    reached: bool
    mine: int
    left: int
    strength: bool
    second: str
    agrees: int | None
    shared: int | None


class ShownComparison(TypedDict):
    """A comparison as a person sees it, each text as it is and as HTML. order: which response is shown as a."""

    id: str
    prompt: list[dict[str, str]]  # role, content, html
    a: str
    b: str
    html: dict[str, str]  # of a and b
    order: Shown


class Work(TypedDict):
    """What the page shows a person. batch: the one that `questions` are of; None when nothing is left."""

    person: str
    batches: list[BatchRow]
    batch: str | None
    questions: list[ShownComparison]


@dataclass(frozen=True)
class BatchProgress:
    """A batch and the votes on it so far."""

    batch: Batch
    received: ReceivedVotes

    @property
    def complete(self) -> int:
        """Comparisons that have all their votes."""
        return self.received.complete(self.batch.info.votes)

    @property
    def reached(self) -> bool:
        """Whether the round can go on."""
        return self.complete >= self.batch.info.needed


class VoteQueue:
    """The batches below `root`: the folder of a batch, of a run, or of many runs. Safe for several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._scanned = -_RESCAN
        self._found_folders: dict[str, Path] = {}
        self._batches: dict[Path, tuple[Any, Batch]] = {}
        self._received: dict[Path, tuple[Any, ReceivedVotes]] = {}
        self._reserved: dict[tuple[str, str], tuple[str, float]] = {}  # (batch, comparison): person, time

    def open_batches(self) -> dict[str, BatchProgress]:
        """The batches whose stage still waits for votes, by their path below the root."""
        with self._lock:
            return {name: self._progress(folder) for name, folder in self._folders().items() if _open(folder)}

    def work(self, person: str, wanted: str | None = None) -> Work:
        """What the page shows `person`: all open batches, and the next comparisons of the batch `wanted`, or else of
        the first batch that has some for this person."""
        with self._lock:
            batches = {name: self._progress(folder) for name, folder in self._folders().items() if _open(folder)}
            queues = {name: self._queue(name, progress, person) for name, progress in batches.items()}
            chosen = wanted if wanted in queues else next((name for name, queue in queues.items() if queue), None)
            ahead = queues[chosen][:_AHEAD] if chosen is not None else []
            now = time.monotonic()
            self._reserved |= {(str(chosen), item): (person, now) for item in ahead}
            rows = [_batch_row(name, progress, person, queues[name]) for name, progress in batches.items()]
        questions = [_shown(batches[str(chosen)].batch, item, person) for item in ahead]  # rendering takes a while
        return {"person": person, "batches": rows, "batch": chosen, "questions": questions}

    def submit(self, vote: SubmittedVote) -> BatchRow:
        """Write a vote to the disk. Returns the batch's progress.

        Raises UserError for an unknown batch or comparison, and ValueError for an invalid vote.
        """
        with self._lock:
            folder = self._folders().get(vote.batch)
            if folder is None:
                raise UserError("this batch is closed", where=vote.batch, remedy="reload the page")
            batch = self._progress(folder).batch
            if vote.id not in batch.items and vote.id not in batch.checks:
                raise UserError("this comparison is no longer in the batch", where=vote.id, remedy="reload the page")
        stored = HumanVote(
            id=vote.id,
            person=vote.person,
            outcome=_MIRRORED.get(vote.choice, vote.choice) if vote.order == "ba" else vote.choice,
            order=vote.order,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=vote.seconds,
            note=vote.note or None,
            strength=vote.strength if vote.choice in ("a", "b") else None,
            second=_MIRRORED.get(vote.second, vote.second) if vote.order == "ba" else vote.second,
        )
        append_vote(folder, stored)
        with self._lock:
            progress = self._progress(folder)
            queue = self._queue(vote.batch, progress, stored.person)
            return _batch_row(vote.batch, progress, stored.person, queue)

    def _folders(self) -> dict[str, Path]:
        if time.monotonic() - self._scanned >= _RESCAN:
            folders = sorted(path.parent for path in self.root.rglob(INFO) if path.is_file())
            self._found_folders = {folder.relative_to(self.root).as_posix(): folder for folder in folders}
            self._scanned = time.monotonic()
        return self._found_folders

    def _progress(self, folder: Path) -> BatchProgress:
        """The batch as it is on the disk now. A file that did not change is not read again."""
        stamp = _stamp(folder, "batch.json*")
        if self._batches.get(folder, (None,))[0] != stamp:
            self._batches[folder] = stamp, read_batch(folder)
        batch = self._batches[folder][1]
        votes_stamp = stamp, _stamp(folder, "votes*.jsonl")
        if self._received.get(folder, (None,))[0] != votes_stamp:
            self._received[folder] = votes_stamp, read_batch_votes(batch)
        return BatchProgress(batch, self._received[folder][1])

    def _queue(self, name: str, progress: BatchProgress, person: str) -> list[str]:
        """The comparisons that still need a vote of this person, in an order that differs between people.

        Comparisons that somebody else is working on come last, so that two people do not do the same work.
        """
        needed = progress.batch.info.votes
        received = progress.received
        people = received.votes
        if person in received.left_out:
            return []
        left = [
            item
            for item in progress.batch.items
            if person not in people.get(item, {}) and len(people.get(item, {})) < needed
        ]
        if left:
            left += [check for check in progress.batch.checks if check not in received.checked.get(person, ())]
        now = time.monotonic()

        def taken(item: str) -> bool:
            holder, since = self._reserved.get((name, item), (person, now))
            return holder != person and now - since < _RESERVED and len(people.get(item, {})) + 1 >= needed

        return sorted(
            left, key=lambda item: (taken(item), hashlib.sha256(f"{person}\n{item}\norder".encode()).digest())
        )


def _open(folder: Path) -> bool:
    """Whether the stage that exported the batch is unfinished: it has no manifest."""
    return not (folder.parent / MANIFEST).exists()


def _stamp(folder: Path, pattern: str) -> list[tuple[str, int, int]]:
    """Name, time of change (ns) and size of the files that match."""
    stats = [(path.name, path.stat()) for path in sorted(folder.glob(pattern))]
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]


def _batch_row(name: str, progress: BatchProgress, person: str, queue: list[str]) -> BatchRow:
    info, received = progress.batch.info, progress.received
    agreement = None if queue else agreement_of(received.votes, person)
    return {
        "batch": name,
        "label": batch_label(progress.batch.folder),
        "name": info.name,
        "title": info.title,
        "instructions": info.instructions,
        "needed": info.needed,
        "comparisons": info.comparisons,
        "complete": progress.complete,
        "reached": progress.reached,
        "mine": sum(person in people for people in received.votes.values()) + len(received.checked.get(person, ())),
        "left": len(queue),
        "strength": info.strength,
        "second": info.second,
        "agrees": agreement.same if agreement else None,
        "shared": agreement.both if agreement else None,
    }


def _shown(batch: Batch, item_id: str, person: str) -> ShownComparison:
    """A comparison as the person sees it, without any sign of which model wrote which response."""
    item, order = batch.items.get(item_id) or batch.checks[item_id], shown_order(item_id, person)
    first, second = (item.a, item.b) if order == "ab" else (item.b, item.a)
    return {
        "id": item_id,
        "prompt": [{**message, "html": rendered(message["content"])} for message in item.prompt],
        "a": first,
        "b": second,
        "html": {"a": rendered(first), "b": rendered(second)},
        "order": order,
    }
