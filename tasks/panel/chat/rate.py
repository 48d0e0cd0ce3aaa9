"""At most so many requests a minute, evenly spread."""

import asyncio
import time


class Rate:
    """`turn()` returns when the next request may be made; None: at once."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        if self._gap:
            now = time.monotonic()
            mine = max(self._next, now)
            self._next = mine + self._gap
            await asyncio.sleep(mine - now)
