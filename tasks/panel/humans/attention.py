"""Attention checks: comparisons whose answer is known, to see who reads what they vote on.

A check shows a prompt with one of its responses, and with a response to another prompt. Who reads both chooses the
first. Checks are no comparisons of the round: votes on them are in no published file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from storage.files import canonical_json
from tasks.panel.humans.item import BatchItem, new_item

#: Choices on a check that are an answer; a skip is none.
_ANSWERS = ("a", "b", "tie")


class Check(BatchItem):
    """A line of checks.jsonl. answer: the response to the prompt; the other one belongs to another prompt."""

    answer: Literal["a", "b"]


@dataclass(frozen=True)
class Attention:
    """The checks that a person answered, and those answered right."""

    answered: int
    passed: int

    def too_few(self, least: float | None, checks: int) -> bool:
        """Whether the share `least` of all `checks` can no longer be passed, too many answers being wrong."""
        return least is not None and checks - (self.answered - self.passed) < least * checks - 1e-9


def make_checks(items: Sequence[BatchItem], count: int) -> list[Check]:
    """At most `count` checks from the texts of `items`, chosen by hash: equal items give equal checks.

    There are fewer when the items have fewer prompts than that, and none when they have only one.
    """
    by_prompt: dict[str, BatchItem] = {}
    texts: dict[str, set[str]] = {}  # all responses of a prompt
    for item in sorted(items, key=lambda item: hashlib.sha256(f"{item.id}\ncheck".encode()).digest()):
        by_prompt.setdefault(canonical_json(item.prompt), item)
        texts.setdefault(canonical_json(item.prompt), set()).update((item.a, item.b))
    chosen = list(by_prompt.values())
    checks: list[Check] = []
    for place, (prompt, item) in enumerate(by_prompt.items()):
        if len(checks) == count:
            break
        own, foreign = max(item.a, item.b, key=len), chosen[(place + 1) % len(chosen)].a
        if not own.strip() or foreign in texts[prompt]:
            continue
        made = new_item(item.prompt, own, foreign)
        checks.append(Check(**made.model_dump(), answer="a" if made.a == own else "b"))
    return checks


def attention(checks: Mapping[str, Check], outcomes: Mapping[str, str]) -> Attention:
    """How a person did, from the person's outcome by check. A tie is wrong; a skip does not count."""
    answered = {name: outcome for name, outcome in outcomes.items() if outcome in _ANSWERS}
    return Attention(len(answered), sum(checks[name].answer == outcome for name, outcome in answered.items()))
