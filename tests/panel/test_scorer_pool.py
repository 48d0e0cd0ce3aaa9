"""Copies of a scoring annotator in processes of their own: equal answers, deaths, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from storage.errors import UserError
from tasks.panel.annotators.registry import ANNOTATORS, open_annotators
from tasks.panel.annotators.reward_model import RewardModelSettings
from tasks.panel.parts import Parts, remove_parts
from tasks.panel.scorer_pool import ScorerPool
from tasks.panel.scorer_processes import check_devices
from tests.panel.conftest import World
from tests.panel.frail_scorer import FrailSettings
from tests.panel.scripted import response

TEXTS = ["one", "three", "fifteen", "a", "broken", "deadly", "seven", "twenty-one", "ten", "last"]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.panel.parts.BATCH", 3)


def gathered(world: World, settings: FrailSettings, texts: Sequence[str] = TEXTS) -> list[dict[str, Any]]:
    """The answers of a panel of one, as rows. Its workers are ended."""
    spec = world.spec({"p": ["a", "b"]}, {"rule": {"kind": "rule", "shorter": True}})
    (annotator,) = open_annotators({"frail": settings}, seed=0)
    counts: list[int] = []
    try:
        rows = Parts(spec, "panel").gather(0, annotator, [response(text) for text in texts], counts.append, Event())  # type: ignore[arg-type]  # it is local
    finally:
        if isinstance(annotator, ScorerPool):
            annotator.close()
        remove_parts(spec)
    assert counts[-1] == len(texts)
    listed: list[dict[str, Any]] = rows.to_pylist()
    return listed


def processes(folder: Path) -> set[int]:
    return {int(path.name.removeprefix("process-")) for path in folder.glob("process-*")}


def test_two_workers_answer_as_one_even_when_one_dies(world: World, tmp_path: Path, small_batches: None) -> None:
    one = gathered(world, FrailSettings(folder=tmp_path))
    assert [row["outcome"] for row in one].count("error") == 1  # "broken" alone, not its batch
    (tmp_path / "pool").mkdir()
    two = gathered(world, FrailSettings(folder=tmp_path / "pool", workers=2, deaths=1))
    assert two == one
    assert len(processes(tmp_path / "pool")) == 3  # two workers, and the one that came for the dead one
    assert not any(psutil.pid_exists(pid) for pid in processes(tmp_path / "pool"))


def test_a_batch_that_kills_its_worker_twice_ends_the_stage(world: World, tmp_path: Path, small_batches: None) -> None:
    with pytest.raises(UserError, match=r"a worker of annotator 'frail' died twice .* exit code 9") as error:
        gathered(world, FrailSettings(folder=tmp_path, workers=2, deaths=9))
    assert error.value.where == "annotators.frail.workers=2"
    assert len(list(tmp_path.glob("death-*"))) == 2


def test_an_annotator_that_fails_on_everything_ends_the_stage_with_its_error(world: World, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="KeyError: 'broken'"):
        gathered(world, FrailSettings(folder=tmp_path, workers=2), ["broken"])


def test_the_number_of_workers_is_not_part_of_the_key(world: World, tmp_path: Path) -> None:
    spec = world.spec({"p": ["a", "b"]}, {"frail": FrailSettings(folder=tmp_path).model_dump()})

    def key(**changes: Any) -> str:
        annotators = {"frail": FrailSettings(folder=tmp_path, **changes)}
        settings = spec.settings.model_copy(update={"annotators": annotators})
        return spec.model_copy(update={"settings": settings}).key()

    assert key(workers=2) == spec.key() != key(deaths=1)


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ANNOTATORS.read({"kind": "reward_model", "path": "rm", "workers": workers})


@pytest.mark.parametrize("kind", [{"kind": "rule", "shorter": True}, {"kind": "function", "function": "m:f"}])
def test_kinds_that_load_no_model_have_no_workers(kind: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="loads no model"):
        ANNOTATORS.read(kind | {"workers": 2})


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RewardModelSettings(path="rm", workers=3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert not check_devices("panel.annotators.rm", settings)  # on CPUs
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="3 workers need 3 GPUs, and this machine has 2") as error:
        check_devices("panel.annotators.rm", settings)
    assert error.value.where == "panel.annotators.rm.workers=3"
    named = RewardModelSettings(path="rm", workers=2, device="cuda:0")
    with pytest.raises(UserError, match="each worker has a GPU of its own"):
        check_devices("panel.annotators.rm", named)
