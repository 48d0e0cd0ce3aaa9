"""`python -m storage.explain`: a tree for people, JSON of one shape, and an exit code for broken files."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import explain
from storage.artifact import Artifact
from storage.explain import condensed, figures
from tasks.evaluation.gate import Decision
from tests.reporting.made_up_run import MadeUpRun
from tests.storage.small_run import MakeRun

ROOT = Path(__file__).parents[2]


Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs the command in this process at a width; returns (exit code, what it printed)."""

    def run(*words: object, width: int = 100) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "argv", ["explain", *map(str, words)])
        code = explain.main()
        return code, capsys.readouterr().out

    return run


def test_a_checkpoint_is_traced_to_prompts_and_initial_policy(make_run: MakeRun, say: Say) -> None:
    made = make_run("one", seed=3)
    code, text = say(made.root / "round-02/train/policy", width=200)  # temporary folders have long names
    assert code == 0
    assert "made by   round-02/train: policy/model.safetensors, " in text
    assert "7 stages, 3 inputs from outside the run; every file is there, unchanged" in " ".join(text.split())
    headings = [line.rstrip("─ ") for line in text.splitlines() if line.endswith("──")]
    assert headings == ["round 2", "round 1", "before the rounds"]
    assert "├─ policy, reference ← round-01/train, below" in text
    assert "│ settings\n│   optimization:\n│     learning_rate: 0.5" in text.replace(
        "│   objective:\n│     beta: 0.1\n", ""
    )
    assert "│ settings  beta 0.1, learning_rate 0.5" in text  # round 1, condensed
    assert text.count("seed 3") == 8  # config.yaml's and every stage's
    assert "annotator_files:one ← models/one [111111111111] outside the run" in text
    assert f"prompts ← {made.prompt_file.path}" in " ".join(text.split())
    assert "heldout: org/set:test" in text


def test_a_stage_is_printed_once_and_then_referred_to(make_run: MakeRun, say: Say) -> None:
    _, text = say(make_run("one").root / "round-02")
    stages = [line for line in text.splitlines() if "made      " in line]
    assert len(stages) == 9  # prompts; generate, label and train twice; evaluate and its responses
    assert "policy ← round-02/train, above" in text
    assert "ends in   round-02/evaluate" in text


def test_full_prints_all_settings(make_run: MakeRun, say: Say) -> None:
    path = make_run("one").root / "round-02/label"
    assert "path: models/one" in say(path)[1]
    assert say(path)[1].count("learning_rate:") == 0
    assert say(path, "--full")[1].count("learning_rate:") == 1


def test_versions_of_another_stage_are_shown_where_they_differ(
    make_run: MakeRun, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run("one", rounds=1)
    monkeypatch.setattr("storage.manifest.code_version", lambda: "abc+changes")
    made.round(2, Artifact.of(made.root / "round-01/train/policy"))
    _, text = say(made.root / "round-02/train")
    assert "code      irepo abc+changes" in text
    newest, earlier = re.split(r"round 1 ─+", text)
    assert "versions  irepo " in earlier
    assert "versions  irepo " not in newest


def test_a_lost_file_is_named_and_the_exit_code_is_1(make_run: MakeRun, say: Say) -> None:
    root = make_run("one").root
    (root / "round-01/label/preferences.parquet").unlink()
    code, text = say(root / "round-02/train/policy/model.safetensors")
    assert code == 1
    assert "1 broken, see below" in text
    assert "✗ round-01/label/preferences.parquet is missing" in text
    assert say(root / "round-01/generate")[0] == 0  # it was made from nothing that is lost


def test_a_damaged_manifest_is_named(make_run: MakeRun, say: Say) -> None:
    root = make_run("one").root
    (root / "round-02/label/manifest.json").write_text("{}")
    code, text = say(root / "round-02/label")
    assert code == 1
    assert "✗ round-02/label/manifest.json cannot be read as a manifest" in text
    code, printed = say(root / "round-02/label", "--json")
    assert (code, json.loads(printed)["breaks"][0]["stage"]) == (1, "round-02/label")


def test_a_file_that_the_stage_did_not_publish_is_marked(make_run: MakeRun, say: Say) -> None:
    code, text = say(make_run("one").root / "round-02/label/spec.yaml")
    assert (code, "not one of the files" in text) == (0, True)


def test_every_path_of_a_run_is_explained(make_run: MakeRun, tmp_path: Path, say: Say) -> None:
    """Files, folders, rounds, gates and the runs themselves; with the summaries that real stages have."""
    figures = MadeUpRun(tmp_path / "runs" / "figures", priced=True)
    figures.evaluate(0)
    figures.round(1, base=0, decision=Decision(action="promote", by="human", note="fine"))
    figures.round(2, base=1, decision=Decision(action="roll back", by="policy", last=True), kl={"mean": None})
    explained = 0
    for root in (make_run("one", rounds=1).root, figures.root):
        for path in [root, *sorted(root.rglob("*"))]:
            if path.name == "config.yaml":
                continue
            for form in ([], ["--full"], ["--json"]) if path.is_dir() else ([],):
                code, text = say(path, *form)
                assert (code, bool(text)) == (0, True), path
                explained += 1
    assert explained > 100


def test_no_line_is_wider_than_the_terminal(make_run: MakeRun, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_run("one").root
    monkeypatch.chdir(root.parent)  # so that paths are short
    paths = (str(root), str(root.parents[1]))
    for width in (60, 80, 120):
        lines = say("one/round-02", width=width)[1].splitlines()
        assert [line for line in lines if len(line) > width and not any(path in line for path in paths)] == []


def test_json_has_one_shape(make_run: MakeRun, say: Say) -> None:
    root = make_run("one").root
    code, text = say(root / "round-02/train/policy", "--json")
    record = json.loads(text)
    assert code == 0
    assert list(record) == ["path", "run", "asked", "files", "config", "stages", "breaks"]
    assert record["asked"] == ["round-02/train"]
    assert record["files"] == [str(root / "round-02/train/policy/model.safetensors")]
    stages = list(record["stages"])
    assert (stages[0], stages[-1]) == ("round-02/train", "prompts")
    train = record["stages"]["round-02/train"]
    assert train["inputs"][0] == {
        "names": ["policy", "reference"],
        "digest": record["stages"]["round-01/train"]["content"],
        "kind": "stage",
        "stage": "round-01/train",
        "path": None,
    }
    assert {"settings", "seed", "versions", "rows", "summary", "started", "seconds", "key", "files"} <= set(train)


def test_each_kind_of_stage_has_its_settings_and_figures_and_an_unknown_kind_shows_what_it_has() -> None:
    settings = {
        "annotators": {"one": {"kind": "rule", "shorter": True}},
        "preferences": {"pairs": "all", "prior_variance": 4.0, "quorum": None},
    }
    assert condensed("label", settings) == ["one (rule)", "pairs all"]
    assert condensed("generate", {"engine": {"kind": "vllm"}, "sampling": {"top_p": 0.9}}) == [
        "top_p 0.9",
        "engine vllm",
    ]
    assert condensed("new", {"a": {"b": 1}, "c": None}) == ["b 1"]
    summary = {"win_rate": {"initial": {"truth": {"mean": 0.75, "high": 0.8}}}, "kl": {"mean": 1.5}, "words": 3}
    assert figures("evaluate", summary) == {"win rate initial truth": 0.75, "kl": 1.5}
    assert figures("gate", {"action": "promote", "by": "none", "rows": 3}) == {"action": "promote", "by": "none"}
    assert figures("new", {"a_b": 1, "c": 0.5, "d": True, "e": "text", "f": {"g": 1}}) == {"a b": 1, "c": 0.5}


def test_a_path_that_does_not_exist_is_refused_with_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "storage.explain", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error:", "where:", "remedy:"]


def test_a_closed_pipe_gives_no_traceback(make_run: MakeRun) -> None:
    command = f"{sys.executable} -m storage.explain {make_run('one').root} --json | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
