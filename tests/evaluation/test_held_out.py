"""A judge must not share a model with the panel, however the two spell it and whatever their kinds are."""

from pathlib import Path

import pytest

from conf.compose import compose_config
from storage.errors import UserError

MODEL = "./models/held"
PANELS = {
    "judge": "{kind: judge, model: %s}",
    "judge in vLLM": "{kind: judge, backend: vllm, model: %s}",
    "self_reference": "{kind: self_reference, model: %s}",
    "ranking_judge": "{kind: ranking_judge, model: %s}",
    "rubric": "{kind: rubric, model: %s}",
    "reward_model": "{kind: reward_model, path: %s}",
    "implicit_reward's policy": "{kind: implicit_reward, policy: %s, reference: other}",
    "implicit_reward's reference": "{kind: implicit_reward, policy: other, reference: %s}",
}


def compose(panel: str, *words: str, policy: str = "p") -> None:
    compose_config(
        [
            f"policy={policy}",
            "prompts=f",
            "evaluation=plain",
            "~panel.annotators",
            f"+panel.annotators={{brief: {{kind: rule, shorter: true}}, voter: {panel}}}",
            *words,
        ]
    )


def refused(panel: str, *words: str, policy: str = "p") -> str:
    with pytest.raises(UserError, match="must be held out") as caught:
        compose(panel, *words, policy=policy)
    return str(caught.value)


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
@pytest.mark.parametrize("model", [MODEL, f"{MODEL}/", "models/held", str(Path("models/held").resolve())])
def test_a_judge_whose_model_is_on_the_panel_is_refused(panel: str, model: str) -> None:
    message = refused(panel % MODEL, f"+evaluation.judges.other={{kind: reward_model, path: {model}}}")
    assert "evaluation.judges.other" in message
    assert "panel.annotators.voter" in message


@pytest.mark.parametrize("judge", PANELS.values(), ids=PANELS)
def test_judges_of_every_kind_are_compared(judge: str) -> None:
    refused("{kind: reward_model, path: models/held}", f"+evaluation.judges.other={judge % MODEL}")


def test_the_grader_of_mt_bench_is_compared() -> None:
    message = refused(
        "{kind: reward_model, path: m/held}", "mt_bench=judge", "mt_bench.questions=q", "mt_bench.judge.model=m/held/"
    )
    assert "mt_bench.judge" in message


def test_a_symbolic_link_is_the_folder_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    refused(
        f"{{kind: reward_model, path: {tmp_path}/model}}",
        f"+evaluation.judges.other={{kind: reward_model, path: {tmp_path}/link}}",
    )


@pytest.mark.parametrize("name", ["policy", "previous", "initial"])
def test_the_runs_own_policies_stand_for_their_folders(name: str) -> None:
    panel = f"{{kind: self_reference, backend: vllm, model: {name}}}"
    refused(panel, "+evaluation.judges.other={kind: reward_model, path: start/}", policy="start")


def test_other_models_may_judge() -> None:
    words = ["+evaluation.judges.other={kind: reward_model, path: models/other}"]
    for panel in PANELS.values():
        compose(panel % MODEL, *words)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("{kind: human}", "people, who vote on the panel only"),
        ("{kind: implicit_reward, policy: a, reference: b, length_penalty: level}", "give length_penalty a number"),
        ("{kind: implicit_reward, policy: policy, reference: b}", "only the panel can"),
    ],
)
@pytest.mark.parametrize("role", ["judges", "rates"])
def test_annotators_that_need_the_panel_cannot_judge(judge: str, message: str, role: str) -> None:
    with pytest.raises(UserError, match=message):
        compose("{kind: verifier}", f"+evaluation.{role}.other={judge}")
