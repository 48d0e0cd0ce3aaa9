"""Run names stay inside the folder of runs; stages have the places the documentation names."""

from pathlib import Path

import pytest

from storage.errors import UserError
from storage.layout import RunLayout


@pytest.mark.parametrize("name", ["demo", "demo-2", "2026.11_a", "A"])
def test_run_lives_directly_below_runs(name: str) -> None:
    assert RunLayout.of(Path("runs"), name).root == Path("runs") / name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../other", "a/b", "/etc", "a..b", ".hidden", "-rf", "a b", "a\n", "a\\b", "ü", "a\0"]
)
def test_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not a run name") as refusal:
        RunLayout.of(Path("runs"), name)
    assert "name=demo-2" in str(refusal.value)


def test_places_of_a_run() -> None:
    layout = RunLayout.of(Path("runs"), "demo")
    assert layout.stage(3, "train") == Path("runs/demo/round-03/train")
    assert layout.stage(12, "label") == Path("runs/demo/round-12/label")
    assert layout.config == Path("runs/demo/config.yaml")
    assert layout.prompts == Path("runs/demo/prompts")
