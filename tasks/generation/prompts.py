"""A run's prompts: read once, checked against the policy's context, kept apart from held-out ones; a round's share."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import UserError
from storage.files import sha256_file
from storage.manifest import Manifest
from storage.prompts import prompts_of, read_rows, split_prompts, without
from storage.schemas import PROMPTS, read_parquet, table, write_parquet
from storage.stage import Outcome, Spec, run_stage
from tasks.modeling.load import encode_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]

TRAIN = "train.parquet"
HELDOUT = "heldout.parquet"
ROUND = "prompts.parquet"


class PromptSettings(BaseModel):
    """Prompts to train on, and prompts that never train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str  # JSONL, JSONL.gz or Parquet file; or, with `split`, a data set id on the Hugging Face hub
    split: str | None = None  # split of a hub data set
    prompt_fields: list[str] = []  # fields that make up the prompt; [] = messages, prompt, question or instruction
    answer_field: str = "answer"  # what verifiers compare with
    reference_field: str = "reference"
    category_field: str = "category"
    system: str | None = None  # system message put before every prompt
    limit: int | None = Field(None, ge=1)  # read at most so many prompts
    heldout: float | str = 0.1  # share held out by hash, or a file of held-out prompts
    heldout_limit: int | None = Field(512, ge=1)  # evaluate on at most so many
    per_round: int | None = Field(None, ge=1)  # prompts a round trains on; None = all, every round
    too_long: Literal["refuse", "drop"] = "refuse"  # prompts that do not fit the policy's context


class PromptsSpec(Spec):
    """Read the run's prompts into `folder`/train.parquet and heldout.parquet."""

    stage: ClassVar[str] = "prompts"
    version: ClassVar[int] = 1

    settings: PromptSettings


class SelectSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    per_round: int | None


class SelectSpec(Spec):
    """Choose the prompts of one round out of `prompts` (the folder of the prompts stage)."""

    stage: ClassVar[str] = "select"
    version: ClassVar[int] = 1

    settings: SelectSettings
    prompts: Path


def prompt_inputs(settings: PromptSettings) -> dict[str, str]:
    """Digests of the prompt files (of a hub data set: its id and split). Raises UserError when a file is missing."""
    if settings.split is not None:
        inputs = {"prompts": f"{settings.path}:{settings.split}"}
    else:
        inputs = {"prompts": _file_digest(Path(settings.path))}
    if isinstance(settings.heldout, str):
        inputs["heldout"] = _file_digest(Path(settings.heldout))
    return inputs


def _file_digest(path: Path) -> str:
    if not path.is_file():
        raise UserError("the prompt file does not exist", where=str(path), remedy="give prompts=<file>")
    return sha256_file(path)


def read_both(settings: PromptSettings) -> tuple[list[Row], list[Row]]:
    """(training, held-out) rows of storage.schemas.PROMPTS; no prompt is in both. Raises UserError (file, line)."""
    rows = _read(settings, _source(settings), settings.path, settings.limit)
    if isinstance(settings.heldout, str):
        path = Path(settings.heldout)
        heldout = _read(settings, read_rows(path), str(path), None)
        training = without(rows, heldout)
    else:
        training, heldout = split_prompts(rows, settings.heldout)
    heldout = heldout[: settings.heldout_limit]
    for name, part in (("training", training), ("held-out", heldout)):
        if not part:
            raise UserError(
                f"no {name} prompts are left of {len(rows)}",
                where=settings.path,
                remedy="give more prompts, or another prompts.heldout (a share between 0 and 1, or a file)",
            )
    return training, heldout


def _read(settings: PromptSettings, source: Iterator[tuple[str, Row]], where: str, limit: int | None) -> list[Row]:
    return prompts_of(
        source,
        where=where,
        prompt_fields=settings.prompt_fields,
        answer_field=settings.answer_field,
        reference_field=settings.reference_field,
        category_field=settings.category_field,
        system=settings.system,
        limit=limit,
    )


def _source(settings: PromptSettings) -> Iterator[tuple[str, Row]]:
    if settings.split is None:
        return read_rows(Path(settings.path))
    return _hub_rows(settings.path, settings.split)


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, Row]]:
    from datasets import load_dataset

    try:
        data = load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the data set cannot be loaded: {error}",
            where=f"prompts.path={name} prompts.split={split}",
            remedy="check the id, the split and the connection (HF_TOKEN for a gated one), or give a file",
        ) from None
    for number, row in enumerate(data):
        yield f"{name}:{split} row {number}", dict(row)


def fits_context(
    rows: list[Row], tokenizer: "PreTrainedTokenizerBase", *, context: int, max_tokens: int, drop: bool
) -> list[bool]:
    """For each row, whether its prompt and `max_tokens` of a response fit into `context` tokens.

    Unless `drop`, the first that does not is refused: UserError with its file and line.
    """
    fitting = []
    for row in rows:
        length = len(encode_chat(tokenizer, row["messages"]))
        fitting.append(length + max_tokens <= context)
        if not fitting[-1] and not drop:
            raise too_long(row["source"], length, context=context, max_tokens=max_tokens)
    return fitting


def too_long(source: str, length: int, *, context: int, max_tokens: int) -> UserError:
    """The refusal of a prompt of `length` tokens that leaves no room for `max_tokens` of a response."""
    return UserError(
        f"the prompt has {length} tokens; with {max_tokens} for the response it does not fit the context of {context}",
        where=source,
        remedy="lower sampling.max_tokens, raise engine.max_model_len if the policy's positions reach further,"
        " or leave such prompts out: prompts.too_long=drop",
    )


def run_prompts(spec: PromptsSpec, fits: Callable[[list[Row]], list[bool]]) -> Manifest:
    """Publish train.parquet and heldout.parquet. `fits` says for each row whether it fits the policy's context."""

    def body() -> Outcome:
        rows: dict[str, int] = {}
        dropped = 0
        for name, part in zip((TRAIN, HELDOUT), read_both(spec.settings), strict=True):
            kept = [row for row, fitting in zip(part, fits(part), strict=True) if fitting]
            dropped += len(part) - len(kept)
            if not kept:
                raise UserError(
                    f"none of {len(part)} prompts fits the policy's context",
                    where=spec.settings.path,
                    remedy="lower sampling.max_tokens, or choose a policy with a longer context",
                )
            write_parquet(spec.folder / name, table(kept, PROMPTS))
            rows[name] = len(kept)
        return Outcome(
            paths=[spec.folder / TRAIN, spec.folder / HELDOUT], rows=rows, summary={"dropped_too_long": dropped}
        )

    return run_stage(spec, body)


def run_select(spec: SelectSpec) -> Manifest:
    """Publish the round's prompts: consecutive stretches of one seeded permutation, so that rounds differ.

    A round that asks for as many as there are gets all; rounds wrap around when the prompts are used up.
    """

    def body() -> Outcome:
        everything = read_parquet(spec.prompts / TRAIN, PROMPTS)
        count = min(spec.settings.per_round or everything.num_rows, everything.num_rows)
        start = (spec.round - 1) * count
        order: list[int] = []
        for lap in range(start // everything.num_rows, (start + count - 1) // everything.num_rows + 1):
            order += random.Random(f"{spec.seed}:{lap}").sample(range(everything.num_rows), everything.num_rows)
        offset = start - (start // everything.num_rows) * everything.num_rows
        chosen = list(dict.fromkeys(order[offset : offset + count]))
        path = spec.folder / ROUND
        write_parquet(path, everything.take(chosen))
        return Outcome(paths=[path], rows={ROUND: len(chosen)})

    return run_stage(spec, body)
