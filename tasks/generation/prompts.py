"""The prompts of a run: files are read once, held-out prompts are set apart, and each round gets its share."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from storage.artifact import Artifact
from storage.dataset_folders import content_digest
from storage.errors import UserError
from storage.manifest import Manifest
from storage.prompts import PromptCounts, each_prompt, is_heldout
from storage.rows import Row, read_rows
from storage.schemas import PROMPTS, parquet_writer, read_row_groups, table, write_parquet
from storage.stage import KeyedBy, Outcome, Progress, Spec, run_stage, silent
from tasks.generation.prompt_fit import DROPPED, Fit, fits_context
from tasks.modeling.hub_rows import hub_rows
from tasks.modeling.load import load_tokenizer
from tasks.modeling.special_text import SpecialText

TRAIN = "train.parquet"
HELDOUT = "heldout.parquet"
ROUND = "prompts.parquet"
_BLOCK = 1024  # rows held at once


class PromptSettings(BaseModel):
    """Prompts to train on, and prompts that never train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: A file or folder (docs/data.md), or, with `split`, the id of a data set on the Hugging Face hub.
    path: Annotated[str, KeyedBy("prompts")]
    split: str | None = None  # split of a folder or of a hub data set
    prompt_fields: list[str] = []  # fields that make up the prompt; []: by the names that files usually have
    answer_field: str | None = "answer"  # what verifiers compare with; null: not read
    reference_field: str | None = "reference"
    category_field: str | None = "category"
    system: str | None = None  # system message for prompts that have none
    limit: int | None = Field(None, ge=1)  # read at most so many prompts
    heldout: Annotated[float | str, KeyedBy("heldout", str)] = 0.1  # share held out by hash, or a file or folder
    heldout_limit: int | None = Field(512, ge=1)  # evaluate on at most so many
    per_round: int | None = Field(None, ge=1)  # prompts a round trains on; None = all, every round
    too_long: Literal["refuse", "drop"] = "refuse"  # prompts that do not fit the policy's context
    refused_by_template: Literal["refuse", "drop"] = "refuse"  # conversations that the chat template refuses


class PromptsSpec(Spec):
    """Read the run's prompts into `folder`/train.parquet and heldout.parquet."""

    stage: ClassVar[str] = "prompts"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.generation.prompts:run_prompts"

    settings: PromptSettings
    prompts: Artifact  # the file or folder; for a hub data set its id and split
    heldout: Artifact | None = None  # the file or folder of held-out prompts, where there is one
    policy: Artifact  # its tokenizer and chat template say how long a prompt is
    context: int  # tokens that prompt and response have together
    max_tokens: int  # of a response
    trust_remote_code: bool = False


class SelectSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    per_round: int | None


class SelectSpec(Spec):
    """Choose the prompts of one round out of `prompts` (the folder of the prompts stage)."""

    stage: ClassVar[str] = "select"
    version: ClassVar[int] = 1
    runs: ClassVar[str] = "tasks.generation.prompts:run_select"

    settings: SelectSettings
    prompts: Artifact


def prompt_artifacts(settings: PromptSettings) -> tuple[Artifact, Artifact | None]:
    """The prompts' file or folder (for a hub data set its id and split), and that of the held-out prompts.

    Raises UserError for a path that is missing, and for a folder that cannot be read.
    """
    heldout = _artifact(Path(settings.heldout), None) if isinstance(settings.heldout, str) else None
    if _is_on_hub(settings):
        return Artifact(path=Path(settings.path), digest=f"{settings.path}:{settings.split}"), heldout
    return _artifact(Path(settings.path), settings.split), heldout


def _is_on_hub(settings: PromptSettings) -> bool:
    return settings.split is not None and not Path(settings.path).exists()


def _artifact(path: Path, split: str | None) -> Artifact:
    return Artifact(path=path, digest=content_digest(path, split=split))


@dataclass
class ReadCounts:
    """What was read from the prompt file and the held-out file. shared: prompts of the first that the second holds
    out, which do not train."""

    prompts: PromptCounts = field(default_factory=PromptCounts)
    heldout: PromptCounts = field(default_factory=PromptCounts)
    shared: int = 0

    def summary(self) -> dict[str, int]:
        both = (self.prompts, self.heldout)
        return {
            "rows_read": sum(part.rows for part in both),
            "repeated": sum(part.repeated for part in both),
            "conflicting": sum(part.conflicting for part in both),
            "shared_with_heldout": self.shared,
        }


def read_apart(settings: PromptSettings, counts: ReadCounts | None = None) -> Iterator[tuple[bool, Row]]:
    """(whether it is held out, row of storage.schemas.PROMPTS) of every prompt; none comes twice. `counts` is added to.

    Raises UserError (file, line) for a row without a prompt, and when no prompt is left to train on or to hold out.
    """
    counts = ReadCounts() if counts is None else counts
    yielded = {True: 0, False: 0}

    def limited(row: Row) -> Iterator[tuple[bool, Row]]:
        if settings.heldout_limit is None or yielded[True] < settings.heldout_limit:
            yielded[True] += 1
            yield True, row

    held: set[str] = set()
    if isinstance(settings.heldout, str):
        path = Path(settings.heldout)
        for row in _read(settings, read_rows(path), str(path), None, counts.heldout):
            held.add(row["prompt_id"])
            yield from limited(row)
    read = 0
    for row in _read(settings, _source(settings), settings.path, settings.limit, counts.prompts):
        read += 1
        if isinstance(settings.heldout, float) and is_heldout(row["prompt_id"], settings.heldout):
            yield from limited(row)
        elif row["prompt_id"] in held:
            counts.shared += 1
        else:
            yielded[False] += 1
            yield False, row
    for heldout, name in ((False, "training"), (True, "held-out")):
        if not yielded[heldout]:
            raise UserError(
                f"no {name} prompts are left of {read}",
                where=settings.path,
                remedy="give more prompts, or another prompts.heldout (a share between 0 and 1, or a file)",
            )


def _read(
    settings: PromptSettings, source: Iterator[tuple[str, Row]], where: str, limit: int | None, counts: PromptCounts
) -> Iterator[Row]:
    return each_prompt(
        source,
        where=where,
        prompt_fields=settings.prompt_fields,
        answer_field=settings.answer_field,
        reference_field=settings.reference_field,
        category_field=settings.category_field,
        system=settings.system,
        limit=limit,
        counts=counts,
    )


def _source(settings: PromptSettings) -> Iterator[tuple[str, Row]]:
    if _is_on_hub(settings):
        assert settings.split is not None
        return hub_rows(settings.path, settings.split, setting="prompts")
    return read_rows(Path(settings.path), split=settings.split)


def run_prompts(spec: PromptsSpec, progress: Progress = silent) -> Manifest:
    """Publish train.parquet and heldout.parquet, without prompts that do not fit the policy's context or that its chat
    template refuses if those are dropped. Raises UserError as `read_apart` and `fits_context`, and when none is left.
    """

    def body() -> Outcome:
        paths = {False: spec.folder / TRAIN, True: spec.folder / HELDOUT}
        tokenizer = load_tokenizer(spec.policy.path, trust_remote_code=spec.trust_remote_code)
        counts, special = ReadCounts(), SpecialText(tokenizer)
        source = read_apart(spec.settings, counts)
        read = {False: 0, True: 0}
        dropped = Counter[Fit]()
        with parquet_writer(paths[False], PROMPTS) as training, parquet_writer(paths[True], PROMPTS) as heldout:
            kept = {False: training, True: heldout}
            while block := list(islice(source, _BLOCK)):
                fits = fits_context(
                    [row for _, row in block],
                    tokenizer,
                    context=spec.context,
                    max_tokens=spec.max_tokens,
                    drop=spec.settings.too_long == "drop",
                    drop_refused=spec.settings.refused_by_template == "drop",
                )
                dropped.update(fits)
                for _, row in block:
                    special.look((message["content"] for message in row["messages"]), row["source"])
                for part, file in kept.items():
                    of_part = [
                        (row, fit) for (heldout_row, row), fit in zip(block, fits, strict=True) if heldout_row is part
                    ]
                    read[part] += len(of_part)
                    file.write(table([row for row, fit in of_part if fit == "fits"], PROMPTS))
            for part, file in kept.items():
                if not file.count:
                    raise UserError(
                        f"none of {read[part]} prompts fits the policy's context and chat template",
                        where=spec.settings.path,
                        remedy="lower sampling.max_tokens, or choose a policy with a longer context",
                    )
        special.warn()
        spec.prompts.refuse_changed()
        if spec.heldout is not None:
            spec.heldout.refuse_changed()
        summary = {f"dropped_{reason}": dropped[reason] for reason in DROPPED}
        return Outcome(
            paths=list(paths.values()),
            rows={TRAIN: training.count, HELDOUT: heldout.count},
            summary=counts.summary() | summary,
        )

    return run_stage(spec, body)


def run_select(spec: SelectSpec, progress: Progress = silent) -> Manifest:
    """Publish the round's prompts: consecutive stretches of one seeded permutation, so that rounds differ.

    A round that asks for as many as there are gets all; rounds wrap around when the prompts are used up.
    """

    def body() -> Outcome:
        source = spec.prompts.path / TRAIN
        total = pq.read_metadata(source).num_rows
        count = min(spec.settings.per_round or total, total)
        start = (spec.round - 1) * count
        order: list[int] = []
        for lap in range(start // total, (start + count - 1) // total + 1):
            order += random.Random(f"{spec.seed}:{lap}").sample(range(total), total)
        offset = start - (start // total) * total
        chosen = np.array(list(dict.fromkeys(order[offset : offset + count])))
        path = spec.folder / ROUND
        write_parquet(path, _take(source, chosen))
        return Outcome(paths=[path], rows={ROUND: len(chosen)})

    return run_stage(spec, body)


def _take(source: Path, chosen: np.ndarray) -> pa.Table:
    """Rows `chosen` of a file of prompts, in that order. No more of the file is held than one row group."""
    found, places = [], []
    first = 0
    for group in read_row_groups(source, PROMPTS):
        mine = np.flatnonzero((chosen >= first) & (chosen < first + len(group)))
        found.append(group.take(chosen[mine] - first))
        places.append(mine)
        first += len(group)
    return pa.concat_tables(found).take(np.argsort(np.concatenate(places)))
