"""vLLM samples a policy that is stored in float32 in the engine's dtype, also after a reload in place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.generation.engines import Request
from tasks.generation.engines.vllm import VllmEngine, VllmSettings
from tasks.generation.settings import SamplingSettings
from tasks.generation.verify import Scored, measure_gap
from tasks.modeling.logprobs import TokenSequence
from tests.generation.conftest import CPU_ENGINE

pytestmark = pytest.mark.vllm


def stored_in(source: Path, folder: Path, dtype: torch.dtype) -> Path:
    """A copy with its weights in `dtype` and bfloat16 in its configuration."""
    shutil.copytree(source, folder)
    weights = load_file(source / "model.safetensors")
    save_file({n: v.to(dtype) for n, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_a_round_in_bfloat16(make_policy: Callable[..., Path], requests: list[Request], tmp_path: Path) -> None:
    """An initial policy in bfloat16, then a round's in float32, in the same process."""
    initial = stored_in(make_policy(seed=0), tmp_path / "initial", torch.bfloat16)
    trained = stored_in(make_policy(seed=1), tmp_path / "trained", torch.float32)
    engine = VllmEngine(VllmSettings(**CPU_ENGINE | {"dtype": "bfloat16"}), log=tmp_path / "engine.log")
    try:
        for policy, other in ((initial, trained), (trained, initial)):
            engine.load(policy)
            drawn = engine.sample(requests, SamplingSettings(responses=2, max_tokens=24))
            scored = [
                Scored(TokenSequence(request.prompt_ids, sample.token_ids), sample.logprobs)
                for request, samples in zip(requests, drawn, strict=True)
                for sample in samples
            ]
            gaps = {
                name: measure_gap(folder, scored, dtype="bfloat16").overall.value
                for name, folder in (("own", policy), ("other", other))
            }
            assert gaps["own"] < 0.1 < 0.5 < gaps["other"]
    finally:
        engine.close()
