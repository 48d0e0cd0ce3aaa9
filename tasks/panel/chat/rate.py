"""A limit on requests per minute, evenly spaced."""

import asyncio
import time


class RateLimit:
    """`turn()` returns when the next request may be made; with None, immediately."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        if self._gap:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + self._gap
            await asyncio.sleep(start - now)
