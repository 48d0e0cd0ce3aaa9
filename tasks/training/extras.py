"""One extra response per prompt, sampled from the reference and part of no pair, for objectives that explore."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from storage.errors import UserError
from storage.schemas import RESPONSES, read_parquet
from tasks.training.groups import EXTRA, PromptGroup


def add_extra_responses(
    groups: Sequence[PromptGroup], folder: Path | None, *, objective: str, kind: Literal["greedy", "reference"]
) -> list[PromptGroup]:
    """Append to each group the first response that the generate stage in `folder` has for its prompt.

    `objective` is the objective's name and `kind` the sampling it needs; both only word the errors. Raises UserError
    when `folder` is None or unreadable, and when a prompt has no response there or other token ids.
    """
    needed = f"{'greedy response (temperature 0)' if kind == 'greedy' else 'sample'} from the reference"
    remedy = (
        f"sample one from the reference policy ({'temperature 0, ' if kind == 'greedy' else ''}responses=1) for the "
        "same prompts, and set `extra` in the train stage's spec to the folder of that generate stage"
    )
    if folder is None:
        raise UserError(f"objective {objective} needs a {needed} for each prompt", where="spec: extra", remedy=remedy)
    try:
        data = read_parquet(sorted(folder.glob("responses-*.parquet")), RESPONSES)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"the extra responses cannot be read: {error}", where=str(folder), remedy=remedy) from None
    extra_ids: dict[str, tuple[list[int], list[int]]] = {}
    columns = (data[column].to_pylist() for column in ("prompt_id", "prompt_ids", "response_ids"))
    for prompt_id, prompt_ids, response_ids in zip(*columns, strict=True):
        if response_ids:
            extra_ids.setdefault(prompt_id, (prompt_ids, response_ids))
    unusable = [
        group.prompt_id
        for group in groups
        if group.prompt_id not in extra_ids or extra_ids[group.prompt_id][0] != group.prompt_ids.tolist()
    ]
    if unusable:
        raise UserError(
            f"objective {objective} needs a {needed} for each prompt; {len(unusable)} prompts have none: "
            f"{', '.join(unusable[:3])}",
            where=str(folder),
            remedy=remedy,
        )
    return [
        replace(
            group,
            indices=[*group.indices, EXTRA],
            responses=[*group.responses, np.array(extra_ids[group.prompt_id][1], dtype=np.int32)],
        )
        for group in groups
    ]
