"""A start of vLLM that was killed while it compiled leaves a file that no later start can read."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from storage.errors import UserError
from tasks.child_process import ChildFailed
from tasks.generation.engines.vllm import VllmEngine, VllmSettings
from tasks.modeling.vllm_process import damaged_cache
from tasks.panel.annotators.judge import JudgeSettings
from tasks.panel.chat import vllm as vllm_chat
from tasks.panel.chat.vllm import VllmChat
from tests.generation.conftest import CPU_ENGINE

ENTRY = "/home/me/.cache/vllm/torch_compile_cache/torch_aot_compile/40b4dd90"
TEXT = f"ImportError: {ENTRY}/inductor_cache/u5/cu5u.main.so: file too short\nmore"
FAILED = ChildFailed("the vLLM engine", "InductorError", TEXT, "the end of its log")


@pytest.mark.parametrize("entry", [ENTRY, "/a b/torch_compile_cache/0d98f77b"])
def test_the_error_names_the_folder_to_remove(entry: str) -> None:
    found = damaged_cache(TEXT.replace(ENTRY, entry), where="here")
    assert found is not None
    assert found.remedy == f"remove the folder {entry}, then give the same command again; vLLM compiles anew"
    assert "file too short" in found.what
    assert "more" not in found.what


@pytest.mark.parametrize("text", ["ImportError: libcudart.so.13: cannot open", f"RuntimeError: {ENTRY}/x", ""])
def test_other_errors_are_not_put_down_to_the_cache(text: str) -> None:
    assert damaged_cache(text, where="here") is None


class Broken:
    """A child process whose vLLM does not start."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def send(self, _: Any) -> None:
        pass

    def receive(self, *_: Any) -> None:
        raise FAILED

    def end(self, *_: Any) -> None:
        pass


def test_a_judge_names_it(tiny_policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_chat, "Child", Broken)
    settings = JudgeSettings(kind="judge", model=str(tiny_policy), backend="vllm", engine=CPU_ENGINE)

    async def connect() -> None:
        async with VllmChat("itself", settings).connected():
            pass

    with pytest.raises(UserError, match="cache of compiled code is damaged") as refused:
        asyncio.run(connect())
    assert ENTRY in refused.value.remedy


def test_an_engine_names_it() -> None:
    error = VllmEngine(VllmSettings(**CPU_ENGINE))._start_error(FAILED)
    assert isinstance(error, UserError)
    assert ENTRY in error.remedy
