"""Annotator of kind `self_reference`: the judge answers the prompt, then compares two responses with its own answer.

From Self-Reference AI feedback (arXiv 2406.11190). With `model: policy` the run's policy judges its own responses, as
in self-rewarding (arXiv 2401.10020). It sees both orders, like the other pairwise judges.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator

from storage.files import canonical_json, digest
from tasks.panel.annotators.judge import PairPrompt
from tasks.panel.annotators.protocol import Comparison, Messages, Vote
from tasks.panel.annotators.verdicts import sum_known
from tasks.panel.chat import Reply
from tasks.panel.chat.registry import chat_limits, open_chat
from tasks.panel.chat.settings import ChatSettings


class SelfReferenceSettings(ChatSettings):
    """A pairwise judge that first answers the prompt itself."""

    kind: Literal["self_reference"] = "self_reference"
    # Of its own answer; one that is cut off is an error. endpoint: null leaves max_tokens out of the request.
    answer_tokens: int | None = Field(512, ge=1)
    soft: bool = False  # add the vote's probability, from log-probabilities if the model gives them
    constrained: bool = False  # as for `judge`; its own answer is free

    @model_validator(mode="after")
    def _vllm_needs_a_number(self) -> Self:
        if self.backend == "vllm" and self.answer_tokens is None:
            raise ValueError("backend=vllm needs a number for answer_tokens; only an endpoint has a default")
        return self

    def open(self, name: str, *, seed: int) -> "SelfReference":
        return SelfReference(name, self)


class SelfReference:
    """Answers each prompt once, then judges its pairs in both orders. Raises UserError when the API key is not set."""

    answer_type: Literal["pairs"] = "pairs"
    tie_margin = 0.0

    def __init__(self, name: str, settings: SelfReferenceSettings) -> None:
        self.name = name
        self.limits = chat_limits(settings)
        self._prompt = PairPrompt(
            name, settings, "reference", None, soft=settings.soft, constrained=settings.constrained
        )
        self._settings = settings
        self._chat = open_chat(name, settings)
        self._own_answers: dict[str, asyncio.Task[Reply]] = {}

    @cached_property
    def identity(self) -> str:
        prompts = [self._prompt.identity, self._settings.answer_tokens]
        return digest(["self_reference", 2, prompts, self._settings.answers()])

    def connected(self) -> AbstractAsyncContextManager[None]:
        self._own_answers = {}
        return self._chat.connected()

    async def ask(self, question: Comparison) -> Vote:
        """The first vote on a prompt includes the seconds, tokens and cost of the judge's own answer."""
        prompt = canonical_json(question.a.messages)
        first = prompt not in self._own_answers
        if first:
            self._own_answers[prompt] = asyncio.create_task(self._answer(question.a.messages))
        try:
            own = await asyncio.shield(self._own_answers[prompt])
        except Exception:
            self._own_answers.pop(prompt, None)  # the next question on this prompt tries again
            raise
        if own.text is None or own.error is not None:
            reason = f"the judge did not answer the prompt: {own.error or 'no text'}"
            vote = Vote("error", order="both", raw=reason, seconds=0.0)
        else:
            vote = await self._prompt.ask(self._chat, question, own.text)
        if not first:
            return vote
        return replace(
            vote,
            seconds=(vote.seconds or 0.0) + own.seconds,
            tokens=sum_known(vote.tokens, own.tokens),
            cost=sum_known(vote.cost, own.cost),
        )

    async def _answer(self, messages: Messages) -> Reply:
        temperature = None if self._settings.temperature is None else 0.0
        return await self._chat.chat(messages, max_tokens=self._settings.answer_tokens, temperature=temperature)
