"""A temporary Prefect server on loopback that ends with the run that needs it.

Prefect starts a temporary server by itself too, but that one survives a run that is killed.
"""

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from storage.errors import UserError
from tasks.processes import die_with_parent, end_group, start_group, start_watcher

HOST = "127.0.0.1"
#: The port of the server of `make serve`.
PORT = int(os.environ.get("IREPO_PORT", "4200"))
API = f"http://{HOST}:{PORT}/api"
#: Set in the environment of a run whose server ends with the run.
TEMPORARY = "IREPO_TEMPORARY_SERVER"
_START_SECONDS = 120
_ROOT = Path(__file__).resolve().parents[2]

_server: subprocess.Popen[bytes] | None = None
_stopping = threading.Event()


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at `api` (http://.../api) within two seconds."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def listens(port: int) -> bool:
    """Whether any process accepts connections at `port` of loopback."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, port)) == 0


def start_temporary_server() -> None:
    """Start a server for this process's runs, unless Prefect's settings name one. Does not wait: see `await_server`.

    It keeps its history in PREFECT_HOME, has no UI and no scheduler, and ends with this process, even when that is
    killed.
    """
    global _server
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        return
    port = free_port()
    _server = _launch(port)
    # Registered before Prefect is imported, so that it runs after Prefect's own exit handlers.
    atexit.register(_stop)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    os.environ[TEMPORARY] = "1"
    refresh_global_settings_context()


def _launch(port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    command = [sys.executable, "-m", "flows.operations.temporary_server", str(port)]
    return start_group(command, stdout=subprocess.DEVNULL, env=environment, cwd=_ROOT)


def await_server() -> None:
    """Wait until the temporary server answers, if there is one. From then on it is restarted when it dies.

    Raises UserError when it does not start.
    """
    if _server is None:
        return
    deadline = time.monotonic() + _START_SECONDS
    while not healthy(os.environ["PREFECT_API_URL"]):
        if _server.poll() is not None or time.monotonic() > deadline:
            how = f"ended with code {_server.poll()}" if _server.poll() is not None else "does not answer"
            raise UserError(
                f"Prefect's temporary server {how}",
                where=os.environ["PREFECT_API_URL"],
                remedy="read its output above, check that PREFECT_HOME is writable, or start a server: make serve",
            )
        time.sleep(0.05)
    server = _server
    start_watcher("watch-server", lambda: _watch(server))


def _watch(server: subprocess.Popen[bytes]) -> None:
    """Restart the server at the same port when it dies. Prefect's client retries for a minute meanwhile."""
    global _server
    port = int(os.environ["PREFECT_API_URL"].removesuffix("/api").rpartition(":")[2])
    while not _stopping.wait(0.5):
        if server.poll() is not None:
            _server = server = _launch(port)


def _stop() -> None:
    _stopping.set()
    if _server is not None:
        end_group(_server)


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _serve(port: int) -> None:
    die_with_parent()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host=HOST, port=port, log_level="error", lifespan="on"
    )


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
