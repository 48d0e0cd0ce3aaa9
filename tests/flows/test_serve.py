"""`make serve` for real: server, deployments, a run by `prefect deployment run`, and nights on the calendar."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conf.compose import PROJECT

PREFECT = Path(sys.executable).with_name("prefect")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which the deployments are served."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "IREPO_PORT": str(port),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve"], cwd=PROJECT, env=environment, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: "then: prefect" in log.read_text(), 150, log)
        yield environment | {"LOG": str(log)}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def wait_until(holds: Any, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(1)


def runs(environment: dict[str, str], body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{environment['PREFECT_API_URL']}/flow_runs/filter", json=body, timeout=30)
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


@pytest.mark.vllm
def test_a_deployment_run_goes_round_and_nights_are_scheduled(
    served: dict[str, str], tiny_policy: Path, tmp_path: Path
) -> None:
    log = Path(served["LOG"])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "Say {i}"}}\n' for i in range(30)))
    overrides = [
        "name=served", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules",
        "evaluation=plain", "engine=vllm-small", "training=small", "training.epochs=1", "sampling.max_tokens=8",
        "prompts.per_round=8", "prompts.heldout=0.2", "preferences.drop_truncated=false", "rounds=1",
    ]  # fmt: skip
    parameter = "overrides=[" + ", ".join(f'"{word}"' for word in overrides) + "]"
    command = [str(PREFECT), "deployment", "run", "irepo/iterate", "--param", parameter]
    subprocess.run(command, env=served, check=True, capture_output=True, timeout=120)

    irepo = {"flows": {"name": {"any_": ["irepo"]}}}
    finished = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    wait_until(lambda: runs(served, irepo | finished), 240, log)
    assert [run["state_type"] for run in runs(served, irepo | finished)] == ["COMPLETED"], log.read_text()[-4000:]
    rounds = runs(served, {"flows": {"name": {"any_": ["irepo-round"]}}})
    assert [run["name"] for run in rounds] == ["served: round 1"]
    assert (tmp_path / "runs" / "served" / "round-01" / "train" / "policy" / "model.safetensors").is_file()

    scheduled = irepo | {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    wait_until(lambda: runs(served, scheduled), 90, log)
    assert all(run["expected_start_time"].endswith("02:00:00Z") for run in runs(served, scheduled))
