"""The pairs stage of offline training: of the pairs that were read, those to train on, or those that are held out."""

from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from storage.artifact import Artifact
from storage.errors import UserError
from storage.manifest import Manifest
from storage.schemas import PREFERENCES, PROMPTS, parquet_writer, read_parquet, read_row_groups
from storage.stage import Outcome, Progress, Spec, run_stage, silent

PREFERENCES_FILE = "preferences.parquet"


class PairsSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keep: Literal["training", "held out"]


class PairsSpec(Spec):
    """Publish preferences.parquet: pairs whose prompt is held out, or those whose prompt is not."""

    stage: ClassVar[str] = "pairs"
    version: ClassVar[int] = 1

    runs: ClassVar[str] = "tasks.mixing.pairs:run_pairs"

    settings: PairsSettings
    pairs: Artifact  # pairs.parquet of the data stage
    heldout: Artifact  # held-out prompts, Parquet of storage.schemas.PROMPTS


def run_pairs(spec: PairsSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the pairs stage. Raises UserError when no pair is left."""

    def body() -> Outcome:
        names = set(read_parquet(spec.heldout.path, PROMPTS, ["prompt_id"])["prompt_id"].to_pylist())
        path = spec.folder / PREFERENCES_FILE
        wanted = spec.settings.keep == "held out"
        others = 0
        with parquet_writer(path, PREFERENCES) as file:
            for rows in read_row_groups(spec.pairs.path, PREFERENCES):
                kept = np.array([(name in names) is wanted for name in rows["prompt_id"].to_pylist()], dtype=bool)
                file.write(rows.filter(pa.array(kept)))
                others += int((~kept).sum())
            if not file.count:
                raise UserError(
                    f"no {'held-out' if wanted else 'training'} pair is left: all {others} belong to prompts that are "
                    f"{'not ' if wanted else ''}held out",
                    where=str(spec.pairs.path),
                    remedy="give more pairs, or another prompts.heldout (a share between 0 and 1, or a file)",
                )
        return Outcome(paths=[path], rows={"preferences": file.count}, summary={"pairs": file.count, "others": others})

    return run_stage(spec, body)
