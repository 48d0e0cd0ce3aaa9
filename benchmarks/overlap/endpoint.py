"""A judge behind an OpenAI-compatible endpoint: `python -m benchmarks.overlap.endpoint <port> <median seconds>`.

Its verdict follows from the texts. A reply takes a lognormal time, like those of a provider: half of them less than
the median, one in twenty more than 2.3 times that. GET /count says how many questions it was asked.
"""

import asyncio
import hashlib
import json
import random
import sys

import uvicorn
from starlette.types import Receive, Scope, Send

SIGMA = 0.5  # of the logarithm of a latency
MEAN = 1.13  # latency, in medians: exp(SIGMA**2 / 2)


class Judge:
    """Answers [[A]], [[B]] or [[C]]."""

    def __init__(self, median: float) -> None:
        self._median = median
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/count":
            await _send(send, str(self._count))
            return
        self._count += 1
        draw = random.Random(hashlib.blake2b(body, digest_size=8).digest())
        await asyncio.sleep(self._median * draw.lognormvariate(0, SIGMA))
        choices = [{"message": {"content": f"Because.\n[[{draw.choice('ABC')}]]"}, "finish_reason": "stop"}]
        await _send(send, json.dumps({"choices": choices, "usage": {"prompt_tokens": 400, "completion_tokens": 60}}))


async def _send(send: Send, text: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text.encode())).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


if __name__ == "__main__":
    uvicorn.run(
        Judge(float(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", timeout_keep_alive=60
    )
