"""A circuit breaker: an endpoint that fails question after question is left alone, probed, and in the end given up."""

import asyncio
import logging
from typing import Literal

from tasks.panel.annotators.protocol import Limits

log = logging.getLogger("irepo")

Leave = Literal["ask", "probe", "give up"]


class Circuit:
    """Closed: everybody asks. Open, after `faults` faults in a row: one probe after each pause, the rest waits.

    An answer closes it again; `probes` probes that fail in a row give the annotator up.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self._faults = self._failed_probes = 0
        self._open = self._probing = False
        self._given_up = False
        self._pause = limits.pause
        self._changed = asyncio.Event()

    async def leave(self) -> Leave:
        """Wait until the caller may ask. Who gets "probe" hands it to `fault` if his question faults."""
        while self._open and not self._given_up:
            if not self._probing:
                self._probing = True
                await asyncio.sleep(self._pause)
                return "probe" if self._open else "ask"
            await self._changed.wait()
        return "give up" if self._given_up else "ask"

    def answered(self) -> None:
        if self._open:
            log.warning("%s answers again", self._name)
        self._faults = self._failed_probes = 0
        self._open = self._probing = False
        self._pause = self._limits.pause
        self._wake()

    def fault(self, leave: Leave, what: str) -> None:
        self._faults += 1
        if leave == "probe":
            self._failed_probes += 1
            self._probing = False
            self._pause *= 2
        elif self._open or self._faults < self._limits.faults:
            return
        self._open = True
        self._given_up = self._failed_probes >= self._limits.probes
        next_step = "given up" if self._given_up else f"left alone for {self._pause:.0f} s"
        log.warning("%s: %d faults in a row, the last: %s; %s", self._name, self._faults, what, next_step)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
