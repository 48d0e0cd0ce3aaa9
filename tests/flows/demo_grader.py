"""MT-Bench in the demo's world: two-turn questions out of its prompts, and a judge that grades by the ground truth."""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.demo.corpus import Prompt, reply
from tasks.demo.utility import utility
from tests.panel.chat_server import ChatServer

_REPLY = re.compile(r"--- (?:answer|assistant) ---\n(.*?)\n--- (?:end|user) ---", re.DOTALL)


def write_questions(prompts: Path, path: Path, *, of_each: int) -> list[dict[str, Any]]:
    """Questions of two prompts of the same kind each, `of_each` kind; and the rows of `prompts`."""
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    questions: list[dict[str, Any]] = []
    for kind in dict.fromkeys(row["task"] for row in rows):
        own = [row["prompt"] for row in rows if row["task"] == kind][: 2 * of_each]
        for first, second in zip(own[::2], own[1::2], strict=True):
            questions.append({"question_id": len(questions), "category": kind, "turns": [first, second]})
    path.write_text("".join(json.dumps(question) + "\n" for question in questions), encoding="utf-8")
    return rows


def write_pairs(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Two replies of mixed quality to each prompt, in TRL's format: chosen is the one with the higher utility."""
    rng = random.Random(0)
    pairs = []
    for row in rows:
        prompt, found = Prompt(**row), list[tuple[float, str]]()
        while len(found) < 2 or found[0][0] == found[1][0]:
            text = reply(prompt, rng)
            found = [*found[-1:], (utility(prompt.prompt, prompt.answer, prompt.task, text, True), text)]
        (_, rejected), (_, chosen) = sorted(found)
        pairs.append(
            {"prompt": prompt.prompt, "chosen": chosen, "rejected": rejected, "answer": prompt.answer,
             "subset": prompt.task}
        )  # fmt: skip
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


def by_truth(rows: Sequence[dict[str, Any]]) -> Callable[[str], str]:
    """A judge's replies: 1 to 10 by the utility (-2 to 2.75) of the last answer to the last prompt that is shown."""
    known = {row["prompt"]: row for row in rows}

    def script(instruction: str) -> str:
        replies = _REPLY.findall(instruction)
        asked = [prompt for prompt in known if f"\n{prompt}\n" in instruction]
        if not replies or not asked:
            return "ready"
        row = known[max(asked, key=lambda prompt: instruction.rindex(f"\n{prompt}\n"))]
        worth = utility(row["prompt"], row["answer"], row["task"], replies[-1], True)
        return f"Grade: [[{min(max(round(5 + 1.8 * worth), 1), 10)}]]"

    return script


def serve(rows: Sequence[dict[str, Any]]) -> ChatServer:
    server = ChatServer()
    server.script = by_truth(rows)
    return server
