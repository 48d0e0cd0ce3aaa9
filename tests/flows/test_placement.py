"""A stage in a work pool: started, awaited, started again, cancelled, refused; with a pool that follows a script."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running
from prefect.states import State as State
from pydantic import BaseModel

from conf.compose import compose_config
from conf.schema import PlacementSettings
from flows import placement, stages
from flows.operations.work_pool import PlacedStage, Refusal
from flows.placement import run_in_pool
from flows.placement_checks import check_placement
from flows.stage import give_keys, read_placed_spec, refusal_of
from flows.stages import PrefectStages, StageWaits
from storage.errors import UserError
from storage.manifest import MANIFEST, Manifest, code_version
from storage.stage import Progress, Spec, TaskName, silent
from tasks.label import waits
from tests.flows.placed_spec import PlacedSpec, work

Script = Sequence[State[Any] | Callable[[], State[Any]]]


class ScriptedPool:
    """A pool whose runs go through the states of a script, one run after the other."""

    name = "gpu-pool"

    def __init__(self, *scripts: Script, live: bool = True) -> None:
        self._scripts: Iterator[Script] = iter(scripts)
        self._states: dict[UUID, Iterator[State[Any] | Callable[[], State[Any]]]] = {}
        self.started: list[PlacedStage] = []
        self.left: dict[UUID, PlacedStage] = {}
        self.cancelled: list[UUID] = []
        self.closed: list[UUID] = []
        self.refused: Refusal | None = None
        self.live = live

    def has_worker(self) -> bool:
        return self.live

    def start(self, stage: PlacedStage, title: str) -> UUID:
        self.started.append(stage)
        return self.runs(next(self._scripts))

    def runs(self, script: Script) -> UUID:
        run = uuid4()
        self._states[run] = iter(script)
        return run

    def under_way(self, folder: str) -> dict[UUID, PlacedStage]:
        return self.left

    def state(self, run: UUID) -> State[Any]:
        state = next(self._states[run])
        return state if isinstance(state, State) else state()

    def progress(self, run: UUID) -> float | None:
        return 40.0

    def refusal(self, run: UUID) -> Refusal | None:
        return self.refused

    def cancel(self, run: UUID) -> None:
        self.cancelled.append(run)

    def close(self, run: UUID) -> None:
        self.closed.append(run)


@pytest.fixture
def spec(tmp_path: Path) -> PlacedSpec:
    return PlacedSpec(folder=tmp_path / "runs" / "mine" / "round-01" / "generate", round=1, seed=0)


def done(spec: Spec) -> Callable[[], State[Any]]:
    """The worker runs the stage, and its run is Completed."""

    def end() -> State[Any]:
        work(spec)
        return Completed()

    return end


def place(spec: Spec, pool: ScriptedPool, progress: Progress = silent, patience: float = 300) -> Manifest | State[None]:
    return run_in_pool(spec, pool, progress, patience=patience, sleep=lambda _: None)


def test_a_stage_is_run_by_the_pool_and_adopted_from_then_on(spec: PlacedSpec) -> None:
    shown: list[tuple[int, int, str]] = []
    pool = ScriptedPool([Pending(), Running(), done(spec)])
    made = place(spec, pool, lambda *figures: shown.append(figures))
    assert isinstance(made, Manifest)
    assert made.key == spec.key()
    (stage,) = pool.started
    assert (stage.folder, stage.key) == (str(spec.folder), spec.key())
    assert shown == [(40, 100, "% in gpu-pool"), (100, 100, "% in gpu-pool")]
    assert place(spec, ScriptedPool()) == made  # nothing is started


def test_a_process_that_dies_is_started_again_and_named(spec: PlacedSpec, caplog: pytest.LogCaptureFixture) -> None:
    pool = ScriptedPool([Running(), Crashed(message="exited with status code: -9")], [done(spec)])
    with caplog.at_level(logging.WARNING, "irepo"):
        assert isinstance(place(spec, pool), Manifest)
    assert "its process in the work pool gpu-pool died, and the stage is started again (2 of 3): exited" in caplog.text
    always = ScriptedPool(*[[Crashed(message="exited with status code: -9")]] * 3)
    (spec.folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="died 3 times; the last time: exited with status code: -9"):
        place(spec, always)


def test_the_error_of_the_stage_arrives(spec: PlacedSpec) -> None:
    pool = ScriptedPool([Failed(message="no")])
    pool.refused = refusal_of(UserError("the prompt is too long", where="p.jsonl:7", remedy="shorten it"), "folder")
    with pytest.raises(UserError) as failed:
        place(spec, pool)
    assert str(failed.value) == str(UserError("the prompt is too long", where="p.jsonl:7", remedy="shorten it"))
    other = refusal_of(RuntimeError("out of memory"), "folder")
    assert other.what == "RuntimeError: out of memory"
    with pytest.raises(UserError, match="cancelled in the work pool 'gpu-pool'"):
        place(spec, ScriptedPool([Cancelled()]))
    with pytest.raises(UserError, match="failed in the work pool 'gpu-pool': the flow cannot be imported"):
        place(spec, ScriptedPool([Failed(message="the flow cannot be imported")]))


def test_a_stage_that_waits_for_people_waits(spec: PlacedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ScriptedPool([Running(), waits("2 of 5 have voted")], [waits("2 of 5 have voted")])
    assert isinstance(place(spec, pool), State)
    monkeypatch.setattr(stages, "WorkPool", lambda name: pool)
    with pytest.raises(StageWaits, match="2 of 5"):
        PrefectStages(PlacementSettings(generate="gpu-pool"))(spec)


def test_an_interrupt_cancels_the_stage(spec: PlacedSpec) -> None:
    def interrupt() -> State[Any]:
        raise KeyboardInterrupt

    pool = ScriptedPool([Running(), interrupt])
    with pytest.raises(KeyboardInterrupt):
        place(spec, pool)
    assert len(pool.cancelled) == 1


def test_what_an_earlier_attempt_left_is_awaited_or_cancelled(
    spec: PlacedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ScriptedPool([done(spec)])
    same = PlacedStage(folder=str(spec.folder), key=spec.key(), commit=code_version())
    pool.left = {pool.runs([Running(), Running(), done(spec)]): same}
    assert isinstance(place(spec, pool), Manifest)
    assert (pool.started, pool.cancelled) == ([], [])
    (spec.folder / MANIFEST).unlink()
    other = pool.runs([Cancelling(), Cancelled()])
    pool.left = {other: same.model_copy(update={"key": "of other settings"})}
    assert isinstance(place(spec, pool), Manifest)
    assert (pool.cancelled, pool.closed) == ([other], [])
    assert len(pool.started) == 1
    monkeypatch.setattr(placement, "_END", 0.0)
    (spec.folder / MANIFEST).unlink()
    lost = ScriptedPool([done(spec)])
    gone = lost.runs([Cancelling(), Cancelling()])
    lost.left = {gone: same}  # of this very work, but nobody ends it
    assert isinstance(place(spec, lost), Manifest)
    assert lost.closed == [gone]


def test_a_pool_without_workers_ends_the_run_after_a_while(
    spec: PlacedSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_WORKERS", 0.0)
    pool = ScriptedPool([Pending()] * 10**6, live=False)
    with caplog.at_level(logging.WARNING, "irepo"), pytest.raises(UserError, match="no live worker") as refused:
        place(spec, pool, patience=0.05)
    assert "flows.deploy worker gpu-pool" in refused.value.remedy
    assert len(pool.cancelled) == 1
    assert "waits: the work pool gpu-pool has no live worker" in caplog.text


def test_work_that_is_not_in_this_folder_is_refused(spec: PlacedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_VISIBLE", 0.0)
    with pytest.raises(UserError, match="has finished generate of round 1, but not in this run's folder"):
        place(spec, ScriptedPool([Completed()]))


def test_stages_go_where_placement_says(spec: PlacedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trained(PlacedSpec):
        task: ClassVar[TaskName | None] = "train"

    went: dict[str, list[str]] = {}

    def run(spec: Spec, pool: ScriptedPool, progress: Progress, *, patience: float) -> Manifest:
        went.setdefault(pool.name, []).append(str(spec.task))
        return work(spec)

    def pool(name: str) -> ScriptedPool:
        made = ScriptedPool()
        made.name = name
        return made

    def here(spec: Spec) -> None:
        went.setdefault("here", []).append(str(spec.task))
        work(spec)

    monkeypatch.setattr(stages, "run_in_pool", run)
    monkeypatch.setattr(stages, "WorkPool", pool)
    monkeypatch.setattr(stages, "run_as_task", here)
    settings = compose_config(
        ["run=demo", "placement=pools", "placement.train=big-pool", "placement.label=null"]
    ).placement
    for kind, name in ((PlacedSpec, "generate"), (Trained, "train")):
        PrefectStages(settings)(kind(folder=spec.folder.with_name(name), round=1, seed=0))
    PrefectStages(compose_config(["run=demo"]).placement)(kind(folder=spec.folder.with_name("more"), round=1, seed=0))
    assert went == {"gpu-pool": ["generate"], "big-pool": ["train"], "here": ["train"]}


def test_a_kind_of_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"placement\.generat"):
        compose_config(["run=demo", "placement.generat=gpu-pool"])


def test_a_run_with_a_server_of_its_own_cannot_place_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREPO_TEMPORARY_SERVER", "1")
    check_placement(PlacementSettings())
    with pytest.raises(UserError, match="need a Prefect server that the workers share") as refused:
        check_placement(PlacementSettings(train="gpu-pool"))
    assert refused.value.where == "placement.train=gpu-pool"


def test_a_worker_refuses_what_it_cannot_do_alike(spec: PlacedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec.folder.mkdir(parents=True)
    with pytest.raises(UserError, match="does not see the stage's folder"):
        read_placed_spec(spec.folder, spec.key(), code_version())
    path = spec.folder / "spec.yaml"
    spec.save(path)
    assert read_placed_spec(spec.folder, spec.key(), code_version()) == spec
    with pytest.raises(UserError, match="has other code than the run"):
        read_placed_spec(spec.folder, spec.key(), "0123456789ab")
    with pytest.raises(UserError, match="computes another key"):
        read_placed_spec(spec.folder, "another", code_version())
    path.chmod(0o644)
    with pytest.raises(UserError, match="nobody else can read"):
        read_placed_spec(spec.folder, spec.key(), code_version())
    path.chmod(0o600)
    moved = spec.folder.with_name("moved")
    spec.folder.rename(moved)
    with pytest.raises(UserError, match="relative to another folder"):
        read_placed_spec(moved, spec.key(), code_version())


def test_keys_are_looked_up_where_the_stage_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Judge(BaseModel):
        api_key_env: str | None = None

    class Panel(BaseModel):
        annotators: dict[str, Judge]

    monkeypatch.setenv("FIRST_KEY", "a")
    monkeypatch.setenv("SECOND_KEY", "")
    monkeypatch.setattr("flows.stage.key_of", lambda variable, place: f"{variable} of {place}")
    give_keys(
        Panel(annotators={"one": Judge(api_key_env="FIRST_KEY"), "two": Judge(api_key_env="SECOND_KEY"), "x": Judge()})
    )
    assert os.environ["FIRST_KEY"] == "a"
    assert os.environ["SECOND_KEY"] == "SECOND_KEY of settings.annotators.two"
