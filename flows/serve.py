"""`make serve`: Prefect's server on loopback, and the deployments irepo/iterate and irepo/nightly.

export PREFECT_API_URL=http://127.0.0.1:4200/api
prefect deployment run irepo/iterate
prefect deployment run irepo/iterate --param 'overrides=["run=demo", "rounds=1", "name=second"]'
"""

import os
import signal
import subprocess
import sys
import time
from typing import cast

from flows.environment import PROJECT, prepare

HOST = "127.0.0.1"
PORT = int(os.environ.get("IREPO_PORT", "4200"))
API = f"http://{HOST}:{PORT}/api"

prepare()
os.environ.setdefault("PREFECT_API_URL", API)

import httpx  # noqa: E402
from prefect import serve  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.deployments.runner import RunnerDeployment  # noqa: E402
from prefect.flows import EntrypointType  # noqa: E402
from prefect.schedules import Cron  # noqa: E402

from flows.iterate import irepo  # noqa: E402
from flows.terminal import exit_on_user_error  # noqa: E402
from storage.errors import UserError  # noqa: E402


def healthy() -> bool:
    """Whether a Prefect server answers at PREFECT_API_URL."""
    try:
        return httpx.get(os.environ["PREFECT_API_URL"] + "/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def start_server() -> subprocess.Popen[bytes]:
    """Start Prefect's server on loopback (SQLite under PREFECT_HOME) and wait until it answers."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not healthy():
        if server.poll() is not None or time.monotonic() > deadline:
            server.terminate()
            raise UserError(
                "Prefect's server did not start",
                where=f"{HOST}:{PORT}",
                remedy="is the port taken? choose another: IREPO_PORT=4300 make serve",
            )
        time.sleep(0.3)
    return server


def serve_deployments() -> None:
    """Serve both deployments until interrupted. One run at a time: they share the device."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    iterate = irepo.to_deployment(
        "iterate",
        parameters={"overrides": ["run=demo"]},
        description="A run as `python -m flows.iterate` makes it; `overrides` are its words.",
        tags=["irepo"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    nightly = irepo.to_deployment(
        "nightly",
        parameters={"overrides": ["run=demo", "name=nightly"], "more_rounds": 1},
        schedule=Cron("0 2 * * *", timezone="UTC"),
        description="Every night one more round of the run `nightly`.",
        tags=["irepo", "nightly"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    print(f"UI: http://{HOST}:{PORT}   in another terminal: export PREFECT_API_URL={os.environ['PREFECT_API_URL']}")
    print("then: prefect deployment run irepo/iterate", flush=True)
    serve(cast(RunnerDeployment, iterate), cast(RunnerDeployment, nightly), limit=1, print_starting_message=False)


def main() -> None:
    os.chdir(PROJECT)
    server = None if healthy() else start_server()
    try:
        serve_deployments()
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)


if __name__ == "__main__":
    exit_on_user_error(main)
