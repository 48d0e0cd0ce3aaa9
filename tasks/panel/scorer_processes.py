"""Workers of an annotator that scores with a model, on this machine: each in a child process, on a GPU of its own."""

import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import JsonValue

from storage.errors import UserError
from tasks.child_process import Child, ChildDied, Done, Message, python_path
from tasks.modeling.vllm_process import visible_devices
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import ScoresWithModel
from tasks.panel.scorer_pool import WorkerDied

M = TypeVar("M", bound=Message)

MODULE = "tasks.panel.scorer_process"


class Open(Message):
    """Open the annotator. Weights are read with the first batch. Reply: Done."""

    operation: Literal["open"] = "open"
    name: str
    settings: dict[str, JsonValue]  # of one worker
    seed: int


class Batch(Message):
    """Score responses. Reply: Scores."""

    operation: Literal["score"] = "score"
    responses: list[Response]


class Scores(Message):
    scores: list[Score]


class ProcessWorkers:
    """Workers in child processes. They end with this process."""

    def __init__(self, name: str, settings: ScoresWithModel, seed: int) -> None:
        """Raises UserError for fewer GPUs than workers."""
        self._on_gpus = check_devices(f"annotators.{name}", settings)
        self._open = Open(name=name, settings=one_worker(settings), seed=seed)
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # an annotator that is only checked needs none
        self._lock = threading.Lock()

    def start(self, number: int) -> "ProcessWorker":
        devices = visible_devices([number]) if self._on_gpus else {}
        child = Child(
            f"worker {number} of annotator {self._open.name!r}",
            [sys.executable, "-m", MODULE],
            log=self._logs() / f"{number}.log",
            env=dict(os.environ) | {"PYTHONPATH": python_path()} | devices,
            cwd=Path.cwd(),  # where relative paths of models, and modules of the user, are found
        )
        return ProcessWorker(child, self._open)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _logs(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="irepo-scorers-")
            return Path(self._folder.name)


class ProcessWorker:
    def __init__(self, child: Child, opening: Open) -> None:
        """Raises WorkerDied, and the error of an annotator that cannot be opened; then the child has ended."""
        self._child = child
        try:
            self._ask(opening, Done)
        except BaseException:
            child.end()
            raise

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return self._ask(Batch(responses=list(responses)), Scores).scores

    def end(self) -> None:
        self._child.end()

    def _ask(self, request: Message, kind: type[M]) -> M:
        try:
            self._child.send(request)
            return self._child.receive(kind)
        except ChildDied as died:
            raise WorkerDied(str(died)) from None


def one_worker(settings: ScoresWithModel) -> dict[str, JsonValue]:
    """The settings of an annotator for one of its workers, as JSON: the worker has yet to import a user's class."""
    return settings.model_dump(mode="json") | {"workers": 1}


def check_devices(place: str, settings: ScoresWithModel) -> bool:
    """Whether the workers are on GPUs. Raises UserError when there are fewer GPUs than workers.

    place: of the annotator in the configuration, as panel.annotators.reward.
    """
    import torch

    refuse_named_device(place, settings)
    device: str = getattr(settings, "device", "auto")
    workers = settings.workers
    present = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not present):
        return False
    if present < workers:
        raise UserError(
            f"{workers} workers need {workers} GPUs, and this machine has {present}",
            where=f"{place}.workers={workers}",
            remedy=f"lower its workers to {max(1, present)} or less",
        )
    return True


def refuse_named_device(place: str, settings: ScoresWithModel) -> None:
    """Raise UserError when an annotator of several workers names one GPU."""
    device: str = getattr(settings, "device", "auto")
    if ":" in device:
        raise UserError(
            f"each worker has a GPU of its own, and the annotator names one: device={device}",
            where=f"{place}.workers={settings.workers}",
            remedy="set its device to auto, or its workers to 1",
        )
