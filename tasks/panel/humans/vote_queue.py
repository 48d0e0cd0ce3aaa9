"""Who is asked what next: the batches that wait below a folder, and each person's own queue through them."""

import hashlib
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.errors import UserError
from storage.manifest import MANIFEST
from tasks.panel.humans.batch import ABOUT, Batch, Shown, read_batch, shown_order
from tasks.panel.humans.votes import Arrived, HumanVote, Said, append_vote, read_votes

_AHEAD = 6  # comparisons that a page is given at once: it goes on while the server is away
_LOOK = 1.0  # seconds for which what was found below the folder is taken to hold
_IN_HAND = 120.0  # seconds for which a comparison given to one person is given to others last


class Cast(BaseModel):
    """A vote as the page sends it. a is what stood on the left (or on top)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: str
    id: str
    person: str
    choice: Said
    order: Shown
    seconds: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Standing:
    """How far a batch is."""

    batch: Batch
    arrived: Arrived

    @property
    def complete(self) -> int:
        return self.arrived.complete(self.batch.about.votes)

    @property
    def reached(self) -> bool:
        """Whether the round can go on."""
        return self.complete >= self.batch.about.needed


class Desk:
    """Everything below `root`: a batch's folder, a run's or one with many runs. Safe for several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._looked = -_LOOK
        self._found: dict[str, Path] = {}
        self._batches: dict[Path, tuple[Any, Batch]] = {}
        self._arrived: dict[Path, tuple[Any, Arrived]] = {}
        self._in_hand: dict[tuple[str, str], tuple[str, float]] = {}  # (batch, comparison): last given to, when

    def standings(self) -> dict[str, Standing]:
        """The batches that wait for votes, by their path below the root; those of finished stages are left out."""
        with self._lock:
            return {name: self._standing(folder) for name, folder in self._folders().items() if _open(folder)}

    def work(self, person: str, wanted: str | None = None) -> dict[str, Any]:
        """What the page shows `person`: all open batches, and the next comparisons of `wanted` (else of the first
        batch that has some for this person)."""
        with self._lock:
            standings = {name: self._standing(folder) for name, folder in self._folders().items() if _open(folder)}
            queues = {name: self._queue(name, standing, person) for name, standing in standings.items()}
            chosen = wanted if wanted in queues else next((name for name, queue in queues.items() if queue), None)
            ahead = queues[chosen][:_AHEAD] if chosen is not None else []
            now = time.monotonic()
            self._in_hand |= {(str(chosen), name): (person, now) for name in ahead}
            return {
                "batches": [_progress(name, standing, person, queues[name]) for name, standing in standings.items()],
                "batch": chosen,
                "questions": [_shown(standings[str(chosen)].batch, name, person) for name in ahead],
            }

    def cast(self, vote: Cast) -> dict[str, Any]:
        """Keep a vote; when this returns, it is on the disk. Returns the batch's progress.

        Raises UserError for a batch or comparison that is not there, and ValueError for a vote that cannot be one.
        """
        with self._lock:
            folder = self._folders().get(vote.batch)
            if folder is None:
                raise UserError("this batch is gone", where=vote.batch, remedy="reload the page")
            batch = self._standing(folder).batch
            if vote.id not in batch.questions:
                raise UserError("the batch has no such comparison any more", where=vote.id, remedy="reload the page")
        mirrored: dict[Said, Said] = {"a": "b", "b": "a"} if vote.order == "ba" else {}
        kept = HumanVote(
            id=vote.id,
            person=vote.person,
            outcome=mirrored.get(vote.choice, vote.choice),
            order=vote.order,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=vote.seconds,
            note=vote.note or None,
        )
        append_vote(folder, kept)
        with self._lock:
            standing = self._standing(folder)
            queue = self._queue(vote.batch, standing, kept.person)
            return _progress(vote.batch, standing, kept.person, queue)

    def _folders(self) -> dict[str, Path]:
        if time.monotonic() - self._looked >= _LOOK:
            folders = sorted(path.parent for path in self.root.rglob(ABOUT) if path.is_file())
            self._found = {folder.relative_to(self.root).as_posix(): folder for folder in folders}
            self._looked = time.monotonic()
        return self._found

    def _standing(self, folder: Path) -> Standing:
        """As it is on the disk now; a file that did not change is not read again."""
        stamp = _stamp(folder, "batch.json*")
        if self._batches.get(folder, (None,))[0] != stamp:
            self._batches[folder] = stamp, read_batch(folder)
        batch = self._batches[folder][1]
        said = stamp, _stamp(folder, "votes*.jsonl")
        if self._arrived.get(folder, (None,))[0] != said:
            self._arrived[folder] = said, read_votes(folder, batch.questions)
        return Standing(batch, self._arrived[folder][1])

    def _queue(self, name: str, standing: Standing, person: str) -> list[str]:
        """The comparisons that still need this person, in an order of this person's own.

        Those that somebody else has just been given come last, so that two at once do not do the same work.
        """
        needed = standing.batch.about.votes
        people = standing.arrived.votes
        left = [
            each
            for each in standing.batch.questions
            if person not in people.get(each, {}) and len(people.get(each, {})) < needed
        ]
        now = time.monotonic()

        def taken(each: str) -> bool:
            holder, since = self._in_hand.get((name, each), (person, now))
            return holder != person and now - since < _IN_HAND and len(people.get(each, {})) + 1 >= needed

        return sorted(
            left, key=lambda each: (taken(each), hashlib.sha256(f"{person}\n{each}\norder".encode()).digest())
        )


def _open(folder: Path) -> bool:
    """Whether the stage that exported the batch still waits: it has no manifest."""
    return not (folder.parent / MANIFEST).exists()


def _stamp(folder: Path, pattern: str) -> list[tuple[str, int, int]]:
    found = [(path.name, path.stat()) for path in sorted(folder.glob(pattern))]
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in found]


def _progress(name: str, standing: Standing, person: str, queue: list[str]) -> dict[str, Any]:
    about = standing.batch.about
    return {
        "batch": name,
        "name": about.name,
        "title": about.title,
        "instructions": about.instructions,
        "needed": about.needed,
        "comparisons": about.comparisons,
        "complete": standing.complete,
        "reached": standing.reached,
        "mine": sum(person in people for people in standing.arrived.votes.values()),
        "left": len(queue),
    }


def _shown(batch: Batch, name: str, person: str) -> dict[str, Any]:
    """A comparison as the person sees it: nothing tells who wrote what."""
    question, order = batch.questions[name], shown_order(name, person)
    first, second = (question.a, question.b) if order == "ab" else (question.b, question.a)
    return {"id": name, "prompt": question.prompt, "a": first, "b": second, "order": order}
