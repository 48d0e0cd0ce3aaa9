"""A file that is changed after a run has looked at it: a stage does not publish what its key does not name."""

import json
from pathlib import Path

import pytest

from storage.artifact import Artifact
from storage.errors import UserError
from storage.manifest import MANIFEST
from tasks.generation.prompts import PromptSettings, PromptsSpec, run_prompts
from tasks.mixing.data import DataSettings, DataSpec, run_data
from tests.modeling.families import families


def write(path: Path, count: int) -> Path:
    rows = [{"prompt": f"What is {i} ?", "chosen": "yes", "rejected": "no"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Artifact:
    folder = tmp_path / "policy"
    folder.mkdir()
    families()["Llama 3"].tokenizer().save_pretrained(folder)
    return Artifact.of(folder)


def test_prompts_that_grow_meanwhile_are_refused(tmp_path: Path, policy: Artifact) -> None:
    path = write(tmp_path / "prompts.jsonl", 20)
    spec = PromptsSpec(
        folder=tmp_path / "out", round=0, seed=0, settings=PromptSettings(path=str(path), heldout=0.3),
        prompts=Artifact.of(path), policy=policy, context=100, max_tokens=20,
    )  # fmt: skip
    write(path, 21)
    with pytest.raises(UserError, match="was changed after the run had looked at it") as refused:
        run_prompts(spec)
    assert refused.value.where == str(path)
    assert not (spec.folder / MANIFEST).exists()
    write(path, 20)
    run_prompts(spec)


def test_a_preference_set_that_changes_is_refused(tmp_path: Path, policy: Artifact) -> None:
    path = write(tmp_path / "pairs.jsonl", 3)
    settings = DataSettings(path=str(path))
    spec = DataSpec(
        folder=tmp_path / "out", round=0, seed=0, settings=settings, data=settings.artifact(), policy=policy, context=99
    )
    write(path, 4)
    with pytest.raises(UserError, match="was changed"):
        run_data(spec)
    assert not (spec.folder / MANIFEST).exists()
