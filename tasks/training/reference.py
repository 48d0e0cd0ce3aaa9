"""Reference log-probabilities of every response, computed once per round by the same forward that training uses."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from storage.errors import UserError
from storage.schemas import REFERENCE, read_parquet, table, write_parquet
from storage.stage import Progress, has_part, mark_part, silent
from tasks.training.batching import Forward, token_starts
from tasks.training.distributed import ALONE, Ranks
from tasks.training.groups import PromptGroup
from tasks.training.settings import TrainSpec

REFERENCE_FILE = "reference.parquet"
PREVIOUS_FILE = "previous.parquet"  # the same under the policy that training starts from, if needed
_WITH_TOKENS = REFERENCE.append(pa.field("tokens", pa.list_(pa.float64()), nullable=False))  # of each response token


class Logprobs(NamedTuple):
    """Log-probabilities of a group's responses: sums, float64 [K], and per token if needed. In nats."""

    sums: np.ndarray
    tokens: list[np.ndarray] | None = None


def reference_logprobs(
    spec: TrainSpec,
    groups: Sequence[PromptGroup],
    load: Callable[[], Forward],
    autocast: Callable[[], AbstractContextManager[None]],
    progress: Progress = silent,
    *,
    file: str = REFERENCE_FILE,
    ranks: Ranks = ALONE,
) -> list[Logprobs]:
    """Log-probabilities of each group's responses under the policy that `load` returns, in nats.

    Published as `file` in the stage's folder. A resumed stage reuses the file and does not call `load`. Raises
    UserError when the file is not complete.
    """
    path = spec.folder / file
    tokens = spec.settings.objective.needs().tokens

    def publish(rows: pa.Table) -> None:
        write_parquet(path, rows)
        mark_part(spec, path)

    if not ranks.by_main(lambda: has_part(spec, path)):
        rows = compute(load(), groups, autocast, progress, tokens=tokens, ranks=ranks)
        ranks.by_main(lambda: publish(rows))
    return look_up(read_parquet(path, _WITH_TOKENS if tokens else REFERENCE), groups, path)


def compute(
    forward: Forward,
    groups: Sequence[PromptGroup],
    autocast: Callable[[], AbstractContextManager[None]],
    progress: Progress = silent,
    *,
    tokens: bool = False,
    ranks: Ranks = ALONE,
) -> pa.Table:
    """Table of schema REFERENCE in the order of `groups`; with `tokens`, also the log-probability of each token.

    Each rank forwards its share. Values that were not computed exactly once become -inf, which `look_up` rejects.
    """
    sizes = [len(group.responses) for group in groups]
    firsts = np.cumsum([0, *sizes])
    starts = token_starts(groups)
    smallest = min(range(len(groups)), key=lambda i: forward.tokens_of(groups[i]))
    values = torch.zeros(len(starts) - 1, dtype=torch.float64)
    filled = torch.zeros_like(values)
    single = torch.zeros(starts[-1] if tokens else 0, dtype=torch.float64)
    rows = ranks.rows(forward, groups)
    done = 0
    for number, row in enumerate(rows[ranks.rank]):
        members = [groups[i] for i in row or [smallest]]
        with torch.no_grad(), autocast():
            row_sums, row_tokens = forward.logprobs(members)
        row_starts = token_starts(members)
        first = 0
        row_sums, row_tokens = row_sums.cpu(), row_tokens.cpu()
        for index in row:
            low, high, last = firsts[index], firsts[index + 1], first + sizes[index]
            values[low:high] = row_sums[first:last]
            filled[low:high] += 1
            if tokens:
                single[starts[low] : starts[high]] = row_tokens[row_starts[first] : row_starts[last]]
            first = last
        done += sum(sizes[i] for rank_rows in rows for i in rank_rows[number])
        progress(done, len(values), "reference responses")
    values, filled = ranks.total(torch.stack([values, filled]))
    values[filled != 1] = -np.inf
    sums, flat = values.tolist(), ranks.total(single).numpy()
    return table(
        (
            {"prompt_id": group.prompt_id, "round": group.round, "response_index": index, "logprob": sums[place]}
            | ({"tokens": flat[starts[place] : starts[place + 1]]} if tokens else {})
            for group, first in zip(groups, firsts, strict=False)
            for place, index in enumerate(group.indices, start=first)
        ),
        _WITH_TOKENS if tokens else REFERENCE,
    )


def look_up(rows: pa.Table, groups: Sequence[PromptGroup], path: Path) -> list[Logprobs]:
    """Each group's log-probabilities. Raises UserError unless `rows` has each response once, with a finite value."""
    values: dict[tuple[str, int, int], float] = {}
    single: dict[tuple[str, int, int], np.ndarray] = {}
    problems: list[str] = []
    for row in rows.to_pylist():
        key = (row["prompt_id"], row["round"], row["response_index"])
        if key in values:
            problems.append(f"{_name(*key)} twice")
        elif not np.isfinite(row["logprob"]):
            problems.append(f"{_name(*key)} with the value {row['logprob']}")
        values[key] = row["logprob"]
        if "tokens" in row:
            single[key] = np.array(row["tokens"])
    needed = {(group.prompt_id, group.round, index) for group in groups for index in group.indices}
    problems += [f"{_name(*key)} missing" for key in sorted(needed - values.keys())]
    if problems:
        raise UserError(
            f"the reference log-probabilities are not complete: {'; '.join(problems[:5])}"
            + (f"; and {len(problems) - 5} more" if len(problems) > 5 else ""),
            where=str(path),
            remedy="delete the file and run the stage again; if values are not finite, check the reference policy",
        )
    keys = [[(group.prompt_id, group.round, index) for index in group.indices] for group in groups]
    return [
        Logprobs(np.array([values[key] for key in group_keys]), [single[key] for key in group_keys] if single else None)
        for group_keys in keys
    ]


def _name(prompt_id: str, round_number: int, index: int) -> str:
    return f"prompt {prompt_id} (round {round_number}) response {index}"
