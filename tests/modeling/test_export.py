"""A policy is exported in the dtype of its configuration, or in another."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from storage.errors import UserError
from tasks.modeling.export import export
from tasks.modeling.load import check_policy_folder, load_policy


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_weights_are_cast_and_everything_else_copied(
    tiny_policy: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    policy = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    config = json.loads((policy / "config.json").read_text()) | {"dtype": "bfloat16"}
    (policy / "config.json").write_text(json.dumps(config))
    out = export(policy, tmp_path / "out", dtype)
    wanted = dtype or torch.bfloat16
    stored, exported = load_file(policy / "model.safetensors"), load_file(out / "model.safetensors")
    assert {name: value.to(wanted).tolist() for name, value in stored.items()} == {
        name: value.tolist() for name, value in exported.items()
    }
    check_policy_folder(out)
    assert AutoModelForCausalLM.from_pretrained(out).dtype == wanted
    assert load_policy(out, dtype="float32", device="cpu").dtype == torch.float32
    assert (out / "tokenizer.json").read_bytes() == (policy / "tokenizer.json").read_bytes()


def test_a_folder_that_exists_is_kept(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        export(tiny_policy, tmp_path)
