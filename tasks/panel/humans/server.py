"""The page where people vote: a server on 127.0.0.1, for this machine only, from the standard library.

It writes files for everyone who can reach it. So it refuses requests for another host name (DNS rebinding), and votes
that do not come from its own page (the Origin header).
"""

import json
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import ValidationError

from storage.errors import UserError
from tasks.panel.humans.vote_queue import SubmittedVote, VoteQueue
from tasks.panel.humans.votes import clean_person

log = logging.getLogger("irepo")

PORT = 8642
_HERE = Path(__file__).parent
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/unsent.js": ("unsent.js", "text/javascript"),
    "/views.js": ("views.js", "text/javascript"),
}
_NAMES = ("127.0.0.1", "localhost")
_LARGEST = 1 << 16  # bytes of a request's body
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class VoteServer(ThreadingHTTPServer):
    """Serves the batches below `root`. Each request has its own thread."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = PORT) -> None:
        """Raises UserError when the folder does not exist, a batch cannot be read or the port is taken."""
        if not root.is_dir():
            raise UserError("this folder does not exist", where=str(root), remedy="give a run folder, e.g. runs/mine")
        self.queue = VoteQueue(root)
        self.queue.open_batches()  # raises now if a batch cannot be read, not when someone comes to vote
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(
                f"the page cannot be served: {error.strerror}",
                where=f"127.0.0.1:{port}",
                remedy="if the page is served already, open that address; else choose another port: --port <number>",
            ) from None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: VoteServer
    protocol_version = "HTTP/1.1"
    server_version = "irepo"
    sys_version = ""
    timeout = 60  # seconds that an idle connection is kept

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> None:
        url = urlsplit(self.path)
        if url.path in _PAGE:
            name, content_type = _PAGE[url.path]
            self._send(HTTPStatus.OK, (_HERE / name).read_bytes(), f"{content_type}; charset=utf-8")
        elif url.path == "/api/work":
            query = parse_qs(url.query)
            person = clean_person(query.get("person", [""])[0])
            work = self.server.queue.work(person, query.get("batch", [None])[0])
            self._send_json(HTTPStatus.OK, work)
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self) -> None:
        if urlsplit(self.path).path != "/api/votes":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise _Refused(HTTPStatus.FORBIDDEN, "votes are accepted only from this server's own page")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a vote must be application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _LARGEST:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a vote may have at most {_LARGEST} bytes")
        vote = SubmittedVote.model_validate_json(self.rfile.read(int(length)))
        self._send_json(HTTPStatus.OK, self.server.queue.submit(vote))

    def _answer(self, respond: Callable[[], None]) -> None:
        try:
            host = self.headers.get("Host", "")
            if host.rpartition(":")[0] not in _NAMES and host not in _NAMES:
                raise _Refused(HTTPStatus.FORBIDDEN, "this server is reached as 127.0.0.1 or localhost only")
            respond()
        except _Refused as refused:
            self._fail(refused.status, str(refused))
        except ValidationError as error:
            self._fail(HTTPStatus.BAD_REQUEST, f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
        except ValueError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except UserError as error:
            self._fail(HTTPStatus.GONE, error.what)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except OSError as error:  # e.g. a full disk: the page keeps the vote and tries again
            log.warning("%s: %s", self.server.queue.root, error)
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, f"the vote cannot be written: {error.strerror}")

    def _fail(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # the rest of the request is not read
        self._send_json(status, {"error": why})

    def _send_json(self, status: HTTPStatus, value: Mapping[str, object]) -> None:
        self._send(status, json.dumps(value, ensure_ascii=False).encode(), "application/json; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Do not write requests to the terminal."""
