"""The engine's log file, with a stand-in for its worker: it is there when an error names it, and nowhere else."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tasks.generation.engines import EngineDied
from tasks.generation.engines import vllm as vllm_engine
from tasks.generation.engines.vllm import VllmEngine, VllmSettings
from tasks.processes import start_group
from tests.generation.conftest import CPU_ENGINE

WILLING = "import sys\nfor _ in sys.stdin: print('{\"result\": null}', flush=True)"
DYING = "import sys\nsys.exit('out of memory')"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> VllmEngine:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return VllmEngine(VllmSettings(**CPU_ENGINE))


def worker(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def start(command: list[str], **options: Any) -> Any:
        return start_group([sys.executable, "-c", code], **options)

    monkeypatch.setattr(vllm_engine, "start_group", start)


def test_a_log_goes_with_its_engine(
    engine: VllmEngine, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker(monkeypatch, WILLING)
    engine.load(tiny_policy)
    assert len(list(tmp_path.glob("irepo-vllm-*.log"))) == 1
    engine.close()
    assert not list(tmp_path.iterdir())


def test_a_log_that_an_error_names_stays(
    engine: VllmEngine, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker(monkeypatch, DYING)
    with pytest.raises(EngineDied, match="out of memory") as caught:
        engine.load(tiny_policy)
    (log,) = tmp_path.glob("irepo-vllm-*.log")
    assert str(log) in str(caught.value)
    worker(monkeypatch, WILLING)
    engine.load(tiny_policy)
    engine.close()
    assert list(tmp_path.glob("irepo-vllm-*.log")) == [log]
    assert "out of memory" in log.read_text()
