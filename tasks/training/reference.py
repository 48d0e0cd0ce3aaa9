"""Log-probabilities of every response under the reference, once a round, by the very forward that training uses."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from storage.errors import UserError
from storage.schemas import REFERENCE, read_parquet, table, write_parquet
from storage.stage import Progress, has_part, mark_part, silent
from tasks.training.batching import microbatches, response_logprobs
from tasks.training.groups import PromptGroup
from tasks.training.settings import TrainSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFERENCE_FILE = "reference.parquet"


def reference_logprobs(
    spec: TrainSpec,
    groups: Sequence[PromptGroup],
    load: Callable[[], "PreTrainedModel"],
    autocast: Callable[[], AbstractContextManager[None]],
    progress: Progress = silent,
) -> list[np.ndarray]:
    """Reference log-probabilities of each group's responses, float64 [K] each, nats.

    Published as reference.parquet in the stage's folder; a stage that goes on adopts the file, and then `load` is not
    called. Raises UserError when the file is not complete.
    """
    path = spec.folder / REFERENCE_FILE
    if not has_part(spec, path):
        rows = compute(load(), groups, spec.settings.optimization.microbatch_tokens, autocast, progress)
        write_parquet(path, rows)
        mark_part(spec, path)
    return look_up(read_parquet(path, REFERENCE), groups, path)


def compute(
    model: "PreTrainedModel",
    groups: Sequence[PromptGroup],
    tokens: int,
    autocast: Callable[[], AbstractContextManager[None]],
    progress: Progress = silent,
) -> pa.Table:
    """Table of schema REFERENCE in the order of `groups`. What no forward filled stays -inf, and is found out later."""
    sums = [np.full(len(group.responses), -np.inf) for group in groups]
    done, total = 0, sum(len(group.responses) for group in groups)
    for batch in microbatches(groups, tokens):
        with torch.no_grad(), autocast():
            flat = response_logprobs(model, [groups[i] for i in batch]).cpu().numpy()
        for index, part in zip(batch, np.split(flat, np.cumsum([len(sums[i]) for i in batch])[:-1]), strict=True):
            sums[index][:] = part
        done += len(flat)
        progress(done, total, "reference responses")
    return table(
        (
            {"prompt_id": group.prompt_id, "round": group.round, "response_index": index, "logprob": float(value)}
            for group, values in zip(groups, sums, strict=True)
            for index, value in zip(group.indices, values, strict=True)
        ),
        REFERENCE,
    )


def look_up(rows: pa.Table, groups: Sequence[PromptGroup], path: Path) -> list[np.ndarray]:
    """Each group's values, float64 [K]. Raises UserError unless `rows` has each response once, with a finite value."""
    values: dict[tuple[str, int, int], float] = {}
    wrong: list[str] = []
    for row in rows.to_pylist():
        key = (row["prompt_id"], row["round"], row["response_index"])
        if key in values:
            wrong.append(f"{_name(*key)} twice")
        elif not np.isfinite(row["logprob"]):
            wrong.append(f"{_name(*key)} with the value {row['logprob']}")
        values[key] = row["logprob"]
    wanted = {(group.prompt_id, group.round, index) for group in groups for index in group.indices}
    wrong += [f"{_name(*key)} missing" for key in sorted(wanted - values.keys())]
    if wrong:
        raise UserError(
            f"the reference log-probabilities are not complete: {'; '.join(wrong[:5])}"
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=str(path),
            remedy="delete the file and run the stage again; if values are not finite, look at the reference policy",
        )
    return [np.array([values[group.prompt_id, group.round, index] for index in group.indices]) for group in groups]


def _name(prompt_id: str, round_number: int, index: int) -> str:
    return f"prompt {prompt_id} (round {round_number}) response {index}"
