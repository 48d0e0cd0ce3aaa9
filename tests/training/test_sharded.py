"""Two ranks over gloo: what each holds, and policies and checkpoints that are read and written by shard."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.modeling.load import load_policy
from tasks.modeling.unread import open_unread
from tasks.training.settings import TrainSpec
from tasks.training.shard_files import _header, _places, readable_by_shard, stored_tensors
from tasks.training.trainer import run
from tests.modeling.architectures import build
from tests.training.conftest import MakeSpec
from tests.waiting import limit

ROOT = Path(__file__).resolve().parents[2]
LAYERS, WIDTH, INNER = 8, 512, 2048


@pytest.fixture(autouse=True)
def one_thread_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")  # freed tensors are returned, so that peaks can be told


def on_two(module: str, *arguments: str, store: Path) -> None:
    command = [sys.executable, "-m", "tasks.training.local_ranks", "2", str(store), module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit(200))
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_what_a_rank_holds(tiny_policy: Path, tmp_path: Path) -> None:
    """Half of the policy in memory, and no whole layer between forward and backward."""
    policy = tmp_path / "large"
    shutil.copytree(tiny_policy, policy)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    size = sum(parameter.nbytes for parameter in model.parameters()) / (1 << 20)
    matrices = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    model.save_pretrained(policy)
    on_two("tests.training.sharded_memory", str(policy), str(tmp_path), store=tmp_path / "store")
    for rank in (0, 1):
        figures = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        print(f"rank {rank}, policy of {size:.0f} MiB: {figures}")
        assert figures["shards that differ when rank 0 sends"] == 0
        assert figures["read whole, MiB"] > 0.9 * size  # the measurement sees it
        assert figures["read by shard, MiB"] < 0.5 * size + 30
        assert figures["publish by shard, MiB"] < 30
        assert figures["held under autocast, bytes"] == 2 * matrices  # all layers in bfloat16
        assert figures["held with MixedPrecisionPolicy, bytes"] == 0
    published = load_file(tmp_path / "policy" / "model.safetensors")
    for name, value in load_file(policy / "model.safetensors").items():
        assert torch.equal(published[name], value), name


@pytest.mark.parametrize("tied", [True, False])
def test_files_have_the_layout_of_save_pretrained(
    tied: bool, tiny_policy: Path, tiny_policy_untied: Path, tmp_path: Path
) -> None:
    """Header and offsets, byte for byte."""
    model = load_policy(tiny_policy if tied else tiny_policy_untied, dtype="float32", device="cpu")
    model.save_pretrained(tmp_path)
    expected = (tmp_path / "model.safetensors").read_bytes()
    tensors = stored_tensors(model)
    header, _ = _header(tensors, list(tensors))
    assert expected.startswith(header)
    for name, place in _places(tensors).items():
        data = tensors[name].detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert place.file == "model.safetensors"
        assert expected[place.offset : place.offset + len(data)] == data, name


def test_an_unread_policy_has_its_buffers_and_ties(tiny_policy: Path) -> None:
    read, unread = load_policy(tiny_policy, dtype="float32", device="cpu"), open_unread(tiny_policy)
    assert not unread.training
    assert unread.get_input_embeddings().weight is unread.get_output_embeddings().weight
    buffers = dict(read.named_buffers())
    assert {name: value.tolist() for name, value in unread.named_buffers()} == {
        name: value.tolist() for name, value in buffers.items()
    }
    assert {name: p.shape for name, p in unread.named_parameters()} == {
        name: p.shape for name, p in read.named_parameters()
    }


def test_renamed_weights_are_not_read_by_shard(tiny_policy: Path) -> None:
    """Of an architecture whose weights transformers renames or merges when it loads them."""
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    assert readable_by_shard(model, tiny_policy)
    assert not readable_by_shard(build("llama"), tiny_policy)


def weights(spec: TrainSpec) -> dict[str, torch.Tensor]:
    return load_file(spec.folder / "policy" / "model.safetensors")


class Stopped(Exception):
    pass


def stop_after_three(done: int, total: int, unit: str) -> None:
    if (done, unit) == (3, "steps"):
        raise Stopped


STEPS: dict[str, Any] = {
    "prompts_per_step": 2,
    "checkpoint_steps": 1,
    "max_grad_norm": 1e-7,
    "learning_rate": 1e-2,
}


@pytest.mark.slow
def test_bfloat16_on_two_ranks_and_a_checkpoint_of_one(make_spec: MakeSpec) -> None:
    """bfloat16 is as far from float32 on two ranks as under autocast; and two ranks read the checkpoint of one."""
    half = make_spec("half-2", optimization=STEPS | {"dtype": "bfloat16"})
    resumed = make_spec("resumed-2", optimization=STEPS)
    with pytest.raises(Stopped):
        run(resumed, stop_after_three)
    for spec in (half, resumed):
        spec.save(spec.folder.with_suffix(".yaml"))
    paths = [str(spec.folder.with_suffix(".yaml")) for spec in (half, resumed)]
    on_two("tests.training.torchrun_specs", *paths, store=half.folder.with_suffix(".store"))
    exact = make_spec("exact", optimization=STEPS)
    run(exact)
    for name, value in weights(exact).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=1e-6)
    autocast = make_spec("half-1", optimization=STEPS | {"dtype": "bfloat16"})
    run(autocast)
    off = [distance(weights(spec), weights(exact)) for spec in (half, autocast)]
    assert 0 < off[0] < 2 * off[1]
    assert off[0] < 0.3 * distance(load_file(half.policy.path / "model.safetensors"), weights(exact))


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in other))


def test_one_process_reads_the_checkpoint_of_two(make_spec: MakeSpec) -> None:
    spec = make_spec("two-one", optimization=STEPS)
    spec.save(spec.folder.with_suffix(".yaml"))
    store = spec.folder.with_suffix(".store")
    on_two("tests.training.stopped_spec", str(spec.folder.with_suffix(".yaml")), store=store)
    names = sorted(path.name for path in next((spec.folder / "checkpoints").glob("step-000003")).iterdir())
    assert names == [
        "checkpoint.json",
        "generators.safetensors",
        "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors",
    ]
    steps: list[int] = []
    run(spec, lambda done, total, unit: steps.append(done) if unit == "steps" else None)
    assert steps == [4, 5, 6]
    exact = make_spec("exact", optimization=STEPS)
    run(exact)
    for name, value in weights(exact).items():
        torch.testing.assert_close(weights(spec)[name], value, rtol=0, atol=1e-6)
