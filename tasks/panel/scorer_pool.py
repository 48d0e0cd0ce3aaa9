"""Several copies of an annotator that scores with a model: each in a process of its own, on a GPU of its own.

They share whole batches. What a response is scored beside does not depend on how many copies there are, so any number
of them gives the same scores. Not run on GPUs.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from storage.errors import UserError
from tasks.child_process import ROOT, Child, ChildDied, Done, Message
from tasks.modeling.vllm_process import visible_devices
from tasks.panel.annotators.protocol import LocalAnnotator, Response, Score, is_remote
from tasks.panel.annotators.settings import ScoresWithModel

log = logging.getLogger("irepo")

MODULE = "tasks.panel.scorer_process"
_DEATHS = 2  # of workers, after which a batch ends the stage


class Open(Message):
    """Open the annotator. Weights are read with the first batch. Reply: Done."""

    operation: Literal["open"] = "open"
    name: str
    settings: Mapping[str, Any]  # as JSON
    seed: int


class Batch(Message):
    """Score responses. Reply: Scores."""

    operation: Literal["score"] = "score"
    responses: list[Response]


class Scores(Message):
    scores: list[Score]


class ScorerPool:
    """A local annotator whose `vote` may be called by `workers` threads at a time; each call is answered by one worker.

    A worker starts with its first batch. One that dies is started again and gets its batch again; a batch whose worker
    dies twice raises UserError. `close` ends all workers.
    """

    answer_type: Literal["scores"] = "scores"
    lane: Literal["model"] = "model"

    def __init__(self, name: str, settings: ScoresWithModel, *, seed: int) -> None:
        """Raises UserError for an annotator that cannot be opened, and for fewer GPUs than workers."""
        self._on_gpus = check_devices(f"annotators.{name}", settings)
        opened = settings.open(name, seed=seed)  # it reads no weights
        assert not is_remote(opened)
        self.name, self.tie_margin, self.workers = name, opened.tie_margin, settings.workers
        self._open = Open(name=name, settings=settings.model_dump(mode="json") | {"workers": 1}, seed=seed)
        self._places: SimpleQueue[int] = SimpleQueue()
        for place in range(settings.workers):
            self._places.put(place)
        self._children: dict[int, Child] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        """Questions on which the annotator fails are errors, unless it fails on all of them."""
        place = self._places.get()
        request = Batch(responses=list(batch))
        try:
            for death in range(_DEATHS):
                try:
                    child = self._child(place)
                    child.send(request)
                    return child.receive(Scores).scores
                except ChildDied as died:
                    self._end(place)
                    if death + 1 == _DEATHS:
                        raise self._died_again(died) from None
                    log.warning("worker %d of %s died; its batch is scored anew: %s", place, self.name, _first(died))
            raise AssertionError("unreachable")
        finally:
            self._places.put(place)

    def close(self) -> None:
        for place in list(self._children):
            self._end(place)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _child(self, place: int) -> Child:
        if place not in self._children:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="irepo-scorers-")
            path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
            devices = visible_devices([place]) if self._on_gpus else {}
            self._children[place] = Child(
                f"worker {place} of annotator {self.name!r}",
                [sys.executable, "-m", MODULE],
                log=Path(self._folder.name) / f"{place}.log",
                env=dict(os.environ) | {"PYTHONPATH": path.rstrip(os.pathsep)} | devices,
                cwd=Path.cwd(),  # where relative paths of models, and modules of the user, are found
            )
            self._children[place].send(self._open)
            self._children[place].receive(Done)
        return self._children[place]

    def _end(self, place: int) -> None:
        child = self._children.pop(place, None)
        if child is not None:
            child.end()

    def _died_again(self, died: ChildDied) -> UserError:
        return UserError(
            f"a worker of annotator {self.name!r} died twice with the same batch: {died}",
            where=f"annotators.{self.name}.workers={self.workers}",
            remedy="give it more memory: lower batch_tokens or workers, or end other work; then give the command again",
        )


def workers_of(annotator: LocalAnnotator) -> int:
    """How many batches an annotator answers at a time."""
    return annotator.workers if isinstance(annotator, ScorerPool) else 1


def check_devices(place: str, settings: ScoresWithModel) -> bool:
    """Whether the workers are on GPUs. Raises UserError when there are fewer GPUs than workers.

    place: of the annotator in the configuration, as panel.annotators.reward.
    """
    import torch

    device: str = getattr(settings, "device", "auto")
    workers = settings.workers
    where = f"{place}.workers={workers}"
    if ":" in device:
        raise UserError(
            f"each worker has a GPU of its own, and the annotator names one: device={device}",
            where=where,
            remedy="set its device to auto, or its workers to 1",
        )
    present = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not present):
        return False
    if present < workers:
        raise UserError(
            f"{workers} workers need {workers} GPUs, and this machine has {present}",
            where=where,
            remedy=f"lower its workers to {max(1, present)} or less",
        )
    return True


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
