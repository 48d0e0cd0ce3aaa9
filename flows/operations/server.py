"""Prefect's server with its UI for `make serve`: started, watched, and restarted when it dies or hangs."""

import subprocess
import sys
import threading
import time

from flows.operations.temporary_server import API, HOST, PORT, healthy, listens
from flows.show.terminal import console
from storage.errors import UserError
from tasks.processes import end_group, start_group, start_watcher

#: A server that does not answer for this long is restarted: with SQLite it can hang (PrefectHQ/prefect#23055).
_UNHEALTHY_SECONDS = 60


class Server:
    """Prefect's server with its UI.

    It runs in a session of its own. If this process is killed the server survives, so that runs can still be watched
    and declared Crashed, and the next `make serve` uses it. `stop` ends a server that this object started, and leaves
    alone one that was already running.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the server unless one answers, wait until it answers, and restart it whenever it dies or hangs."""
        if not healthy(API):
            self._launch()
        start_watcher("watch-server", self._watch)

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
                    remedy="if another program uses the port, choose another one: IREPO_PORT=4300 make serve",
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
            console.print("Prefect's server does not answer; restarting it. Runs wait for it.")
            try:
                self._launch()
            except UserError as error:
                console.print(str(error), markup=False)
            last = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()
        if self._process is not None:
            end_group(self._process, grace=30)
