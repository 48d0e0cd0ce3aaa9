"""When the next request may be made: a limit on requests per minute, and what a server says in Retry-After."""

import asyncio
import email.utils
import re
import time
from collections.abc import Mapping
from datetime import UTC

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?")


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


def retry_after(headers: Mapping[str, str], wait: float) -> float:
    """Seconds until the time in the header Retry-After (a number, also with a fraction, or a date), else `wait`."""
    header = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(header):
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return wait
    return max(0.0, seconds)
