"""Prefect's server in a process of its own, on loopback, behind `Guard`, with a secret and CSRF protection.

    python -m flows.operations.prefect_server <port> [--temporary]

`make serve` and the temporary server of a run both start it, by `launch`, which gives it its secret. Without one it
does not start: it would answer every web page and user.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import IO

from flows.operations.api import HOST
from flows.operations.secret import SERVER
from flows.show.links import ROOT
from storage.errors import UserError
from tasks.processes import die_with_parent, start_group

_ROOT = Path(__file__).resolve().parents[2]
_MODULE = "flows.operations.prefect_server"
_TEMPORARY = "--temporary"
_LOG_LINES = 10  # of what the server printed, in an error
_UNKNOWN_REVISION = re.compile(r"Can't locate revision identified by '(\w+)'")


def launch(port: int, secret: str, log: IO[bytes], *, temporary: bool) -> subprocess.Popen[bytes]:
    """Start the server in a process group of its own, which prints into `log`.

    temporary: it has no UI and no scheduler, and ends with this process, even when that is killed.
    """
    environment = os.environ | {
        SERVER: secret,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port},http://localhost:{port}",
        "PREFECT__SERVER_FINAL": "1",
    }
    if temporary:
        environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"} | own_database()
    else:
        environment["PREFECT_UI_API_URL"] = f"http://{HOST}:{port}/api"
    command = [sys.executable, "-m", _MODULE, str(port), *([_TEMPORARY] if temporary else [])]
    return start_group(command, stdout=log, stderr=log, env=environment, cwd=_ROOT)


def runs_folder() -> Path:
    """The folder of runs that the server of `make serve` shows."""
    return Path(os.environ.get(ROOT) or _ROOT / "runs")


def own_database() -> dict[str, str]:
    """The variable that gives temporary servers a database of irepo's own, unless the user names one.

    Prefect's default, ~/.prefect/prefect.db, is shared with every project of the user; once a newer Prefect has opened
    it, an older one cannot.
    """
    named = ("PREFECT_HOME", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
    if any(os.environ.get(name) for name in named):
        return {}
    folder = _ROOT / ".prefect"
    folder.mkdir(mode=0o700, exist_ok=True)
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'temporary.db'}"}


def not_started(log: IO[bytes], *, where: str, how: str, remedy: str) -> UserError:
    """Why the server did not start, from what it printed.

    how: what happened, such as "ended with code 3". remedy: where the log does not give a better one.
    """
    log.seek(0)
    text = log.read().decode(errors="replace")
    if revision := _UNKNOWN_REVISION.search(text):
        from prefect import __version__
        from prefect.settings import get_current_settings

        return UserError(
            f"a newer Prefect made this database: Prefect {__version__} does not know its revision {revision[1]}",
            where=str(get_current_settings().home / "prefect.db")
            if not own_database()
            else own_database()["PREFECT_SERVER_DATABASE_CONNECTION_URL"].partition("///")[2],
            remedy="name another folder for it, PREFECT_HOME=<folder>, or move the file away (only history is in it)",
        )
    printed = [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]
    return UserError("\n".join([f"Prefect's server {how}", *printed]), where=where, remedy=remedy)


def main(port: int, *, temporary: bool) -> None:
    """Serve until a signal. Does not return."""
    secret = os.environ.get(SERVER)
    if not secret:
        sys.exit(f"error: the server would ask for no secret: {SERVER} is not set\n  remedy: start it with make serve")
    if temporary:
        die_with_parent()
    import uvicorn
    from prefect.server.api.server import create_app

    from flows.operations.guard import Guard
    from flows.operations.run_files import RunFiles

    files = None if temporary else RunFiles(runs_folder(), secret)
    uvicorn.run(
        Guard(create_app(), files), host=HOST, port=port, log_level="error" if temporary else "warning", lifespan="on"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), temporary=_TEMPORARY in sys.argv[2:])
