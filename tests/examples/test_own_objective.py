"""examples/objective: a user's own objective composes and trains, without a change to the project's files."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from conf.compose import PROJECT, compose_config
from examples.objective.squared_hinge import SquaredHinge
from storage.errors import UserError
from storage.files import sha256_file
from storage.stage import load_spec
from tasks.training.settings import TrainSpec
from tasks.training.trainer import run
from tests.training.conftest import MakeSpec, make_spec, one_thread
from tests.training.objective_batches import batch_of

__all__ = ["make_spec", "one_thread"]

EXAMPLE = PROJECT / "examples/objective"
SETTINGS = yaml.safe_load((EXAMPLE / "objective/squared-hinge.yaml").read_text(encoding="utf-8"))
FILE = ["run=demo", "hydra.searchpath=[file://examples/objective]", "objective=squared-hinge"]
PATH = ["run=demo", f"objective={SETTINGS['name']}"]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def test_the_commands_of_the_readme_compose() -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[3:] for line in re.findall(r"^    (\S+ -m flows\.iterate .*)$", text, re.MULTILINE)]
    by_file, by_path, _ = commands  # the last one needs an installed package
    assert compose_config(by_file).objective == SquaredHinge(name=SETTINGS["name"], margin=1.5)
    assert compose_config(by_path).objective == SquaredHinge(name=SETTINGS["name"], margin=2.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*FILE, "objective.margin=wide"], "objective.margin: 'wide' is not a number"),
        ([*FILE, "objective.margin=0"], "objective.margin: 0 must be more than 0"),
        ([*PATH, "+objective.margn=2"], "objective.margn: SquaredHinge has no such setting; did you mean margin?"),
        ([*PATH, "objective.reference=first"], "objective.reference"),
        ([f"{PATH[-1]}s"], "squared_hinge has no SquaredHinges"),
    ],
)
def test_its_settings_are_checked_like_ours(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_config([*FILE[:1], *words])
    assert message in str(refused.value)


def test_its_loss() -> None:
    """By hand for log-ratios .7 and -.4: (1.5 - .1 * 1.1)^2 = 1.39^2, its slope -2 * 1.39 * .1; 0 beyond the margin."""
    h = torch.tensor([0.7, -0.4, 0.0, 20.0, -20.0, 0.0], dtype=torch.float64, requires_grad=True)
    losses = SquaredHinge(margin=1.5).losses(batch_of(h, torch.ones(2, dtype=torch.float64)))
    torch.autograd.backward(losses.sum())
    assert losses.tolist() == pytest.approx([1.9321, 0.0], abs=1e-12)
    assert h.grad is not None
    assert h.grad.tolist() == pytest.approx([-0.278, 0.278, 0.0, 0.0, 0.0, 0.0], abs=1e-12)


def test_it_trains_and_its_source_is_part_of_the_key(make_spec: MakeSpec) -> None:
    spec = make_spec(objective=SETTINGS, optimization={"prompts_per_step": 6})
    run(spec)
    first, second = (json.loads(line) for line in (spec.folder / "metrics.jsonl").read_text().splitlines())
    assert first["loss"] == pytest.approx(1.5**2, rel=1e-5)  # log-ratios start at 0
    assert first["grad_norm"] > 0
    assert second["loss"] != first["loss"]
    again = load_spec(spec.folder / "spec.yaml", TrainSpec)
    assert (again, again.key()) == (spec, spec.key())
    assert isinstance(again.settings.objective, SquaredHinge)
    assert spec.inputs["objective"] == sha256_file(Path(EXAMPLE / "squared_hinge.py"))
    assert "objective" not in make_spec("ours").inputs
