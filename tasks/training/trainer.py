"""The train stage: trains the next policy from preferences and the current policy.

    python -m tasks.run runs/<name>/round-01/train

A killed stage resumes from its last valid checkpoint. On a CPU it ends with the same bytes as an uninterrupted one.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from storage.errors import UserError
from storage.manifest import Manifest, read_manifest
from storage.stage import Outcome, Progress, finished, run_stage, silent
from tasks.modeling.load import resolve_device
from tasks.training.batching import Forward
from tasks.training.checkpoints import remove_checkpoints, resume, save_checkpoint
from tasks.training.distributed import ALONE, Ranks, joined
from tasks.training.examples import Example
from tasks.training.groups import windows
from tasks.training.loop import Step, WindowResult, accumulate, check_first_step, first_loss
from tasks.training.metrics import METRICS_FILE, PhaseSeconds, StepMetrics, StepSummary, TrainSummary, metrics_file
from tasks.training.model_loading import ModelLoader
from tasks.training.objectives.base import Memory
from tasks.training.optimizer import build_optimizer, learning_rate, trainable
from tasks.training.settings import TrainSpec
from tasks.training.sharding import whole
from tasks.training.training_data import TrainingData

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("irepo")


def run(spec: TrainSpec, progress: Progress = silent) -> Manifest:
    """Run, resume or adopt the train stage of `spec`: in this process, or on all ranks that torchrun started.

    Publishes policy/ (a Hugging Face folder), reference.parquet, metrics.jsonl and, with LoRA, adapter/ in
    `spec.folder`. Raises UserError for a folder that is not a policy, preferences without pairs, tokens outside the
    vocabulary, a first step that does not start at the reference, and a loss that is not finite.
    """
    with joined(resolve_device(spec.settings.optimization.device)) as ranks:
        if ranks.size == 1:
            manifest = run_stage(spec, lambda: _train(spec, progress, ranks))
        else:
            manifest = _run_together(spec, progress, ranks)
        if ranks.main:
            remove_checkpoints(spec.folder)
        return manifest


def _run_together(spec: TrainSpec, progress: Progress, ranks: Ranks) -> Manifest:
    """`run_stage` on several ranks: all of them train, and only the main rank writes the manifest."""
    adopted = ranks.by_main(lambda: finished(spec))
    if adopted is not None:
        return adopted
    if ranks.main:
        manifest = run_stage(spec, lambda: _train(spec, progress, ranks))
        return ranks.by_main(lambda: manifest)
    _train(spec, silent, ranks)
    return ranks.by_main(lambda: read_manifest(spec.folder))


@contextmanager
def _accelerator(spec: TrainSpec, ranks: Ranks) -> Iterator["Accelerator"]:
    """Accelerate for the spec's device and precision. Its state is global, so it is reset before and after.

    With several ranks it does not autocast: a sharded model computes in half precision itself.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    settings = spec.settings.optimization
    device = resolve_device(settings.device)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "training.device is cuda, but torch finds no CUDA device",
            where="training.device=cuda",
            remedy="install the GPU requirements on a machine with a GPU, or set training.device=auto",
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        half = settings.dtype == "bfloat16" and ranks.size == 1
        yield Accelerator(cpu=device == "cpu", mixed_precision="bf16" if half else "no")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def _train(spec: TrainSpec, progress: Progress, ranks: Ranks) -> Outcome:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with _accelerator(spec, ranks) as accelerator, torch.random.fork_rng(devices):
        return Training(spec, accelerator, ranks).run(progress)


class Training:
    """One train stage, from data to published policy."""

    def __init__(self, spec: TrainSpec, accelerator: "Accelerator", ranks: Ranks = ALONE) -> None:
        self.spec = spec
        self.ranks = ranks
        self.settings = spec.settings.optimization
        self.accelerator = accelerator
        self.objective = spec.settings.objective
        self.data = TrainingData.of(spec, ranks)
        self.loader = ModelLoader(spec, self.data.groups, accelerator, ranks)
        self.steps_per_epoch = math.ceil(len(self.data.groups) / self.settings.prompts_per_step)
        self.steps = self.settings.epochs * self.steps_per_epoch

    def run(self, progress: Progress) -> Outcome:
        """Prepare the data, train, and publish."""
        started = time.monotonic()
        rows = self.data.rows()
        if self.ranks.main:
            zero = rows.get("zero_targets", 0)
            log.info("%d pairs of %d prompts; %d targets are 0", rows["pairs"], rows["prompts"], zero)
        load = self.loader.load
        policy = load(self.spec.policy.path) if self.spec.starts_at_reference else None
        examples, policy = self.data.examples(policy, load, self.accelerator.autocast, progress)
        if self.ranks.size > 1:
            policy = None  # a sharded model cannot take adapters: free its memory, load_trainable reads it again
        forward = self.loader.load_trainable(policy)
        prepared = time.monotonic()
        metrics = self._optimize(forward, examples, progress)
        trained = time.monotonic()
        paths, update = self.loader.publish(forward.model)
        if self.ranks.main:
            update.warn()
        summary = TrainSummary(
            first=StepSummary.of(metrics[0]),
            last=StepSummary.of(metrics[-1]),
            update=update,
            seconds=PhaseSeconds(
                prepare=round(prepared - started, 3),
                optimize=round(trained - prepared, 3),
                publish=round(time.monotonic() - trained, 3),
            ),
        )
        paths += [*self.data.files(), self.spec.folder / METRICS_FILE]
        return Outcome(paths=paths, rows=rows | {"steps": self.steps}, summary=summary.model_dump())

    def _optimize(self, forward: Forward, examples: list[Example], progress: Progress) -> list[StepMetrics]:
        """Run the optimizer steps after the last checkpoint. Returns the metrics of all steps."""
        parameters = trainable(forward.model)
        optimizer = build_optimizer(parameters, self.settings)
        key = self.spec.key()
        resumed = resume(self.spec.folder, key=key, parameters=parameters, optimizer=optimizer, ranks=self.ranks)
        metrics = list(resumed.metrics)
        memory: Memory = resumed.memory
        first = len(metrics)
        saved_at = time.monotonic()
        with metrics_file(self.spec.folder if self.ranks.main else None, metrics) as append:
            for step, indices in enumerate(self._windows()):
                if step < first:
                    continue
                window = [examples[i] for i in indices]
                step_metrics, memory = self._step(step, forward, optimizer, parameters, window, memory)
                metrics.append(step_metrics)
                append(step_metrics)
                progress(step + 1, self.steps, "steps")
                if step + 1 < self.steps and self._checkpoint_is_due(step + 1, saved_at):
                    position = divmod(step + 1, self.steps_per_epoch)
                    save_checkpoint(
                        self.spec.folder,
                        key=key,
                        position=position,
                        metrics=metrics,
                        parameters=parameters,
                        optimizer=optimizer,
                        memory=memory,
                        keep=self.settings.keep_checkpoints,
                        ranks=self.ranks,
                    )
                    saved_at = time.monotonic()
        return metrics

    def _checkpoint_is_due(self, steps: int, saved_at: float) -> bool:
        """Whether to save a checkpoint after `steps` steps, the last one being from `saved_at`; equal on all ranks."""
        if steps % self.settings.checkpoint_steps == 0:
            return True
        return self.ranks.by_main(lambda: time.monotonic() - saved_at >= 60 * self.settings.checkpoint_minutes)

    def _step(
        self,
        step: int,
        forward: Forward,
        optimizer: torch.optim.AdamW,
        parameters: dict[str, torch.nn.Parameter],
        window: list[Example],
        memory: Memory,
    ) -> tuple[StepMetrics, Memory]:
        """One optimizer step over a window of prompts. Returns its metrics and the objective's next memory.

        Raises UserError before the update when loss or gradient is not finite, or the first step's check fails.
        """
        context = Step(self.data.annotators, memory, (self.spec.seed, self.spec.round, step))
        result = accumulate(
            forward,
            window,
            self.objective,
            accelerator=self.accelerator,
            step=context,
            ranks=self.ranks,
        )
        norm = whole(self.accelerator.clip_grad_norm_(list(parameters.values()), self.settings.max_grad_norm))
        rate = learning_rate(step, self.steps, self.settings)
        metrics = self._metrics(step, result, norm, rate, window)
        if step == 0 and self.spec.starts_at_reference:
            check_first_step(result, first_loss(self.objective, window, context), self.settings.dtype)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return metrics, result.memory

    def _windows(self) -> Iterator[list[int]]:
        """Group indices of every optimizer step, in order; determined by the spec."""
        for epoch in range(self.settings.epochs):
            yield from windows(len(self.data.groups), self.settings.prompts_per_step, seed=self.spec.seed, epoch=epoch)

    def _metrics(
        self, step: int, result: WindowResult, norm: torch.Tensor, rate: float, window: list[Example]
    ) -> StepMetrics:
        """The step's metrics, in one transfer from the device. Raises UserError if loss or gradient is not finite."""
        names = list(result.means)
        values = torch.stack([*result.means.values(), norm.double()]).tolist()
        means, grad_norm = dict(zip(names, values[:-1], strict=True)), values[-1]
        if not all(math.isfinite(value) for value in values):
            raise UserError(
                f"the loss is {means['loss']} and the gradient norm {grad_norm} at step {step + 1} of {self.steps}",
                where="prompts " + ", ".join(example.group.prompt_id for example in window),
                remedy="lower training.learning_rate or set training.dtype=float32; if it is the first step, check the "
                f"targets of these prompts in {self.spec.preferences.path}",
            )
        return StepMetrics(
            step=step + 1,
            epoch=step // self.steps_per_epoch + 1,
            **means,
            grad_norm=grad_norm,
            learning_rate=rate,
            pairs=result.pairs,
            tokens=result.tokens,
            details=dict(result.details) or None,
        )
