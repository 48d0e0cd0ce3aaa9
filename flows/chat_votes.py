"""Votes of a chat between two policies: rows of a preference set in TRL's format."""

import json
from collections.abc import Sequence
from pathlib import Path

from storage.conversations import Message

VOTES = "chat.jsonl"
CHOICES = ("a", "b")
_SURE = 0.9  # P of the reply that one person preferred once


def keep_vote(file: Path, asked: list[Message], texts: Sequence[str], better: str, policies: Sequence[str]) -> bool:
    """Append the vote to `file`. better: a, b or =. False when the replies are equal: nothing is kept."""
    if texts[0] == texts[1]:
        return False
    chosen, rejected = (1, 0) if better == "b" else (0, 1)
    row = {
        "prompt": asked,
        "chosen": [{"role": "assistant", "content": texts[chosen]}],
        "rejected": [{"role": "assistant", "content": texts[rejected]}],
        "p_hat": 0.5 if better == "=" else _SURE,
        "chosen_policy": policies[chosen],
        "rejected_policy": policies[rejected],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return True


def replied(asked: list[Message], texts: Sequence[str], better: str | None) -> list[Message]:
    """The conversation so far: it goes on from the reply that is better, or from the first one."""
    return [*asked, {"role": "assistant", "content": texts[1] if better == "b" else texts[0]}]
