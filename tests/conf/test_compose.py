"""Configuration: composition, overrides, and errors that name the key and the remedy."""

import subprocess
import sys

import pytest
import yaml

from conf.compose import CONF, PROJECT, compose_config, dump_config, group_options, validate_config
from storage.errors import UserError


def test_overrides_reach_groups_and_values() -> None:
    config = compose_config(["run=demo", "training.learning_rate=1e-4", "panel=demo", "rounds=2", "seed=5"])
    assert (config.training.learning_rate, config.rounds, config.name) == (1e-4, 2, "demo-5")
    assert config.policy.path == "artifacts/demo-5/policy"
    assert len(config.panel.annotators) >= 7
    assert len({type(annotator) for annotator in config.panel.annotators.values()}) >= 4


def test_policy_and_prompts_take_paths() -> None:
    config = compose_config(["policy=/models/it's here", "prompts=../data/x.jsonl.gz"])
    assert (config.policy.path, config.prompts.path) == ("/models/it's here", "../data/x.jsonl.gz")


@pytest.mark.parametrize("preset", group_options("run"))
def test_every_preset_composes(preset: str) -> None:
    assert compose_config([f"run={preset}", "prompts.path=prompts.jsonl"]).rounds >= 2


#: What panels that belong to a recipe need besides.
NEEDED = {"dice": ["policy.aligned_from=z"], "sera-bootstrap": ["policy.aligned_from=z"], "order": ["drafts=ladder"]}


@pytest.mark.parametrize("panel", sorted({*group_options("panel")} - {"none"}))  # none: for offline training
def test_every_panel_composes(panel: str) -> None:
    assert compose_config(["policy=x", "prompts=y", f"panel={panel}", *NEEDED.get(panel, [])]).panel.annotators


@pytest.mark.parametrize("evaluation", group_options("evaluation"))
def test_every_evaluation_composes(evaluation: str) -> None:
    compose_config(["policy=x", "prompts=y", f"evaluation={evaluation}"])


def test_the_resolved_copy_is_the_config() -> None:
    config = compose_config(["run=demo"])
    assert validate_config(yaml.safe_load(dump_config(config))) == config


JUDGE = [
    "policy=p",
    "prompts=f",
    "evaluation=plain",
    "~panel.annotators",
    "+panel.annotators={judge: {kind: judge, model: m}, brief: {kind: rule, shorter: true}}",
]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run=demo", "training.learning_rat=1"], "did you mean training.learning_rate, which is"),
        (
            ["run=demo", "panel=nobody"],
            "answers, demo, dice, instructions, judges, local-judges, none, order, references, rules",
        ),
        (["run=demo", "rounds=0"], "rounds"),
        (["run=demo", "engine.kind=other"], "engine.kind"),
        (["run=demo", "rounds"], "key=value"),
        (["run=demo", "++training.speed=3"], "training.speed"),
        ([], "policy=<folder or id> prompts=<file>"),
        (["run=demo", "~panel.annotators", "+panel.annotators={}"], "the panel is empty"),
        (["run=demo", "evaluation.judges.held-out=${panel.annotators.reward-one}"], "a judge must be held out"),
        ([*JUDGE, "+evaluation.judges.other={kind: judge, model: m, template: short}"], "a judge must be held out"),
        ([*JUDGE, "panel.budget.money=3"], "judge has no price"),
        (["run=demo", "preferences.keep={share: 0.5, margin_of: {person: 1}}"], "person gives no scores"),
        (
            ["run=demo", "objective=sppo", "mixing.offline={path: x.jsonl, share: 0.5}"],
            "objective=sppo reads votes, which pairs of an offline set do not have",
        ),
        (["run=demo", "objective=selm", "mixing=replay"], "objective=selm reads an extra response of this round"),
        (["run=demo", "preferences.gold=[nobody]"], "preferences.gold: nobody is not on the panel"),
        ([*JUDGE, "~panel.annotators.brief", "preferences.estimator=ensemble_worst"], "needs scores"),
        (["run=demo", "+evaluation.rates.own={kind: rubric, model: policy, backend: vllm}"], "only the panel can"),
    ],
)
def test_mistakes_are_named(words: list[str], named: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(words)
    assert named in str(caught.value)


def test_reading_a_config_loads_neither_torch_nor_prefect_nor_httpx() -> None:
    code = (
        "import sys; from conf.compose import compose_config; compose_config(['run=demo']);"
        "print([m for m in ('torch', 'prefect', 'vllm', 'transformers', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


#: What a method needs beside its own word.
OF_OBJECTIVES = {
    "ipo-md": ["engine=transformers"],
    "nash-md": ["engine=transformers"],
    "bvpo": ["drafts=traces"],
    "c-rlft": ["recipe=c-rlft"],
}


@pytest.mark.parametrize("objective", group_options("objective"))
def test_every_objective_composes(objective: str) -> None:
    """A file lists what the method has, and says nothing else than its name where that is a method's."""
    config = compose_config(["run=demo", f"objective={objective}", *OF_OBJECTIVES.get(objective, [])])
    written = yaml.safe_load((CONF / "objective" / f"{objective}.yaml").read_text(encoding="utf-8"))
    known = type(config.objective).model_fields
    assert written.keys() - {"defaults"} <= known.keys()
    if config.objective.name == objective:
        assert config.objective == type(config.objective).model_validate({})


def test_the_presets_choice_of_beta_is_for_its_own_objective() -> None:
    assert beta("run=demo") == 0.45
    assert beta("run=demo", "objective=sppo") == 1e-3
    assert beta("run=demo", "objective=dpo", "objective.beta=0.3") == 0.3


def beta(*words: str) -> object:
    """The objective's beta in a configuration of these words."""
    return compose_config(list(words)).objective.model_dump()["beta"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["objective=ipo-md"], "set engine=transformers, or objective=online-ipo"),
        (["objective=adpo", "preferences.pairs=best_worst"], "set preferences.pairs=all"),
        (["objective=rebel", "panel=judges"], "objective.rewards=target"),
        (["objective=rebel", "objective.score_annotators=[nobody]"], "nobody gives no scores on this panel"),
        (["objective=dno", "objective.reference=initial"], "objective.reference"),
        (["objective=inpo", "objective.tau=1"], "tau is at most eta"),
        (["objective=dpo", "objective.bta=1"], "did you mean objective.beta, which is"),
        (["objective=dop"], "dno, dpo"),
    ],
)
def test_objectives_that_cannot_be_served_are_refused(words: list[str], named: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(["run=demo", *words])
    assert named in str(caught.value)


def test_rebel_takes_targets_where_nobody_scores() -> None:
    compose_config(["run=demo", "panel=judges", "objective=rebel", "objective.rewards=target"])
