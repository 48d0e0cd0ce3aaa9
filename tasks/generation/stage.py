"""The generate stage: m responses to each prompt, in shards; a shard is what is published and resumed."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import UserError
from storage.manifest import Manifest
from storage.schemas import PREFIXES, PROMPTS, RESPONSES, read_parquet, read_row_groups, table, write_parquet
from storage.stage import Outcome, Progress, has_part, mark_part, run_stage, silent
from tasks.generation.engines import Engine, Request, Sample, end_tokens
from tasks.generation.prompt_fit import refused_by_template, too_long
from tasks.generation.settings import GenerateSpec, SamplingSettings
from tasks.modeling.conversation import RefusedConversation, check_turn_end, encode_chat, prepare_chats, reply_text
from tasks.modeling.load import check_policy_folder, load_tokenizer
from tasks.modeling.pretrained import read_config
from tasks.modeling.templates import AT_ONCE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(spec: GenerateSpec, progress: Progress = silent, engine: Engine | None = None) -> Manifest:
    """Publish responses-*.parquet (storage.schemas.RESPONSES) in `spec.folder`; adopts what is done.

    A given engine is used and left open; without one, one is opened and closed. Shards of the same spec have the same
    bytes however often the stage was interrupted. Raises UserError (settings, prompts, memory), SamplerMismatch and
    EngineError; a shard is published only after the sampler was verified.
    """
    return run_stage(spec, lambda: _Sampling(spec, progress).run(engine))


def encode_prompts(
    spec: GenerateSpec, tokenizer: "PreTrainedTokenizerBase", max_model_len: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(prompt_id, token ids as int32) of every prompt of the spec, with its prefix, one row group at a time.

    Raises UserError, with file and line, for a prompt that leaves no room for the response's tokens.
    """
    max_tokens = spec.settings.sampling.max_tokens
    begun: dict[str, list[int]] = {}
    if spec.prefixes is not None:
        rows = read_parquet(spec.prefixes.path, PREFIXES)
        begun = dict(zip(rows["prompt_id"].to_pylist(), rows["prefix_ids"].to_pylist(), strict=True))
    for group in read_row_groups(spec.prompts.path, PROMPTS, ["prompt_id", "messages", "source"]):
        encoded = check_prompts(group, tokenizer, max_model_len, max_tokens)
        if spec.prefixes is not None:
            encoded = _continued(group, encoded, begun, max_model_len, max_tokens)
        for name, ids in zip(group["prompt_id"].to_pylist(), encoded, strict=True):
            yield name, np.asarray(ids, dtype=np.int32)


def check_prompts(
    prompts: pa.Table, tokenizer: "PreTrainedTokenizerBase", max_model_len: int, max_tokens: int
) -> list[list[int]]:
    """Token ids of every prompt (rows of storage.schemas.PROMPTS), the chat template applied once.

    Raises UserError, with file and line, for a prompt that the template refuses and for one that leaves no room for
    `max_tokens` response tokens.
    """
    encoded = []
    rows = prompts.select(["messages", "source"]).to_pylist()
    for number, row in enumerate(rows):
        if number % AT_ONCE == 0:
            prepare_chats(tokenizer, (each["messages"] for each in rows[number : number + AT_ONCE]))
        try:
            ids = encode_chat(tokenizer, row["messages"])
        except RefusedConversation as refused:
            raise refused_by_template(row["source"], refused) from None
        if len(ids) + max_tokens > max_model_len:
            raise too_long(row["source"], len(ids), context=max_model_len, max_tokens=max_tokens)
        encoded.append(ids)
    return encoded


def _continued(
    prompts: pa.Table, encoded: Sequence[list[int]], begun: dict[str, list[int]], context: int, max_tokens: int
) -> list[list[int]]:
    """Token ids of every prompt and of what its response begins with. Raises UserError as `check_prompts`."""
    result = []
    for name, source, ids in zip(*(prompts[c].to_pylist() for c in ("prompt_id", "source")), encoded, strict=True):
        result.append([*ids, *begun[name]])
        if len(result[-1]) + max_tokens > context:
            raise too_long(source, len(result[-1]), context=context, max_tokens=max_tokens)
    return result


def context_length(policy: Path, *, trust_remote_code: bool = False) -> int:
    """Tokens that the policy's positions reach to. Raises UserError when its config does not say."""
    config = read_config(policy, local_files_only=True, trust_remote_code=trust_remote_code)
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is None:
        raise UserError(
            "the policy does not say how long its context is: max_position_embeddings is missing",
            where=str(policy / "config.json"),
            remedy="say it: engine.max_model_len=<tokens>",
        )
    return int(length)


def request_seed(seed: int, draw: int, prompt_id: str) -> int:
    """Seed of one prompt's responses, 0 <= seed < 2**62: vLLM adds the response's index to it.

    draw: the round, unless the spec has a draw of its own.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{draw}/{prompt_id}".encode()).digest()[:8], "big") >> 2


class _Sampling:
    """One run of the stage's body. Of all prompts only ids and token ids are held, responses a shard at a time."""

    def __init__(self, spec: GenerateSpec, progress: Progress) -> None:
        self.spec = spec
        self.progress = progress
        settings = spec.settings
        _check_sampling(settings.sampling)
        check_policy_folder(spec.policy.path, trust_remote_code=settings.trust_remote_code)
        count = pq.read_metadata(spec.prompts.path).num_rows
        if not count:
            raise UserError(
                "there are no prompts", where=str(spec.prompts.path), remedy="give a file with at least one"
            )
        size = settings.engine.shard_prompts
        starts = range(0, count, size)
        self.shards = {
            spec.folder / f"responses-{number:05d}-of-{len(starts):05d}.parquet": slice(start, start + size)
            for number, start in enumerate(starts)
        }
        self.count = count
        self.gap: Any = None
        self.sampled_tokens = 0
        self.sampled_seconds = 0.0

    def run(self, engine: Engine | None) -> Outcome:
        self._remove_strangers()
        missing = [path for path in self.shards if not has_part(self.spec, path)]
        if missing:
            settings = self.spec.settings
            used = engine or settings.engine.open(
                trust_remote_code=settings.trust_remote_code, log=self.spec.folder / "engine.log"
            )
            try:
                used.prepare(self.spec.policy.path)
                self._sample_all(used, missing)
            finally:
                if engine is None:
                    used.close()
        else:
            self.progress(self.count, self.count, "prompts")
        return self._outcome()

    def _sample_all(self, engine: Engine, missing: Sequence[Path]) -> None:
        """Publish the `missing` shards. Prompts are encoded, and torch is imported, while the engine starts."""
        settings = self.spec.settings
        trust = settings.trust_remote_code
        self.tokenizer = load_tokenizer(self.spec.policy.path, trust_remote_code=trust)
        check_turn_end(self.tokenizer, stop=settings.sampling.stop)
        self.end_tokens = frozenset(end_tokens(self.spec.policy.path, trust_remote_code=trust))
        context = settings.engine.max_model_len or context_length(self.spec.policy.path, trust_remote_code=trust)
        encoded = list(encode_prompts(self.spec, self.tokenizer, context))
        if settings.engine.verify_sequences:
            import tasks.generation.verify  # noqa: F401
        done = self.count - sum(len(encoded[self.shards[path]]) for path in missing)
        self.progress(done, self.count, "prompts")
        engine.load(self.spec.policy.path)
        for path in missing:
            prompts = encoded[self.shards[path]]
            self._sample(engine, path, prompts)
            done += len(prompts)
            self.progress(done, self.count, "prompts")

    def _remove_strangers(self) -> None:
        """Shards of other settings would be taken for ours by whoever lists the folder."""
        for path in self.spec.folder.glob("responses-*.parquet"):
            if path not in self.shards:
                path.unlink()

    def _sample(self, engine: Engine, path: Path, prompts: Sequence[tuple[str, np.ndarray]]) -> None:
        draw = self.spec.round if self.spec.draw is None else self.spec.draw
        requests = [Request(ids.tolist(), request_seed(self.spec.seed, draw, name)) for name, ids in prompts]
        clock = time.monotonic()
        samples = engine.sample(requests, self.spec.settings.sampling)
        self.sampled_seconds += time.monotonic() - clock
        self.sampled_tokens += sum(len(sample.token_ids) for row in samples for sample in row)
        shard = self._table([name for name, _ in prompts], requests, samples)
        if self.gap is None:
            self._verify(path, shard, engine)
        write_parquet(path, shard)
        mark_part(self.spec, path)

    def _table(
        self, names: Sequence[str], requests: Sequence[Request], samples: Sequence[Sequence[Sample]]
    ) -> pa.Table:
        rows = []
        for name, request, drawn in zip(names, requests, samples, strict=True):
            for index, sample in enumerate(drawn):
                rows.append(
                    {
                        "prompt_id": name,
                        "response_index": index,
                        "prompt_ids": request.prompt_ids,
                        "response_ids": sample.token_ids,
                        "text": reply_text(self.tokenizer, sample.token_ids, self.end_tokens),
                        "finish_reason": sample.finish_reason,
                        "logprobs": sample.logprobs,
                        "seed": request.seed,
                    }
                )
        return table(rows, RESPONSES)

    def _verify(self, path: Path, shard: pa.Table, engine: Engine | None = None) -> None:
        """Check the engine on its first new shard, before anything of it is published.

        On a GPU without room beside `engine` for a second copy of the policy, the engine is paused meanwhile.
        The gap that is reported is always the first shard's, so that it does not tell of interruptions.
        """
        from tasks.generation.verify import Scored, choose, fits_on_gpu, measure_gap, refuse_mismatch
        from tasks.modeling.logprobs import TokenSequence
        from tasks.modeling.vllm_process import has_gpu

        settings = self.spec.settings
        if not settings.engine.verify_sequences:
            return
        crowded = engine is not None and has_gpu() and not fits_on_gpu(self.spec.policy.path, settings.engine.dtype)
        if crowded:
            engine.pause()
        first = next(iter(self.shards))
        for data in [shard] if path == first else [shard, read_parquet(first, RESPONSES)]:
            lengths = pc.list_value_length(data["response_ids"]).to_pylist()
            rows = data.take(choose(lengths, settings.engine.verify_sequences)).to_pylist()
            scored = [Scored(TokenSequence(row["prompt_ids"], row["response_ids"]), row["logprobs"]) for row in rows]
            self.gap = measure_gap(
                self.spec.policy.path, scored, dtype=settings.engine.dtype, trust_remote_code=settings.trust_remote_code
            )
            refuse_mismatch(
                self.gap, self.spec.policy.path, dtype=settings.engine.dtype, tolerance=settings.engine.verify_tolerance
            )
        if crowded:
            engine.load(self.spec.policy.path)

    def _outcome(self) -> Outcome:
        first = next(iter(self.shards))
        if self.gap is None:
            self._verify(first, read_parquet(first, RESPONSES))
        responses = tokens = ended = 0
        for path in self.shards:
            shard = pq.read_table(path, columns=["response_ids", "finish_reason"])
            responses += shard.num_rows
            tokens += pc.sum(pc.list_value_length(shard.column("response_ids"))).as_py()
            ended += pc.sum(pc.equal(shard.column("finish_reason"), "stop")).as_py()
        summary: dict[str, Any] = {
            "responses": responses,
            "tokens": tokens,
            "mean_tokens": tokens / responses,
            "finished": ended / responses,
        }
        if self.gap is not None:
            summary |= {
                "sampler_gap_max": self.gap.maximum,
                "sampler_gap_mean": self.gap.overall.value,
                "sampler_gap_error": self.gap.overall.error,
            }
        if self.sampled_tokens:
            summary["tokens_per_second"] = round(self.sampled_tokens / self.sampled_seconds, 1)
        return Outcome(paths=list(self.shards), rows={"prompts": self.count, "responses": responses}, summary=summary)


def _check_sampling(sampling: SamplingSettings) -> None:
    if sampling.temperature == 0 and sampling.responses > 1:
        raise UserError(
            f"{sampling.responses} responses at temperature 0 are {sampling.responses} times the same",
            where="sampling.temperature=0",
            remedy="sample with sampling.temperature=1, or ask for one: sampling.responses=1",
        )
