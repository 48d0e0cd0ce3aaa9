"""The generate stage: m responses to each prompt, in shards; a shard is what is published and resumed."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.errors import UserError
from storage.manifest import Manifest
from storage.stage import Outcome, Progress, has_part, run_stage, silent
from tasks.generation.dealing import Crew, Dealer, InlineWorker, ShardWorker
from tasks.generation.engines import Engine
from tasks.generation.settings import GenerateSpec, SamplingSettings
from tasks.generation.shards import Counts, ShardJob, ShardReport, Shards, ShardSampler, counts_of, published_gap
from tasks.modeling.load import check_policy_folder

if TYPE_CHECKING:
    from tasks.generation.verify import Gap


def run(spec: GenerateSpec, progress: Progress = silent, engine: Engine | None = None) -> Manifest:
    """Publish responses-*.parquet (storage.schemas.RESPONSES) in `spec.folder`; adopts what is done.

    A given engine is used and left open; without one, one is opened and closed. Shards of the same spec have the same
    bytes however often the stage was interrupted. Raises UserError (settings, prompts, memory), SamplerMismatch and
    EngineError; a shard is published only after the sampler was verified.
    """
    return run_stage(spec, lambda: _Sampling(spec, progress).run(engine))


class _Sampling:
    """One run of the stage's body."""

    def __init__(self, spec: GenerateSpec, progress: Progress) -> None:
        self.spec = spec
        self.progress = progress
        settings = spec.settings
        _check_sampling(settings.sampling)
        check_policy_folder(spec.policy.path, trust_remote_code=settings.trust_remote_code)
        self.shards = Shards.of(spec)
        if not self.shards.prompts:
            raise UserError(
                "there are no prompts", where=str(spec.prompts.path), remedy="give a file with at least one"
            )
        self.gap: Gap | None = None
        self.counts: dict[int, Counts] = {}  # of the shards that this attempt published
        self.tokens: Counter[str] = Counter()  # that each worker sampled in this attempt
        self.seconds = 0.0

    def run(self, engine: Engine | None) -> Outcome:
        self._remove_strangers()
        missing = [number for number in range(len(self.shards)) if not has_part(self.spec, self.shards.path(number))]
        self.published = len(self.shards) - len(missing)
        self.done = self.shards.prompts - sum(self.shards.prompts_of(number) for number in missing)
        self._show(workers=1)
        if missing:
            settings = self.spec.settings
            used = engine or settings.engine.open(
                trust_remote_code=settings.trust_remote_code, log=self.spec.folder / "engine.log"
            )
            try:
                used.prepare(self.spec.policy.path)
                self._sample(used, missing)
            finally:
                if engine is None:
                    used.close()
        return self._outcome()

    def _sample(self, engine: Engine, missing: Sequence[int]) -> None:
        """Publish the `missing` shards. Prompts are encoded, and torch is imported, while the engine starts."""
        job = ShardJob(self.spec)
        if isinstance(engine, Crew):
            crew, workers = engine, engine.workers(job)
        else:
            job.encode_all()
            crew, workers = None, [InlineWorker(ShardSampler(job, engine))]
        if self.spec.settings.engine.verify_sequences:
            import tasks.generation.verify  # noqa: F401
        dealer = Dealer(missing, workers, crew)
        clock = time.monotonic()

        def reported(report: ShardReport, worker: ShardWorker) -> None:
            self.counts[report.number] = report.counts
            self.gap = report.gap or self.gap
            self.tokens[worker.name] += report.counts.tokens
            self.seconds = time.monotonic() - clock
            self.published += 1
            self.done += self.shards.prompts_of(report.number)
            self._show(dealer.started)

        dealer.run(reported)

    def _show(self, workers: int) -> None:
        shards = "" if workers == 1 else f", {self.published}/{len(self.shards)} shards, {workers} workers"
        self.progress(self.done, self.shards.prompts, f"prompts{shards}")

    def _remove_strangers(self) -> None:
        """Shards of other settings would be taken for ours by whoever lists the folder."""
        paths = {self.shards.path(number) for number in range(len(self.shards))}
        for path in self.spec.folder.glob("responses-*.parquet"):
            if path not in paths:
                path.unlink()

    def _outcome(self) -> Outcome:
        paths = [self.shards.path(number) for number in range(len(self.shards))]
        if self.gap is None:
            self.gap = published_gap(self.spec, paths[0])
        total = Counts(0, 0, 0)
        for number, path in enumerate(paths):
            total += self.counts.get(number) or counts_of(path)
        summary: dict[str, object] = {
            "responses": total.responses,
            "tokens": total.tokens,
            "mean_tokens": total.tokens / total.responses,
            "finished": total.finished / total.responses,
        }
        if self.gap is not None:
            summary |= {
                "sampler_gap_max": self.gap.maximum,
                "sampler_gap_mean": self.gap.overall.value,
                "sampler_gap_error": self.gap.overall.error,
            }
        if self.seconds:
            rates = {name: round(tokens / self.seconds, 1) for name, tokens in sorted(self.tokens.items())}
            summary["tokens_per_second"] = round(self.tokens.total() / self.seconds, 1)
            if len(rates) > 1:
                summary["tokens_per_second_by_worker"] = rates
        rows = {"prompts": self.shards.prompts, "responses": total.responses}
        return Outcome(paths=paths, rows=rows, summary=summary)


def _check_sampling(sampling: SamplingSettings) -> None:
    if sampling.temperature == 0 and sampling.responses > 1:
        raise UserError(
            f"{sampling.responses} responses at temperature 0 are {sampling.responses} times the same",
            where="sampling.temperature=0",
            remedy="sample with sampling.temperature=1, or ask for one: sampling.responses=1",
        )
