"""What each optimizer step reports, and the file that grows with it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

METRICS_FILE = "metrics.jsonl"


class StepMetrics(BaseModel):
    """One line of metrics.jsonl. Means are over the step's pairs. No times: equal runs give equal files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int  # from 1
    epoch: int  # from 1
    loss: float
    margin: float  # implicit-reward difference, beta * (h_chosen - h_rejected), in the objective's own unit
    accuracy: float  # share of pairs whose margin agrees with the label in sign
    h_chosen: float  # log-ratio to the reference, nats per response; both can fall while the margin grows
    h_rejected: float
    label: float  # mean target, the logit of the preference: what iREPO's margin is drawn to
    grad_norm: float  # before clipping
    learning_rate: float
    pairs: int
    tokens: int  # prompt and response tokens of the step's responses, without padding
    details: dict[str, float] | None = None  # what else the objective tells, by name


@contextmanager
def metrics_file(folder: Path | None, done: list[StepMetrics]) -> Iterator[Callable[[StepMetrics], None]]:
    """Write metrics.jsonl: the steps of a checkpoint, then one line a call, readable as it grows; synced at the end.

    Without a folder (a process whose metrics another one writes) nothing is written.
    """
    if folder is None:
        yield lambda metrics: None
        return
    with open(folder / METRICS_FILE, "w", encoding="utf-8") as file:

        def append(metrics: StepMetrics) -> None:
            file.write(metrics.model_dump_json(exclude_none=True) + "\n")
            file.flush()

        for metrics in done:
            append(metrics)
        yield append
        os.fsync(file.fileno())
