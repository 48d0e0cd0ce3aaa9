"""What a round trains on: its own preferences, and shares of earlier rounds' and of an offline set.

Replay of all earlier rounds with the initial policy as reference is what solves for pi_0 exp(r / beta) (docs/methods:
the regression then sees pairs from several policies). Shares are DICE's (arXiv 2406.09760): n_i = n_own s_i / s_own.
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.errors import UserError
from storage.files import digest
from storage.manifest import Manifest
from storage.schemas import PREFERENCES, read_parquet, write_parquet
from storage.stage import Outcome, Spec, run_stage
from tasks.labeling.offline import OfflineSettings, read_offline

PREFERENCES_FILE = "preferences.parquet"


class MixingSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    replay: Literal["all"] | float = Field(0.0)  # share of a round's pairs that earlier rounds made; all: every one
    rounds: int | None = Field(None, ge=1)  # of the latest so many rounds; None = of all
    offline: OfflineSettings | None = None

    @model_validator(mode="after")
    def _shares(self) -> "MixingSettings":
        replay = self.replay if isinstance(self.replay, float) else 0.0
        if not 0 <= replay + (self.offline.share if self.offline else 0.0) < 1:
            raise ValueError("replay and offline.share are shares that leave some for the round itself")
        return self

    @property
    def nothing(self) -> bool:
        return self.replay == 0.0 and self.offline is None


class MixSpec(Spec):
    """Publish preferences.parquet: rows of `own`, then of `earlier`, then of the offline set."""

    stage: ClassVar[str] = "mix"
    version: ClassVar[int] = 1

    settings: MixingSettings
    own: Path  # preferences.parquet of this round
    earlier: list[Path]  # of earlier rounds, oldest first
    policy: Path  # whose tokenizer the offline set is for


def run_mix(spec: MixSpec) -> Manifest:
    """Whole prompts are drawn, by a hash of seed, round and prompt, until the share is reached.

    Raises UserError for an offline set that cannot be read, or has fewer pairs than its share.
    """

    def body() -> Outcome:
        own = read_parquet(spec.own, PREFERENCES)
        replay, offline = spec.settings.replay, spec.settings.offline
        before = read_parquet(spec.earlier, PREFERENCES) if spec.earlier else PREFERENCES.empty_table()
        share = replay if isinstance(replay, float) and len(before) else 0.0
        rest = 1 - share - (offline.share if offline else 0.0)
        parts = [own, before if replay == "all" else _draw(before, len(own) * share / rest, spec)]
        if offline is not None:
            from tasks.modeling.load import load_tokenizer

            wanted = len(own) * offline.share / rest
            given = read_offline(offline, load_tokenizer(spec.policy))
            if len(given) < wanted:
                raise UserError(
                    f"the offline set has {len(given)} pairs, and its share of this round is {wanted:.0f}",
                    where=str(offline.path),
                    remedy="lower mixing.offline.share, or give a larger set",
                )
            parts.append(_draw(given, wanted, spec))
        mixed = pa.concat_tables(parts)
        path = spec.folder / PREFERENCES_FILE
        write_parquet(path, mixed)
        counts = pc.value_counts(mixed["round"]).to_pylist()
        rounds = {str(each["values"]) if each["values"] else "offline": each["counts"] for each in counts}
        return Outcome(paths=[path], rows={"preferences": len(mixed)}, summary={"pairs_by_round": rounds})

    return run_stage(spec, body)


def _draw(rows: pa.Table, wanted: float, spec: MixSpec) -> pa.Table:
    """Whole prompts of `rows`, in their order, with at least `wanted` pairs (all there are, if fewer)."""
    if not wanted or not len(rows):
        return rows[:0]
    names = [
        f"{number}:{prompt}"
        for number, prompt in zip(*(rows[n].to_pylist() for n in ("round", "prompt_id")), strict=True)
    ]
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    drawn, total = set[str](), 0
    for name in sorted(counts, key=lambda each: digest([spec.seed, spec.round, each])):
        if total >= wanted:
            break
        drawn.add(name)
        total += counts[name]
    return rows.filter(pa.array(np.array([name in drawn for name in names], dtype=bool)))
