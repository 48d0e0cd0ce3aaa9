"""How ifeval_file scores a reply: the checks that the panel's `instructions` annotator has."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.panel.annotators.checks import CHECKS, holds


def known(docs: Any) -> Any:
    """The documents all of whose instructions can be checked. docs: a datasets.Dataset."""
    return docs.filter(lambda doc: all(name in CHECKS for name in doc["instruction_id_list"]))


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, object]:
    """Whether the reply follows every instruction, and each of them. Unset arguments come as None from the file."""
    asked = zip(doc["instruction_id_list"], doc["kwargs"], strict=True)
    followed = [
        holds(results[0], name, {key: value for key, value in arguments.items() if value is not None})
        for name, arguments in asked
    ]
    return {"prompt_level_strict_acc": all(followed), "inst_level_strict_acc": followed}


def pooled(items: Sequence[Sequence[bool]]) -> float:
    """Share of all instructions that are followed."""
    flat = [each for item in items for each in item]
    return sum(flat) / len(flat)
