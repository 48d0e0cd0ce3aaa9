"""What people are asked: a folder with batch.jsonl (one comparison a line) and batch.json (what is wanted of them).

A comparison is named by its content. Votes on it stay good when the batch is exported again, with more comparisons or
other settings.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import UserError
from storage.files import canonical_json, publish_text
from tasks.panel.annotators.protocol import Comparison, Messages
from tasks.panel.humans.settings import HumanSettings

BATCH = "batch.jsonl"
ABOUT = "batch.json"

Shown = Literal["ab", "ba"]


class Question(BaseModel):
    """One line of batch.jsonl. Which response is a, and which b, follows from the texts alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str  # 16 hex digits of sha256 of the prompt and both responses
    prompt: Messages
    a: str
    b: str


class About(BaseModel):
    """batch.json: whom the batch is for, and when it is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # of the annotator in the panel
    title: str
    instructions: str
    votes: int  # people that a comparison needs
    needed: int  # comparisons that must have them before the round goes on
    comparisons: int


@dataclass(frozen=True)
class Batch:
    """A batch as it lies on disk."""

    folder: Path
    about: About
    questions: dict[str, Question]  # by id, in the order of batch.jsonl


@dataclass(frozen=True)
class Asked:
    """Where a comparison is in the batch; `swapped`: its a is the question's b."""

    id: str
    swapped: bool


def batch_folder(stage: Path, name: str) -> Path:
    """Where the batch of annotator `name` lies in its label stage's folder."""
    return stage / f"humans-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}"


def export(
    settings: HumanSettings, name: str, folder: Path, comparisons: Sequence[Comparison]
) -> tuple[Batch, list[Asked | None]]:
    """Write the batch of `comparisons` to `folder`, if it is not there already; equal comparisons give equal bytes.

    Returns it, with the place of each comparison in it: None where people are not asked, because the two responses
    read the same or the comparison is not in the sample. Comparisons that read the same are asked about once.
    """
    placed = [_place(comparison) for comparison in comparisons]
    found = {question.id: question for question, _ in placed if question.a != question.b}
    chosen = _spread(list(found.values()), settings.sample)
    about = About(
        name=name,
        title=settings.title,
        instructions=settings.instructions,
        votes=settings.votes,
        needed=math.ceil(settings.share * len(chosen) - 1e-9),
        comparisons=len(chosen),
    )
    questions = {question.id: question for question in chosen}
    lines = "".join(canonical_json(question.model_dump()) + "\n" for question in chosen)
    _publish(folder / BATCH, lines)
    _publish(folder / ABOUT, json.dumps(about.model_dump(), indent=2, ensure_ascii=False) + "\n")
    places = [Asked(question.id, swapped) if question.id in questions else None for question, swapped in placed]
    return Batch(folder, about, questions), places


def read_batch(folder: Path) -> Batch:
    """Read an exported batch. Raises UserError, naming file and line, for one that is not whole."""
    path = folder / ABOUT
    try:
        about = About.model_validate_json(path.read_bytes())
        path, questions = folder / BATCH, {}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            path = folder / f"{BATCH}:{number}"
            question = Question.model_validate_json(line)
            questions[question.id] = question
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise UserError(
            f"the batch for people cannot be read: {reason}",
            where=str(path),
            remedy="start the run again: its label stage exports the batch anew, and votes on it are kept",
        ) from None
    return Batch(folder, about, questions)


def shown_order(question: str, person: str) -> Shown:
    """Which response this person sees as A: the question's a ("ab") or its b ("ba"); half of each, by hash."""
    return "ab" if hashlib.sha256(f"{person}\n{question}".encode()).digest()[0] % 2 else "ba"


def _place(comparison: Comparison) -> tuple[Question, bool]:
    messages = [{"role": each["role"], "content": each["content"]} for each in comparison.a.messages]
    texts = sorted((comparison.a.text, comparison.b.text), key=lambda text: hashlib.sha256(text.encode()).digest())
    name = hashlib.sha256(canonical_json([messages, texts]).encode()).hexdigest()[:16]
    return Question(id=name, prompt=messages, a=texts[0], b=texts[1]), texts[0] != comparison.a.text


def _spread(questions: list[Question], sample: int | None) -> list[Question]:
    """So many questions, as equally over prompts as they go, by hash; in the order in which they were given."""
    if sample is None or sample >= len(questions):
        return questions
    of_prompt: dict[str, list[str]] = {}
    for question in sorted(questions, key=lambda question: question.id):
        of_prompt.setdefault(canonical_json(question.prompt), []).append(question.id)
    ranked = sorted((rank, name) for names in of_prompt.values() for rank, name in enumerate(names))
    kept = {name for _, name in ranked[:sample]}
    return [question for question in questions if question.id in kept]


def _publish(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        publish_text(path, text)
