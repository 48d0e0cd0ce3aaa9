"""The report's table of benchmarks, and what words on the command line ask of lm-eval."""

from pathlib import Path
from typing import Any

import pytest

from conf.compose import compose_config
from flows.evaluation import harness_spec
from flows.plan import Plan
from flows.round import list_stages
from flows.stages import BareStages
from storage.artifact import Artifact
from storage.errors import UserError
from tasks.evaluation.harness.settings import HarnessSettings, check_harness
from tasks.reporting.report.files import read_run
from tasks.reporting.report.harness import table
from tests.reporting.made_up_run import MadeUpRun


def benchmarks(arc: float, perplexity: float, average: float | None) -> dict[str, Any]:
    scores = {
        "arc": {"acc_norm,none": {"value": arc, "stderr": 0.0123, "higher_is_better": True}},
        "prose": {"perplexity,none": {"value": perplexity, "stderr": None, "higher_is_better": False}},
    }
    return {"scores": scores, "average": average}


def test_scores_and_how_far_they_moved(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.evaluate(0, harness=benchmarks(0.25, 9.0, 4.625))
    run.evaluate(1, harness=benchmarks(0.3, 9.5, 4.9))
    run.evaluate(2, base=1, harness=benchmarks(0.2875, 9.25, 4.765))
    html = table(read_run(run.root).evaluated)
    assert "0.2500 ±0.0123" in html
    assert "<small>+0.0500</small>" in html
    assert "0.2875 ±0.0123<small>+0.0375 / -0.0125</small>" in html
    assert "9.2500<small>+0.2500 / -0.2500</small>" in html
    assert "perplexity, lower is better" in html
    assert "4.7650<small>+0.1400 / -0.1350</small>" in html


def test_no_table_without_benchmarks(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.evaluate(0)
    assert table(read_run(run.root).evaluated) == ""


def test_the_leaderboard_is_the_one_of_the_first_version() -> None:
    config = compose_config(["run=demo", "harness=leaderboard-v1", "engine=transformers"])
    assert {task.task: (task.num_fewshot, task.metric) for task in config.harness.tasks} == {
        "arc_challenge": (25, "acc_norm"),
        "hellaswag": (10, "acc_norm"),
        "mmlu": (5, "acc"),
        "truthfulqa_mc2": (0, "acc"),
        "winogrande": (5, "acc"),
        "gsm8k": (5, "exact_match,strict-match"),
    }
    assert config.harness.backend == "transformers"
    (spec,) = [spec for spec in list_stages(config)[5:] if spec.stage == "harness"]
    assert spec.folder.parts[-3:] == ("round-01", "evaluate", "harness")


def test_files_are_inputs_by_their_contents(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    words = ["run=demo", "harness=files", "harness.tasks=[gsm8k_file]", f"harness.data={{gsm8k_file: {data}}}"]
    plan = Plan(compose_config(words), Artifact(path=Path("p"), digest="d"))
    first = harness_spec(BareStages(), plan, 0, plan.initial)
    data.write_text('{"question": 1}\n')
    second = harness_spec(BareStages(), plan, 0, plan.initial)
    assert first.key() != second.key()
    assert first.inputs["include:0"] == second.inputs["include:0"]


def test_what_cannot_be_asked_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        check_harness(HarnessSettings.model_validate({"tasks": ["a"], "data": {"a": tmp_path / "none"}}))
    with pytest.raises(UserError, match="no such folder"):
        check_harness(HarnessSettings.model_validate({"tasks": ["a"], "include": [tmp_path / "none"]}))
    with pytest.raises(ValueError, match="is listed twice"):
        HarnessSettings.model_validate({"tasks": ["a", {"task": "a", "num_fewshot": 5}]})
    with pytest.raises(UserError, match="b is not one of the tasks"):
        compose_config(["run=demo", "harness=files", "harness.tasks=[a]", "harness.data={b: x}"])
