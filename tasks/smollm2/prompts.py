"""The showcase's prompts: a plain request, a blank line, and one instruction that a program can check.

Made ones ask eight kinds of question about everyday things; held-out prompts ask about other things than training
prompts. Real ones are single-turn questions from public files (Self-Instruct's seed tasks, Vicuna, MT-Bench), each with
one instruction added; they are only ever held out.
"""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from storage.errors import UserError
from storage.rows import read_rows
from tasks.smollm2.instructions import KINDS

THINGS = (
    "the sea", "bread", "the moon", "a bicycle", "rain", "dogs", "coffee", "a library", "the heart", "honey", "winter",
    "music", "a garden", "glass", "maps", "sleep", "chess", "the wind", "apples", "trains", "a bridge", "paper", "cats",
    "tea", "mountains", "a school", "fire", "salt", "clocks", "friendship", "the desert", "rice", "swimming", "birds",
    "a lighthouse", "wool", "ships", "snow", "bees", "soap", "a market", "horses", "milk", "rivers", "a telescope",
    "cheese", "elephants", "the sun", "a hospital", "pencils", "forests", "potatoes", "gold", "windows", "a farm",
    "sharks", "cooking", "shoes", "volcanoes", "a museum", "oranges", "football", "the brain", "islands", "a violin",
    "airplanes", "butter", "whales", "umbrellas", "wheat", "bricks", "dancing", "a castle", "penguins", "sugar",
    "the rainbow",
)  # fmt: skip
REQUESTS = (
    "Tell me about {}.", "Why do people like {}?", "Describe {} to a child.", "What is interesting about {}?",
    "Give me some advice about {}.", "Write about {}.", "How would you explain {} to a friend?",
    "What should everybody know about {}?",
)  # fmt: skip
HELD_OUT_THINGS = len(THINGS) // 4
LONGEST = 400  # characters of a real question: longer ones leave a small model little room for the reply


class PromptRow(TypedDict):
    """A row of a prompt file. `answer`: JSON list of checks, as the annotator `rule` with prompt_checks reads it."""

    prompt: str
    answer: str
    category: str


def made_prompts() -> tuple[list[PromptRow], list[PromptRow]]:
    """(training, held-out) prompts, the same ones at every call: 8 for each training thing, 4 for each held-out one."""
    generator = random.Random(0)
    things = list(THINGS)
    generator.shuffle(things)
    held_out = _about(things[:HELD_OUT_THINGS], 4, generator)
    return _about(things[HELD_OUT_THINGS:], 8, generator), held_out


def real_prompts(files: Sequence[Path], each: int) -> list[PromptRow]:
    """At most `each` questions of every file, drawn with a fixed seed, each with one instruction.

    A file has rows with `instruction` (tasks that come with an input are left out), `turns` (the first one is taken),
    `prompt` or `question`. Raises UserError for a file without such rows.
    """
    generator = random.Random(1)
    rows = []
    for file in files:
        questions = [text for _, row in read_rows(file) if (text := _question(row)) and len(text) <= LONGEST]
        if not questions:
            raise UserError(
                "there is no question in the file",
                where=str(file),
                remedy="give rows with `instruction`, `turns`, `prompt` or `question`",
            )
        chosen = generator.sample(questions, min(each, len(questions)))
        rows += [_with_instruction(text, i, generator) for i, text in enumerate(chosen)]
    return rows


def write_prompts(file: Path, rows: Iterable[PromptRow]) -> None:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _about(things: Sequence[str], each: int, generator: random.Random) -> list[PromptRow]:
    rows = []
    for i, thing in enumerate(things):
        for j in range(each):
            request = REQUESTS[(i * 3 + j) % len(REQUESTS)].format(thing)
            rows.append(_with_instruction(request, i * each + j, generator))
    generator.shuffle(rows)
    return rows


def _with_instruction(request: str, number: int, generator: random.Random) -> PromptRow:
    kind = list(KINDS)[number % len(KINDS)]
    text, check = KINDS[kind](generator)
    return {"prompt": f"{request}\n\n{text}", "answer": json.dumps([check]), "category": kind}


def _question(row: dict[str, object]) -> str | None:
    instances = row.get("instances")
    if isinstance(instances, list) and instances and isinstance(instances[0], dict) and instances[0].get("input"):
        return None
    turns = row.get("turns")
    texts = [turns[0] if isinstance(turns, list) and turns else None]
    texts += [row.get(field) for field in ("instruction", "prompt", "question")]
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)
