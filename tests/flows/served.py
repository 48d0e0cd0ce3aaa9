"""`make serve` in a temporary home, and what a person does with it through Prefect's API and command."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from conf.compose import PROJECT
from flows.operations.api import healthy
from flows.operations.device import device_limit
from flows.operations.temporary_server import free_port
from tests.waiting import limit, wait_until

PREFECT = Path(sys.executable).with_name("prefect")
MARK = "IREPO_TEST_MARK"
SERVER = "flows.operations.prefect_server"  # in the command of Prefect's server
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Served:
    """A server, its runner and the runs they work on; every process carries a mark in its environment."""

    def __init__(self, home: Path, policy: Path) -> None:
        self.home, self.policy = home, policy
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = home / "serve.log"
        self.runs = home / "runs"
        self.prompts = home / "prompts.jsonl"
        rows = [{"prompt": f"Say {i}", "answer": str(i)} for i in range(30)]
        self.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = inherited | {
            "IREPO_PORT": str(self.port),
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "results"),
            "PREFECT_API_URL": self.api,
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_API_REQUEST_TIMEOUT": "300",  # seconds; 60 can be too few on a loaded machine
            MARK: str(home),
        }
        self.runner: subprocess.Popen[bytes] | None = None
        self.found: set[int] = set()  # servers that were there before the runner, which does not end them
        self._client = str(uuid4())
        self._token = ""

    @property
    def secret(self) -> str:
        """What the server asks for; `make serve` makes it."""
        return (self.home / "prefect" / "irepo-secret").read_text().strip()

    def start(self) -> None:
        """Start `make serve` (or start it again) and wait until deployments are there."""
        self.found = set(self.processes(SERVER))
        with self.log.open("wb") as output:
            self.runner = subprocess.Popen(
                [sys.executable, "-m", "flows.serve"], cwd=PROJECT, env=self.environment, stdout=output, stderr=output
            )
        self.until(lambda: "then: prefect" in self.log.read_text(), 150)
        # Printed before the deployments are registered, which takes seconds on a loaded machine; this is the last one.
        self.until(lambda: self.request("GET", "deployments/name/irepo-compare/compare").status_code == 200, 60)

    def stop(self) -> None:
        """End the runner as a person would, then whatever a test left behind."""
        if self.running:
            self.end_runner()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self.runner is not None and self.runner.poll() is None

    def end(self) -> None:
        """End the runner, and see that it ends its own server and complains of nothing; then end those it found."""
        assert self.end_runner() == 143
        assert "RuntimeWarning" not in self.log.read_text()
        left = set(self.processes(SERVER))
        assert left <= self.found, "only kill -9 may leave the server"
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    def end_runner(self) -> int:
        """Send the runner SIGTERM; its exit code."""
        assert self.runner is not None
        self.runner.send_signal(signal.SIGTERM)
        return self.runner.wait(timeout=limit(60))

    def processes(self, *words: str) -> dict[int, str]:
        """Commands by process id of all marked processes (with all of `words` in the command)."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            try:
                if f"{MARK}={self.home}\0".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return {pid: command for pid, command in found.items() if command and all(word in command for word in words)}

    def workers(self) -> dict[int, str]:
        """Processes of runs: neither server nor runner nor a `prefect` command."""
        served = ("flows.serve", SERVER, "bin/prefect")
        return {
            pid: command for pid, command in self.processes().items() if not any(word in command for word in served)
        }

    def run(self, name: str, *overrides: str, deployment: str = "irepo/iterate", **parameters: Any) -> str:
        """Create a run of tiny rounds by `prefect deployment run`; returns its id."""
        given = {"preset": None, "name": name, "overrides": self._words(*overrides)} | parameters
        done = self.prefect("deployment", "run", deployment, "--params", json.dumps(given))
        assert done.returncode == 0, done.stdout + done.stderr
        return next(line.split()[-1] for line in done.stdout.splitlines() if "UUID" in line)

    def _words(self, *overrides: str) -> list[str]:
        words = [
            f"runs={self.runs}", f"policy={self.policy}", f"prompts={self.prompts}", "panel=rules", "evaluation=plain",
            "engine=transformers", "training=small", "training.epochs=1", "sampling.max_tokens=8",
            "prompts.per_round=8", "prompts.heldout=0.2", "preferences.drop_truncated=false",
        ]  # fmt: skip
        keys = {word.partition("=")[0] for word in overrides}
        return [word for word in words if word.partition("=")[0] not in keys] + list(overrides)

    def prefect(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(PREFECT), *words]
        environment = self.environment | {"PREFECT_API_AUTH_STRING": self.secret}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit(120))

    def by_hand(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command `python -m flows.iterate`, with the same tiny rounds."""
        command = [sys.executable, "-m", "flows.iterate", *self._words(*words)]
        return subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=limit(300)
        )

    @contextmanager
    def free_device(self) -> Iterator[None]:
        """Let a second run have the device: what a killed run held is free only when its lease ends."""
        limit = f"v2/concurrency_limits/{device_limit()}"
        self.ask("PATCH", limit, {"limit": 2})
        yield
        self.ask("PATCH", limit, {"limit": 1})

    def healthy(self) -> bool:
        return healthy(self.api)

    def count(self, run: str) -> int:
        """How often the run was started."""
        count: int = self.ask("GET", f"flow_runs/{run}")["run_count"]
        return count

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """One request, repeated while the server is busy, as Prefect's own client does.

        A 503 (the database is locked: nothing was done) is always repeated. A request that times out is repeated only
        if it may be carried out twice: reads and changes to a given value are, creating and resuming runs are not.
        """
        repeatable = method in ("GET", "PATCH") or path.endswith("/filter")
        for wait in (0.5, 1, 2, 4, 8):
            try:
                response = self._send(method, path, body, 30)
            except httpx.TransportError:
                if not repeatable:
                    raise
            else:
                if response.status_code != 503:
                    return response
            time.sleep(wait)
        return self._send(method, path, body, 60)

    def _send(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> httpx.Response:
        """One request with the secret and a CSRF token, as Prefect's client and UI send them."""
        secret = {"Authorization": f"Basic {base64.b64encode(self.secret.encode()).decode()}"}
        if method != "GET" and not self._token:
            address = f"{self.api}/csrf-token?client={self._client}"
            answer = httpx.get(address, headers=secret, timeout=limit(seconds))
            answer.raise_for_status()
            self._token = answer.json()["token"]
        csrf = {"Prefect-Csrf-Token": self._token, "Prefect-Csrf-Client": self._client}
        headers = secret if method == "GET" else secret | csrf
        return httpx.request(method, f"{self.api}/{path}", json=body, headers=headers, timeout=limit(seconds))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a response; None of an empty one."""
        response = self.request(method, path, body)
        response.raise_for_status()
        return response.json() if response.content else None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.ask("POST", path, body)

    def state(self, run: str) -> dict[str, Any]:
        state: dict[str, Any] = self.ask("GET", f"flow_runs/{run}")["state"]
        return state

    def await_state(self, run: str, *names: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until the run is in a state of one of `names`; no other final state is accepted."""

        def reached() -> bool:
            state = self.state(run)
            assert state["name"] in names or state["type"] not in FINAL, f"{state}\n{self.log.read_text()[-4000:]}"
            return state["name"] in names

        self.until(reached, seconds)
        return self.state(run)

    def until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait for what takes less than `seconds` on an idle machine."""
        wait_until(holds, seconds, lambda: self.log.read_text()[-4000:], pause=0.3)
