"""The GPU benchmark on a CPU: every section runs, stands alone, and its promises are judged."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.promises import Promise, promises
from conf.compose import PROJECT
from tests.waiting import limit


def test_it_imports_without_prefect_hydra_and_vllm() -> None:
    """A rented card has torch, transformers, accelerate and peft, and little else."""
    code = (
        "import sys\n"
        "for name in ('prefect', 'hydra', 'vllm', 'omegaconf', 'rich', 'trl'): sys.modules[name] = None\n"
        "import benchmarks.gpu.__main__, benchmarks.gpu.stage, tasks.training.trainer\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_section_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device",
        "cpu",
        "--tiny",
        "--seconds",
        "3600",
        "--json",
        str(out),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=limit(300))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    sections = json.loads(out.read_text())["sections"]
    assert set(sections) == set(benchmark.SECTIONS)
    killed = next(row for row in sections["resume"] if row["run"] == "killed")
    assert killed["loss, relative"] == killed["weights"] == 0
    assert {row["dtype"] for row in sections["attention"]} == {"bfloat16"}
    assert all(row["pairs/s"] > 0 for row in sections["steps"])


def test_the_fast_sections_run_in_the_suite() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows, failed = benchmark.run(
            Bench("cpu", tiny=True, end=time.monotonic() + 600), ["card", "attention", "numerics", "head"]
        )
    finally:
        torch.set_num_threads(before)
    assert not failed
    assert [row["passes"] for row in rows["numerics"] if "passes" in row] == ["yes"]
    assert {row["dtype"] for row in rows["attention"]} == {"bfloat16"}
    assert len(rows["head"]) == 6


def test_a_section_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: Bench) -> list[Row]:
        raise RuntimeError("no kernel")

    monkeypatch.setitem(benchmark.SECTIONS, "attention", broken)
    monkeypatch.setitem(benchmark.SECTIONS, "head", lambda bench: [{"ms": 1.0}])
    rows, failed = benchmark.run(Bench("cpu", tiny=True, end=time.monotonic()), ["attention", "head"])
    assert failed == {"attention": "RuntimeError: no kernel"}
    assert rows == {"attention": [], "head": [{"ms": 1.0}]}


def steps(ours: float, padded: float, trl: float, mfu: float) -> list[Row]:
    common: Row = {"model": "1.5B"}
    return [
        common | {"data": data, "arm": arm, "pairs/s": pace, "MFU": mfu}
        for data in ("pairs", "groups of four")
        for arm, pace in (("irepo", ours), ("padded DPO", padded), ("TRL", trl))
    ]


def test_promises_are_kept_or_missed() -> None:
    resumed: list[Row] = [{"run": "undisturbed", "loss, relative": 0.0}, {"run": "killed", "loss, relative": 2e-3}]
    tests: list[Row] = [{"rows": "packed, bfloat16"}, {"rows": "self-test", "passes": "NO"}]
    judged = promises({"steps": steps(5.0, 1.0, 2.0, 0.44), "resume": resumed, "numerics": tests})
    assert [(promise.value, promise.kept) for promise in judged] == [
        (0, False),
        (2e-3, False),
        (2.5, True),
        (2.5, False),
        (0.44, False),
    ]
    assert all(promise.kept for promise in promises({"steps": steps(8.5, 1.0, 2.0, 0.46)}))


def test_a_promise_that_was_not_measured_is_missed() -> None:
    """A section that failed leaves no rows; one that was not asked for promises nothing."""
    assert [promise.kept for promise in promises({"steps": [], "resume": []})] == [False] * 4
    assert promises({"card": []}) == []
    assert Promise("MFU", None, 0.45, at_least=True).row()["measured"] == "not measured"
