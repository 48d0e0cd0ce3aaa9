"""Batches of requests in vLLM's process, several at a time."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from tasks.child_process import Child
from tasks.generation.engines import EngineError, Request, Sample
from tasks.generation.settings import SamplingSettings
from tasks.generation.vllm_worker import Advance, Batch, Completed, Response


class VllmStream:
    """A BatchStream. When a batch is complete, the next one is sent before it is handed back: vLLM does not wait."""

    def __init__(
        self,
        child: Callable[[], AbstractContextManager[Child]],
        sampling: SamplingSettings,
        end_tokens: list[int],
        in_flight: int,
    ) -> None:
        self._child, self._sampling, self._end_tokens, self._in_flight = child, sampling, end_tokens, in_flight
        self._waiting: deque[Batch] = deque()
        self._sent = 0  # batches that the child has and has not handed back
        self._advancing = False  # whether it was asked for the next complete one

    @property
    def busy(self) -> bool:
        """Whether the child has batches that it has not handed back."""
        return self._sent > 0

    def submit(self, number: int, requests: Sequence[Request]) -> None:
        prompts, seeds = [request.prompt_ids for request in requests], [request.seed for request in requests]
        self._waiting.append(Batch(number=number, prompts=prompts, seeds=seeds))

    def completed(self) -> tuple[int, list[list[Sample]]]:
        with self._child() as child:
            self._advance(child)
            completed = child.receive(Completed)
            self._sent -= 1
            self._advancing = False
            self._advance(child)
        return completed.number, [[_sample(response) for response in row] for row in completed.responses]

    def _advance(self, child: Child) -> None:
        """Send what there is room for, and ask for the next complete batch, unless the child is busy with that."""
        if self._advancing:
            return
        batches = [self._waiting.popleft() for _ in range(min(self._in_flight - self._sent, len(self._waiting)))]
        self._sent += len(batches)
        if self._sent:
            child.send(Advance(batches=batches, sampling=self._sampling, end_tokens=self._end_tokens))
            self._advancing = True


def _sample(response: Response) -> Sample:
    match response.finish_reason:
        case "stop":
            return Sample(response.token_ids, response.logprobs, finish_reason="stop")
        case "length":
            return Sample(response.token_ids, response.logprobs, finish_reason="length")
        case reason:
            raise EngineError(f"vLLM ended a response for an unknown reason: {reason!r}")
