"""The log of a vLLM engine, with another program as its child: it is deleted, unless an error names it."""

import tempfile
from pathlib import Path

import pytest

from tasks.generation.engines import EngineDied
from tasks.generation.engines import vllm as vllm_engine
from tasks.generation.engines.vllm import VllmEngine, VllmSettings
from tests.generation.conftest import CPU_ENGINE

WORKING = "import sys\nfor _ in sys.stdin: print('\\x1ereply {}', flush=True)"
DYING = "import sys\nsys.exit('out of memory')"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> VllmEngine:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return VllmEngine(VllmSettings(**CPU_ENGINE))


def use_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Have engines run `code` for their child process."""
    (folder / "stand_in.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(vllm_engine, "MODULE", "stand_in")


def logs(folder: Path) -> list[Path]:
    return list(folder.glob("irepo-vllm-*.log"))


def test_a_log_is_deleted_with_its_engine(
    engine: VllmEngine, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_worker(monkeypatch, tmp_path, WORKING)
    engine.load(tiny_policy)
    assert len(logs(tmp_path)) == 1
    engine.close()
    assert not logs(tmp_path)


def test_a_log_that_an_error_names_stays(
    engine: VllmEngine, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_worker(monkeypatch, tmp_path, DYING)
    with pytest.raises(EngineDied, match="out of memory") as caught:
        engine.load(tiny_policy)
    (log,) = logs(tmp_path)
    assert str(log) in str(caught.value)
    use_worker(monkeypatch, tmp_path, WORKING)
    engine.load(tiny_policy)
    engine.close()
    assert logs(tmp_path) == [log]
    assert "out of memory" in log.read_text()
