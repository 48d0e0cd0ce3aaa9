"""A batch for people to vote on: a folder with batch.jsonl (one comparison per line) and batch.json (its settings).
Attention checks, if there are any, are in checks.jsonl.

A comparison's id is a digest of its content. Votes stay valid when the batch is exported again with more comparisons or
other settings.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import UserError
from storage.exact import BATCH_FOLDERS
from storage.files import canonical_json, publish_text
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.protocol import Comparison
from tasks.panel.humans.attention import Check, make_checks
from tasks.panel.humans.item import BatchItem, new_item

BATCH = "batch.jsonl"
INFO = "batch.json"
CHECKS = "checks.jsonl"

Shown = Literal["ab", "ba"]


class BatchInfo(BaseModel):
    """batch.json: what voters are shown, and when the batch is complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # the annotator's name on the panel
    title: str
    instructions: str
    votes: int  # people who must answer a comparison
    needed: int  # comparisons that must be complete before the round goes on
    comparisons: int
    strength: bool = False
    second: str = ""
    least_passed: float | None = None  # share of the attention checks that a person must pass for votes to count


@dataclass(frozen=True)
class Batch:
    """A batch on disk."""

    folder: Path
    info: BatchInfo
    items: dict[str, BatchItem]  # by id, in the order of batch.jsonl
    checks: dict[str, Check] = field(default_factory=dict)  # attention checks, by id


@dataclass(frozen=True)
class ItemOfComparison:
    """The batch item of a comparison. `swapped`: the comparison's a is the item's b."""

    id: str
    swapped: bool


def batch_folder(stage: Path, name: str) -> Path:
    """The folder of annotator `name`'s batch in the folder of its label stage."""
    return stage / f"{BATCH_FOLDERS}{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}"


def export(
    settings: HumanSettings, name: str, folder: Path, comparisons: Sequence[Comparison]
) -> tuple[Batch, list[ItemOfComparison | None]]:
    """Write the batch of `comparisons` to `folder` if it is not there yet. Equal comparisons give equal bytes.

    Returns the batch, and the item of each comparison: None if it is not in the sample or its two responses have the
    same text. Comparisons with the same content share one item.
    """
    located = [_item(comparison) for comparison in comparisons]
    distinct = {item.id: item for item, _ in located if item.a != item.b}
    chosen = _spread(list(distinct.values()), settings.sample)
    info = BatchInfo(
        name=name,
        title=settings.title,
        instructions=settings.instructions,
        votes=settings.votes,
        needed=math.ceil(settings.share * len(chosen) - 1e-9),
        comparisons=len(chosen),
        strength=settings.strength,
        second=settings.second,
        least_passed=settings.least_passed,
    )
    checks = make_checks(chosen, settings.checks)
    items = {item.id: item for item in chosen}
    lines = "".join(canonical_json(item.model_dump()) + "\n" for item in chosen)
    _publish(folder / BATCH, lines)
    if checks or (folder / CHECKS).exists():
        _publish(folder / CHECKS, "".join(canonical_json(check.model_dump()) + "\n" for check in checks))
    _publish(folder / INFO, json.dumps(info.model_dump(), indent=2, ensure_ascii=False) + "\n")
    places = [ItemOfComparison(item.id, swapped) if item.id in items else None for item, swapped in located]
    return Batch(folder, info, items, {check.id: check for check in checks}), places


def read_batch(folder: Path) -> Batch:
    """Read an exported batch. Raises UserError with file and line if it cannot be read."""
    path = folder / INFO
    try:
        info = BatchInfo.model_validate_json(path.read_bytes())
        path, items = folder / BATCH, {}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            path = folder / f"{BATCH}:{number}"
            item = BatchItem.model_validate_json(line)
            items[item.id] = item
        path, checks = folder / CHECKS, {}
        for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
            path = folder / f"{CHECKS}:{number}"
            check = Check.model_validate_json(line)
            checks[check.id] = check
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise UserError(
            f"the batch for people cannot be read: {reason}",
            where=str(path),
            remedy="start the run again: its label stage exports the batch again, and the votes are kept",
        ) from None
    return Batch(folder, info, items, checks)


def batch_label(folder: Path) -> str:
    """What people call a batch: its run, its round, and the annotator's name unless that is `people`."""
    name = folder.name.removeprefix(BATCH_FOLDERS)
    stage = folder.resolve().parent
    round_folder = stage.parent
    number = round_folder.name.removeprefix("round-")
    if not number.isdigit():
        return name
    label = f"{round_folder.parent.name}, round {int(number)}"
    return label if name == "people" else f"{label}: {name}"


def shown_order(item: str, person: str) -> Shown:
    """Which response this person sees as A: the item's a ("ab") or its b ("ba"). Each half of the time, by hash."""
    return "ab" if hashlib.sha256(f"{person}\n{item}".encode()).digest()[0] % 2 else "ba"


def _item(comparison: Comparison) -> tuple[BatchItem, bool]:
    """The item of a comparison, and whether the comparison's a is the item's b."""
    messages = [{"role": message["role"], "content": message["content"]} for message in comparison.a.messages]
    item = new_item(messages, comparison.a.text, comparison.b.text)
    return item, item.a != comparison.a.text


def _spread(items: list[BatchItem], sample: int | None) -> list[BatchItem]:
    """A sample of `sample` items, spread evenly over prompts, chosen by hash; in the order of `items`."""
    if sample is None or sample >= len(items):
        return items
    by_prompt: dict[str, list[str]] = {}
    for item in sorted(items, key=lambda item: item.id):
        by_prompt.setdefault(canonical_json(item.prompt), []).append(item.id)
    ranked = sorted((rank, item_id) for ids in by_prompt.values() for rank, item_id in enumerate(ids))
    sampled = {item_id for _, item_id in ranked[:sample]}
    return [item for item in items if item.id in sampled]


def _publish(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        publish_text(path, text)
