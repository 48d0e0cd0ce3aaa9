"""Shards of a generate stage: what each holds, sampled by one engine, and published as soon as it is complete."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import UserError
from storage.schemas import RESPONSES, read_parquet, table, write_parquet
from storage.stage import mark_part
from tasks.generation.encode import PromptReader, context_length, request_seed
from tasks.generation.engines import (
    BatchStream,
    Engine,
    MixingEngine,
    Mixture,
    OneByOne,
    Request,
    Sample,
    StreamingEngine,
)
from tasks.generation.settings import GenerateSpec
from tasks.modeling.conversation import check_turn_end, reply_text
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.load import load_tokenizer
from tasks.modeling.vllm_process import has_gpu

if TYPE_CHECKING:
    from tasks.generation.verify import Gap

_ON_A_GPU = 8  # shards in flight

#: Held while a policy is loaded to verify an engine: transformers does not load models in two threads at a time.
verifying = threading.Lock()


@dataclass(frozen=True)
class Shards:
    """How the prompts of a stage are cut into shards, numbered from 0."""

    folder: Path
    prompts: int
    size: int  # prompts of a shard; the last may have fewer

    @classmethod
    def of(cls, spec: GenerateSpec) -> "Shards":
        """Reads the number of prompts from the file."""
        prompts = pq.read_metadata(spec.prompts.path).num_rows
        return cls(spec.folder, prompts, spec.settings.engine.shard_prompts)

    def __len__(self) -> int:
        return -(-self.prompts // self.size)

    def path(self, number: int) -> Path:
        return self.folder / f"responses-{number:05d}-of-{len(self):05d}.parquet"

    def rows(self, number: int) -> tuple[int, int]:
        """First row of the prompts file that is in the shard, and the first after it."""
        return number * self.size, min((number + 1) * self.size, self.prompts)

    def prompts_of(self, number: int) -> int:
        start, stop = self.rows(number)
        return stop - start


@dataclass(frozen=True)
class Counts:
    """What is in a shard."""

    responses: int
    tokens: int  # of responses
    finished: int  # responses that ended by themselves

    @classmethod
    def of(cls, shard: pa.Table) -> "Counts":
        """shard: rows of storage.schemas.RESPONSES; the columns response_ids and finish_reason suffice."""
        return cls(
            responses=shard.num_rows,
            tokens=pc.sum(pc.list_value_length(shard.column("response_ids"))).as_py(),
            finished=pc.sum(pc.equal(shard.column("finish_reason"), "stop")).as_py(),
        )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.responses + other.responses, self.tokens + other.tokens, self.finished + other.finished)


@dataclass(frozen=True)
class ShardReport:
    """A shard was published."""

    number: int
    counts: Counts
    gap: "Gap | None"  # of the stage's first shard, where it was verified


class ShardJob:
    """The shards of a spec, without an engine. Holds the tokenizer, and after `encode_all` the prompts' token ids."""

    def __init__(self, spec: GenerateSpec) -> None:
        """Raises UserError for a policy whose template or context does not fit."""
        self.spec = spec
        self.shards = Shards.of(spec)
        settings, policy = spec.settings, spec.policy.path
        trust = settings.trust_remote_code
        self._tokenizer = load_tokenizer(policy, trust_remote_code=trust)
        check_turn_end(self._tokenizer, stop=settings.sampling.stop)
        self._end_tokens = frozenset(end_tokens(policy, trust_remote_code=trust))
        context = settings.engine.max_model_len or context_length(policy, trust_remote_code=trust)
        self._reader = PromptReader(spec, self._tokenizer, context)
        self._encoded: list[tuple[str, np.ndarray]] | None = None

    def encode_all(self) -> None:
        """Encode every prompt now. Raises UserError, with file and line, for one that does not fit."""
        self._encoded = list(self._reader.rows(0, self.shards.prompts))

    def prompts(self, number: int) -> list[tuple[str, np.ndarray]]:
        """(prompt_id, token ids as int32) of a shard's prompts. Raises UserError as `encode_all` does."""
        start, stop = self.shards.rows(number)
        return list(self._reader.rows(start, stop)) if self._encoded is None else self._encoded[start:stop]

    def requests(self, prompts: Sequence[tuple[str, np.ndarray]]) -> list[Request]:
        spec = self.spec
        draw = spec.round if spec.draw is None else spec.draw
        return [Request(ids.tolist(), request_seed(spec.seed, draw, name)) for name, ids in prompts]

    def responses(
        self, names: Sequence[str], requests: Sequence[Request], samples: Sequence[Sequence[Sample]]
    ) -> pa.Table:
        """Rows of storage.schemas.RESPONSES."""
        rows = []
        for name, request, drawn in zip(names, requests, samples, strict=True):
            for index, sample in enumerate(drawn):
                rows.append(
                    {
                        "prompt_id": name,
                        "response_index": index,
                        "prompt_ids": request.prompt_ids,
                        "response_ids": sample.token_ids,
                        "text": reply_text(self._tokenizer, sample.token_ids, self._end_tokens),
                        "finish_reason": sample.finish_reason,
                        "logprobs": sample.logprobs,
                        "seed": request.seed,
                    }
                )
        return table(rows, RESPONSES)


def verified_gap(spec: GenerateSpec, shard: pa.Table) -> "Gap | None":
    """The gap between the sampler's log-probabilities and the training forward's; None when it is not measured.

    shard: rows of storage.schemas.RESPONSES. Raises SamplerMismatch when the gap is too large.
    """
    from tasks.generation.verify import Scored, choose, measure_gap, refuse_mismatch
    from tasks.modeling.logprobs import TokenSequence

    settings, policy = spec.settings, spec.policy.path
    engine = settings.engine
    if not engine.verify_sequences:
        return None
    lengths = pc.list_value_length(shard["response_ids"]).to_pylist()
    rows = shard.take(choose(lengths, engine.verify_sequences)).to_pylist()
    scored = [Scored(TokenSequence(row["prompt_ids"], row["response_ids"]), row["logprobs"]) for row in rows]
    with verifying:
        gap = measure_gap(policy, scored, dtype=engine.dtype, trust_remote_code=settings.trust_remote_code)
    refuse_mismatch(gap, policy, dtype=engine.dtype, tolerance=engine.verify_tolerance)
    return gap


class ShardSampler:
    """Samples and publishes shards with one engine, which is verified on the first shard that it completes.

    On a GPU that shard is sampled alone: where there is no room for a second copy of the policy, the engine is paused
    while it is verified. Not run on a GPU.
    """

    def __init__(self, job: ShardJob, engine: Engine) -> None:
        self._job = job
        self._engine = engine
        self._stream: BatchStream | None = None
        self._waiting: deque[int] = deque()
        self._held: dict[int, tuple[list[str], list[Request]]] = {}  # of the shards that are in the stream
        self._verified = False
        self._on_gpu = has_gpu()
        wanted = job.spec.settings.engine.shards_in_flight
        self._in_flight = wanted if wanted is not None else _ON_A_GPU if self._on_gpu else 1

    def load(self) -> int:
        """Load the policy. Shards that were held are forgotten.

        Returns how many shards to hold: one more than are sampled together, so that the engine never waits.
        """
        self._held.clear()
        self._waiting.clear()
        self._verified = not self._job.spec.settings.engine.verify_sequences
        self._open_stream()
        return self._in_flight + 1 if isinstance(self._engine, StreamingEngine) else 1

    def _open_stream(self) -> None:
        load_policies(self._engine, self._job.spec)
        sampling = self._job.spec.settings.sampling
        if isinstance(self._engine, StreamingEngine):
            self._stream = self._engine.stream(sampling, self._in_flight)
        else:
            self._stream = OneByOne(self._engine, sampling)

    def advance(self, numbers: Sequence[int]) -> ShardReport:
        """Take the shards `numbers` too, and publish the next one that is complete.

        Raises what the engine raises, SamplerMismatch, and UserError for a prompt that does not fit.
        """
        if self._stream is None:
            raise RuntimeError("load the policy before sampling shards")
        self._waiting.extend(numbers)
        while self._waiting and (self._verified or not self._on_gpu or not self._held):
            number = self._waiting.popleft()
            prompts = self._job.prompts(number)
            requests = self._job.requests(prompts)
            self._held[number] = [name for name, _ in prompts], requests
            self._stream.submit(number, requests)
        number, samples = self._stream.completed()
        names, requests = self._held.pop(number)
        return self._publish(number, self._job.responses(names, requests, samples))

    def _publish(self, number: int, shard: pa.Table) -> ShardReport:
        gap = None if self._verified else self._verify(shard)
        self._verified = True
        path = self._job.shards.path(number)
        write_parquet(path, shard)
        mark_part(self._job.spec, path)
        return ShardReport(number, Counts.of(shard), None if number else gap)

    def _verify(self, shard: pa.Table) -> "Gap | None":
        from tasks.generation.verify import fits_on_gpu

        spec = self._job.spec
        crowded = self._on_gpu and not fits_on_gpu(spec.policy.path, spec.settings.engine.dtype)
        if crowded:
            self._engine.pause()
        gap = verified_gap(spec, shard)
        if crowded:
            self._open_stream()
        return gap


def load_policies(engine: Engine, spec: GenerateSpec) -> None:
    """Load the policy, or the mixture that the spec asks for. Raises UserError for an engine that cannot mix."""
    if spec.mixture is None or spec.reference is None:
        engine.load(spec.policy.path)
        return
    if not isinstance(engine, MixingEngine):
        raise UserError(
            f"engine {spec.settings.engine.kind} samples from one policy, not from a mixture of two",
            where=f"engine.kind={spec.settings.engine.kind}",
            remedy="set engine=transformers, or objective=online-ipo, which trains on the policy's own responses",
        )
    mixture = Mixture(spec.reference.path, spec.mixture.share, spec.mixture.first)
    engine.load_mixture(spec.policy.path, mixture)


def counts_of(path: Path) -> Counts:
    """What a published shard holds."""
    return Counts.of(pq.read_table(path, columns=["response_ids", "finish_reason"]))


def published_gap(spec: GenerateSpec, path: Path) -> "Gap | None":
    """As `verified_gap`, of a published shard."""
    return verified_gap(spec, read_parquet(path, RESPONSES))
