"""Whether a Prefect server answers at an address, and what to do when it does not. Does not import Prefect."""

import base64
import os
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from urllib.parse import urlsplit

from flows.operations.secret import CLIENT
from storage.errors import UserError
from tasks.loopback import is_loopback

HOST = "127.0.0.1"


def port_of(text: str) -> int:
    """The port that IREPO_PORT gives; ends the process with code 2 and the reason when it is none."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 2**16):
        print(
            f"error: IREPO_PORT={text[:20]} is not a port: give a number from 1 to 65535, or unset it", file=sys.stderr
        )
        raise SystemExit(2)
    return int(text)


#: The port of the server of `make serve`.
PORT = port_of(os.environ.get("IREPO_PORT", "4200"))
API = f"http://{HOST}:{PORT}/api"

_CLOUD = "prefect.cloud"  # not asked: it has no health page, and Prefect's own errors are clear there
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at `api` (http://.../api) within two seconds."""
    try:
        status, body = _get(f"{api}/health", timeout=2)
    except (OSError, ValueError):
        return False
    return status == 200 and body.strip() == b"true"


def check_api(api: str) -> None:
    """Raises UserError, with a remedy, unless a Prefect server answers at `api` and accepts this process's secret."""
    where = f"PREFECT_API_URL={api}"
    try:
        parts = urlsplit(api)
        host = parts.hostname
    except ValueError:
        parts, host = None, None
    if parts is None or host is None or parts.scheme not in ("http", "https"):
        raise UserError(
            "PREFECT_API_URL is not the address of a server", where=where, remedy=f"write it like this: {API}"
        )
    if host.endswith(_CLOUD):
        return
    try:
        status, body = _get(f"{api}/health", timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Prefect server answers there: {getattr(error, 'reason', None) or error}",
            where=where,
            remedy="start that server (make serve), or unset PREFECT_API_URL: a run from the command line then has a "
            "temporary server",
        ) from None
    if status != 200 or body.strip() != b"true":
        if not api.endswith("/api") and healthy(f"{api.rstrip('/')}/api"):
            raise UserError(
                "the address of Prefect's API ends with /api",
                where=where,
                remedy=f"export PREFECT_API_URL={api.rstrip('/')}/api",
            )
        raise UserError(
            f"what answers there is not Prefect's API: status {status} at /health",
            where=where,
            remedy=f"name a Prefect server, as in {API}, or unset PREFECT_API_URL",
        )
    status, _ = _get(f"{api}/admin/version", timeout=10, secret=os.environ.get(CLIENT))
    if status == 401:
        raise UserError(
            "the Prefect server refuses this secret"
            if CLIENT in os.environ
            else "the Prefect server asks for a secret",
            where=f"{where} {CLIENT}",
            remedy=f'export {CLIENT}="$(cat <file>)"; `make serve` prints the name of the file when it starts',
        )


def asks_for_secret(api: str) -> bool:
    """Whether the server at `api` refuses requests without a secret. Raises OSError when it does not answer."""
    return _get(f"{api}/admin/version", timeout=10, secret=None)[0] == 401


def check_proxies() -> None:
    """Raises UserError for a SOCKS proxy that the HTTP client cannot use: it would fail even on loopback."""
    for name in (each for proxy in _PROXIES for each in (proxy, proxy.lower())):
        if os.environ.get(name, "").startswith("socks") and find_spec("socksio") is None:
            raise UserError(
                "SOCKS proxies need the package socksio, which is not installed",
                where=f"{name}={_without_password(os.environ[name])}",
                remedy=f"unset {name}, or install it: uv pip install --python .venv/bin/python socksio",
            )


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _get(url: str, *, timeout: float, secret: str | None = None) -> tuple[int, bytes]:
    """Status and the first bytes of the body. Raises OSError or ValueError when nothing answers."""
    request = urllib.request.Request(url)
    if secret is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    # Never through a proxy on loopback, even where NO_PROXY was changed after `prepare`.
    handlers = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            return int(answer.status), answer.read(1000)
    except urllib.error.HTTPError as error:
        return error.code, b""
