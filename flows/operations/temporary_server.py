"""A temporary Prefect server on loopback that ends with the run that needs it.

Prefect starts a temporary server by itself too, but that one survives a run that is killed, and any page may use it.
"""

import atexit
import os
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from threading import Event
from typing import IO

from flows.operations.api import HOST, check_api, check_proxies, healthy
from flows.operations.environment import check_prefect_settings
from flows.operations.prefect_server import launch, not_started
from flows.operations.secret import CLIENT, new_secret
from tasks.processes import end_group, start_watcher

#: Set in the environment of a run whose server ends with the run.
TEMPORARY = "IREPO_TEMPORARY_SERVER"
_START_SECONDS = 120


@dataclass
class _Temporary:
    """The server of this process. Its log is an unnamed file: it ends with the process too."""

    port: int
    secret: str
    log: IO[bytes]
    process: subprocess.Popen[bytes]


_server: _Temporary | None = None
_stopping = Event()


def start_temporary_server() -> None:
    """Start a server for this process's runs, unless Prefect's settings name one. Does not wait: see `await_server`.

    It keeps its history in a database of irepo's own, has no UI and no scheduler, and ends with this process, even when
    that is killed. Raises UserError when Prefect's settings name a server that does not answer.
    """
    global _server
    check_proxies()
    check_prefect_settings()
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    api = get_current_settings().api.url
    if api is not None:
        check_api(api)
        return
    port, secret = free_port(), new_secret()
    log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
    _server = _Temporary(port, secret, log, launch(port, secret, log, temporary=True))
    # Registered before Prefect is imported, so that it runs after Prefect's own exit handlers.
    atexit.register(_stop)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    os.environ[CLIENT] = secret
    os.environ[TEMPORARY] = "1"
    refresh_global_settings_context()


def await_server() -> None:
    """Wait until the temporary server answers, if there is one. From then on it is restarted when it dies.

    Raises UserError when it does not start.
    """
    if _server is None:
        return
    api = os.environ["PREFECT_API_URL"]
    deadline = time.monotonic() + _START_SECONDS
    while not healthy(api):
        code = _server.process.poll()
        if code is not None or time.monotonic() > deadline:
            raise not_started(
                _server.log,
                where=api,
                how=f"ended with code {code}" if code is not None else f"does not answer after {_START_SECONDS} s",
                remedy="fix what it printed, or start a server (make serve) and export PREFECT_API_URL",
            )
        time.sleep(0.05)
    server = _server
    start_watcher("watch-server", lambda: _watch(server))


def _watch(server: _Temporary) -> None:
    """Restart the server at the same port when it dies. Prefect's client retries for a minute meanwhile."""
    while not _stopping.wait(0.5):
        if server.process.poll() is not None:
            server.process = launch(server.port, server.secret, server.log, temporary=True)


def _stop() -> None:
    _stopping.set()
    if _server is not None:
        end_group(_server.process)


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
