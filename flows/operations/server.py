"""Prefect's server with its UI for `make serve`: started, watched, and restarted when it dies or hangs."""

import os
import socket
import subprocess
import threading
import time
from typing import IO

from flows.operations.api import API, HOST, PORT, asks_for_secret, healthy
from flows.operations.prefect_server import launch, not_started
from flows.operations.secret import CLIENT, make_secret, secret_file
from flows.show.terminal import console
from storage.errors import UserError
from tasks.interrupts import Endings
from tasks.processes import end_group, start_watcher

#: A server that does not answer for this long is restarted: with SQLite it can hang (PrefectHQ/prefect#23055).
_UNHEALTHY_SECONDS = 60
_START_SECONDS = 120


class Server:
    """Prefect's server with its UI.

    It runs in a session of its own. If this process is killed the server survives, so that runs can still be watched
    and declared Crashed, and the next `make serve` uses it. `stop` ends a server that this object started, and leaves
    alone one that was already running.
    """

    def __init__(self, endings: Endings) -> None:
        """endings: the handler of SIGTERM; it waits until a server that is being started can be stopped."""
        self._endings = endings
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()
        self.log = secret_file().with_name("irepo-server.log")

    def start(self) -> None:
        """Start the server unless one answers, wait until it answers, and restart it whenever it dies or hangs.

        This process's clients use its secret. Raises UserError when it does not start.
        """
        os.environ[CLIENT] = secret = make_secret()
        if not healthy(API):
            self._launch(secret)
        elif not asks_for_secret(API):
            raise UserError(
                "a Prefect server that asks for no secret is running already: every web page and user may use it",
                where=API,
                remedy="stop it (prefect server stop, or end its process), or choose another port: "
                "IREPO_PORT=4300 make serve",
            )
        start_watcher("watch-server", lambda: self._watch(secret))

    def _launch(self, secret: str) -> None:
        with open(self.log, "w+b") as log:
            with self._endings.deferred():
                self._process = launch(PORT, secret, log, temporary=False)
            self._await(self._process, log)

    def _await(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not healthy(API):
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                end_group(process)
                raise not_started(
                    log,
                    where=f"{HOST}:{PORT}",
                    how=f"ended with code {code}" if code is not None else f"does not answer after {_START_SECONDS} s",
                    remedy="if another program uses the port, choose another one: IREPO_PORT=4300 make serve",
                )
            time.sleep(0.3)

    def _watch(self, secret: str) -> None:
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
                self._launch(secret)
            except UserError as error:
                console.print(str(error))
            last = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()
        if self._process is not None:
            end_group(self._process, grace=30)


def listens(port: int) -> bool:
    """Whether any process accepts connections at `port` of loopback."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, port)) == 0
