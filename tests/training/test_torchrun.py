"""Training on two processes over gloo gives the same update as on one."""

import json
import shutil
import subprocess
import sys
import time
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
#: One optimizer step over all prompts, in short rows. Gradients are clipped below Adam's epsilon, so updates are
#: proportional to them. Otherwise Adam would turn the rounding of near-zero gradients into full steps.
STEP = {"prompts_per_step": 12, "microbatch_tokens": 60, "learning_rate": 1e-2, "max_grad_norm": 1e-7}
VARIANTS: dict[str, dict[str, Any]] = {
    "packed": {},
    "plain": {"optimization": {"batching": "plain"}},
    "lora": {"optimization": {"lora": {"rank": 2}, "gradient_checkpointing": True}},
    "whole-step": {"objective": {"name": "rpo", "embedder": "policy"}},
    "single-tokens": {"objective": {"name": "bmc"}},
    "one-row": {"optimization": {"prompts_per_step": 1, "checkpoint_steps": 5}},  # one rank is idle
    "its-own-head": {},
}


@pytest.fixture(autouse=True)
def one_thread_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def weights(spec: TrainSpec) -> dict[str, torch.Tensor]:
    return load_file(spec.folder / "policy" / "model.safetensors")


def metrics(spec: TrainSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spec.folder / "metrics.jsonl").read_text().splitlines()]


def run_on_two(*specs: TrainSpec) -> None:
    paths = []
    for spec in specs:
        paths.append(str(spec.folder.with_suffix(".yaml")))
        spec.save(Path(paths[-1]))
    store = str(specs[0].folder.with_suffix(".store"))
    command = [sys.executable, "-m", "tasks.training.local_ranks", "2", store, "tests.training.torchrun_specs", *paths]
    log, addresses = specs[0].folder.with_suffix(".log"), set[str]()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    while process.poll() is None:
        addresses |= listening(process.pid)
        time.sleep(0.2)
    assert process.returncode == 0, log.read_text()[-4000:]
    assert addresses, "ranks exchange tensors over sockets"
    assert addresses <= {"127.0.0.1", "::1"}, "nobody else on the network can connect"


def listening(pid: int) -> set[str]:
    """Addresses at which a process and its descendants accept connections."""
    found: set[str] = set()
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            found |= {each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    except psutil.Error:  # it has just ended
        pass
    return found


def soft_capped(tiny_policy: Path, folder: Path) -> Path:
    """A Gemma-2 with the tiny policy's tokenizer. It soft-caps its logits after the output layer."""
    shutil.copytree(tiny_policy, folder)
    model = MODELS["gemma2"]()
    config = type(model.config)(**{**model.config.to_dict(), "vocab_size": 300})
    torch.manual_seed(0)
    type(model)(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_two_processes_give_the_update_of_one(make_spec: MakeSpec, tiny_policy: Path, tmp_path: Path) -> None:
    """Weights within 1e-6 and equal metrics, for every row layout, objective and head."""
    capped = soft_capped(tiny_policy, tmp_path / "gemma2")
    pairs = []
    for name, variant in VARIANTS.items():
        options = dict(variant)
        options["optimization"] = STEP | options.get("optimization", {})
        if name == "its-own-head":
            options |= {"policy": capped, "reference": capped}
        pairs.append([make_spec(f"{name}-{count}", **options) for count in (1, 2)])
    run_on_two(*(two for _, two in pairs))
    for one, two in pairs:
        manifest = run(one)
        assert read_manifest(two.folder).rows == manifest.rows
        assert {e.path for e in read_manifest(two.folder).files} == {e.path for e in manifest.files}
        start = load_file(one.policy.path / "model.safetensors")
        for name, value in weights(one).items():
            difference = weights(two)[name] - value
            assert float(difference.abs().max()) <= 1e-6, (two.folder, name)
        assert max(float((value - start[name]).abs().max()) for name, value in weights(one).items()) > 1e-3
        for step_of_one, step_of_two in zip(metrics(one), metrics(two), strict=True):
            assert step_of_two == pytest.approx(step_of_one, rel=1e-4, abs=1e-5), one.folder


def uninterrupted(make_spec: MakeSpec) -> TrainSpec:
    spec = make_spec("uninterrupted", optimization=SMALL_STEPS)
    run(spec)
    return spec


SMALL_STEPS: dict[str, Any] = {"prompts_per_step": 2, "checkpoint_steps": 1, "max_grad_norm": 1e-7}
TOGETHER: dict[str, Any] = SMALL_STEPS | {"launch": "process", "processes": 2}


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_any_number_resumes(make_spec: MakeSpec) -> None:
    """Kill rank 1. One process resumes from the checkpoint of two, and two from that of one."""
    expected = weights(uninterrupted(make_spec))
    for name, first, then in (("two-one", TOGETHER, SMALL_STEPS), ("one-two", SMALL_STEPS, TOGETHER)):
        seen: list[int] = []
        workers: list[psutil.Process] = []

        def kill(done: int, total: int, unit: str, seen: list[int] = seen, workers: list[Any] = workers) -> None:
            if unit == "steps":
                seen.append(done)
            if seen == [1, 2, 3]:
                children = psutil.Process().children(recursive=True)
                workers.extend(p for p in children if p.environ().get("WORLD_SIZE") == "2")
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

        def record(done: int, total: int, unit: str, steps: list[int] = steps) -> None:
            steps.append(done)

        launch(make_spec(name, optimization=then), record)
        assert steps[0] > 2
        for key, value in weights(spec).items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_user_errors_reach_the_parent(make_spec: MakeSpec) -> None:
    rows = [preference_row("a", [40], [[50, 2], [5000, 2]], 0, 1, 1.0)]
    with pytest.raises(UserError, match="token id 5000"):
        launch(make_spec(rows=rows, optimization=TOGETHER))


@pytest.mark.slow
def test_custom_launcher_with_two_nodes(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The launcher starts torchrun for two nodes, both on this machine."""
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
    for key, value in weights(uninterrupted(make_spec)).items():
        torch.testing.assert_close(weights(spec)[key], value, rtol=0, atol=1e-6)


def test_several_processes_need_launch_process() -> None:
    with pytest.raises(ValueError, match="launch=process"):
        OptimizationSettings(processes=2, launch="inline")
    with pytest.raises(ValueError, match="launch=process"):
        OptimizationSettings(launcher="torchrun --nproc-per-node=2", launch="inline")
    with pytest.raises(ValueError, match="leave processes at 1"):
        OptimizationSettings(launcher="torchrun --nproc-per-node=2", processes=2, launch="process")


@pytest.mark.parametrize("launcher", ["no-such-launcher --nodes=2", " "])
def test_a_missing_launcher_command_is_refused(make_spec: MakeSpec, launcher: str) -> None:
    with pytest.raises(UserError, match=r"no command|is empty") as caught:
        launch(make_spec(optimization={"launch": "process", "launcher": launcher}))
    assert "training.launcher" in caught.value.where


def test_tokens_are_balanced_over_ranks(make_spec: MakeSpec) -> None:
    """Each group occurs once, ranks have equally many rows, and loads differ by at most the largest group."""
    groups = read_preferences(make_spec().preferences.path).groups
    for tokens, size in ((60, 2), (60, 5), (400, 3), (4000, 16)):
        forward = RowsOnly(tokens)
        rows = Ranks(0, size).rows(forward, groups)
        assert sorted(i for rank_rows in rows for row in rank_rows for i in row) == list(range(len(groups)))
        assert len({len(rank_rows) for rank_rows in rows}) == 1
        loads = [sum(packed_tokens(groups[i]) for row in rank_rows for i in row) for rank_rows in rows]
        assert max(loads) - min(loads) <= max(map(packed_tokens, groups))
    assert Ranks().rows(RowsOnly(60), groups) == [first_fit(groups, 60)]


class RowsOnly(PackedForward):
    """Packs rows without a model."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
