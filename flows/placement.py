"""Stages where their hardware is: the run's side. A stage runs in a work pool of Prefect, over a shared run folder.

The spec is in the stage's folder; the worker runs it (flows/stage.py) and publishes there. What is finished is decided
by the manifest, here as everywhere.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.states import State as State

from flows.operations.work_pool import PlacedStage, Refusal, remedy_for
from storage.artifact import stage_name
from storage.errors import UserError
from storage.manifest import BrokenManifest, Manifest, code_version, read_manifest
from storage.stage import Progress, Spec, finished
from tasks.label import WAITING

log = logging.getLogger("irepo")

_LOOK = 2.0  # seconds between looks at a run's state
_WORKERS = 15.0  # seconds between looks at the pool's workers
_STARTS = 3  # of a stage whose process dies, before the run stops
_END = 90.0  # seconds until a cancelled run has ended: workers, and the runs themselves, look every ten seconds
_VISIBLE = 60.0  # seconds until a shared file system must show what a worker has written


class Pool(Protocol):
    """What a placed stage needs of a work pool; flows.operations.work_pool.WorkPool."""

    name: str

    def has_worker(self) -> bool: ...

    def start(self, stage: PlacedStage, title: str) -> UUID: ...

    def under_way(self, folder: str) -> dict[UUID, PlacedStage]: ...

    def state(self, run: UUID) -> State: ...

    def progress(self, run: UUID) -> float | None: ...

    def refusal(self, run: UUID) -> Refusal | None: ...

    def cancel(self, run: UUID) -> None: ...

    def close(self, run: UUID) -> None: ...


def run_in_pool(
    spec: Spec, pool: Pool, progress: Progress, *, patience: float, sleep: Callable[[float], None] = time.sleep
) -> Manifest | State[None]:
    """Adopt the stage of `spec`, or have a worker of `pool` run it. A state: the stage waits for people.

    patience: seconds that the pool may be without a live worker. A run of this very stage that an earlier attempt left
    is awaited; one of other work in the same folder is cancelled. A stage whose process dies is started again. Raises
    UserError: what the stage itself raised, a stage whose process keeps dying, a pool without workers, a stage that
    somebody cancelled. When the wait is interrupted, the stage is cancelled.
    """
    if (adopted := finished(spec)) is not None:
        return adopted
    spec.folder.mkdir(parents=True, exist_ok=True)
    spec.save(spec.folder / "spec.yaml")
    return _Placed(spec, pool, progress, patience, sleep).run()


class _Placed:
    """One stage in a pool."""

    def __init__(
        self, spec: Spec, pool: Pool, progress: Progress, patience: float, sleep: Callable[[float], None]
    ) -> None:
        self._spec, self._pool, self._progress = spec, pool, progress
        self._patience, self._sleep = patience, sleep
        folder = str(spec.folder.absolute())
        self._stage = PlacedStage(folder=folder, key=spec.key(), commit=code_version())
        self._title = f"{spec.stage} of round {spec.round}"

    def run(self) -> Manifest | State[None]:
        run = self._left_by_an_earlier_attempt()
        for start in range(1, _STARTS + 1):
            run = run or self._pool.start(self._stage, stage_name(self._spec.folder))
            state = self._awaited(run)
            if state.type == StateType.COMPLETED:
                return self._published(run)
            if state.name == WAITING:
                return state
            if state.type != StateType.CRASHED:
                raise self._error(run, state)
            if start < _STARTS:
                log.warning(
                    "%s: its process in the work pool %s died, and the stage is started again (%d of %d): %s",
                    self._title, self._pool.name, start + 1, _STARTS, state.message,
                )  # fmt: skip
            run = None
        raise UserError(
            f"{self._title}: its process in the work pool {self._pool.name!r} died {_STARTS} times; the last time: "
            f"{state.message}",
            where=str(self._spec.folder),
            remedy="see that worker's output (memory is the usual reason), then give the same command again: what the "
            "stage has published is kept",
        )

    def _left_by_an_earlier_attempt(self) -> UUID | None:
        """A run of this very stage that is under way. Runs of other work in its folder are cancelled and awaited."""
        for run, stage in self._pool.under_way(self._stage.folder).items():
            same = stage.key == self._stage.key and stage.commit == self._stage.commit
            if same and self._pool.state(run).type != StateType.CANCELLING:
                log.info("%s: an earlier attempt left it running in a work pool; it is awaited", self._title)
                return run
            self._pool.cancel(run)
            self._await_end(run)
        return None

    def _await_end(self, run: UUID) -> None:
        """Wait until a cancelled run has ended. One that nobody ends has lost its worker: it is closed."""
        deadline = time.monotonic() + _END
        while not self._pool.state(run).is_final():
            if time.monotonic() >= deadline:
                self._pool.close(run)
                return
            self._sleep(_LOOK)

    def _awaited(self, run: UUID) -> State:
        """The state that the run ends in. Raises UserError when the pool has no worker for too long."""
        looked = seen = time.monotonic()
        try:
            while not (state := self._pool.state(run)).is_final():
                self._show(run, state)
                now = time.monotonic()
                if now - looked >= _WORKERS:
                    looked = now
                    seen = self._live(now, seen)
                self._sleep(_LOOK)
        except BaseException:
            self._pool.cancel(run)
            raise
        return state

    def _live(self, now: float, seen: float) -> float:
        """When the pool last had a live worker."""
        if self._pool.has_worker():
            return now
        if now - seen >= self._patience:
            raise UserError(
                f"{self._title} waits in the work pool {self._pool.name!r}, which has had no live worker for "
                f"{self._patience:.0f} s",
                where=f"placement={self._pool.name}",
                remedy=f"{remedy_for(self._pool.name)}; then give the same command again",
            )
        log.warning("%s waits: the work pool %s has no live worker", self._title, self._pool.name)
        return seen

    def _show(self, run: UUID, state: State) -> None:
        shown = self._pool.progress(run) if state.type == StateType.RUNNING else None
        if shown is not None:
            self._progress(round(shown), 100, f"% in {self._pool.name}")

    def _published(self, run: UUID) -> Manifest:
        """The stage's manifest, once the file system shows it here."""
        deadline = time.monotonic() + _VISIBLE
        while True:
            try:
                manifest = read_manifest(self._spec.folder, check_files=False)
                if manifest.key == self._stage.key:
                    self._progress(100, 100, f"% in {self._pool.name}")
                    return manifest
                why = "its manifest is of other work"
            except BrokenManifest as broken:
                why = str(broken)
            if time.monotonic() >= deadline:
                raise UserError(
                    f"a worker of {self._pool.name!r} has finished {self._title}, but not in this run's folder: {why}",
                    where=str(self._spec.folder),
                    remedy="have all machines see the run folder at the same path (NFS or the like)",
                )
            self._sleep(_LOOK)

    def _error(self, run: UUID, state: State) -> UserError:
        """The error of a stage that failed or was cancelled."""
        if (refusal := self._pool.refusal(run)) is not None:
            return refusal.error()
        cancelled = state.type == StateType.CANCELLED
        return UserError(
            f"{self._title} was cancelled in the work pool {self._pool.name!r}"
            if cancelled
            else f"{self._title} failed in the work pool {self._pool.name!r}: {state.message}",
            where=str(self._spec.folder),
            remedy="give the same command again: what the stage has published is kept",
        )
