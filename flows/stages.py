"""Ways to go through the stages of a round: run them as Prefect tasks, run them bare, check them, or list them."""

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.states import State as State

from conf.schema import PlacementSettings
from flows.operations.device import device_held
from flows.operations.work_pool import WorkPool
from flows.placement import run_in_pool
from flows.plan import Plan
from storage.artifact import UNKNOWN, Artifact
from storage.manifest import BrokenManifest, Manifest, read_manifest
from storage.stage import Spec, finished
from tasks.engines import engine_for, pause_engines
from tasks.evaluate import evaluate
from tasks.generate import generate
from tasks.label import label
from tasks.progress import progress_bar
from tasks.report import run_name, stage_title
from tasks.run import run_stage_of
from tasks.train import train

log = logging.getLogger("irepo")

TASKS: dict[str, Callable[..., Any]] = {"generate": generate, "label": label, "train": train, "evaluate": evaluate}


@functools.cache
def _attempts(flow_run: str | None) -> int:
    """How often the flow run at hand was started; the context of a retried run has the number before.

    Prefect does not count a run that goes on after a suspension; its suspensions are counted here.
    For display only: where the server does not say, 1, and finished stages are drawn again.
    """
    if flow_run is None:
        return 0
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(flow_run))
            return run.run_count + len(run.empirical_policy.pause_keys or ())
    except Exception as error:
        log.warning("finished stages are drawn again in the UI: %s", error)
        return 1


class StageWaits(Exception):
    """A stage waits for people; the message says where and how they vote."""


class Stages(ABC):
    """`stages(spec)` does one stage and returns what it made. `manifests`: of all done so far, by folder name below
    the round, in order."""

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}

    def __call__(self, spec: Spec) -> Artifact:
        manifest = self._do(spec)
        self.manifests[stage_title(spec)] = manifest
        return Artifact.of_stage(spec.folder, manifest)

    @abstractmethod
    def _do(self, spec: Spec) -> Manifest: ...

    def beside(self, work: Callable[[], AbstractContextManager[None]]) -> AbstractContextManager[None]:
        """A context for `work` beside a stage that runs in it. Where no stage runs, it is empty."""
        return nullcontext()

    def made(self, plan: Plan, round_number: int, stage: str) -> Artifact:
        """What an earlier round made in its stage. Raises BrokenManifest when its manifest is missing or damaged."""
        return Artifact.of_stage(plan.folder(round_number, stage))

    def prompts(self, plan: Plan) -> Artifact:
        """The run's prompts: train.parquet and heldout.parquet."""
        return Artifact.of_stage(plan.layout.prompts)

    def data(self, plan: Plan) -> Artifact:
        """The preference set of offline training: pairs.parquet and prompts.parquet."""
        return Artifact.of_stage(plan.layout.data)

    def outside(self, path: Path) -> Artifact:
        """A file or folder of the user's. Raises UserError when it is missing."""
        return Artifact.of(path)


def run_as_task(spec: Spec) -> State[None] | None:
    """Run or adopt a stage as one of the four Prefect tasks. A state: it waits for people."""
    assert spec.task is not None
    result = TASKS[spec.task].with_options(task_run_name=stage_title(spec))(spec)  # type: ignore[attr-defined]
    return result if isinstance(result, State) else None


def device_of_run(placement: PlacementSettings) -> AbstractContextManager[None]:
    """A run holds its host's device from start to end, unless some of its stages run elsewhere.

    Then every stage holds the device of the host where it runs: two runs that each hold a device and wait for the
    other's would wait for good.
    """
    return nullcontext() if placement.pools() else device_held()


def device_of_stage(placement: PlacementSettings) -> AbstractContextManager[None]:
    return device_held() if placement.pools() else nullcontext()


class PrefectStages(Stages):
    """Each stage runs as one of the four Prefect tasks, or in a work pool; quick ones run in the flow itself."""

    def __init__(self, placement: PlacementSettings) -> None:
        super().__init__()
        self._placement = placement

    def _do(self, spec: Spec) -> Manifest:
        """Raises StageWaits while people on the panel have not voted enough."""
        if spec.task is None:
            return run_stage_of(spec)
        if _attempts(runtime.flow_run.id) > 1 and (made := finished(spec)) is not None:
            return made  # of an earlier attempt, whose task runs the UI shows already
        pool = self._placement.pools().get(spec.task)
        if pool is not None:
            return self._place(spec, pool)
        with device_of_stage(self._placement):
            waiting = run_as_task(spec)
        if waiting is not None:
            raise StageWaits(str(waiting.message))
        return read_manifest(spec.folder, check_files=False)

    def _place(self, spec: Spec, pool: str) -> Manifest:
        pause_engines()
        with progress_bar(stage_title(spec), spec.round, run_name(spec)) as progress:
            made = run_in_pool(spec, WorkPool(pool), progress, patience=self._placement.patience)
        if isinstance(made, State):
            raise StageWaits(str(made.message))
        return made

    def beside(self, work: Callable[[], AbstractContextManager[None]]) -> AbstractContextManager[None]:
        return work()


class BareStages(Stages):
    """Each stage runs in this process, without Prefect."""

    def beside(self, work: Callable[[], AbstractContextManager[None]]) -> AbstractContextManager[None]:
        return work()

    def _do(self, spec: Spec) -> Manifest:
        return run_stage_of(spec, engine=engine_for(spec))


class FinishedStages(Stages):
    """Nothing runs: each stage must be finished, with the key of its spec.

    Raises BrokenManifest, naming the file, for one that is missing, damaged, or made from other inputs; with
    `check_files` also when a file that a manifest names is missing or altered.
    """

    def __init__(self, *, check_files: bool) -> None:
        super().__init__()
        self._check_files = check_files

    def _do(self, spec: Spec) -> Manifest:
        manifest = read_manifest(spec.folder, check_files=self._check_files)
        if manifest.key != spec.key():
            raise BrokenManifest(f"{spec.folder} was made with other settings or inputs")
        return manifest


class ListedStages(Stages):
    """Nothing runs or is read: `specs` collects the stages in order. What they read has an unknown digest."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: list[Spec] = []

    def __call__(self, spec: Spec) -> Artifact:
        self.specs.append(spec)
        return Artifact.planned(spec.folder)

    def _do(self, spec: Spec) -> Manifest:
        raise AssertionError("stages are only listed")

    def made(self, plan: Plan, round_number: int, stage: str) -> Artifact:
        return Artifact.planned(plan.folder(round_number, stage))

    def prompts(self, plan: Plan) -> Artifact:
        return Artifact.planned(plan.layout.prompts)

    def data(self, plan: Plan) -> Artifact:
        return Artifact.planned(plan.layout.data)

    def outside(self, path: Path) -> Artifact:
        return Artifact(path=path, digest=UNKNOWN)
