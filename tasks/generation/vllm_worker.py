"""The process that holds a vLLM engine. Started by vllm_engine.py; one JSON object a line, requests in, replies out.

Operations: start, reload, sample, sleep, wake. A reply is {"result": ...} or {"error": ..., "type": ...}.
The worker leaves when stdin ends.

vLLM runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0): one import instead of three, and the same schedule, hence
the same bytes, every time. With tensor parallelism it starts workers of its own, in the same process group.
"""

import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from tasks.processes import die_with_parent

if TYPE_CHECKING:
    from vllm import LLM


class PolicyReloader:
    """Mixed into vLLM's workers (worker_extension_cls): new weights of the same shape, in place."""

    def reload_policy(self, folder: str) -> None:
        """Read the safetensors of `folder` into the running model.

        On a CPU vLLM multiplies by a packed copy of the head. With tied embeddings the checkpoint has no head of its
        own, so a reload renews the embeddings but not that copy, and vLLM 0.32 goes on sampling with the old head
        without a word. Packing the head again from its (renewed) weight mends it, on every shard.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        worker: Any = self
        worker.reload_weights(weights_path=folder)
        if current_platform.is_cpu():
            for module in worker.model_runner.get_model().modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)


class Worker:
    """Operations by name on one engine."""

    def __init__(self) -> None:
        self._llm: LLM | None = None

    def start(self, options: dict[str, Any]) -> None:
        from vllm import LLM

        extension = "tasks.generation.vllm_worker.PolicyReloader"
        self._llm = LLM(**options, worker_extension_cls=extension)

    def reload(self, policy: str) -> None:
        self._engine.collective_rpc("reload_policy", args=(policy,))
        self._engine.reset_prefix_cache()

    def sample(self, prompts: list[list[int]], seeds: list[int], sampling: dict[str, Any]) -> list[list[list[Any]]]:
        """For each prompt its responses, each as [token ids, log-probabilities, finish reason]."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        # Without this, what a shard's numbers are would depend on the shards sampled before it.
        self._engine.reset_prefix_cache()
        outputs = self._engine.generate(
            [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
            [SamplingParams(**sampling, seed=seed) for seed in seeds],
            use_tqdm=False,
        )
        return [[_plain(response) for response in output.outputs] for output in outputs]

    def sleep(self) -> None:
        self._engine.sleep(level=1)

    def wake(self) -> None:
        self._engine.wake_up()

    @property
    def _engine(self) -> "LLM":
        if self._llm is None:
            raise RuntimeError("the engine was not started")
        return self._llm


def _plain(response: Any) -> list[Any]:
    """Token ids, the log-probability of each, and why it ended, of a vllm.outputs.CompletionOutput."""
    ids = list(response.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(ids, response.logprobs, strict=True)]
    return [ids, logprobs, response.finish_reason]


def serve() -> None:
    """Answer requests until stdin ends."""
    die_with_parent()
    # Replies get a descriptor of their own; whatever else prints (vLLM, its children) goes to the log.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    operations = {name: getattr(worker, name) for name in ("start", "reload", "sample", "sleep", "wake")}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"result": operations[request["operation"]](**request["arguments"])}
        except Exception as error:  # whatever it is, the parent gets it, with the traceback in the log
            traceback.print_exc()
            reply = {"error": str(error) or repr(error), "type": type(error).__name__}
        print(json.dumps(reply), file=replies, flush=True)
    os._exit(0)  # interpreter shutdown with vLLM and torch loaded takes seconds and can hang


if __name__ == "__main__":
    serve()
