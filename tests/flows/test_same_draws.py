"""All policies of a run draw their held-out responses with the same random numbers: an unmoved policy ties exactly."""

import json
from pathlib import Path

import pytest

from conf.compose import compose_config
from flows.checks import prepare_run
from flows.evaluation import evaluate_policy, heldout_spec
from flows.plan import Plan
from flows.round import play_start
from flows.specs import generate_spec
from flows.stages import BareStages
from storage.artifact import Artifact
from storage.schemas import RESPONSES, read_parquet
from tasks.engines import close_engines
from tasks.evaluation.metrics import Metrics
from tests.conftest import MakePolicy


@pytest.fixture
def plan(tiny_policy: Path, tmp_path: Path) -> Plan:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(40)))
    return prepare_run(
        compose_config(
            [
                "name=small", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules",
                "evaluation=plain", "evaluation.responses=2", "engine=transformers", "training=small",
                "sampling.max_tokens=12", "prompts.heldout=0.5", "training.device=cpu",
                "+evaluation.judges.brief={kind: rule, shorter: true}",
            ]
        )
    )  # fmt: skip


def replies(plan: Plan, number: int) -> list[list[int]]:
    files = sorted(plan.folder(number, "evaluate/responses").glob("*.parquet"))
    return [ids for file in files for ids in read_parquet(file, RESPONSES)["response_ids"].to_pylist()]


def evaluated(plan: Plan, number: int, policy: Artifact) -> Metrics:
    stages = BareStages()
    if number == 0:
        play_start(stages, plan)
    else:
        evaluate_policy(stages, plan, number, [0], policy)
    return Metrics.model_validate(stages.manifests["evaluate"].summary)


def test_an_unchanged_policy_ties_with_the_initial_one_and_another_does_not(
    plan: Plan, make_policy: MakePolicy
) -> None:
    try:
        evaluated(plan, 0, plan.initial)
        same = evaluated(plan, 1, plan.initial)
        other = evaluated(plan, 2, Artifact.of(make_policy(seed=3)))
    finally:
        close_engines()
    assert replies(plan, 0) == replies(plan, 1) != replies(plan, 2)
    rate = same.win_rate["initial"]["brief"]
    assert (rate.mean, rate.low, rate.high) == (0.5, 0.5, 0.5)
    assert rate.n == len(replies(plan, 0)) > 20
    different = other.win_rate["initial"]["brief"]
    assert different.high > different.low


def test_what_is_trained_on_shares_no_draw_with_what_is_held_out(plan: Plan) -> None:
    folder, sampling = plan.folder(1, "x"), plan.config.sampling
    trained = [
        generate_spec(plan, n, folder, policy=plan.initial, prompts=plan.initial, sampling=sampling) for n in (1, 2)
    ]
    held_out = [heldout_spec(plan, n, folder, policy=plan.initial, prompts=plan.initial) for n in (0, 1, 2)]
    assert {(spec.seed, spec.draw) for spec in held_out} == {(1, 0)}
    assert {(spec.seed, spec.draw) for spec in trained} == {(0, None)}
