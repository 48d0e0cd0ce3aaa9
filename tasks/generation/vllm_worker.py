"""The child process that holds a policy's vLLM engine, and its messages (see tasks.child_process).

vLLM runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0): one import instead of three, and the same schedule, hence
the same bytes, every time. With tensor parallelism it starts workers in the same process group.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, TypeAdapter

from tasks.child_process import Done, Message, serve
from tasks.generation.settings import SamplingSettings
from tasks.modeling.vllm_process import VllmOptions

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

MODULE = "tasks.generation.vllm_worker"


class Start(Message):
    """Start vLLM. The first request. Reply: Done."""

    operation: Literal["start"] = "start"
    options: VllmOptions


class Reload(Message):
    """Replace the weights by those of a policy with the same architecture. Reply: Done."""

    operation: Literal["reload"] = "reload"
    policy: str  # folder


class Batch(Message):
    """Prompts whose responses are handed back together."""

    number: int
    prompts: list[list[int]]  # token ids
    seeds: list[int]  # of each prompt


class Advance(Message):
    """Sample responses to `batches` too, beside the batches given before, until one is complete. Reply: Completed."""

    operation: Literal["advance"] = "advance"
    batches: list[Batch]
    sampling: SamplingSettings
    end_tokens: list[int]


class Sleep(Message):
    """Free the GPU: drop the weights and the KV cache (vLLM's level 2). Reply: Done. Not run on a GPU."""

    operation: Literal["sleep"] = "sleep"


class Wake(Message):
    """Undo Sleep, with the weights of a policy with the same architecture. Reply: Done. Not run on a GPU."""

    operation: Literal["wake"] = "wake"
    policy: str  # folder


Request = Annotated[Start | Reload | Advance | Sleep | Wake, Field(discriminator="operation")]


class Response(Message):
    token_ids: list[int]
    logprobs: list[float]  # of each token id, nats
    finish_reason: str | None  # vLLM's


class Completed(Message):
    number: int  # of the batch
    responses: list[list[Response]]  # of each of its prompts


@dataclass
class _Running:
    """A batch that is being sampled."""

    number: int
    places: dict[str, int]  # of the requests that are not finished, by vLLM's id: which prompt of the batch it is
    responses: list[list[Response]]


class PolicyReloader:
    """Mixed into vLLM's workers (worker_extension_cls): new weights of the same shape, in place."""

    def reload_policy(self, folder: str) -> None:
        """Read the safetensors of `folder` into the running model.

        On a CPU vLLM multiplies by a packed copy of the output layer. A checkpoint with tied embeddings has no output
        layer, so a reload renews the embeddings but not that copy, and vLLM 0.32 silently goes on sampling with the old
        one. Packing it again from its (renewed) weight fixes this, on every shard.
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
    """One engine."""

    def __init__(self) -> None:
        self._llm: LLM | None = None
        self._running: list[_Running] = []

    def answer(self, request: Request) -> Message:
        match request:
            case Start():
                self._start(request.options)
            case Reload():
                self._reload(request.policy)
                # Its keys and values are of the old weights.
                self._engine.reset_prefix_cache()
            case Advance():
                return self._advance(request)
            case Sleep():
                self._engine.sleep(level=2)
            case Wake():
                # The weights' memory holds nothing until they are read. The KV cache comes last: while weights are
                # read, buffers of a layer's size are on the GPU as well.
                self._engine.wake_up(tags=["weights"])
                self._reload(request.policy)
                self._engine.wake_up(tags=["kv_cache"])
        return Done()

    def _reload(self, policy: str) -> None:
        self._engine.collective_rpc("reload_policy", args=(policy,))

    def _start(self, options: VllmOptions) -> None:
        from vllm import LLM

        self._llm = LLM(**options.arguments(), worker_extension_cls=f"{MODULE}.{PolicyReloader.__name__}")

    def _advance(self, request: Advance) -> Completed:
        if not self._running:
            # Otherwise the numbers of a shard depend on the shards sampled before it.
            self._engine.reset_prefix_cache()
        self._running += [self._add(batch, request) for batch in request.batches]
        while (complete := next((batch for batch in self._running if not batch.places), None)) is None:
            for output in cast("list[RequestOutput]", self._engine.llm_engine.step()):  # policies are not poolers
                batch = next(batch for batch in self._running if output.request_id in batch.places)
                if output.finished:
                    place = batch.places.pop(output.request_id)
                    batch.responses[place] = [_response(one) for one in output.outputs]
        self._running.remove(complete)
        return Completed(number=complete.number, responses=complete.responses)

    def _add(self, batch: Batch, request: Advance) -> _Running:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        sampling = request.sampling
        parameters = [
            SamplingParams(
                n=sampling.responses,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_tokens,
                stop=sampling.stop,
                detokenize=bool(sampling.stop),
                logprobs=0,  # of the sampled token only
                # We pass the end tokens, so that all engines stop at the same ones.
                ignore_eos=True,
                stop_token_ids=request.end_tokens,
                seed=seed,
            )
            for seed in batch.seeds
        ]
        prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in batch.prompts]
        ids = self._engine.enqueue(prompts, parameters, use_tqdm=False)
        # vLLM 0.32 returns <number>-<random characters>; its outputs have the number.
        places = {name.partition("-")[0]: place for place, name in enumerate(ids)}
        return _Running(batch.number, places, [[] for _ in prompts])

    @property
    def _engine(self) -> "LLM":
        if self._llm is None:
            raise RuntimeError("the engine was not started")
        return self._llm


def _response(output: Any) -> Response:
    """`output`: a vllm.outputs.CompletionOutput."""
    ids = list(output.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(ids, output.logprobs, strict=True)]
    return Response(token_ids=ids, logprobs=logprobs, finish_reason=output.finish_reason)


if __name__ == "__main__":
    serve(TypeAdapter(Request), Worker().answer)
