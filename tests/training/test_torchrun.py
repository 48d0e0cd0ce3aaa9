"""Two processes that train together, over gloo: the update is that of one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from storage.errors import UserError
from storage.manifest import read_manifest
from tasks.training.batching import PackedForward
from tasks.training.distributed import Ranks
from tasks.training.groups import read_preferences
from tasks.training.launch import TrainingDied, launch
from tasks.training.packing import first_fit, packed_tokens
from tasks.training.settings import OptimizationSettings, TrainSpec
from tasks.training.trainer import run
from tests.modeling.architectures import MODELS
from tests.training.conftest import MakeSpec
from tests.training.preference_rows import preference_row

ROOT = Path(__file__).resolve().parents[2]
#: One optimizer step over all prompts, in rows of few tokens. Clipped to less than Adam's epsilon, gradients move
#: weights in proportion; else Adam divides by them, and makes steps of the rounding of those that are almost 0.
STEP = {"prompts_per_step": 12, "microbatch_tokens": 60, "learning_rate": 1e-2, "max_grad_norm": 1e-7}
VARIANTS: dict[str, dict[str, Any]] = {
    "packed": {},
    "plain": {"optimization": {"batching": "plain"}},
    "lora": {"optimization": {"lora": {"rank": 2}, "gradient_checkpointing": True}},
    "whole-step": {"objective": {"name": "rpo", "embedder": "policy"}},
    "single-tokens": {"objective": {"name": "bmc"}},
    "one-row": {"optimization": {"prompts_per_step": 1, "checkpoint_steps": 5}},  # and a rank with nothing to do
    "its-own-head": {},
}


@pytest.fixture(autouse=True)
def one_thread_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def weights(spec: TrainSpec) -> dict[str, torch.Tensor]:
    return load_file(spec.folder / "policy" / "model.safetensors")


def metrics(spec: TrainSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spec.folder / "metrics.jsonl").read_text().splitlines()]


def together(*specs: TrainSpec) -> None:
    paths = []
    for spec in specs:
        paths.append(str(spec.folder.with_suffix(".yaml")))
        spec.save(Path(paths[-1]))
    words = ["tasks.training.torchrun", "2", "tests.training.torchrun_specs", *paths]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]


def soft_capped(tiny_policy: Path, folder: Path) -> Path:
    """A Gemma-2 with the tiny policy's tokenizer: its logits are more than its output layer's answer."""
    shutil.copytree(tiny_policy, folder)
    model = MODELS["gemma2"]()
    config = type(model.config)(**{**model.config.to_dict(), "vocab_size": 300})
    torch.manual_seed(0)
    type(model)(config).save_pretrained(folder)
    return folder


def test_two_processes_make_the_update_of_one(make_spec: MakeSpec, tiny_policy: Path, tmp_path: Path) -> None:
    """Every weight to 1e-6, whatever the rows, the objective and the head are; and the figures of every step."""
    capped = soft_capped(tiny_policy, tmp_path / "gemma2")
    pairs = []
    for name, variant in VARIANTS.items():
        options = dict(variant)
        options["optimization"] = STEP | options.get("optimization", {})
        if name == "its-own-head":
            options |= {"policy": capped, "reference": capped}
        pairs.append([make_spec(f"{name}-{count}", **options) for count in (1, 2)])
    together(*(both for _, both in pairs))
    for alone, both in pairs:
        manifest = run(alone)
        assert read_manifest(both.folder).rows == manifest.rows
        assert {e.path for e in read_manifest(both.folder).files} == {e.path for e in manifest.files}
        start = load_file(alone.policy / "model.safetensors")
        for name, value in weights(alone).items():
            off = weights(both)[name] - value
            assert float(off.abs().max()) <= 1e-6, (both.folder, name)
        assert max(float((value - start[name]).abs().max()) for name, value in weights(alone).items()) > 1e-3
        for one, two in zip(metrics(alone), metrics(both), strict=True):
            assert two == pytest.approx(one, rel=1e-4, abs=1e-5), alone.folder


def undisturbed(make_spec: MakeSpec) -> TrainSpec:
    spec = make_spec("undisturbed", optimization=SMALL_STEPS)
    run(spec)
    return spec


SMALL_STEPS: dict[str, Any] = {"prompts_per_step": 2, "checkpoint_steps": 1, "max_grad_norm": 1e-7}
TOGETHER: dict[str, Any] = SMALL_STEPS | {"launch": "process", "processes": 2}


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_any_number_go_on(make_spec: MakeSpec) -> None:
    """kill -9 of the one that does not write; then one process goes on from the shards of two, and two from one's."""
    expected = weights(undisturbed(make_spec))
    for name, first, then in (("two-one", TOGETHER, SMALL_STEPS), ("one-two", SMALL_STEPS, TOGETHER)):
        seen: list[int] = []
        workers: list[psutil.Process] = []

        def kill(done: int, total: int, unit: str, seen: list[int] = seen, workers: list[Any] = workers) -> None:
            if unit == "steps":
                seen.append(done)
            if seen == [1, 2, 3]:
                mine = psutil.Process().children(recursive=True)
                workers.extend(p for p in mine if p.environ().get("WORLD_SIZE") == "2")
                next(p for p in workers if p.environ()["RANK"] == "1").kill()

        def stop(done: int, total: int, unit: str) -> None:
            if (done, unit) == (3, "steps"):
                raise KeyboardInterrupt

        spec = make_spec(name, optimization=first)
        if first is TOGETHER:
            with pytest.raises(TrainingDied, match="signal 9"):
                launch(spec, kill)
            assert not psutil.wait_procs(workers, timeout=10)[1]
        else:
            with pytest.raises(KeyboardInterrupt):
                launch(spec, stop)
        steps: list[int] = []
        launch(make_spec(name, optimization=then), lambda done, total, unit, to=steps: to.append(done))  # type: ignore[misc]
        assert steps[0] > 2
        for key, value in weights(spec).items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_what_the_user_can_mend_comes_through(make_spec: MakeSpec) -> None:
    rows = [preference_row("a", [40], [[50, 2], [5000, 2]], 0, 1, 1.0)]
    with pytest.raises(UserError, match="token id 5000"):
        launch(make_spec(rows=rows, optimization=TOGETHER))


@pytest.mark.slow
def test_two_machines(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A launcher of one's own: here torchrun as two nodes, both on this machine."""
    script = tmp_path / "nodes.py"
    script.write_text(
        "import subprocess, sys\n"
        "with __import__('socket').socket() as s:\n"
        "    s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]\n"
        "common = [sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=1',\n"
        "          '--master-addr=127.0.0.1', f'--master-port={port}']\n"
        "nodes = [subprocess.Popen([*common, f'--node-rank={i}', *sys.argv[1:]]) for i in range(2)]\n"
        "sys.exit(max(node.wait() for node in nodes))\n"
    )
    launcher = {"launch": "process", "launcher": f"{sys.executable} {script}"}
    spec = make_spec("nodes", optimization=SMALL_STEPS | launcher)
    manifest = launch(spec)
    assert manifest.rows["steps"] == 6
    for key, value in weights(undisturbed(make_spec)).items():
        torch.testing.assert_close(weights(spec)[key], value, rtol=0, atol=1e-6)


def test_several_processes_are_not_inline() -> None:
    with pytest.raises(ValueError, match="launch=process"):
        OptimizationSettings(processes=2)
    with pytest.raises(ValueError, match="launch=process"):
        OptimizationSettings(launcher="torchrun --nproc-per-node=2")
    with pytest.raises(ValueError, match="leave processes at 1"):
        OptimizationSettings(launcher="torchrun --nproc-per-node=2", processes=2, launch="process")


@pytest.mark.parametrize("launcher", ["no-such-launcher --nodes=2", " "])
def test_a_launcher_that_is_no_command_is_refused(make_spec: MakeSpec, launcher: str) -> None:
    with pytest.raises(UserError, match=r"no command|is empty") as caught:
        launch(make_spec(optimization={"launch": "process", "launcher": launcher}))
    assert "training.launcher" in caught.value.where


def test_tokens_are_shared_out_evenly(make_spec: MakeSpec) -> None:
    """Each group once, as many rows for every rank, and no rank with more than the largest group too much."""
    groups = read_preferences(make_spec().preferences).groups
    for tokens, size in ((60, 2), (60, 5), (400, 3), (4000, 16)):
        forward = RowsOnly(tokens)
        rows = Ranks(0, size).rows(forward, groups)
        assert sorted(i for mine in rows for row in mine for i in row) == list(range(len(groups)))
        assert len({len(mine) for mine in rows}) == 1
        loads = [sum(packed_tokens(groups[i]) for row in mine for i in row) for mine in rows]
        assert max(loads) - min(loads) <= max(map(packed_tokens, groups))
    assert Ranks().rows(RowsOnly(60), groups) == [first_fit(groups, 60)]


class RowsOnly(PackedForward):
    """The rows of a packed forward, without a model."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
