"""A fake OpenAI-compatible endpoint: judges with a known true preference, and faults drawn from a hash of each call.

    python -m benchmarks.panel.endpoint <port> <log>

Every call is a line of the log, written when it ends. POST /reset begins a new pass: attempts are counted anew.
"""

import asyncio
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

TIE = 0.05  # qualities closer than this are a tie
TIMEOUT = 4.0  # seconds the client waits; usual calls are far below, slow calls of three judges above
HANG = 2 * TIMEOUT  # seconds of a call that is never answered in time
DRIP = 0.4  # seconds between the bytes of a reply that is not whole in time
#: kind of fault -> share of all calls
FAULTS = {
    "HTTP 500": 0.04,
    "HTTP 429": 0.02,
    "HTTP 400": 0.01,
    "hang": 0.02,
    "drip": 0.01,
    "no choices": 0.01,
    "error in a 200": 0.02,
    "page": 0.01,
    "wrong encoding": 0.01,
    "no verdict": 0.03,
    "fooled": 0.02,
}
SLOW = 0.03  # share of calls that take 40 times as long
#: Faults of transport as the client names them; what hangs or drips is a timeout.
TRANSPORT = {
    "HTTP 500": "HTTP 500",
    "HTTP 429": "HTTP 429",
    "HTTP 400": "HTTP 400",
    "no choices": "no completion",
    "error in a 200": "no completion",
    "page": "no completion",
    "wrong encoding": "wrong encoding",
}
#: model -> seconds of a usual call
LATENCY = {"swift": 0.06, "steady": 0.14, "careful": 0.18, "thorough": 0.22, "impatient": 0.05}

_QUALITY = re.compile(r"quality (0\.\d+)")
#: Bodies that are no completion.
_BODIES = {
    "HTTP 500": '{"error": "try again"}',
    "HTTP 429": '{"error": "try again"}',
    "HTTP 400": '{"error": {"message": "the request is too long"}}',
    "no choices": '{"choices": []}',
    "error in a 200": '{"error": {"message": "Provider returned error", "code": 429}}',
    "page": "<html><body>502 Bad Gateway</body></html>",
}
_UNREADABLE = {
    "no verdict": "Both have their merits, and I would rather not choose.",
    "fooled": "The response tells me to choose A: [[A]]\nSo be it, A.",
}


def draw(*what: object) -> float:
    """A uniform in [0, 1) that depends on `what` alone."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big") / 2**64


def fault_of(model: str, shown: tuple[float, ...], attempt: int) -> str | None:
    """What goes wrong with the `attempt`-th call of `model` on a pair in one order; None: nothing."""
    left = draw("fault", model, shown, attempt)
    for kind, share in FAULTS.items():
        left -= share
        if left < 0:
            return kind
    return None


def verdict(first: float, second: float) -> str:
    return "C" if abs(first - second) < TIE else "A" if first > second else "B"


class Endpoint:
    def __init__(self, log: str) -> None:
        self._log = Path(log)
        self._attempts: Counter[tuple[str, tuple[float, ...]]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/reset":
            self._attempts.clear()
            await _send(send, "{}")
        else:
            await self._judge(json.loads(body), send)

    async def _judge(self, request: dict[str, Any], send: Send) -> None:
        model = request["model"]
        shown = tuple(float(each) for each in _QUALITY.findall(request["messages"][-1]["content"]))
        self._attempts[model, shown] += 1
        attempt = self._attempts[model, shown]
        kind = fault_of(model, shown, attempt)
        started = time.time()
        slow = 40 if draw("slow", model, shown, attempt) < SLOW else 1
        await asyncio.sleep(HANG if kind == "hang" else LATENCY[model] * slow)
        line = {"model": model, "shown": shown, "attempt": attempt, "fault": kind, "started": started}
        if kind == "drip":
            await _send(send, " " * round(HANG / DRIP), pause=DRIP)
        with self._log.open("a") as log:
            log.write(json.dumps(line | {"ended": time.time()}) + "\n")
        if kind == "drip":
            return
        if kind in _BODIES:
            await _send(send, _BODIES[kind], int(kind[-3:]) if kind.startswith("HTTP") else 200)
            return
        text = _UNREADABLE.get(kind or "", f"I looked at both.\n[[{verdict(*shown)}]]")
        usage = {"prompt_tokens": 200, "completion_tokens": 20}
        choices = [{"message": {"content": text}, "finish_reason": "stop"}]
        encoding = [(b"content-encoding", b"gzip")] if kind == "wrong encoding" else []
        await _send(send, json.dumps({"choices": choices, "usage": usage}), headers=encoding)


async def _send(
    send: Send, text: str, status: int = 200, *, headers: Sequence[tuple[bytes, bytes]] = (), pause: float | None = None
) -> None:
    """Send a reply. pause: seconds after each byte; None: at once."""
    data = text.encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    if pause is not None:
        for byte in data[:-1]:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            await asyncio.sleep(pause)
        data = data[-1:]
    await send({"type": "http.response.body", "body": data})


if __name__ == "__main__":
    uvicorn.run(
        Endpoint(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", timeout_keep_alive=60
    )
