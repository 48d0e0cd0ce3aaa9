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
from pathlib import Path
from typing import Any

import uvicorn

TIE = 0.05  # qualities closer than this are a tie
HANG = 2.0  # seconds of a call that is never answered in time
#: kind of fault -> share of all calls
FAULTS = {
    "HTTP 500": 0.05,
    "HTTP 429": 0.02,
    "hang": 0.03,
    "no completion": 0.03,
    "no verdict": 0.04,
    "fooled": 0.03,
}
SLOW = 0.03  # share of calls that take ten times as long
TRANSPORT = {"HTTP 500": "HTTP 500", "HTTP 429": "HTTP 429"}  # as the client names them; what hangs is a ReadTimeout
#: model -> seconds of a usual call
LATENCY = {"swift": 0.06, "steady": 0.14, "careful": 0.18, "thorough": 0.22, "impatient": 0.05}
TIMEOUT = 1.0  # seconds the client waits: slow calls of three of the judges take longer

_QUALITY = re.compile(r"quality (0\.\d+)")
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

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
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
            status, answer = 200, "{}"
        else:
            status, answer = await self._judge(json.loads(body))
        data = answer.encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _judge(self, request: dict[str, Any]) -> tuple[int, str]:
        model = request["model"]
        shown = tuple(float(each) for each in _QUALITY.findall(request["messages"][-1]["content"]))
        self._attempts[model, shown] += 1
        attempt = self._attempts[model, shown]
        kind = fault_of(model, shown, attempt)
        started = time.time()
        slow = 10 if draw("slow", model, shown, attempt) < SLOW else 1
        await asyncio.sleep(HANG if kind == "hang" else LATENCY[model] * slow)
        line = {"model": model, "shown": shown, "attempt": attempt, "fault": kind, "started": started}
        with self._log.open("a") as log:
            log.write(json.dumps(line | {"ended": time.time()}) + "\n")
        if kind in ("HTTP 500", "HTTP 429"):
            return int(kind[-3:]), '{"error": "try again"}'
        if kind == "no completion":
            return 200, '{"choices": []}'
        text = _UNREADABLE.get(kind or "", f"I looked at both.\n[[{verdict(*shown)}]]")
        usage = {"prompt_tokens": 200, "completion_tokens": 20}
        choices = [{"message": {"content": text}, "finish_reason": "stop"}]
        return 200, json.dumps({"choices": choices, "usage": usage})


if __name__ == "__main__":
    uvicorn.run(
        Endpoint(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", timeout_keep_alive=60
    )
