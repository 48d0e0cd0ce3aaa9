"""What a round trains on: its own preferences, and shares of earlier rounds' and of an offline set.

Reward-conditioned relabelling (goals.py) is done here too, as it needs scores and the policy's tokenizer.

Replay of all earlier rounds with the initial policy as reference is what solves for pi_0 exp(r / beta) (docs/methods:
the regression then sees pairs from several policies). Shares are DICE's (arXiv 2406.09760): n_i = n_own s_i / s_own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.artifact import Artifact
from storage.errors import UserError
from storage.files import digest
from storage.manifest import Manifest
from storage.schemas import PREFERENCES, SCORES, parquet_writer, read_parquet, read_row_groups
from storage.stage import Outcome, Progress, Spec, TaskName, run_stage, silent
from tasks.mixing.margins import keep_by_margin
from tasks.mixing.offline import OfflineSettings, read_offline
from tasks.mixing.reward_conditioning import GoalSettings, relabel
from tasks.modeling.load import load_tokenizer

PREFERENCES_FILE = "preferences.parquet"
_NAME = ["round", "prompt_id"]


class MixingSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    replay: Literal["all"] | float = Field(0.0)  # share of a round's pairs that earlier rounds made; all: every one
    rounds: int | None = Field(None, ge=1)  # of the latest so many rounds; None = of all
    offline: OfflineSettings | None = None
    goals: GoalSettings | None = None  # reward-conditioned relabelling; None = pairs as they are

    @model_validator(mode="after")
    def _shares(self) -> "MixingSettings":
        replay = self.replay if isinstance(self.replay, float) else 0.0
        if not 0 <= replay + (self.offline.share if self.offline else 0.0) < 1:
            raise ValueError("replay and offline.share are shares that leave some for the round itself")
        if self.goals and self.offline:
            raise ValueError("goals are scores, which pairs of an offline set do not have; leave one of the two out")
        return self

    @property
    def nothing(self) -> bool:
        return self.replay == 0.0 and self.offline is None and self.goals is None


class MixSpec(Spec):
    """Publish preferences.parquet: rows of `own`, then of `earlier`, then of the offline set; goals come last."""

    stage: ClassVar[str] = "mix"
    version: ClassVar[int] = 1

    runs: ClassVar[str] = "tasks.mixing.stage:run_mix"
    task: ClassVar[TaskName] = "label"

    settings: MixingSettings
    own: Artifact  # preferences.parquet of this round
    earlier: list[Artifact]  # of earlier rounds, oldest first
    policy: Artifact | None = None  # its tokenizer encodes the offline set, its implicit rewards choose among it
    previous: Artifact | None = None  # the policy before it: its implicit rewards choose too
    reference: Artifact | None = None  # the reference of these implicit rewards
    offline: Artifact | None = None  # settings.offline.path
    scores: dict[int, Artifact] = Field({})  # round -> scores.parquet of its label stage, for goals


def run_mix(spec: MixSpec, progress: Progress = silent) -> Manifest:
    """Whole prompts are drawn, by a hash of seed, round and prompt, until the share is reached.

    Raises UserError for an offline set that cannot be read, or has fewer pairs than its share.
    """

    def body() -> Outcome:
        parts: Iterable[pa.Table] = _parts(spec)
        left_out = {}
        if spec.settings.goals is not None:
            scores = {number: read_parquet(file.path, SCORES) for number, file in spec.scores.items()}
            tokenizer = load_tokenizer(_policy(spec))
            mixed, unscored = relabel(pa.concat_tables(parts), scores, spec.settings.goals, tokenizer)
            parts, left_out = [mixed], {"left_out": unscored}
        path = spec.folder / PREFERENCES_FILE
        counts: Counter[str] = Counter()
        with parquet_writer(path, PREFERENCES) as file:
            for rows in parts:
                file.write(rows)
                for each in pc.value_counts(rows["round"]).to_pylist():
                    counts[str(each["values"]) if each["values"] else "offline"] += each["counts"]
        summary = {"pairs_by_round": dict(counts)} | left_out
        return Outcome(paths=[path], rows={"preferences": file.count}, summary=summary)

    return run_stage(spec, body)


def _parts(spec: MixSpec) -> Iterator[pa.Table]:
    """The pairs of the mixture, a row group at a time: the round's own, earlier rounds', the offline set's."""
    replay, offline = spec.settings.replay, spec.settings.offline
    own = pq.read_metadata(spec.own.path).num_rows
    earlier = [file.path for file in spec.earlier]
    before = sum(pq.read_metadata(path).num_rows for path in earlier)
    share = replay if isinstance(replay, float) and before else 0.0
    rest = 1 - share - (offline.share if offline else 0.0)
    yield from read_row_groups(spec.own.path, PREFERENCES)
    if replay == "all":
        yield from read_row_groups(earlier, PREFERENCES)
    elif share:
        drawn = _draw(read_row_groups(earlier, PREFERENCES, _NAME), own * share / rest, spec)
        for rows in read_row_groups(earlier, PREFERENCES):
            yield _of(rows, drawn)
    if offline is not None:
        wanted = own * offline.share / rest
        given = read_offline(offline, load_tokenizer(_policy(spec)))
        if offline.keep is not None:
            policy = _policy(spec)
            previous, reference = (file.path if file else policy for file in (spec.previous, spec.reference))
            given = keep_by_margin(given, (policy, previous), reference, offline.keep)
        if len(given) < wanted:
            raise UserError(
                f"the offline set has {len(given)} pairs, and its share of this round is {wanted:.0f}",
                where=str(offline.path),
                remedy="lower mixing.offline.share, or give a larger set",
            )
        yield _of(given, _draw([given], wanted, spec))


def _policy(spec: MixSpec) -> Path:
    if spec.policy is None:
        raise UserError(
            "the mix needs the policy, for its tokenizer",
            where=str(spec.folder / "spec.yaml"),
            remedy="add `policy`: the folder of the policy that the round starts from",
        )
    return spec.policy.path


def _names(rows: pa.Table) -> list[str]:
    """What prompts are told apart by, of every pair."""
    return [f"{number}:{prompt}" for number, prompt in zip(*(rows[n].to_pylist() for n in _NAME), strict=True)]


def _draw(pairs: Iterable[pa.Table], wanted: float, spec: MixSpec) -> set[str]:
    """Names of whole prompts that have at least `wanted` of the `pairs` together (of all, if they have fewer)."""
    counts: Counter[str] = Counter()
    for rows in pairs:
        counts.update(_names(rows))
    drawn, total = set[str](), 0
    for name in sorted(counts, key=lambda each: digest([spec.seed, spec.round, each])):
        if total >= wanted:
            break
        drawn.add(name)
        total += counts[name]
    return drawn


def _of(rows: pa.Table, drawn: set[str]) -> pa.Table:
    """The pairs of the prompts that were drawn, in their order."""
    return rows.filter(pa.array(np.array([name in drawn for name in _names(rows)], dtype=bool)))
