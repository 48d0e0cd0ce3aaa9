"""The examples with a scenario: their configurations, and (slow) their commands from first to last."""

import json
from pathlib import Path

import pytest

from conf.compose import PROJECT, compose_config
from conf.schema import RunConfig
from flows.round import list_stages
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.judge import JudgeSettings
from tasks.panel.annotators.reward_model import RewardModelSettings
from tests.examples.readme_commands import commands, run
from tests.panel.chat_server import ChatServer

PRESETS = {
    "reward-model": "own-reward",
    "two-judges": "two-judges",
    "maths": "maths",
    "code_checks": "code-checks",
    "people-and-models": "people-and-models",
    "nightly": "every-night",
    "comparison": "methods",
}


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def composed(folder: str) -> RunConfig:
    return compose_config([f"hydra.searchpath=[file://examples/{folder}]", f"run={PRESETS[folder]}"])


@pytest.mark.parametrize("folder", PRESETS)
def test_the_plan_of_its_preset(folder: str) -> None:
    config = composed(folder)
    stages = [spec.stage for spec in list_stages(config)]
    assert {"generate", "label", "train", "evaluate"} < set(stages)
    assert Path(config.prompts.path).is_file()
    assert not set(config.panel.annotators) & set(config.evaluation.judges) - {"brief"}


def test_what_each_panel_shows() -> None:
    judges = composed("two-judges").panel.annotators.values()
    assert len({each.base_url for each in judges if isinstance(each, JudgeSettings)}) == 1
    assert isinstance(composed("reward-model").panel.annotators["reward"], RewardModelSettings)
    people = composed("people-and-models")
    assert isinstance(people.panel.annotators["people"], HumanSettings)
    assert people.preferences.weights == {"people": 3}
    assert composed("nightly").gate.kind == "policy"
    assert composed("maths").evaluation.truth == "answer"


def elsewhere(tmp_path: Path) -> list[str]:
    return [f"runs={tmp_path / 'runs'}", f"policy={tmp_path / 'tiny'}"]


def moved(words: list[str], tmp_path: Path) -> list[str]:
    """The README's words with its folders below the test's."""
    return [
        word.replace("artifacts/", f"{tmp_path}/").replace("runs/", f"{tmp_path}/runs/")
        if not word.startswith("hydra.")
        else word
        for word in words
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "row"),
    [("maths", "win vs initial (answer)"), ("code_checks", "passes"), ("nightly", "win vs initial (short)")],
)
def test_its_commands_print_the_rows_it_names(folder: str, row: str, tmp_path: Path) -> None:
    build, *iterate = [moved(words, tmp_path) for words in commands(folder)]
    run(build)
    printed = [run([*words, *elsewhere(tmp_path)]) for words in iterate if words[1] == "flows.iterate"]
    assert "round 1" in printed[0]
    assert row in printed[0]


@pytest.mark.slow
def test_a_reward_model_of_ones_own_votes(tmp_path: Path) -> None:
    build, votes, fit, use = (moved(words, tmp_path) for words in commands("reward-model"))
    run(build)
    run([*votes, *elsewhere(tmp_path)])
    assert "loss" in run(fit)
    printed = run([*use, *elsewhere(tmp_path), f"panel.annotators.reward.path={tmp_path / 'tiny-reward'}"])
    assert "win vs initial (brief)" in printed


@pytest.mark.slow
def test_two_judges_are_priced_and_not_asked_twice(tmp_path: Path) -> None:
    build, dry, real = (moved(words, tmp_path) for words in commands("two-judges"))
    run(build)
    server = ChatServer()
    server.script = lambda instruction: "[[A]]" if "Explain" in instruction or "explain" in instruction else "A"
    try:
        variables = {"JUDGE_URL": server.url, "NO_PROXY": "127.0.0.1", "COLUMNS": "200"}
        printed = run([*dry, *elsewhere(tmp_path)], variables)
        assert "tokens and money of chat models, measured in the probe and scaled" in printed
        assert "careful" in printed
        assert "quick" in printed
        asked = len(server.requests)
        run([*real, *elsewhere(tmp_path)], variables)
        again = [request for request in server.requests[asked:] if request in server.requests[:asked]]
        assert len(again) <= 4  # one question to each server as the run starts
    finally:
        server.close()


@pytest.mark.slow
def test_a_round_waits_for_people_and_goes_on(tmp_path: Path) -> None:
    build, iterate, _ = (moved(words, tmp_path) for words in commands("people-and-models"))
    run(build)
    run([*iterate, *elsewhere(tmp_path)], code=3)
    (batch,) = (tmp_path / "runs").rglob("humans-people/batch.jsonl")
    ids = [json.loads(line)["id"] for line in batch.read_text(encoding="utf-8").splitlines()]
    votes = [{"id": each, "person": "ann", "outcome": "a"} for each in ids]
    (batch.parent / "votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes), encoding="utf-8")
    assert "round 1" in run([*iterate, *elsewhere(tmp_path)])


@pytest.mark.slow
def test_methods_are_compared(tmp_path: Path) -> None:
    build, compare = (moved(words, tmp_path) for words in commands("comparison"))
    run(build)
    printed = run([*compare, *elsewhere(tmp_path)])
    assert all(method in printed for method in ("irepo", "dpo", "ipo"))
    assert (tmp_path / "runs/compare/compare.json").is_file()
