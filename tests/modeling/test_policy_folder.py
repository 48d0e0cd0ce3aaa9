"""Folders that cannot be a policy are refused before weights are read; others are loaded in the requested dtype."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from storage.errors import UserError
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import autocast, check_policy_folder, load_policy, load_tokenizer, resolve_device


@pytest.fixture
def policy(tiny_policy: Path, tmp_path: Path) -> Path:
    """A copy that tests may change."""
    return Path(shutil.copytree(tiny_policy, tmp_path / "policy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_whole_folder_passes(policy: Path) -> None:
    check_policy_folder(policy)


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("config.json", "config.json is missing", "save_pretrained"),
        ("tokenizer_config.json", "has no tokenizer", "tokenizer.save_pretrained"),
        ("chat_template.jinja", "has no chat template", "flows.warmup"),
        ("model.safetensors", "are not safetensors", "safe_serialization=True"),
    ],
)
def test_missing_file_is_refused_with_its_remedy(policy: Path, name: str, what: str, remedy: str) -> None:
    (policy / name).unlink()
    with pytest.raises(UserError, match=what) as refusal:
        check_policy_folder(policy)
    assert str(policy) in refusal.value.where
    assert remedy in refusal.value.remedy


def test_chat_template_in_the_tokenizer_config_is_enough(policy: Path) -> None:
    (policy / "chat_template.jinja").unlink()
    edit(policy / "tokenizer_config.json", chat_template="{{ messages }}")
    check_policy_folder(policy)


def test_chat_template_may_be_missing_on_request(policy: Path) -> None:
    (policy / "chat_template.jinja").unlink()
    check_policy_folder(policy, chat_template=False)


def test_pickled_weights_are_refused(policy: Path) -> None:
    (policy / "model.safetensors").rename(policy / "pytorch_model.bin")
    with pytest.raises(UserError, match="not safetensors"):
        check_policy_folder(policy)


def test_code_in_the_folder_must_be_trusted(policy: Path) -> None:
    edit(policy / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    with pytest.raises(UserError, match="brings its own Python code") as refusal:
        check_policy_folder(policy)
    assert "policy.trust_remote_code=true" in refusal.value.remedy
    check_policy_folder(policy, trust_remote_code=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_policy_is_loaded_in_the_requested_dtype(tiny_policy: Path, dtype: str) -> None:
    model = load_policy(tiny_policy, dtype=dtype, device="cpu")  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not model.training


def test_chat_is_encoded_once_and_ready_for_the_reply(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    ids = encode_chat(tokenizer, [{"role": "user", "content": "the answer"}])
    assert tokenizer.decode(ids) == "<|im_start|>user\nthe answer<|im_end|>\n<|im_start|>assistant\n"
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert isinstance(start, int)
    assert ids.count(start) == 2


def test_device_and_autocast() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    a = torch.ones(2, 2)
    with autocast("cpu", "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast("cpu", "float32"):
        assert (a @ a).dtype == torch.float32


def test_soft_capped_attention_is_not_left_to_sdpa(policy: Path) -> None:
    """sdpa omits the cap, so its log-probabilities would differ from the sampler's."""
    import transformers

    config = transformers.Gemma2Config(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, attn_logit_softcapping=0.5, initializer_range=2.0,
    )  # fmt: skip
    transformers.Gemma2ForCausalLM(config).save_pretrained(policy)
    model = load_policy(policy, dtype="float32", device="cpu")
    assert model.config._attn_implementation == "eager"
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        capped = model(ids).logits
        model.set_attn_implementation("sdpa")
        uncapped = model(ids).logits
    assert float((capped - uncapped).abs().max()) > 1e-3
