"""What a worker must share with the driver: each disagreement is refused with its place and a remedy."""

from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.cluster.agreement import Facts, answer_to, facts, probe_in, refuse_disagreement


def test_a_worker_that_shares_everything_is_accepted(tmp_path: Path) -> None:
    with probe_in(tmp_path / "stage") as probe:
        worker = facts(probe)
        assert worker.token == probe.read_text()
        refuse_disagreement(worker, probe)
    assert list((tmp_path / "stage").iterdir()) == []


def refused(worker: Facts, probe: Path) -> UserError:
    with pytest.raises(UserError) as error:
        refuse_disagreement(worker, probe)
    return error.value


def test_other_code_and_other_libraries_are_refused(tmp_path: Path) -> None:
    with probe_in(tmp_path) as probe:
        worker = facts(probe)
        error = refused(replace(worker, code="other"), probe)
        assert "another version of irepo's code" in error.what
        assert error.where.startswith(f"worker on {worker.host}")
        error = refused(replace(worker, versions=worker.versions | {"torch": "1.0"}), probe)
        assert "torch 1.0 (here " in error.what


def test_a_folder_that_the_worker_does_not_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.cluster.agreement._PATIENCE", 0.2)
    with probe_in(tmp_path / "here") as probe:
        elsewhere = facts(tmp_path / "elsewhere" / probe.name)  # the folder is not mounted there
        assert elsewhere.token is None
        assert "does not see the run's folder" in refused(elsewhere, probe).what
        (tmp_path / "elsewhere").mkdir()  # another folder at the same path
        assert facts(tmp_path / "elsewhere" / probe.name).token is None
        readable = facts(probe)
        answer_to(probe, readable.host).unlink()  # it reads the file, but writes elsewhere
        error = refused(readable, probe)
        assert str(probe.parent) in error.where
        assert "runs=<shared folder>" in error.remedy


def test_errors_for_users_travel_pickled() -> None:
    import pickle

    error = UserError("too long", where="prompts.jsonl:3", remedy="cut it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
