"""What stands before Prefect's server: pages of other origins, and hosts that are not this machine, are refused.

Prefect itself checks the secret and the CSRF token. It does not check the Host header, so a page whose name is made to
point at 127.0.0.1 (DNS rebinding) would count as its own UI; and it lets any page read what it answers.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.operations.run_files import RunFiles
from tasks.loopback import HOSTS

LOGIN = "/login-with-secret"
#: Stores the secret, which is in the address after #, where Prefect's UI keeps what people type into its login form.
#: Browsers do not send that part of an address to servers.
_LOGIN_PAGE = """<!doctype html><meta charset="utf-8"><title>Prefect</title><p id="text">Logging in.</p><script>
const secret = decodeURIComponent(location.hash.slice(1));
history.replaceState(null, "", location.pathname);
if (secret) { localStorage.setItem("prefect-password", btoa(secret)); location.replace("/"); }
else document.getElementById("text").textContent = "Open the link that make serve printed.";
</script>"""
_FRAMES = [(b"x-frame-options", b"DENY"), (b"content-security-policy", b"frame-ancestors 'none'")]


class Guard:
    """An ASGI application around Prefect's. It answers 403 to requests that must not come from where they come."""

    def __init__(self, app: ASGIApp, files: RunFiles | None = None) -> None:
        """files: the folder of runs, where it is shown."""
        self.app = app
        self.files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = why_refused(scope["headers"], navigates=scope.get("method") == "GET" and not _is_api(scope["path"]))
        if refusal is not None:
            await _refuse(refusal, scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"] == LOGIN:
            await HTMLResponse(_LOGIN_PAGE, headers={"cache-control": "no-store"})(scope, receive, _framed(send))
            return
        if scope["type"] == "http" and self.files is not None and self.files.serves(scope["path"]):
            await self.files(scope, receive, send)
            return
        await self.app(scope, receive, _framed(send))


def why_refused(headers: Iterable[tuple[bytes, bytes]], *, navigates: bool) -> str | None:
    """Why a request with these headers is refused, or None.

    navigates: whether it asks for a page of the UI. Links from other pages to those are followed; nothing else that
    another origin starts is.
    """
    given: dict[str, list[str]] = {}
    for name, value in headers:
        given.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    hosts = given.get("host", [])
    if len(hosts) != 1 or _host(f"//{hosts[0]}") is None:
        return "the Host header does not name this machine's loopback"
    for origin in given.get("origin", []):
        if _host(origin) is None or urlsplit(origin).scheme != "http" or _port(origin) != _port(f"//{hosts[0]}"):
            return "pages of other origins may not use this server"
    elsewhere = "origin" not in given and given.get("sec-fetch-site", ["none"])[0] not in ("same-origin", "none")
    if elsewhere and not (navigates and given.get("sec-fetch-mode") == ["navigate"]):
        return "pages of other origins may not use this server"
    return None


def _host(url: str) -> str | None:
    """The host of `url` if it is a name of loopback."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises ValueError for a bad port)
    except ValueError:
        return None
    return parts.hostname if parts.hostname in HOSTS and parts.username is None else None


def _port(url: str) -> int:
    return urlsplit(url).port or 80


def _is_api(path: str) -> bool:
    return path == "/api" or path.startswith("/api/")


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the handshake; closing before it is accepted answers 403
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    await PlainTextResponse(f"{why}\n", status_code=403)(scope, receive, send)


def _framed(send: Send) -> Send:
    """Answers that no page may show in a frame, where it could have a person click what it hides."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_FRAMES]}
        await send(message)

    return sending
