"""The process that holds a judge's vLLM engine. Started by vllm.py; one JSON object a line, questions in, replies out.

The first line is {"options": ...}, answered by {"ready": true}; then every {"id", "messages", "max_tokens",
"temperature", "top_logprobs"} gets one reply with its id, in the order in which the engine finishes them: questions
join the batch that is being decoded. The worker leaves when stdin ends.
"""

import hashlib
import json
import os
import queue
import sys
import threading
import traceback
from typing import IO, Any

from tasks.processes import die_with_parent

_BREAK = "\u200b"  # zero-width space


class Worker:
    """One engine, stepped in this thread."""

    def __init__(self, options: dict[str, Any], replies: IO[str]) -> None:
        from vllm import LLM

        llm = LLM(**options)
        self._engine = llm.llm_engine
        self._tokenizer: Any = llm.get_tokenizer()
        self._context = llm.model_config.max_model_len
        # Longest first, so that a token is broken and not one that it contains.
        self._special = sorted(self._tokenizer.get_added_vocab(), key=len, reverse=True)
        self._replies = replies

    def serve(self, questions: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
        """Answer until None comes."""
        while True:
            while not self._engine.has_unfinished_requests() or not questions.empty():
                question = questions.get()
                if question is None:
                    return
                try:
                    self._add(**question)
                except Exception as error:  # one question's failure is not the others'
                    traceback.print_exc()
                    self._reply({"id": question["id"], "error": f"{type(error).__name__}: {error}"})
            for output in self._engine.step():
                if output.finished:
                    self._reply(_plain(output))

    def _add(
        self, id: str, messages: list[dict[str, str]], max_tokens: int, temperature: float, top_logprobs: int
    ) -> None:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        plain = [message | {"content": self._without_special(message["content"])} for message in messages]
        text = self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= self._context:
            raise ValueError(f"{len(ids)} tokens, the model reads {self._context}")
        # Equal questions get equal answers, at every temperature, whatever else is in the batch.
        seed = int.from_bytes(hashlib.sha256(json.dumps(ids).encode()).digest()[:7], "big") if temperature else None
        sampling = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, seed=seed, logprobs=top_logprobs or None
        )
        self._engine.add_request(id, TokensPrompt(prompt_token_ids=ids), sampling)

    def _without_special(self, text: str) -> str:
        """What a message says is data: the tokenizer must not read control tokens in it."""
        for token in self._special:
            if len(token) > 1 and not token.isspace():
                text = text.replace(token, token[0] + _BREAK + token[1:])
        return text

    def _reply(self, reply: dict[str, Any]) -> None:
        print(json.dumps(reply), file=self._replies, flush=True)


def _plain(output: Any) -> dict[str, Any]:
    """A vllm.outputs.RequestOutput as JSON; `top`: for each token its text and [text, log-probability] of the best."""
    completion = output.outputs[0]
    top = []
    for token, likely in zip(completion.token_ids, completion.logprobs or [], strict=False):
        best = [[each.decoded_token, each.logprob] for each in likely.values()]
        top.append([likely[token].decoded_token, best])
    return {
        "id": output.request_id,
        "text": completion.text,
        "finish": completion.finish_reason,
        "prompt": len(output.prompt_token_ids),
        "completion": len(completion.token_ids),
        "top": top,
    }


def main() -> None:
    die_with_parent()
    # Replies get a descriptor of their own; whatever else prints (vLLM, its children) goes to the log.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        worker = Worker(json.loads(sys.stdin.readline())["options"], replies)
    except Exception as error:  # whatever it is, the parent gets it, with the traceback in the log
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=replies, flush=True)
        os._exit(1)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    questions: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            questions.put(json.loads(line))
        questions.put(None)

    threading.Thread(target=read, daemon=True).start()
    worker.serve(questions)
    os._exit(0)  # interpreter shutdown with vLLM and torch loaded takes seconds and can hang


if __name__ == "__main__":
    main()
