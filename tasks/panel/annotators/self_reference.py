"""Annotator of kind `self_reference`: the judge answers the prompt itself, then compares two responses with its answer.

After Self-Reference AI feedback (arXiv 2406.11190) and, with the run's own policy as `model`, self-rewarding
(arXiv 2401.10020): what the policy knows of the answer decides which of its responses it prefers. Both orders, as any
pairwise judge.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property
from typing import Literal

from pydantic import Field

from storage.files import canonical_json, digest
from tasks.panel.annotators.judge import PairQuestion
from tasks.panel.annotators.protocol import Comparison, Fault, Messages, Vote
from tasks.panel.annotators.verdicts import total
from tasks.panel.chat import Reply
from tasks.panel.chat.registry import chat_limits, open_chat
from tasks.panel.chat.settings import ChatSettings


class SelfReferenceSettings(ChatSettings):
    """A pairwise judge that first answers for itself."""

    kind: Literal["self_reference"]
    answer_tokens: int = Field(512, ge=1)  # of its own answer; one that is cut off is an error
    soft: bool = False  # the vote's probability, from log-probabilities where the model gives them


class SelfReference:
    """Answers each prompt once, then asks both orders. Raises UserError when the key is not set."""

    kind: Literal["pairs"] = "pairs"
    tie_margin = 0.0

    def __init__(self, name: str, settings: SelfReferenceSettings) -> None:
        self.name = name
        self.limits = chat_limits(settings)
        self._question = PairQuestion(name, settings, "reference", None, soft=settings.soft)
        self._settings = settings
        self._chat = open_chat(name, settings)
        self._own: dict[str, asyncio.Task[Reply]] = {}

    @cached_property
    def identity(self) -> str:
        own = [self._question.identity, self._settings.answer_tokens]
        return digest(["self_reference", 1, own, self._settings.answers()])

    def connected(self) -> AbstractAsyncContextManager[None]:
        self._own = {}
        return self._chat.connected()

    async def ask(self, question: Comparison) -> Vote:
        """The first vote on a prompt carries what the judge's own answer took."""
        prompt = canonical_json(question.a.messages)
        first = prompt not in self._own
        if first:
            self._own[prompt] = asyncio.create_task(self._answer(question.a.messages))
        try:
            own = await asyncio.shield(self._own[prompt])
        except Fault:
            self._own.pop(prompt, None)  # asked again with the next question
            raise
        if own.text is None or own.error is not None:
            why = f"its own answer is none: {own.error or 'no text'}"
            vote = Vote("error", order="both", raw=why, seconds=0.0)
        else:
            vote = await self._question.ask(self._chat, question, own.text)
        if not first:
            return vote
        return replace(
            vote,
            seconds=(vote.seconds or 0.0) + own.seconds,
            tokens=total(vote.tokens, own.tokens),
            cost=total(vote.cost, own.cost),
        )

    async def _answer(self, messages: Messages) -> Reply:
        return await self._chat.chat(messages, max_tokens=self._settings.answer_tokens, temperature=0.0)
