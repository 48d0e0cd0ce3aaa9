"""One arm: a run of the demo with a method, a strength and a seed, stage by stage in this process, without Prefect.

What does not hang on the method (prompts, the initial policy's evaluation, the first round's responses and votes) is
made once a seed, in the run `seed-<n>`, and shared with every arm by hard links. A finished arm has a record.json.
"""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from conf.compose import compose_config
from flows.compare import share
from flows.evaluation import evaluation_specs, rivals
from flows.plan import Plan
from flows.preflight import needs_warmup, prepare_run
from flows.training import (
    extra_spec,
    mix_inputs,
    mix_spec,
    reference_digest,
    reference_spec,
    train_spec,
    update_inputs,
    update_spec,
)
from storage.files import canonical_json, publish_text
from storage.manifest import folder_digest, read_manifest
from storage.schemas import SCORES, read_parquet
from tasks.evaluation.judging import run_judging
from tasks.evaluation.stage import run as evaluate
from tasks.generation.engines import Engine
from tasks.generation.prompts import run_select
from tasks.generation.stage import run as generate
from tasks.labeling.stage import run as label
from tasks.mixing.stage import run_mix
from tasks.training.trainer import run as train
from tasks.training.update import run_update

RUNS = Path("runs/benchmark-compare")
RECORD = "record.json"
COMMON = ("run=demo", "training.launch=inline", "evaluation.pairs=false")
TRUTH = "truth"  # the demo's judge whose scores are the ground-truth utility
_LARGE = ("generate", "mix", "train", "update", "evaluate")


@dataclass(frozen=True)
class Arm:
    """name: of its folder, without the seed."""

    name: str
    words: tuple[str, ...]
    seed: int
    runs: Path = RUNS

    @property
    def folder(self) -> Path:
        return self.runs / f"{self.name}-{self.seed}"

    def record(self) -> dict[str, Any] | None:
        """The figures of a finished arm; of one with other words: None."""
        path = self.folder / RECORD
        found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return found if found and found["words"] == list(self.words) else None

    def plan(self, *words: str) -> Plan:
        own = (f"seed={self.seed}", f"runs={self.runs}", f"name={self.name}-{self.seed}")
        return prepare_run(compose_config([*COMMON, *self.words, *words, *own]))


def build(seed: int) -> None:
    """The demo's policy and reward models of a seed, where they are missing."""
    if needs_warmup(compose_config(["run=demo", f"seed={seed}"]).policy):
        subprocess.run([sys.executable, "-m", "flows.warmup", "demo=true", f"seed={seed}"], check=True)


def common(seed: int, engine: Engine, runs: Path = RUNS) -> Path:
    """The run that arms of a seed share their first stages with; returns its folder."""
    arm = Arm("seed", (), seed, runs)
    plan = arm.plan()
    assessed(plan, 0, engine)
    labelled(plan, 1, engine)
    return plan.layout.root


def run(arm: Arm, source: Path, engine: Engine) -> dict[str, Any]:
    """All rounds of an arm, its record kept; stages that were finished before are adopted."""
    started = time.monotonic()
    share(source, arm.folder)
    plan = arm.plan()
    records = [assessed(plan, 0, engine)]
    for number in range(1, plan.config.rounds + 1):
        clock = time.monotonic()
        trained(plan, number, records, labelled(plan, number, engine, records), engine)
        records.append(assessed(plan, number, engine, records))
        records[-1]["seconds"] = round(time.monotonic() - clock, 2)
    record = {"words": list(arm.words), "seconds": round(time.monotonic() - started, 2), "rounds": records}
    publish_text(arm.folder / RECORD, canonical_json(record) + "\n")
    for number in range(plan.config.rounds + 1):
        for stage in _LARGE:
            shutil.rmtree(plan.layout.stage(number, stage), ignore_errors=True)
    return record


def labelled(plan: Plan, number: int, engine: Engine, before: list[dict[str, Any]] | None = None) -> dict[str, str]:
    """Responses and votes of a round; returns the digests of both."""
    digests = [record["policy"] for record in before] if before else [folder_digest(plan.initial)]
    selected = run_select(plan.select(number, {"prompts": _published(plan)}))
    policy, previous = digests[number - 1], digests[max(number - 2, 0)]
    inputs = {"prompts": selected.content, "policy": policy}
    generated = generate(plan.generate(number, number - 1, inputs), engine=engine)
    inputs = {"prompts": selected.content, "responses": generated.content}
    asked = {"policy": policy, "previous": previous, "initial": digests[0]}
    inputs |= {f"asked:{name}": asked[name] for name in plan.policies_asked}
    votes = label(plan.label(number, number - 1, max(number - 2, 0), inputs))
    return {"selected": selected.content, "preferences": votes.content}


def trained(plan: Plan, number: int, before: list[dict[str, Any]], labels: dict[str, str], engine: Engine) -> None:
    """The round's policy."""
    policies = {each: record["policy"] for each, record in enumerate(before)}
    policy, preferences, chain = before[-1]["policy"], labels["preferences"], range(number)
    mix = mix_spec(plan, number, chain, {"preferences": preferences} | mix_inputs(plan, chain))
    if mix:
        preferences = run_mix(mix).content
    move = reference_spec(plan, number, chain, policies)
    if move is not None:
        run_update(move)
    reference = reference_digest(plan, number, chain, policies)
    inputs = {"policy": policy, "reference": reference, "preferences": preferences}
    extra = extra_spec(plan, number, chain, {"prompts": labels["selected"], "policy": reference})
    if extra is not None:
        inputs["extra"] = generate(extra, engine=engine).content
    done = train(train_spec(plan, number, chain, inputs))
    update = update_spec(plan, number, chain, {"trained": done.content} | update_inputs(plan, chain))
    if update is not None:
        run_update(update)


def assessed(plan: Plan, number: int, engine: Engine, before: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A round's figures: KL, win rates and rates, and the utility of every held-out prompt's replies."""
    digest = folder_digest(plan.policy(number))
    initial = before[0]["policy"] if before else digest
    inputs = {"prompts": _published(plan), "policy": digest, "initial": initial}
    earlier = (
        {f"responses:{name}": before[rival]["responses"] for name, rival in rivals(number, number - 1)}
        if before
        else {}
    )
    responses, judge, metrics = evaluation_specs(plan, number, number - 1, inputs | earlier)
    drawn = generate(responses, engine=engine)
    run_judging(judge)
    said = evaluate(metrics).summary
    return {
        "policy": digest,
        "responses": drawn.content,
        "kl": said["kl"],
        "win_rate": said["win_rate"].get("initial", {}),
        "rates": {name: value["mean"] for name, value in said["rates"].items()},
        "tokens": said["tokens"],
        "words": said["words"],
        "finished": said["finish_rate"],
        "utility": utilities(judge.folder / "scores.parquet"),
    }


def utilities(path: Path) -> list[float]:
    """Mean utility of each held-out prompt's replies, prompts sorted."""
    rows = read_parquet(path, SCORES, ["prompt_id", "source", "annotator", "score"])
    mine = rows.filter(pc.and_(pc.equal(rows["source"], "policy"), pc.equal(rows["annotator"], TRUTH)))
    means = mine.group_by("prompt_id").aggregate([("score", "mean")]).sort_by("prompt_id")
    return [round(value, 6) for value in means["score_mean"].to_pylist()]


def _published(plan: Plan) -> str:
    return read_manifest(plan.layout.prompts).content
