"""`python -m storage.diff`: the first stage that differs, why, and how; or that the runs are equal."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import diff
from storage.artifact import Artifact
from storage.errors import UserError
from tests.storage.small_run import MakeRun, write_text

ROOT = Path(__file__).parents[2]


Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs the command in this process; returns (exit code, what it printed)."""

    def run(*words: object, width: int = 100) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "argv", ["diff", *map(str, words)])
        code = diff.main()
        return code, capsys.readouterr().out

    return run


def test_equal_runs_may_differ_in_names_and_times(make_run: MakeRun, say: Say) -> None:
    one, other = make_run("one"), make_run("other")
    code, text = say(one.root, other.root)
    assert code == 0
    assert "Equal: 11 stages with 14 files compared." in text
    assert len(text.splitlines()) == 3


def test_runs_with_two_learning_rates_diverge_at_the_first_training(make_run: MakeRun, say: Say) -> None:
    code, text = say(make_run("one", rate=0.5).root, make_run("other", rate=0.25).root)
    assert code == 1
    assert "They diverge at round-01/train: 7 of the 11 stages that both have differ." in text
    assert "setting optimization.learning_rate: 0.5 -> 0.25" in text
    assert "training.rate: 0.5 -> 0.25" in text  # config.yaml
    assert "input " not in text
    assert "1 of 2 tensors differ: moved\n  largest absolute difference 0.25, in moved" in text
    assert "1 of 1 line differ, first line 1:\n    loss: 0.5 -> 0.25" in text
    rows = {line[:9].strip(): line[9:].split() for line in text.splitlines() if line.startswith(("the run", "round "))}
    assert rows == {
        "the run": ["="],
        "round 1": ["=", "=", "≠", "≠", "≠"],
        "round 2": ["≠", "=", "≠", "≠", "≠"],
    }


def test_runs_with_two_seeds_diverge_at_the_first_responses(make_run: MakeRun, say: Say) -> None:
    code, text = say(make_run("one").root, make_run("other", seed=1).root)
    assert code == 1
    assert "They diverge at round-01/generate" in text
    assert "\nseed: 0 -> 1\n" in text
    assert "2 of 3 rows differ, by column: text (2)" in text
    assert "first in row 1 (prompt_id b):" in text


def test_other_content_from_outside_is_named_with_its_path(make_run: MakeRun, say: Say) -> None:
    one = make_run("one")
    (one.initial.path / "model.bin").write_text("other weights")
    other = make_run("other")
    comparison = diff.compare(diff.read_run(one.root), diff.read_run(other.root))
    assert comparison["first"]["stage"] == "round-01/generate"  # the prompts stage read it too, and made the same
    (item,) = comparison["first"]["inputs"]
    assert (item["name"], item["outside"], item["a_from"]) == ("policy", True, str(one.initial.path))
    assert item["a"] != item["b"]
    assert "input policy (outside the run):" in say(one.root, other.root)[1]


def test_what_else_came_from_outside_is_listed_once(make_run: MakeRun, say: Say) -> None:
    one, other = make_run("one"), make_run("other", rate=0.25)
    for number in (1, 2):  # another reward model, whose votes are the same
        responses = Artifact.of(other.root / f"round-{number:02d}/generate")
        shutil.rmtree(other.root / f"round-{number:02d}/label")
        other.label(number, responses, Artifact(path=Path("models/two"), digest="4" * 64))
    code, text = say(one.root, other.root)
    assert code == 1
    assert "They diverge at round-01/train" in text
    assert text.count("input annotator_files:one") == 1
    models = "models/one [111111111111] -> models/two [444444444444]"
    assert f"input annotator_files:one of round-01/label: {models}" in " ".join(text.split())


def test_other_content_under_the_same_key_is_explained(
    make_run: MakeRun, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make_run("one", rounds=1), make_run("other", rounds=1)
    shutil.rmtree(other.root / "round-01")
    monkeypatch.setattr("storage.manifest.code_version", lambda: "abc")
    manifest = json.loads((one.root / "round-01/generate/manifest.json").read_text())
    other.publish(
        "round-01/generate",
        "generate",
        1,
        manifest["settings"],
        lambda folder: write_text(folder / "responses.txt", "x"),
        policy=other.initial,
        prompts=other.prompts / "train.parquet",
    )
    code, text = say(one.root, other.root)
    assert code == 1
    assert "Same settings, seed and inputs, but other content" in text
    assert "version of irepo: " in text
    assert "only in B" in text.split("what differs in")[1]


def test_a_round_that_one_run_lacks_is_named(make_run: MakeRun, say: Say) -> None:
    one, other = make_run("one"), make_run("other", rounds=1)
    code, text = say(one.root, other.root)
    assert code == 1
    assert "The 6 stages that both have are equal, 8 files compared." in text
    assert "Only in A: round 2\n" in text
    shutil.rmtree(other.root / "round-01/evaluate")
    code, text = say(other.root, one.root)
    assert (code, "Only in B: round-01/evaluate/responses, round-01/evaluate, round 2\n" in text) == (1, True)


def test_a_lost_file_makes_runs_differ(make_run: MakeRun, say: Say) -> None:
    one, other = make_run("one"), make_run("other")
    (other.root / "round-02/train/metrics.jsonl").unlink()
    code, text = say(one.root, other.root)
    assert code == 1
    assert "Broken in B: round-02/train/metrics.jsonl is missing" in text


def test_a_setting_that_changed_no_file_is_shown_with_exit_code_0(make_run: MakeRun, say: Say) -> None:
    one, other = make_run("one"), make_run("other")
    path = other.root / "config.yaml"
    path.write_text(path.read_text().replace("rate: 0.5", "rate: 0.75"))
    code, text = say(one.root, other.root)
    assert code == 0
    assert "no file of these stages differs" in text
    assert "training.rate: 0.5 -> 0.75" in text


def test_json_has_one_shape(make_run: MakeRun, say: Say) -> None:
    one, other = make_run("one"), make_run("other", rate=0.25)
    keys = ["a", "b", "equal", "stages", "files", "only_in_a", "only_in_b", "broken", "config", "outside", "first"]
    code, text = say(one.root, one.root, "--json")
    assert (code, list(json.loads(text)), json.loads(text)["first"]) == (0, keys, None)
    code, text = say(one.root, other.root, "--json")
    comparison = json.loads(text)
    assert (code, list(comparison), comparison["equal"]) == (1, keys, False)
    assert comparison["first"]["settings"] == [
        {"key": "optimization.learning_rate", "a": 0.5, "b": 0.25, "only_in": None}
    ]
    assert [file["path"] for file in comparison["first"]["files"]] == ["metrics.jsonl", "policy/model.safetensors"]
    assert comparison["stages"]["round-01/label"] is True
    assert comparison["stages"]["round-01/train"] is False


def test_a_mapping_of_one_side_is_one_change() -> None:
    items = diff.changes({"a": {"b": 1, "c": {"d": 2, "e": 3}}, "f": None}, {"a": {"b": 2, "c": {}}, "g": {"h": 1}})
    assert [(item["key"], item["only_in"]) for item in items] == [
        ("a.b", None),
        ("a.c.d", "a"),
        ("a.c.e", "a"),
        ("f", "a"),
        ("g", "b"),
    ]


def test_a_folder_that_is_not_a_run_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(UserError, match="not a run folder"):
        diff.read_run(empty)
    empty.mkdir()
    (empty / "config.yaml").write_text("name: empty\n")
    with pytest.raises(UserError, match="no stage of this run is finished"):
        diff.read_run(empty)
    command = [sys.executable, "-m", "storage.diff", str(make_run("one").root), str(empty)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error:", "where:", "remedy:"]


def test_commands_import_neither_torch_nor_prefect() -> None:
    code = "import sys, storage.explain, storage.diff; print({'torch', 'vllm', 'prefect'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
