"""Answers of remote annotators, stored as they arrive: one line per answer, looked up by the question's content.

A question that was answered before (in a killed run, in an earlier round, on another panel) gets the stored answer.
There is one file per annotator identity. Each line has a checksum; a damaged line is ignored, and its question asked
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

from storage.files import digest, sync_folder
from tasks.panel.annotators.protocol import (
    Answer,
    AnswerType,
    Comparison,
    Question,
    Ranking,
    Response,
    Score,
    Slate,
    Vote,
)
from tasks.panel.answers import check_answer

log = logging.getLogger("irepo")

_SYNC = 1.0  # seconds of answers that a power failure can lose; a killed process loses none
_CLASSES: dict[AnswerType, type[Answer]] = {"scores": Score, "pairs": Vote, "ranking": Ranking}


class Journal:
    """The stored answers of one annotator. Use as a context manager; `add` appends."""

    def __init__(self, folder: Path, name: str, identity: str, answer_type: AnswerType) -> None:
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{identity[:16]}.jsonl"
        self._answer_type = answer_type

    def __enter__(self) -> "Journal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        self.answers = dict(_read(self.path, self._answer_type)) if not new else {}
        self._file = self.path.open("ab")
        if new:
            sync_folder(self.path.parent)
        elif self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")  # end a line that was cut, so that the next one is intact
        self._synced = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def add(self, key: str, answer: Answer) -> None:
        self.answers[key] = answer
        record = json.dumps([key, asdict(answer)], ensure_ascii=False)
        self._file.write(f"{zlib.crc32(record.encode()):08x} {record}\n".encode())
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()


def content_key(question: Question) -> str:
    """Digest of everything an annotator sees of a question; not of prompt id, source and index."""
    return digest([_content(response) for response in _responses(question)])


def _responses(question: Question) -> tuple[Response, ...]:
    if isinstance(question, Comparison):
        return question.a, question.b
    return question.responses if isinstance(question, Slate) else (question,)


def _content(response: Response) -> dict[str, object]:
    names = [field.name for field in fields(response) if field.name not in ("prompt_id", "source", "index")]
    return {name: getattr(response, name) for name in names}


def _read(path: Path, answer_type: AnswerType) -> Iterator[tuple[str, Answer]]:
    damaged = 0
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            checksum, record = line[:8], line[9:]
            if int(checksum, 16) != zlib.crc32(record):
                raise ValueError("wrong checksum")
            key, fields = json.loads(record)
            if "tiers" in fields:
                fields["tiers"] = tuple(tuple(tier) for tier in fields["tiers"])
            answer = _CLASSES[answer_type](**fields)
            check_answer(answer_type, answer)
            yield key, answer
        except (ValueError, TypeError):
            damaged += 1
    if damaged:
        log.warning("%d lines of %s are damaged: their questions are asked again", damaged, path)
