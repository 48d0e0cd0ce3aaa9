"""The mix stage: a round's own pairs, with shares of earlier rounds' pairs and of an offline set.

Shares follow DICE (arXiv 2406.09760): n_i = n_own s_i / s_own. Replay of all earlier rounds, with the initial policy as
reference, makes the regression's solution pi_0 exp(r / beta), because it sees pairs from several policies
(docs/methods.md). Reward-conditioned relabelling (reward_conditioning.py) comes last: it needs scores and a tokenizer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from storage.artifact import Artifact
from storage.errors import UserError
from storage.files import digest
from storage.manifest import Manifest
from storage.schemas import PREFERENCES, SCORES, parquet_writer, read_parquet, read_row_groups
from storage.stage import Outcome, Progress, Spec, TaskName, Unkeyed, run_stage, silent
from tasks.labeling.margin_filter import keep_by_policies
from tasks.mixing.encode import OfflineCounts
from tasks.mixing.offline import read_offline
from tasks.mixing.reward_conditioning import relabel
from tasks.mixing.settings import MixingSettings
from tasks.modeling.load import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFERENCES_FILE = "preferences.parquet"
_NAME = ["round", "prompt_id"]


class MixSpec(Spec):
    """Publish preferences.parquet: rows of `own`, then of `earlier`, then of the offline set; then relabel them."""

    stage: ClassVar[str] = "mix"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.mixing.stage:run_mix"
    task: ClassVar[TaskName] = "label"

    settings: MixingSettings
    own: Artifact  # preferences.parquet of this round
    earlier: list[Artifact]  # of earlier rounds, oldest first
    policy: Artifact | None = None  # its tokenizer encodes the offline set; its implicit rewards filter it
    previous: Artifact | None = None  # the previous policy, whose implicit rewards filter it too
    reference: Artifact | None = None  # the reference of these implicit rewards
    offline: Artifact | None = None  # settings.offline.path
    scores: dict[int, Artifact] = Field({})  # round -> scores.parquet of its label stage, for goals
    trust_remote_code: Annotated[bool, Unkeyed("whether the policy's code may run, not what it does")] = False


def run_mix(spec: MixSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the mix stage. Whole prompts are drawn, by a hash of seed, round and prompt, up to the share.

    Raises UserError for an offline set that cannot be read or has fewer pairs than its share.
    """

    def body() -> Outcome:
        offline = OfflineCounts()
        parts: Iterable[pa.Table] = _parts(spec, offline)
        left_out: dict[str, int] = {}
        if spec.settings.goals is not None:
            scores = {number: read_parquet(file.path, SCORES) for number, file in spec.scores.items()}
            tokenizer = _tokenizer(spec)
            mixed, unscored = relabel(pa.concat_tables(parts), scores, spec.settings.goals, tokenizer)
            parts, left_out = [mixed], {"left_out": unscored}
        path = spec.folder / PREFERENCES_FILE
        counts: Counter[str] = Counter()
        with parquet_writer(path, PREFERENCES) as file:
            for rows in parts:
                file.write(rows)
                for entry in pc.value_counts(rows["round"]).to_pylist():
                    counts[str(entry["values"]) if entry["values"] else "offline"] += entry["counts"]
        if spec.offline is not None:
            spec.offline.refuse_changed()
        summary: dict[str, Any] = {"pairs_by_round": dict(counts)} | left_out
        if spec.settings.offline is not None:
            summary |= {"offline": asdict(offline)}
        return Outcome(paths=[path], rows={"preferences": file.count}, summary=summary)

    return run_stage(spec, body)


def _parts(spec: MixSpec, counts: OfflineCounts) -> Iterator[pa.Table]:
    """All pairs, one row group at a time: the round's own, then earlier rounds', then the offline set's.

    counts: of the offline set's rows, added to.
    """
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
            yield _pairs_of(rows, drawn)
    if offline is not None:
        wanted = own * offline.share / rest
        pairs = read_offline(offline, _tokenizer(spec), counts)
        if offline.keep is not None:
            policy = _policy(spec)
            previous, reference = (file.path if file else policy for file in (spec.previous, spec.reference))
            pairs = keep_by_policies(
                pairs, (policy, previous), reference, offline.keep, trust_remote_code=spec.trust_remote_code
            )
        if len(pairs) < wanted:
            raise UserError(
                f"the offline set has {len(pairs)} pairs, but its share of this round is {wanted:.0f}",
                where=str(offline.path),
                remedy="lower mixing.offline.share, or give a larger set",
            )
        yield _pairs_of(pairs, _draw([pairs], wanted, spec))


def _tokenizer(spec: MixSpec) -> "PreTrainedTokenizerBase":
    return load_tokenizer(_policy(spec), trust_remote_code=spec.trust_remote_code)


def _policy(spec: MixSpec) -> Path:
    if spec.policy is None:
        raise UserError(
            "the mix stage needs the policy, for its tokenizer",
            where=str(spec.folder / "spec.yaml"),
            remedy="add `policy`: the folder of the policy that the round starts from",
        )
    return spec.policy.path


def _names(rows: pa.Table) -> list[str]:
    """A name for the prompt of every pair: its round and id."""
    return [f"{number}:{prompt}" for number, prompt in zip(*(rows[n].to_pylist() for n in _NAME), strict=True)]


def _draw(pairs: Iterable[pa.Table], wanted: float, spec: MixSpec) -> set[str]:
    """Names of prompts drawn until they have `wanted` of the `pairs`; all names when there are fewer pairs."""
    counts: Counter[str] = Counter()
    for rows in pairs:
        counts.update(_names(rows))
    drawn, total = set[str](), 0
    for name in sorted(counts, key=lambda name: digest([spec.seed, spec.round, name])):
        if total >= wanted:
            break
        drawn.add(name)
        total += counts[name]
    return drawn


def _pairs_of(rows: pa.Table, drawn: set[str]) -> pa.Table:
    """The pairs of the drawn prompts, in their order."""
    return rows.filter(pa.array(np.array([name in drawn for name in _names(rows)], dtype=bool)))
