"""Weighted sums of weights against plain float64 sums, and the update stage against the vectors in methods.md."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from storage.artifact import Artifact
from storage.errors import UserError
from storage.manifest import read_manifest
from tasks.modeling.merge import publish_sum
from tasks.modeling.policy_folder import INDEX
from tasks.training.objectives.moving import Ema, TrustRegion
from tasks.training.update import Merge, Momentum, UpdateSpec, run_update, weights


def folder(path: Path, **tensors: torch.Tensor) -> Path:
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text("{}")
    return path


def test_a_sum_is_the_float64_sum_in_at_least_float32(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(7, 5, generator=draw) for _ in range(3)]
    for dtype, kept in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        folders = [
            folder(tmp_path / f"{dtype}{i}"[6:], w=each.to(dtype), steps=torch.tensor([i]))
            for i, each in enumerate(values)
        ]
        out = tmp_path / f"out-{dtype}"
        publish_sum(list(zip(folders, (0.2, 0.3, 0.5), strict=True)), folders[2], out)
        stored = [each.to(dtype).double() for each in values]
        wanted = (0.2 * stored[0] + 0.3 * stored[1] + 0.5 * stored[2]).to(kept)
        merged = load_file(out / "model.safetensors")
        assert torch.equal(merged["w"], wanted)
        assert merged["steps"].item() == 2  # integers are copied from the trained policy
        assert (out / "config.json").is_file()


def test_tensors_may_lie_in_different_files(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a=torch.ones(2), b=torch.ones(3))
    two = tmp_path / "two"
    two.mkdir()
    save_file({"a": torch.full((2,), 3.0)}, two / "model-1.safetensors")
    save_file({"b": torch.full((3,), 5.0)}, two / "model-2.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (two / INDEX).write_text(json.dumps({"weight_map": names}))
    publish_sum([(one, 0.5), (two, 0.5)], two, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model-2.safetensors")["b"].tolist() == [3.0] * 3
    assert (tmp_path / "out" / INDEX).is_file()
    publish_sum([(one, 0.5), (two, 0.5)], one, tmp_path / "whole")
    assert load_file(tmp_path / "whole" / "model.safetensors")["a"].tolist() == [2.0] * 2


@pytest.mark.parametrize(
    ("other", "named"),
    [({"a": torch.ones(3)}, r"a is \(3,\) there and \(2,\)"), ({"b": torch.ones(2)}, "a is in only one")],
)
def test_other_architectures_are_refused(tmp_path: Path, other: dict[str, torch.Tensor], named: str) -> None:
    one, two = folder(tmp_path / "one", a=torch.ones(2)), folder(tmp_path / "two", **other)
    with pytest.raises(UserError, match=named):
        publish_sum([(one, 0.5), (two, 0.5)], one, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spec(folder: Path, settings: Momentum | Merge | Ema | TrustRegion, trained: Path, *earlier: Path) -> UpdateSpec:
    return UpdateSpec(
        folder=folder,
        round=1,
        seed=0,
        settings=settings,
        trained=Artifact.of(trained),
        earlier=[Artifact.of(policy) for policy in earlier],
    )


def test_momentum_is_the_vector_of_the_paper(tmp_path: Path) -> None:
    """methods 7.1. The parameters are logits, so the policy is known."""
    trained = folder(tmp_path / "trained", logits=torch.tensor([1.2, 0.3, -0.5], dtype=torch.float64))
    before = folder(tmp_path / "before", logits=torch.tensor([1.0, 0.4, -0.6], dtype=torch.float64))
    run_update(spec(tmp_path / "update", Momentum(kind="momentum", strength=0.3), trained, before))
    logits = load_file(tmp_path / "update" / "policy" / "model.safetensors")["logits"]
    torch.testing.assert_close(logits, torch.tensor([1.26, 0.27, -0.47], dtype=torch.float64), atol=1e-12, rtol=0)
    wanted = torch.tensor([0.64563569, 0.23990317, 0.11446114], dtype=torch.float64)
    torch.testing.assert_close(logits.softmax(0), wanted, atol=1e-8, rtol=0)
    # The same in policy space: pi (pi / pi_before) ** strength, normalized.
    policy, old = (torch.tensor(each, dtype=torch.float64).softmax(0) for each in ([1.2, 0.3, -0.5], [1.0, 0.4, -0.6]))
    form = policy * (policy / old) ** 0.3
    torch.testing.assert_close(logits.softmax(0), form / form.sum())


def test_merge_weights_are_those_of_the_vector() -> None:
    """methods 7.3, weights by step."""
    assert weights(Merge(kind="merge", power=1), 2) == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert weights(Merge(kind="merge", power=2), 2) == pytest.approx([1 / 14, 4 / 14, 9 / 14])
    assert weights(Merge(kind="merge", power=0), 2) == pytest.approx([1 / 3] * 3)
    assert weights(Merge(kind="merge"), 0) == [1.0]


def test_low_rank_steps_are_extrapolated_as_whole_weights(tmp_path: Path) -> None:
    """Weights are W + B A. The sum of products B A is not the product of sums."""
    draw = torch.Generator().manual_seed(1)
    base, (a0, a1), (b0, b1) = (
        torch.randn(6, 6, generator=draw),
        torch.randn(2, 2, 6, generator=draw),
        torch.randn(2, 6, 2, generator=draw),
    )
    before, trained = folder(tmp_path / "before", w=base + b0 @ a0), folder(tmp_path / "trained", w=base + b1 @ a1)
    publish_sum([(before, -0.3), (trained, 1.3)], trained, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")["w"]
    torch.testing.assert_close(merged, base + 1.3 * (b1 @ a1) - 0.3 * (b0 @ a0), atol=1e-5, rtol=1e-5)
    wrong = base + (1.3 * b1 - 0.3 * b0) @ (1.3 * a1 - 0.3 * a0)
    assert (merged - wrong).abs().max() > 0.1


def test_a_policy_that_was_updated_is_an_ordinary_folder(make_policy: Callable[..., Path], tmp_path: Path) -> None:
    trained, before = make_policy(seed=1), make_policy(seed=0)
    work = spec(tmp_path / "update", Merge(kind="merge", last=2, power=0), trained, before)
    manifest = run_update(work)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "update" / "policy")
    ones = [AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (trained, before)]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, (ones[0][name] + ones[1][name]) / 2)
    assert manifest.summary["weights"] == [0.5, 0.5]
    assert read_manifest(tmp_path / "update").content == manifest.content
    shutil.rmtree(tmp_path / "update" / "policy")
    assert run_update(work).content == manifest.content  # lost files are written again, with the same bytes


@pytest.mark.parametrize(("settings", "share"), [(Ema(rate=0.1), 0.1), (TrustRegion(), 0.6), (TrustRegion(rate=1), 1)])
def test_a_reference_moves_towards_the_policy(settings: Ema | TrustRegion, share: float, tmp_path: Path) -> None:
    """methods 7.2: ref <- a theta + (1 - a) ref, twice; by hand for three parameters."""
    policies = [torch.tensor(values, dtype=torch.float64) for values in ([1.0, 0.4, -0.6], [1.2, 0.3, -0.5])]
    reference = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    before = folder(tmp_path / "ref", w=reference)
    for number, values in enumerate(policies):
        trained = folder(tmp_path / f"policy-{number}", w=values)
        run_update(spec(tmp_path / f"moved-{number}", settings, trained, before))
        before, reference = tmp_path / f"moved-{number}" / "policy", share * values + (1 - share) * reference
    torch.testing.assert_close(load_file(before / "model.safetensors")["w"], reference, rtol=0, atol=1e-12)
