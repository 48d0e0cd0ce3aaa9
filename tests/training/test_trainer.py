"""The train stage from spec to published policy."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.errors import UserError
from storage.manifest import MANIFEST, Manifest, read_manifest
from storage.stage import has_part
from tasks.modeling.load import load_policy
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs
from tasks.training.groups import read_preferences
from tasks.training.settings import TrainSpec
from tasks.training.trainer import run
from tests.conftest import MakePolicy
from tests.training.conftest import MakeSpec
from tests.training.preference_rows import preference_row


def metrics(spec: TrainSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spec.folder / "metrics.jsonl").read_text().splitlines()]


def test_first_loss_is_the_mean_square_of_the_targets(make_spec: MakeSpec) -> None:
    """With one window of all prompts, every log-ratio is 0 before the first update."""
    spec = make_spec(optimization={"prompts_per_step": 12, "microbatch_tokens": 100})
    run(spec)
    labels = [pair.label for group in read_preferences(spec.preferences.path).groups for pair in group.pairs]
    (only,) = metrics(spec)
    assert only["loss"] == pytest.approx(sum(label**2 for label in labels) / len(labels), rel=1e-5)
    assert abs(only["h_chosen"]) < 1e-4
    assert abs(only["h_rejected"]) < 1e-4
    assert only["label"] == pytest.approx(sum(labels) / len(labels))
    assert only["pairs"] == 36


def test_stage_publishes_an_ordinary_policy_folder(make_spec: MakeSpec, tiny_policy: Path) -> None:
    """Files that training does not change are copied byte for byte. A second run adopts the stage."""
    spec = make_spec(optimization={"epochs": 2})
    reports: list[tuple[int, int, str]] = []
    manifest = run(spec, lambda done, total, unit: reports.append((done, total, unit)))
    policy = spec.folder / "policy"
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (policy / name).read_bytes() == (tiny_policy / name).read_bytes()
    before, after = load_file(tiny_policy / "model.safetensors"), load_file(policy / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(after[name].dtype == value.dtype for name, value in before.items())
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    AutoModelForCausalLM.from_pretrained(policy)
    assert AutoTokenizer.from_pretrained(policy).chat_template
    names = {entry.path for entry in manifest.files}
    assert {"policy/model.safetensors", "policy/config.json", "reference.parquet", "metrics.jsonl"} <= names
    assert manifest.rows == {"prompts": 12, "responses": 36, "pairs": 36, "identical_pairs": 0, "steps": 6}
    assert reports[-1] == (6, 6, "steps")
    assert not (spec.folder / "checkpoints").exists()
    assert has_part(spec, spec.folder / "reference.parquet")
    again: list[int] = []
    assert run(spec, lambda done, total, unit: again.append(done)) == manifest
    assert not again


def test_training_reaches_target_over_beta(make_spec: MakeSpec) -> None:
    """After many steps on one pair, the published policy's log-ratio difference is at the optimum."""
    rows = [preference_row("a", [40, 41, 42], [[50, 51, 2], [60, 61, 62, 2]], 0, 1, 1.2)]
    spec = make_spec(rows=rows, optimization={"epochs": 80, "learning_rate": 3e-4})
    run(spec)
    steps = metrics(spec)
    assert steps[0]["loss"] == pytest.approx(1.44, rel=1e-4)
    assert steps[-1]["loss"] < 1e-3
    sequences = [TokenSequence([40, 41, 42], response) for response in ([50, 51, 2], [60, 61, 62, 2])]
    before, after = (
        sequence_logprobs(load_policy(folder, dtype="float32", device="cpu"), sequences, tokens=4096)
        for folder in (spec.policy.path, spec.folder / "policy")
    )
    difference = (after[0] - before[0]) - (after[1] - before[1])
    assert difference == pytest.approx(1.2 / 0.5, abs=0.05)


def test_training_lowers_the_loss(make_spec: MakeSpec) -> None:
    spec = make_spec(optimization={"epochs": 6, "prompts_per_step": 12})
    run(spec)
    steps = metrics(spec)
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert steps[-1]["accuracy"] > 0.9
    assert steps[0]["learning_rate"] == 1e-3
    assert steps[-1]["learning_rate"] == pytest.approx(1e-4)


def test_lora_publishes_merged_policy_and_adapter(make_spec: MakeSpec, tiny_policy: Path) -> None:
    from peft import PeftModel

    spec = make_spec(
        optimization={"epochs": 3, "learning_rate": 5e-3, "lora": {"rank": 4, "alpha": 8}, "prompts_per_step": 6}
    )
    manifest = run(spec)
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= {e.path for e in manifest.files}
    modules = json.loads((spec.folder / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert modules == sorted(modules)
    assert "lm_head" not in modules
    merged = load_policy(spec.folder / "policy", dtype="float32", device="cpu")
    base = load_policy(tiny_policy, dtype="float32", device="cpu")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(spec.folder / "adapter")).eval()(ids).logits
        published = merged(ids).logits
    torch.testing.assert_close(published, adapted, rtol=1e-4, atol=1e-4)
    assert float((published - plain).abs().max()) > 0.05
    assert metrics(spec)[-1]["loss"] < metrics(spec)[0]["loss"]


def test_lora_depends_on_the_seed_of_the_spec_only(make_spec: MakeSpec) -> None:
    torch.manual_seed(1)
    first = run(make_spec("a", optimization={"lora": {"rank": 2}}))
    torch.manual_seed(2)
    second = run(make_spec("b", optimization={"lora": {"rank": 2}}))
    assert first.content == second.content


def test_bfloat16_autocast_is_close_to_float32(make_spec: MakeSpec) -> None:
    """Autocast in the forward, float32 weights: losses are close to the float32 run, but not equal."""
    values = {}
    for dtype in ("float32", "bfloat16"):
        spec = make_spec(dtype, optimization={"dtype": dtype, "epochs": 3})
        run(spec)
        values[dtype] = [step["loss"] for step in metrics(spec)]
        stored = load_file(spec.folder / "policy" / "model.safetensors")
        assert {value.dtype for value in stored.values()} == {torch.float32}
    assert values["bfloat16"] != values["float32"]
    assert values["bfloat16"] == pytest.approx(values["float32"], rel=0.1)


def test_training_against_another_reference(make_spec: MakeSpec, make_policy: MakePolicy) -> None:
    """If the reference is not the policy, log-ratios do not start at 0 and the first step is not checked."""
    spec = make_spec(reference=make_policy(seed=1), optimization={"prompts_per_step": 12})
    run(spec)
    (only,) = metrics(spec)
    sequences = [
        TokenSequence(group.prompt_ids, group.responses[pair.chosen])
        for group in read_preferences(spec.preferences.path).groups
        for pair in group.pairs
    ]
    policy, reference = (
        sequence_logprobs(load_policy(folder, dtype="float32", device="cpu"), sequences, tokens=4096)
        for folder in (spec.policy.path, spec.reference.path)
    )
    assert only["h_chosen"] == pytest.approx((policy - reference).mean(), rel=1e-4)


def test_wrong_reference_log_probabilities_are_refused(make_spec: MakeSpec, tiny_policy: Path) -> None:
    """The check of the first step detects shifted values in reference.parquet."""
    import pyarrow as pa

    from storage.schemas import REFERENCE, read_parquet, write_parquet
    from storage.stage import mark_part

    spec = make_spec()
    run(spec)
    path = spec.folder / "reference.parquet"
    rows = read_parquet(path, REFERENCE)
    moved = pa.array([value + 0.01 for value in rows["logprob"].to_pylist()])
    write_parquet(path, rows.set_column(3, REFERENCE.field("logprob"), moved))
    mark_part(spec, path)
    with pytest.raises(UserError, match="log-probabilities differ"):
        run(spec)
    assert not (spec.folder / MANIFEST).exists()


def test_a_loss_that_is_not_finite_publishes_nothing(make_spec: MakeSpec) -> None:
    spec = make_spec(optimization={"learning_rate": 1e30, "epochs": 2})
    with pytest.raises(UserError, match="at step 2 of 6"):
        run(spec)
    assert not (spec.folder / MANIFEST).exists()
    assert not (spec.folder / "policy").exists()


def test_tokens_outside_the_vocabulary_are_refused(make_spec: MakeSpec) -> None:
    rows = [preference_row("a", [40], [[50, 2], [5000, 2]], 0, 1, 1.0)]
    with pytest.raises(UserError, match="token id 5000"):
        run(make_spec(rows=rows))


def test_threads_and_random_state_do_not_change(make_spec: MakeSpec) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(make_spec(optimization={"lora": {"rank": 2}}))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


def test_manifest_summarizes_the_training(make_spec: MakeSpec) -> None:
    spec = make_spec()
    manifest: Manifest = run(spec)
    assert read_manifest(spec.folder) == manifest
    assert manifest.summary["last"]["loss"] == metrics(spec)[-1]["loss"]
    assert all(math.isfinite(value) for value in manifest.summary["seconds"].values())
