"""No command opens a port that other machines reach. Training in several processes: tests/training/test_torchrun.py."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from conf.compose import PROJECT
from flows.operations.secret import SERVER
from flows.operations.temporary_server import free_port
from tasks.generation.engines.vllm import VllmEngine, VllmSettings
from tasks.modeling.vllm_process import environment
from tests.generation.conftest import CPU_ENGINE
from tests.panel.people import serving
from tests.waiting import limit

LOOPBACK = {"127.0.0.1", "::1"}


def listening(pid: int) -> set[str]:
    """Addresses at which the process and its descendants listen."""
    process = psutil.Process(pid)
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            found |= {c.laddr.ip for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def reached_elsewhere(port: int) -> bool:
    """Whether the port answers at another address of this machine."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.2", port)) == 0


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("it does not listen")


def test_a_port_on_all_interfaces_is_seen() -> None:
    """Otherwise the tests below would show nothing."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert "0.0.0.0" in listening(psutil.Process().pid)
        assert reached_elsewhere(server.getsockname()[1])


def test_the_page_for_votes_listens_on_loopback(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.server_address[0] in LOOPBACK
        assert not reached_elsewhere(server.server_port)
        assert server.server_address[0] in listening(psutil.Process().pid)


def test_vllm_is_told_to_use_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """gloo would listen at the address of the machine's name, or of the interface that is named for training."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    variables = environment(on_cpu=True, enforce_eager=True, tensor_parallel=2)
    assert variables["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert variables["NCCL_SOCKET_IFNAME"].startswith("=lo")
    assert variables["VLLM_HOST_IP"] == "127.0.0.1"


Command = Callable[[int, Path], list[str]]
SERVERS: dict[str, Command] = {
    "temporary server": lambda port, _: ["flows.operations.prefect_server", str(port), "--temporary"],
    "server of make serve": lambda port, _: ["flows.operations.prefect_server", str(port)],
    "judge server": lambda port, policy: ["tasks.panel.chat.judge_server", str(policy), "--port", str(port),
                                          "--dtype", "float32"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_listens_on_loopback(
    name: str, tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv(SERVER, "irepo:secret")
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *SERVERS[name](port, tiny_policy)], cwd=PROJECT, stdout=log, stderr=log
        )
    try:
        wait_for_port(port, process, 240)
        assert listening(process.pid) <= LOOPBACK
        assert not reached_elsewhere(port)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("more", [[], ["--temporary"]])
def test_prefects_server_does_not_start_without_a_secret(more: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != SERVER}
    command = [sys.executable, "-m", "flows.operations.prefect_server", str(free_port()), *more]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment, timeout=limit(60))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: the server would ask for no secret: {SERVER} is not set")


@pytest.mark.slow
@pytest.mark.vllm
def test_a_vllm_engine_listens_on_loopback(tiny_policy: Path, tmp_path: Path) -> None:
    engine = VllmEngine(VllmSettings(**CPU_ENGINE), log=tmp_path / "engine.log")
    try:
        engine.prepare(tiny_policy)
        engine.load(tiny_policy)
        child = engine._child
        assert child is not None
        assert listening(child.pid) <= LOOPBACK
    finally:
        engine.close()
