"""What greets somebody new: the list of runs before there is one, and the words of offline training."""

from pathlib import Path

import pytest

from conf.describe import groups
from flows import runs
from flows.help import run_help
from flows.train_words import DEFAULTS, ROUNDS_ONLY
from storage.errors import UserError


def test_without_runs_the_list_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs.main([])
    printed = capsys.readouterr().out
    assert "there is no run in runs yet" in printed
    assert "make run" in printed


def test_a_folder_of_runs_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        runs.main(["--runs", str(tmp_path / "ruins")])


def test_help_of_offline_training_has_its_own_defaults_and_no_words_of_rounds() -> None:
    text = run_help("flows.train", "About.", defaults={**DEFAULTS, "data": "file"}, without=ROUNDS_ONLY)([])
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    chosen = {words[0] for words in lines if words[-1] == "(default)"}
    assert {"objective=dpo", "evaluation=plain", "prompts=data", "data=file", "training=full"} <= chosen
    assert "objective=irepo" not in chosen
    keys = {words[0].partition("=")[0]: words[0].partition("=")[2] for words in lines}
    assert keys["name"] == "offline"
    assert keys["rounds"] == "1"
    assert keys["data.path"] == "???"
    assert keys["objective.label_smoothing"] == "0.0"
    assert not [key for key in keys if key.startswith(("panel", "mixing.", "drafts", "preferences."))]


def test_every_option_says_what_it_is() -> None:
    silent = [f"{group.name}={option}" for group in groups() for option, says in group.options.items() if not says]
    assert silent == []
