"""A remote annotator that answers by a script, and questions for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tasks.panel.annotators.protocol import Answer, AnswerType, Comparison, Limits, Response

LIMITS = Limits(concurrency=4, faults=3, pause=0.02, probes=2)


def response(text: str, *, prompt: str = "p", index: int = 0) -> Response:
    return Response(prompt, "policy", index, [{"role": "user", "content": f"ask {prompt}"}], None, None, text, True)


def comparison(a: str, b: str, *, prompt: str = "p") -> Comparison:
    return Comparison(response(a, prompt=prompt), response(b, prompt=prompt, index=1))


class Scripted:
    """Answers `script(question)`, which may raise Fault, after `delay` seconds; `asked` holds every question."""

    tie_margin = 0.0

    def __init__(
        self,
        script: Callable[[Any], Answer],
        *,
        name: str = "scripted",
        answer_type: AnswerType = "pairs",
        limits: Limits = LIMITS,
        delay: float = 0.0,
        identity: str = "scripted-1",
    ) -> None:
        self.name, self.answer_type, self.limits, self.identity = name, answer_type, limits, identity
        self._script, self._delay = script, delay
        self.asked: list[Any] = []
        self.active = self.most_active = 0
        self.connections = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        self.connections += 1
        yield

    async def ask(self, question: Any) -> Answer:
        self.asked.append(question)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await asyncio.sleep(self._delay)
            return self._script(question)
        finally:
            self.active -= 1
