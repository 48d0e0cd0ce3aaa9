"""A work pool of Prefect in which stages run: is there a live worker, start a stage, how far is it, cancel it."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.client.schemas.sorting import ArtifactSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling
from prefect.states import State as State
from pydantic import BaseModel, ConfigDict, TypeAdapter

from storage.errors import UserError

log = logging.getLogger("irepo")

#: The flow that runs one stage, and the key of the artifact in which it leaves an error of the user's.
STAGE_FLOW = "irepo-stage"
REFUSAL = "refusal"
_OPEN = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING)
_RETRY = 2.0  # seconds

T = TypeVar("T")


class PlacedStage(BaseModel):
    """The parameters of a run of `irepo-stage`. The spec itself is in the folder; no secret is in either."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str  # absolute
    key: str
    commit: str  # of the code that the run has, as storage.manifest.code_version


class Refusal(BaseModel):
    """A UserError, or another exception in its form, as a worker reports it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    where: str
    remedy: str

    def error(self) -> UserError:
        return UserError(self.what, where=self.where, remedy=self.remedy)


def remedy_for(pool: str) -> str:
    return (
        f"start one on a machine that sees the run folder, in the project's folder there: python -m flows.deploy "
        f"worker {pool} (with PREFECT_API_URL set)"
    )


class WorkPool:
    """One work pool. Requests are repeated while the server is away; runs are named by their id in Prefect."""

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, where: str) -> None:
        """Raises UserError unless the pool exists, accepts work, and has a live worker and the stage's deployment."""
        with get_client(sync_client=True) as client:
            try:
                pool = client.read_work_pool(self.name)
            except ObjectNotFound:
                known = sorted(pool.name for pool in client.read_work_pools())
                raise UserError(
                    f"there is no work pool {self.name!r}; the server has: {', '.join(known) or 'none'}",
                    where=where,
                    remedy=f"name one of these, or {remedy_for(self.name)}",
                ) from None
            if pool.is_paused:
                raise UserError(
                    f"the work pool {self.name!r} is paused",
                    where=where,
                    remedy=f"resume it: prefect work-pool resume {self.name}",
                )
            if not _live(client, self.name):
                raise UserError(
                    f"no live worker in the work pool {self.name!r}", where=where, remedy=remedy_for(self.name)
                )
            try:
                client.read_deployment_by_name(f"{STAGE_FLOW}/{self.name}")
            except ObjectNotFound:
                raise UserError(
                    f"the work pool {self.name!r} has workers, but none that runs stages",
                    where=where,
                    remedy=remedy_for(self.name),
                ) from None

    def has_worker(self) -> bool:
        """Whether a worker of the pool has been heard of lately (Prefect allows about 90 s of silence)."""
        return _asked(lambda client: _live(client, self.name))

    def start(self, stage: PlacedStage, title: str) -> UUID:
        """Create a run of the stage, shown below the flow run at hand. title: how it is called in Prefect's UI."""
        once = str(uuid4())  # so that a request that is repeated does not start a second run
        try:
            run = _asked(
                lambda client: run_deployment(
                    f"{STAGE_FLOW}/{self.name}",
                    parameters=stage.model_dump(),
                    flow_run_name=title,
                    tags=[_tag(stage.folder)],
                    idempotency_key=once,
                    timeout=0,
                )
            )
        except ObjectNotFound:
            raise UserError(
                f"the work pool {self.name!r} has no deployment {STAGE_FLOW}/{self.name}",
                where="placement",
                remedy=remedy_for(self.name),
            ) from None
        assert isinstance(run, FlowRun)
        return run.id

    def under_way(self, folder: str) -> dict[UUID, PlacedStage]:
        """Runs of the stage in `folder` that an earlier attempt left, in whatever pool."""
        runs = _asked(
            lambda client: client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[STAGE_FLOW])),
                flow_run_filter=FlowRunFilter(
                    tags=FlowRunFilterTags(all_=[_tag(folder)]),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_OPEN))),
                ),
            )
        )
        return {run.id: PlacedStage.model_validate(run.parameters) for run in runs}

    def state(self, run: UUID) -> State:
        state = _asked(lambda client: client.read_flow_run(run).state)
        assert state is not None
        return state

    def progress(self, run: UUID) -> float | None:
        """How far the stage is, in percent; None before it has said so."""
        data = self._artifact(run, "progress")
        return None if data is None else float(data)

    def refusal(self, run: UUID) -> Refusal | None:
        """The error that the stage ended with, None where it left none."""
        data = self._artifact(run, REFUSAL)
        return None if data is None else TypeAdapter(list[Refusal]).validate_json(data)[0]

    def cancel(self, run: UUID) -> None:
        """Have the worker end the run. A run that has ended stays as it is. A server that is away is a warning."""
        try:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run, Cancelling(message="The run that needs this stage has ended."))
        except httpx.HTTPError as error:
            log.warning("the stage in the work pool %s could not be cancelled, and goes on: %s", self.name, error)

    def close(self, run: UUID) -> None:
        """Set a run Cancelled whose process is gone."""
        _asked(lambda client: client.set_flow_run_state(run, Cancelled(message="Its worker is gone."), force=True))

    def _artifact(self, run: UUID, key: str) -> str | None:
        """The data of the run's newest artifact of this key."""
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[key]))
        found = _asked(
            lambda client: client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC, limit=1)
        )
        return str(found[0].data) if found else None


def _tag(folder: str) -> str:
    return f"stage: {folder}"


def _live(client: SyncPrefectClient, pool: str) -> bool:
    return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool))


def _asked(request: Callable[[SyncPrefectClient], T]) -> T:
    """What the server answers. While it is away, a warning is logged once and the request repeated."""
    warned = False
    while True:
        try:
            with get_client(sync_client=True) as client:
                return request(client)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise
            if not warned:
                log.warning("Prefect's server does not answer, and is asked again until it does: %s", error)
            warned = True
        time.sleep(_RETRY)
