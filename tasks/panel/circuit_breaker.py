"""A circuit breaker: a model that fails question after question gets a pause, is probed, and is finally given up."""

import asyncio
import logging
from typing import Literal

from tasks.panel.annotators.protocol import Limits

log = logging.getLogger("irepo")

Permission = Literal["ask", "probe", "give up"]


class CircuitBreaker:
    """Closed: every caller may ask. Open, after `faults` faults in a row: one probe per pause, other callers wait.

    An answer closes it. After `probes` failed probes in a row the annotator is given up, and without a probe when the
    faults are lasting ones.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self._faults = self._failed_probes = 0
        self._open = self._probing = False
        self.given_up = False
        self._pause = limits.pause
        self._changed = asyncio.Event()

    async def permission(self) -> Permission:
        """Wait until the caller may ask. If its question faults, the caller passes the result to `fault`."""
        while self._open and not self.given_up:
            if not self._probing:
                self._probing = True
                await asyncio.sleep(self._pause)
                return "probe" if self._open else "ask"
            await self._changed.wait()
        return "give up" if self.given_up else "ask"

    def answered(self) -> None:
        """Report an answer: close the breaker."""
        if self._open:
            log.warning("%s is answering again", self._name)
        self._faults = self._failed_probes = 0
        self._open = self._probing = False
        self._pause = self._limits.pause
        self._wake()

    def fault(self, permission: Permission, what: str, *, lasting: bool = False) -> None:
        """Report a fault of a question that was asked with `permission`. lasting: asking again will not help."""
        self._faults += 1
        if permission == "probe":
            self._failed_probes += 1
            self._probing = False
            self._pause *= 2
        elif self._open or self._faults < self._limits.faults:
            return
        self._open = True
        self.given_up = lasting or self._failed_probes >= self._limits.probes
        next_step = "given up" if self.given_up else f"the next try is in {self._pause:.0f} s"
        log.warning("%s: %d faults in a row, last: %s; %s", self._name, self._faults, what, next_step)
        self._wake()

    def unknown(self, permission: Permission) -> None:
        """Report that a question asked with `permission` shows neither an answer nor a fault: another one probes."""
        if permission == "probe":
            self._probing = False
            self._wake()

    def let_go(self) -> None:
        """No question is left to ask: callers that wait may go."""
        self._open = self._probing = False
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
