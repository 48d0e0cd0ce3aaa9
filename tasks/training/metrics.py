"""Metrics of each optimizer step, and metrics.jsonl, which grows with them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.training.update_share import UpdateSummary

METRICS_FILE = "metrics.jsonl"


class StepMetrics(BaseModel):
    """One line of metrics.jsonl. Means are over the step's pairs. It holds no times, so equal runs give equal files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int  # from 1
    epoch: int  # from 1
    loss: float
    margin: float  # implicit-reward difference, beta * (h_chosen - h_rejected), in the objective's own unit
    accuracy: float  # share of pairs whose margin and label have the same sign; ties count 1/2
    h_chosen: float  # mean log-ratio to the reference, nats per response; both can fall while the margin grows
    h_rejected: float
    label: float  # mean target: the logit of the preference, which iREPO's margin is regressed on
    grad_norm: float  # before clipping
    learning_rate: float
    pairs: int
    tokens: int  # prompt + response tokens over all responses, without padding
    details: dict[str, float] | None = None  # the objective's own figures, by name


class StepSummary(BaseModel):
    """The figures of one step that the manifest shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: float
    margin: float
    accuracy: float
    h_chosen: float
    h_rejected: float

    @classmethod
    def of(cls, metrics: StepMetrics) -> "StepSummary":
        return cls(**metrics.model_dump(include=set(cls.model_fields)))


class PhaseSeconds(BaseModel):
    """Wall time of each part of the stage, seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prepare: float
    optimize: float
    publish: float


class TrainSummary(BaseModel):
    """The summary in the manifest of a train stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: StepSummary
    last: StepSummary
    update: UpdateSummary
    seconds: PhaseSeconds


@contextmanager
def metrics_file(folder: Path | None, earlier: list[StepMetrics]) -> Iterator[Callable[[StepMetrics], None]]:
    """Open metrics.jsonl, write `earlier` (the steps of a checkpoint), and yield a function that appends one step.

    Each line is flushed, so readers can follow; the file is synced at the end. With folder None (ranks other than the
    main one) nothing is written.
    """
    if folder is None:
        yield lambda metrics: None
        return
    with open(folder / METRICS_FILE, "w", encoding="utf-8") as file:

        def append(metrics: StepMetrics) -> None:
            file.write(metrics.model_dump_json(exclude_none=True) + "\n")
            file.flush()

        for metrics in earlier:
            append(metrics)
        yield append
        os.fsync(file.fileno())
