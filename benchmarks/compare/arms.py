"""One arm: a run of the demo with a method, a strength and a seed, stage by stage in this process, without Prefect.

What does not hang on the method (prompts, the initial policy's evaluation, the first round's responses and votes) is
made once a seed, in the run `seed-<n>`, and shared with every arm by hard links. A finished arm has a record.json.
"""

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from conf.compose import compose_config
from flows.checks import needs_warmup, prepare_run
from flows.compare import share, shared_stages
from flows.plan import Plan
from flows.record import round_record
from flows.round import play_round, play_start
from flows.stages import BareStages
from storage.artifact import Artifact
from storage.files import canonical_json, publish_text
from storage.schemas import SCORES, read_parquet
from storage.stage import Spec

RUNS = Path("runs/benchmark-compare")
RECORD = "record.json"
COMMON = ("run=demo", "training.launch=inline", "evaluation.pairs=false", "evaluation.responses=6")
TRUTH = "truth"  # the demo's judge whose scores are the ground-truth utility


@dataclass(frozen=True)
class Arm:
    """name: that of its folder, without the seed."""

    name: str
    words: tuple[str, ...]
    seed: int
    runs: Path = RUNS

    @property
    def folder(self) -> Path:
        return self.runs / f"{self.name}-{self.seed}"

    def record(self) -> dict[str, Any] | None:
        """The figures of the arm; None if it is not finished, or was run with other words."""
        path = self.folder / RECORD
        found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return found if found and found["words"] == list(self.words) else None

    def plan(self, *words: str) -> Plan:
        own = (f"seed={self.seed}", f"runs={self.runs}", f"name={self.name}-{self.seed}", "overwrite=true")
        return prepare_run(compose_config([*COMMON, *self.words, *words, *own]))


def build(seed: int) -> None:
    """Build the demo's policy and reward models of a seed if they are missing."""
    if needs_warmup(compose_config(["run=demo", f"seed={seed}"]).policy):
        subprocess.run([sys.executable, "-m", "flows.warmup", "showcase=demo", f"seed={seed}"], check=True)


class _Enough(Exception):
    """All shared stages are done."""


class _SharedStages(BareStages):
    """Runs the stages before the first one that depends on the method."""

    def __call__(self, spec: Spec) -> Artifact:
        if spec.stage in ("mix", "train"):
            raise _Enough
        return super().__call__(spec)


def common(seed: int, runs: Path = RUNS) -> Plan:
    """The run whose first stages the arms of a seed share: round 0 and the votes of round 1."""
    plan = Arm("seed", (), seed, runs).plan()
    stages = _SharedStages()
    with suppress(_Enough):
        play_start(stages, plan)
        play_round(stages, plan, 1, [0])
    return plan


def run(arm: Arm, source: Plan) -> dict[str, Any]:
    """Run all rounds of an arm and write its record. Finished stages are adopted."""
    started = time.monotonic()
    plan = arm.plan()
    share(source.layout.root, arm.folder, shared_stages(source.config, plan.config))
    rounds = []
    for number in range(plan.config.rounds + 1):
        clock, stages, chain = time.monotonic(), BareStages(), list(range(max(number, 1)))
        if number:
            play_round(stages, plan, number, chain)
        else:
            play_start(stages, plan)
        figures = round_record(plan, number, chain, stages.manifests).figures.model_dump(mode="json")
        rounds.append(
            {
                "kl": figures["kl"],
                "win_rate": figures["win_rate"].get("initial", {}),
                "rates": {name: value["mean"] for name, value in figures["rates"].items()},
                "tokens": figures["tokens"],
                "words": figures["words"],
                "finished": figures["finish_rate"],
                "utility": utilities(plan.folder(number, "evaluate/judgements") / "scores.parquet"),
                "seconds": round(time.monotonic() - clock, 2),
            }
        )
    record = {"words": list(arm.words), "seconds": round(time.monotonic() - started, 2), "rounds": rounds}
    publish_text(arm.folder / RECORD, canonical_json(record) + "\n")
    for number in range(plan.config.rounds + 1):
        shutil.rmtree(plan.layout.round(number), ignore_errors=True)
    return record


def utilities(path: Path) -> list[float]:
    """Mean utility of each held-out prompt's replies, prompts sorted."""
    rows = read_parquet(path, SCORES, ["prompt_id", "source", "annotator", "score"])
    own = rows.filter(pc.and_(pc.equal(rows["source"], "policy"), pc.equal(rows["annotator"], TRUTH)))
    means = own.group_by("prompt_id").aggregate([("score", "mean")]).sort_by("prompt_id")
    return [round(value, 6) for value in means["score_mean"].to_pylist()]
