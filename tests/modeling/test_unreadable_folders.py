"""Fields that transformers stumbles over, with whatever exception: one refusal before a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.errors import UserError
from tasks.modeling.load import check_readable
from tasks.modeling.policy_folder import check_whole


@pytest.fixture
def policy(tiny_policy: Path, tmp_path: Path) -> Path:
    """A copy that tests may change."""
    return Path(shutil.copytree(tiny_policy, tmp_path / "policy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "hidden_size", "64"),
        ("config.json", "num_attention_heads", 0),
        ("config.json", "rope_scaling", 5),
        ("tokenizer_config.json", "eos_token", 5),
        ("tokenizer_config.json", "tokenizer_class", 5),
        ("tokenizer_config.json", "padding_side", "middle"),
    ],
)
def test_a_field_of_another_kind_is_refused(policy: Path, file: str, field: str, value: Any) -> None:
    check_readable(policy)
    edit(policy / file, **{field: value})
    part = "configuration" if file == "config.json" else "tokenizer"
    with pytest.raises(UserError, match=f"transformers cannot read the policy's {part}: ") as refused:
        check_readable(policy)
    assert refused.value.where == str(policy)


def test_a_tokenizer_that_cannot_be_read_is_refused(policy: Path) -> None:
    (policy / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read the policy's tokenizer"):
        check_readable(policy)


@pytest.mark.parametrize("changes", [{"pad_token_id": 10**9}, {"attn_implementation": "flash_attention_2"}], ids=str)
def test_what_the_model_cannot_be_built_with_is_refused(policy: Path, changes: dict[str, Any]) -> None:
    edit(policy / "config.json", **changes)
    with pytest.raises(UserError, match=r"transformers cannot load the policy: \w+: "):
        check_whole(policy, {})
