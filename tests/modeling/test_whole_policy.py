"""A policy's folder that is not whole is refused by its headers, and by every load: no weights are drawn at random."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from storage.errors import UserError
from tasks.modeling.load import check_policy_folder, load_policy, load_tokenizer
from tasks.modeling.policy_folder import INDEX, check_whole, weight_files

WEIGHTS = "model.safetensors"


@pytest.fixture
def policy(tiny_policy_untied: Path, tmp_path: Path) -> Path:
    """A copy that tests may change."""
    return Path(shutil.copytree(tiny_policy_untied, tmp_path / "policy"))


def rewrite(policy: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(policy / WEIGHTS)
    change(weights)
    save_file(weights, policy / WEIGHTS, metadata={"format": "pt"})


def split(policy: Path) -> None:
    """Store the weights in two files with an index."""
    weights = load_file(policy / WEIGHTS)
    files = {name: f"model-0000{1 + (name > 'model.layers.1')}-of-00002.safetensors" for name in sorted(weights)}
    for file in sorted(set(files.values())):
        save_file({name: weights[name] for name in weights if files[name] == file}, policy / file)
    (policy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (policy / WEIGHTS).unlink()


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def check(policy: Path) -> None:
    check_policy_folder(policy)
    check_whole(policy, load_tokenizer(policy).get_vocab())


def renamed(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if "layers.1." in name]:
        weights[f"base_model.model.{name}"] = weights.pop(name)


MODEL_FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no output layer": (lambda weights: weights.pop("lm_head.weight"), r"missing .*: lm_head\.weight"),
    "a layer under another prefix": (renamed, r"missing .*model\.layers\.1.*and \d more; not part of the model"),
    "a weight too many": (lambda weights: weights.update(extra=torch.ones(2)), "not part of the model .*: extra"),
    "another shape": (lambda weights: weights.update({"model.norm.weight": torch.ones(3)}), "shape: model.norm.weight"),
    "eight bits": (
        lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"].to(torch.float8_e4m3fn)}),
        r"quantized \(F8_E4M3\)",
    ),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_weights_that_are_not_the_models_are_refused_before_and_at_every_load(policy: Path, fault: str) -> None:
    change, message = MODEL_FAULTS[fault]
    rewrite(policy, change)
    with pytest.raises(UserError, match=message) as refused:
        check(policy)
    assert str(policy) in refused.value.where
    with pytest.raises(UserError, match=message):
        load_policy(policy, dtype="float32", device="cpu")


def test_a_tied_output_layer_need_not_be_stored(tiny_policy: Path) -> None:
    assert "lm_head.weight" not in load_file(tiny_policy / WEIGHTS)
    check(tiny_policy)


def test_quantized_weights_are_refused(policy: Path) -> None:
    edit(policy / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(UserError, match=r"quantized \(awq\)") as refused:
        check(policy)
    assert "dequantize" in refused.value.remedy
    with pytest.raises(UserError, match="quantized"):
        load_policy(policy, dtype="float32", device="cpu")


def test_tokens_without_an_embedding_are_refused(policy: Path) -> None:
    tokenizer = load_tokenizer(policy)
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(policy)
    with pytest.raises(UserError, match="'<think>' has id 300, and the policy's embedding has 300 rows"):
        check(policy)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_the_weights_is_refused(policy: Path, name: str) -> None:
    (policy / name).write_bytes(b"{}" if name.endswith("json") else (policy / WEIGHTS).read_bytes())
    with pytest.raises(UserError, match="an adapter lies beside") as refused:
        check_policy_folder(policy)
    assert "merge_and_unload" in refused.value.remedy


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-5], r"its header describes \d+"),
        (lambda data: data[:200], "is not a whole safetensors file"),
        (lambda data: data[:3], "is not a whole safetensors file"),
        (lambda data: data[:9] + b"}" + data[10:], "a safetensors header that cannot be read"),
        (lambda data: b"<!doctype html><html>not found</html>" * 20, "is not a whole safetensors file"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is not a whole safetensors"),
    ],
)
def test_damaged_weights_are_refused(policy: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    (policy / WEIGHTS).write_bytes(damage((policy / WEIGHTS).read_bytes()))
    with pytest.raises(UserError, match=message) as refused:
        check_policy_folder(policy)
    assert refused.value.where == str(policy / WEIGHTS)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", INDEX]
)
@pytest.mark.parametrize("text", ['{"a": ', "[]", ""])
def test_damaged_json_is_refused(policy: Path, name: str, text: str) -> None:
    if name == INDEX:
        split(policy)
    (policy / name).write_text(text)
    with pytest.raises(UserError, match="is damaged") as refused:
        check_policy_folder(policy)
    assert refused.value.where == str(policy / name)


def test_weights_in_several_files_pass_and_must_be_complete(policy: Path) -> None:
    split(policy)
    check(policy)
    (policy / "consolidated.safetensors").write_bytes(b"another format's copy of the weights")
    check(policy)
    assert [path.name for path in weight_files(policy)] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = (policy / INDEX).read_text()
    swapped = json.loads(index)["weight_map"] | {"lm_head.weight": "model-00002-of-00002.safetensors"}
    (policy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": swapped}))
    with pytest.raises(UserError, match=r"not in the files that .* names: lm_head\.weight"):
        check_policy_folder(policy)
    (policy / INDEX).write_text(index)
    (policy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="1 of the policy's 2 weight files are missing"):
        check_policy_folder(policy)


def test_two_sets_of_weights_are_refused(policy: Path, tmp_path: Path) -> None:
    shutil.copyfile(policy / WEIGHTS, policy / "consolidated.safetensors")
    with pytest.raises(UserError, match=r"two sets of weights: model\.safetensors, and consolidated"):
        check_policy_folder(policy)
    (policy / "consolidated.safetensors").unlink()
    whole = tmp_path / WEIGHTS
    shutil.copyfile(policy / WEIGHTS, whole)
    split(policy)
    shutil.copyfile(whole, policy / WEIGHTS)
    with pytest.raises(UserError, match="two sets of weights"):
        check_policy_folder(policy)


def test_files_without_an_index_are_refused(policy: Path) -> None:
    split(policy)
    (policy / INDEX).unlink()
    with pytest.raises(UserError, match=f"neither {WEIGHTS} nor {INDEX}"):
        check_policy_folder(policy)
