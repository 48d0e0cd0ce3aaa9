"""Reports and other files of runs in a browser: `make serve` shows the folder of runs to those who can use its API.

Nothing is written, and no link shows anything outside the folder. A file can run no script and load
nothing: models wrote some of them, and they are shown from the same origin as Prefect's UI, which keeps the secret. A
user who is logged in to the UI gets a cookie that is valid for these files only.
"""

import base64
import hashlib
import hmac
import os
import time
from html import escape
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

#: Where the files are below the server's address, and where a browser that is logged in asks for its cookie.
FILES, SESSION = "/run-files/", "/run-files-session"
_COOKIE = "irepo_run_files"
_SHOWN = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
_SHOWN += "frame-ancestors 'none'"
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}
#: Types by the end of a name. Other files are downloaded.
_TYPES = {
    **dict.fromkeys((".txt", ".log", ".json", ".jsonl", ".yaml", ".yml", ".md", ".csv", ".jinja"), "text/plain"),
    ".html": "text/html", ".svg": "image/svg+xml", ".png": "image/png",
}  # fmt: skip
_STYLE = (
    "<style>:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{margin:24px auto;padding:0 16px;"
    "max-width:960px}table{border-collapse:collapse;width:100%}td{padding:6px 12px 6px 0;border-bottom:1px solid "
    "#8884;overflow-wrap:anywhere}td+td{text-align:right;white-space:nowrap}</style>"
)
_LOG_IN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Files of runs</title>
<main><h1>Files of runs</h1>
<p>Log in to Prefect's UI first: open the link that make serve printed. Then load this page again.</p></main>
<script>
const kept = localStorage.getItem("prefect-password");
if (kept) fetch("%s", {method: "POST", headers: {Authorization: "Basic " + kept}})
  .then(answer => { if (answer.ok) location.reload(); });
</script></html>"""


class RunFiles:
    """An ASGI application for FILES and SESSION: the folder `root`, to requests that know `secret`."""

    def __init__(self, root: Path, secret: str) -> None:
        self._root = root
        self._files = StaticFiles(directory=root, check_dir=False)
        self._basic = f"Basic {base64.b64encode(secret.encode()).decode()}"
        self._cookie = hmac.new(secret.encode(), b"files of runs", hashlib.sha256).hexdigest()

    def serves(self, path: str) -> bool:
        """Whether a request's path is one of this application's."""
        return path == SESSION or path == FILES.rstrip("/") or path.startswith(FILES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(Request(scope))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        knows = hmac.compare_digest(request.headers.get("authorization", "").encode(), self._basic.encode())
        if request.url.path == SESSION:
            return self._session(request, knows=knows)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("files can only be read\n", 405, {"allow": "GET, HEAD"})
        if not knows and not hmac.compare_digest(request.cookies.get(_COOKIE, "").encode(), self._cookie.encode()):
            return HTMLResponse(_LOG_IN % SESSION, 401, {"x-frame-options": "DENY", **_HEADERS})
        return self._file(request.scope["path"])

    def _session(self, request: Request, *, knows: bool) -> Response:
        if request.method != "POST" or not knows:
            return PlainTextResponse("the secret is missing or wrong\n", 401)
        answer = Response(status_code=204)
        # Lax: a report is opened by links from documents without an origin too. Nothing here is changed by a GET.
        answer.set_cookie(_COOKIE, self._cookie, path=FILES, httponly=True, samesite="lax")
        return answer

    def _file(self, scope_path: str) -> Response:
        """scope_path: of the request, decoded."""
        below = scope_path.removeprefix(FILES.rstrip("/")).lstrip("/")
        found = self._inside(below)
        if found is None:
            return PlainTextResponse("there is no such file\n", 404, _HEADERS)
        if found.is_dir():
            if not scope_path.endswith("/"):
                return RedirectResponse(quote(f"{scope_path}/"), 307, _HEADERS)
            return HTMLResponse(self._listing(found, below), headers={"content-security-policy": _SHOWN, **_HEADERS})
        kind = _TYPES.get(found.suffix)
        policy = {"content-security-policy": f"sandbox allow-downloads allow-popups; {_SHOWN}"}
        if kind is None:
            return FileResponse(found, headers=policy | _HEADERS, media_type="application/octet-stream",
                                filename=found.name)  # fmt: skip
        return FileResponse(found, headers=policy | _HEADERS, media_type=kind)

    def _inside(self, below: str) -> Path | None:
        """The file or folder at a path below the root; None when there is none, it is hidden, or a link leads out."""
        try:
            name, status = self._files.lookup_path(below)
        except (OSError, ValueError):  # too long, or a null byte
            return None
        if status is None:
            return None
        path = Path(name)
        hidden = any(part.startswith(".") for part in path.relative_to(os.path.realpath(self._root)).parts)
        return None if hidden or not (path.is_file() or path.is_dir()) else path

    def _listing(self, folder: Path, below: str) -> str:
        rows = ['<tr><td><a href="../">..</a></td><td></td><td></td></tr>'] if below.strip("/") else []
        entries = sorted(folder.iterdir(), key=lambda each: (each.name != "report.html", not each.is_dir(), each.name))
        for name in (entry.name for entry in entries):
            path = self._inside(f"{below}/{name}".lstrip("/"))
            if path is None:
                continue
            status, end = path.stat(), "/" if path.is_dir() else ""
            size = "" if end else f"{status.st_size:,} bytes"
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.st_mtime))
            link = f'<a href="./{quote(name)}{end}">{escape(name)}{end}</a>'
            rows.append(f"<tr><td>{link}</td><td>{size}</td><td>{when}</td></tr>")
        title = escape(below.strip("/") or "Runs")
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">{_STYLE}'
            f"<main><h1>{title}</h1><table>{chr(10).join(rows)}</table></main></html>"
        )
