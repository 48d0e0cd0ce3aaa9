"""A wrong address, key or model is found by one question before anything is sampled; a server that is down is not."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from storage.errors import UserError
from tasks.panel.annotators.judge import JudgeSettings
from tasks.panel.chat import preflight
from tasks.panel.chat.preflight import check_servers
from tasks.panel.chat.settings import checked_address

COMPLETION = {"choices": [{"message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"}]}


class Server:
    """`models` and `completion`: (status, body) of the two pages."""

    def __init__(self) -> None:
        self.models: tuple[int, Any] = (200, {"data": [{"id": "m"}, {"id": "other"}]})
        self.completion: tuple[int, Any] = (200, COMPLETION)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page.keys.append(self.headers.get("authorization"))
                self._send(*(page.models if self.path == "/v1/models" else (404, "")))

            def do_POST(self) -> None:
                page.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._send(*(page.completion if self.path == "/v1/chat/completions" else (404, "no such page")))

            def _send(self, status: int, body: Any) -> None:
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(preflight, "_asked", set())
    fake = Server()
    yield fake
    fake.close()


def check(server: Server, **settings: Any) -> None:
    judge = JudgeSettings.model_validate({"model": "m", "base_url": f"{server.url}/v1"} | settings)
    check_servers({"panel.annotators.judge": judge})


def test_one_question_is_asked_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-1")
    check(server, api_key_env="TEST_KEY", extra_body={"seed": 1})
    check(server, api_key_env="TEST_KEY", extra_body={"seed": 1})
    (request,) = server.requests
    assert (request["model"], request["max_tokens"], request["seed"]) == ("m", 16, 1)
    assert server.keys == ["Bearer sk-1"]


def test_fields_that_are_null_are_left_out(server: Server) -> None:
    check(server, max_tokens=None, temperature=None, extra_body={"max_completion_tokens": 9, "top_p": None})
    (request,) = server.requests
    assert set(request) == {"model", "messages", "max_completion_tokens"}


def test_an_unknown_model_is_refused_with_the_list(server: Server) -> None:
    with pytest.raises(UserError, match="does not serve the model 'mm'; it serves: m, other") as refused:
        check(server, model="mm")
    assert refused.value.where == f"panel.annotators.judge.model, at {server.url}/v1"
    assert server.requests == []


@pytest.mark.parametrize(
    "models", [(404, ""), (501, "unsupported"), (200, "<html>"), (200, {"models": []}), (403, "no")]
)
def test_a_server_without_a_list_is_asked_a_question(server: Server, models: tuple[int, Any]) -> None:
    server.models = models
    check(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "name the variable"),
        (403, "name the variable"),
        (404, "check model"),
        (405, "check model"),
        (302, "check"),
    ],
)
def test_what_asking_again_does_not_change_is_refused(server: Server, status: int, remedy: str) -> None:
    server.models, server.completion = (404, ""), (status, {"error": {"message": "not you"}})
    with pytest.raises(UserError, match=f"HTTP {status}") as refused:
        check(server)
    assert remedy in refused.value.remedy
    assert len(server.requests) == 1


def test_a_base_url_without_v1_is_refused(server: Server) -> None:
    with pytest.raises(UserError, match="HTTP 404: no such page") as refused:
        check(server, base_url=server.url)
    assert "/v1" in refused.value.remedy


@pytest.mark.parametrize("status", [400, 413, 422, 429, 500, 503])
def test_other_faults_are_warnings(server: Server, status: int, caplog: pytest.LogCaptureFixture) -> None:
    server.completion = (status, "not now")
    check(server)
    assert f"HTTP {status}: not now" in caplog.text
    assert len(server.requests) == 1


def test_no_server_is_a_warning(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    check(server, base_url="http://127.0.0.1:9/v1")
    assert "panel.annotators.judge does not answer now: ConnectError" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("ALL_PROXY", "foo://proxy:1"), ("SSL_CERT_FILE", "/nowhere/cert.pem")])
def test_variables_that_allow_no_request_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="does not allow requests") as refused:
        check(server)
    assert name in refused.value.where


@pytest.mark.parametrize("url", ["https://api.example/v1", "http://[::1]:8000/v1/", "http://localhost:8000"])
def test_addresses(url: str) -> None:
    assert checked_address(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000/v1", "localhost:8000/v1", "api.example/v1", "/v1", "", "ftp://api.example/v1", "http:///v1",
        "http://api.example:port/v1", "http://api.example:99999/v1", "http://[::1/v1", "http://api.example/v1 ",
        "http://api.example/v1?key=1", "http://api.example/v1#a", "http://api.example/v1/chat/completions",
    ],
)  # fmt: skip
def test_other_texts_are_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        JudgeSettings(model="m", base_url=url)
