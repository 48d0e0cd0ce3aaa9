"""The child process that holds a judge's vLLM engine, and its messages (see tasks.child_process).

The first request is Start. Then every Question gets one Answer with its id, in the order in which vLLM finishes them:
questions join the batch that is being decoded.
"""

import hashlib
import json
import queue
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, TypeAdapter

from tasks.child_process import Channel, Done, Message, open_channel
from tasks.modeling.chat_template import TemplateValues, fix_template
from tasks.modeling.conversation import encode_chat, turn_end
from tasks.modeling.vllm_process import VllmOptions
from tasks.processes import start_watcher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODULE = "tasks.panel.chat.vllm_worker"
_BREAK = "\u200b"  # zero-width space


class Start(Message):
    """Start vLLM. Reply: Done."""

    options: VllmOptions
    template: TemplateValues  # fixed in the model's chat template


class Question(Message):
    id: str
    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float
    top_logprobs: int  # 0 = none
    choices: list[str] = Field([])  # the completion is one of these; none: any text


class TopToken(Message):
    """A generated token and the most likely tokens at its place."""

    text: str
    top: list[tuple[str, float]]  # text and log-probability (nats), itself too


class Completion(Message):
    text: str
    finish_reason: str | None  # vLLM's
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: list[TopToken]


class Answer(Message):
    """A completion, or why there is none."""

    id: str
    completion: Completion | None = None
    error: str | None = None


class Worker:
    """One engine, stepped in this thread."""

    def __init__(self, options: VllmOptions, template: TemplateValues, channel: Channel) -> None:
        from vllm import LLM

        llm = LLM(**options.arguments())
        self._engine = llm.llm_engine
        # vLLM types it by a protocol of its own; for the policies read here it is transformers' tokenizer.
        self._tokenizer = cast("PreTrainedTokenizerBase", llm.get_tokenizer())
        fix_template(self._tokenizer, template, where=f"the chat template of {options.model}")
        end = turn_end(self._tokenizer).token_id
        self._end_tokens = [] if end is None else [end]
        self._context = llm.model_config.max_model_len
        # Longest first: a token is broken before any token that it contains.
        self._special = sorted(self._tokenizer.get_added_vocab(), key=len, reverse=True)
        self._channel = channel

    def answer(self, questions: "queue.SimpleQueue[Question | None]") -> None:
        """Answer until None comes."""
        while True:
            while not self._engine.has_unfinished_requests() or not questions.empty():
                question = questions.get()
                if question is None:
                    return
                try:
                    self._add(question)
                except Exception as error:  # the other questions are still answered
                    self._channel.send(Answer(id=question.id, error=f"{type(error).__name__}: {error}"))
            for output in self._engine.step():
                if output.finished:
                    self._channel.send(Answer(id=output.request_id, completion=_completion(output)))

    def _add(self, question: Question) -> None:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import StructuredOutputsParams

        messages = [message | {"content": self._without_special(message["content"])} for message in question.messages]
        ids = encode_chat(self._tokenizer, messages)
        if len(ids) >= self._context:
            raise ValueError(f"{len(ids)} tokens, the model reads {self._context}")
        seed = None
        if question.temperature:
            # Equal questions get equal answers, at every temperature, whatever else is in the batch.
            seed = int.from_bytes(hashlib.sha256(json.dumps(ids).encode()).digest()[:7], "big")
        sampling = SamplingParams(
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            seed=seed,
            stop_token_ids=self._end_tokens,  # vLLM adds the tokenizer's eos_token
            logprobs=question.top_logprobs or None,
            structured_outputs=StructuredOutputsParams(choice=question.choices) if question.choices else None,
        )
        self._engine.add_request(question.id, TokensPrompt(prompt_token_ids=ids), sampling)

    def _without_special(self, text: str) -> str:
        """`text`, changed so that the tokenizer reads no control tokens in it: messages are data."""
        for token in self._special:
            if len(token) > 1 and not token.isspace():
                text = text.replace(token, token[0] + _BREAK + token[1:])
        return text


def _completion(output: Any) -> Completion:
    """`output`: a vllm.outputs.RequestOutput."""
    completion = output.outputs[0]
    tokens = []
    for token, likely in zip(completion.token_ids, completion.logprobs or [], strict=False):
        top = [(candidate.decoded_token, candidate.logprob) for candidate in likely.values()]
        tokens.append(TopToken(text=likely[token].decoded_token, top=top))
    return Completion(
        text=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(completion.token_ids),
        top_logprobs=tokens,
    )


def main() -> None:
    channel = open_channel()
    start = next(channel.requests(TypeAdapter(Start)))
    try:
        worker = Worker(start.options, start.template, channel)
    except Exception as error:
        channel.fail(error)
        channel.leave()
    channel.send(Done())
    questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()

    def read() -> None:
        for question in channel.requests(TypeAdapter(Question)):
            questions.put(question)
        questions.put(None)

    start_watcher("questions", read)
    worker.answer(questions)
    channel.leave()


if __name__ == "__main__":
    main()
