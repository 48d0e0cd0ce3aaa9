"""One more response to each prompt, which is in no pair: the reference's own, for objectives that move away from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.errors import UserError
from storage.schemas import RESPONSES, read_parquet
from tasks.training.groups import EXTRA, PromptGroup


def with_extras(groups: Sequence[PromptGroup], folder: Path | None, *, name: str, kind: str) -> list[PromptGroup]:
    """The groups with the first response that the generate stage in `folder` has for their prompts, as the last one.

    `name` is the objective's, `kind` what it needs. Raises UserError without a folder, for files that cannot be read,
    and for a prompt that has no response there, or other tokens.
    """
    what = {"greedy": "greedy response (temperature 0) of the reference", "reference": "sample of the reference"}[kind]
    remedy = (
        f"sample one with the reference policy ({'temperature 0, ' if kind == 'greedy' else ''}responses=1) on the "
        "same prompts, and give the generate stage's folder as `extra` of the train stage's spec"
    )
    if folder is None:
        raise UserError(f"objective {name} needs a {what} to each prompt", where="spec: extra", remedy=remedy)
    try:
        data = read_parquet(sorted(folder.glob("responses-*.parquet")), RESPONSES)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"the extra responses cannot be read: {error}", where=str(folder), remedy=remedy) from None
    found: dict[str, tuple[list[int], list[int]]] = {}
    columns = (data[column].to_pylist() for column in ("prompt_id", "prompt_ids", "response_ids"))
    for prompt_id, prompt_ids, response_ids in zip(*columns, strict=True):
        if response_ids:
            found.setdefault(prompt_id, (prompt_ids, response_ids))
    wrong = [
        group.prompt_id
        for group in groups
        if group.prompt_id not in found or found[group.prompt_id][0] != group.prompt_ids.tolist()
    ]
    if wrong:
        raise UserError(
            f"objective {name} needs a {what} to each prompt; {len(wrong)} have none here: {', '.join(wrong[:3])}",
            where=str(folder),
            remedy=remedy,
        )
    return [
        replace(
            group,
            indices=[*group.indices, EXTRA],
            responses=[*group.responses, np.array(found[group.prompt_id][1], dtype=np.int32)],
        )
        for group in groups
    ]
