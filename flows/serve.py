"""`make serve`: Prefect's server on loopback, and the deployments irepo/iterate and irepo/nightly.

export PREFECT_API_URL=http://127.0.0.1:4200/api
prefect deployment run irepo/iterate
prefect deployment run irepo/iterate --param rounds=1 --param name=second --param 'overrides=["sampling.responses=8"]'
prefect deployment schedule pause irepo/nightly <id>     # ids: prefect deployment schedule ls irepo/nightly
"""

import os
import subprocess
import sys
import threading
import time
from typing import cast

from flows.environment import PROJECT, prepare
from flows.local_server import HOST, healthy, listens

PORT = int(os.environ.get("IREPO_PORT", "4200"))
API = f"http://{HOST}:{PORT}/api"

prepare()
os.environ.setdefault("PREFECT_API_URL", API)

from prefect import serve  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.deployments.runner import RunnerDeployment  # noqa: E402
from prefect.flows import EntrypointType  # noqa: E402
from prefect.schedules import Cron  # noqa: E402

from flows.device import ensure_limit  # noqa: E402
from flows.iterate import irepo  # noqa: E402
from flows.supervision import declare_zombies  # noqa: E402
from flows.terminal import console, exit_on_user_error  # noqa: E402
from storage.errors import UserError  # noqa: E402
from tasks.processes import end_group, start_group  # noqa: E402

#: A server that does not answer for so long is started again: with SQLite it can hang (PrefectHQ/prefect#23055).
_UNHEALTHY_SECONDS = 60


class Server:
    """Prefect's server with its UI, in a session of its own: it outlives this process when that is killed, so that runs
    can still be watched and declared Crashed; the next `make serve` finds it. Otherwise it ends with `stop`.

    Also one that was found, not started: then `stop` leaves it alone.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start it, unless it is there, and wait until it answers; start it again whenever it dies or hangs."""
        if not healthy(API):
            self._launch()
        threading.Thread(target=self._watch, name="watch-server", daemon=True).start()

    def _launch(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(PORT)]
        self._process = start_group(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not healthy(API):
            if self._process.poll() is not None or time.monotonic() > deadline:
                end_group(self._process)
                raise UserError(
                    "Prefect's server did not start",
                    where=f"{HOST}:{PORT}",
                    remedy="is the port taken? choose another: IREPO_PORT=4300 make serve",
                )
            time.sleep(0.3)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(2):
            process = self._process
            if process is None or process.poll() is None:
                if healthy(API):
                    last = time.monotonic()
                if listens(PORT) and time.monotonic() - last < _UNHEALTHY_SECONDS:
                    continue
            if process is not None:
                end_group(process)
            console.print("Prefect's server is gone; starting it again. Runs wait for it.")
            try:
                self._launch()
            except UserError as error:
                console.print(str(error), markup=False)
            last = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()
        if self._process is not None:
            end_group(self._process, grace=30)


def serve_deployments() -> None:
    """Serve both deployments until interrupted. One run at a time: they share the device."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    iterate = irepo.to_deployment(
        "iterate",
        parameters={"preset": "demo"},
        description="A run as `python -m flows.iterate` makes it.",
        tags=["irepo"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    nightly = irepo.to_deployment(
        "nightly",
        parameters={"preset": "demo", "name": "nightly", "more_rounds": 1},
        schedule=Cron("0 2 * * *", timezone="UTC"),
        description="Every night one more round of the run `nightly`, from its last promoted policy.",
        tags=["irepo", "nightly"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    print(f"UI: {os.environ['PREFECT_API_URL'].removesuffix('/api')}   in another terminal: ", end="")
    print(f"export PREFECT_API_URL={os.environ['PREFECT_API_URL']}")
    print("then: prefect deployment run irepo/iterate", flush=True)
    serve(cast(RunnerDeployment, iterate), cast(RunnerDeployment, nightly), limit=1, print_starting_message=False)


def main() -> None:
    os.chdir(PROJECT)
    server, api = Server(), os.environ["PREFECT_API_URL"]
    if api == API:
        server.start()
    elif not healthy(api):
        raise UserError(
            "no Prefect server answers there",
            where=f"PREFECT_API_URL={api}",
            remedy=f"start that server, or unset the variable: one is started at {API} then",
        )
    try:
        declare_zombies()
        ensure_limit()
        serve_deployments()
    finally:
        server.stop()


if __name__ == "__main__":
    exit_on_user_error(main)
