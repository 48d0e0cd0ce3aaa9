"""What remote annotators said, kept as it comes: a line an answer, found again by the question's content.

Whoever asks again, after a kill or with another panel, gets the answer that was given. One file an annotator's
identity; each line carries a checksum, and a line that is cut or altered counts as not there: its question is asked
again.
"""

import json
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from storage.files import digest, sync_folder
from tasks.panel.annotators.protocol import Answer, Comparison, Kind, Question, Ranking, Response, Score, Slate, Vote

log = logging.getLogger("irepo")

_SYNC = 1.0  # seconds: what a power loss may take; a killed process loses nothing
_ANSWERS: dict[Kind, type[Answer]] = {"scores": Score, "pairs": Vote, "ranking": Ranking}


class Journal:
    """The answers of one annotator. Use as a context manager; `add` appends."""

    def __init__(self, folder: Path, name: str, identity: str, kind: Kind) -> None:
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{identity[:16]}.jsonl"
        self._kind = kind

    def __enter__(self) -> "Journal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        self.answers = dict(_read(self.path, self._kind)) if not new else {}
        self._file = self.path.open("ab")
        if new:
            sync_folder(self.path.parent)
        elif self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")  # what follows a line that was cut is a line of its own
        self._synced = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def add(self, key: str, answer: Answer) -> None:
        self.answers[key] = answer
        said = json.dumps([key, asdict(answer)], ensure_ascii=False)
        self._file.write(f"{zlib.crc32(said.encode()):08x} {said}\n".encode())
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()


def content_key(question: Question) -> str:
    """Digest of all that an annotator is shown; not of where it comes from (prompt id, source, index)."""
    return digest([_content(response) for response in _responses(question)])


def _responses(question: Question) -> tuple[Response, ...]:
    if isinstance(question, Comparison):
        return question.a, question.b
    return question.responses if isinstance(question, Slate) else (question,)


def _content(response: Response) -> dict[str, Any]:
    names = [field.name for field in fields(response) if field.name not in ("prompt_id", "source", "index")]
    return {name: getattr(response, name) for name in names}


def _read(path: Path, kind: Kind) -> Iterator[tuple[str, Answer]]:
    lost = 0
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            checksum, said = line[:8], line[9:]
            if int(checksum, 16) != zlib.crc32(said):
                raise ValueError("altered")
            key, fields = json.loads(said)
            if "tiers" in fields:
                fields["tiers"] = tuple(tuple(tier) for tier in fields["tiers"])
            yield key, _ANSWERS[kind](**fields)
        except (ValueError, TypeError):
            lost += 1
    if lost:
        log.warning("%d lines of %s are cut or altered: what they said is asked again", lost, path)
