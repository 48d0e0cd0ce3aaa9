"""Waiting in tests: time limits that grow with the load of the machine, so that a busy one is slow and not wrong."""

import os
import time
from collections.abc import Callable

#: Multiplies every limit. A limit that is met early costs nothing.
PATIENCE = float(os.environ.get("IREPO_TEST_PATIENCE", "3"))


def limit(seconds: float) -> float:
    """The time limit, in seconds, of what takes less than `seconds` on an idle machine."""
    waiting_for_a_core = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * PATIENCE * max(1.0, waiting_for_a_core)


def wait_until(
    holds: Callable[[], object], seconds: float, explain: Callable[[], str] = lambda: "", pause: float = 0.2
) -> None:
    """Ask `holds` every `pause` seconds until it is true; fail with `explain()` after `limit(seconds)`.

    The limit is computed anew each time: the load average lags behind the load.
    """
    start = time.monotonic()
    while not holds():
        waited = time.monotonic() - start
        assert waited < limit(seconds), f"not reached after {waited:.0f} s: {explain()}"
        time.sleep(pause)
