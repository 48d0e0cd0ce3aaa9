"""A scripted OpenAI-compatible server on 127.0.0.1."""

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tasks.labeling.settings import LabelSettings
from tasks.panel.annotators.protocol import Comparison, Response
from tasks.panel.annotators.registry import open_annotators


class Spelt(NamedTuple):
    """A reply with the probabilities of the alternatives at each of its tokens (the token itself among them)."""

    tokens: list[tuple[str, dict[str, float]]]


Text = str | Spelt
Scripted = Text | tuple[int, str]  # a reply, or a status and a body


class _Server(ThreadingHTTPServer):
    """Takes as many connections at once as a judge is asked questions; with the default of 5 some are reset."""

    request_queue_size = 128
    daemon_threads = True


class ChatServer:
    """Answers each chat request by `script(instruction)`: a reply, or a status and a body."""

    def __init__(self) -> None:
        self.script: Callable[[str], Scripted] = lambda instruction: "[[A]]"
        self.finish = "stop"
        self.delay = 0.0
        self.headers: dict[str, str] = {}
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.active = self.most_active = 0
        lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    fake.active += 1
                    fake.most_active = max(fake.most_active, fake.active)
                    fake.requests.append(request)
                    fake.keys.append(self.headers.get("authorization"))
                    scripted = fake.script(request["messages"][-1]["content"])
                time.sleep(fake.delay)
                if isinstance(scripted, str | Spelt):
                    scripted = 200, fake.completion(scripted)
                status, text = scripted
                with lock:
                    fake.active -= 1
                self.send_response(status)
                self.send_header("content-length", str(len(text.encode())))
                for name, value in fake.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def completion(self, reply: Text) -> str:
        text = reply if isinstance(reply, str) else "".join(t for t, _ in reply.tokens if not t.startswith("<|"))
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": self.finish}
        if isinstance(reply, Spelt):
            choice["logprobs"] = {"content": [_spelt(token, shares) for token, shares in reply.tokens]}
        return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _spelt(token: str, shares: dict[str, float]) -> dict[str, object]:
    top = [{"token": other, "logprob": math.log(share)} for other, share in shares.items()]
    return {"token": token, "logprob": math.log(shares[token]), "top_logprobs": top}


def response(text: str, *, index: int = 0, prompt: str = "ask", answer: str | None = None, **more: Any) -> Response:
    messages = [{"role": "user", "content": prompt}]
    return Response("p", "policy", index, messages, answer, None, text, True, **more)


def comparison(a: str, b: str, **more: Any) -> Comparison:
    return Comparison(response(a, index=0, **more), response(b, index=1, **more))


def opened(server: ChatServer | None, name: str = "judge", **settings: Any) -> Any:
    """The annotator of `settings`; a chat model is that of `server`."""
    where = {} if server is None else {"model": "m", "base_url": server.url}
    (annotator,) = open_annotators(
        LabelSettings.model_validate({"annotators": {name: where | settings}}).annotators, seed=1
    )
    return annotator


def ask(annotator: Any, *questions: Any) -> list[Any]:
    """The answers to all questions, which are asked at the same time."""

    async def work() -> list[Any]:
        async with annotator.connected():
            return await asyncio.gather(*(annotator.ask(question) for question in questions))

    return asyncio.run(work())


def fenced(instruction: str) -> list[str]:
    """The fenced texts of an instruction, in order."""
    return [text for _, text in re.findall(r"<<<([0-9a-f]{12})\n(.*?)\n\1>>>", instruction, re.DOTALL)]


def prefer(better: Callable[[str], float]) -> Callable[[str], str]:
    """A judge that explains its verdict and prefers the response that `better` names."""

    def script(instruction: str) -> str:
        shown = fenced(instruction)[-2:]
        if not shown:
            return "A"  # the question before a run
        a, b = shown
        verdict = "C" if better(a) == better(b) else "A" if better(a) > better(b) else "B"
        return f"Because.\n\n[[{verdict}]]\n"

    return script
