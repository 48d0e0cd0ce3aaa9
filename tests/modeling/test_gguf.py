"""GGUF files, read back by transformers' own loader: the same log-probabilities, tokens and end of turns."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from storage.errors import UserError
from tasks.modeling.gguf import write_gguf
from tasks.modeling.load import load_policy, load_tokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Path:
    """The tiny policy's tokenizer around a random Qwen2, whose attention has biases."""
    folder = Path(shutil.copytree(tiny_policy, tmp_path_factory.mktemp("qwen2") / "policy"))
    config = Qwen2Config(
        vocab_size=len(load_tokenizer(tiny_policy)), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.25,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Qwen2ForCausalLM(config)
        for name, value in model.named_parameters():
            if name.endswith("proj.bias"):
                torch.nn.init.normal_(value)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["tiny_policy", "tiny_policy_untied", "qwen2"])
def test_transformers_reads_the_same_model(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    policy: Path = request.getfixturevalue(name)
    path = write_gguf(policy, tmp_path / "policy.gguf", "float32")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ours = load_policy(policy, dtype="float32", device="cpu")
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        expected, found = (model(ids).logits.log_softmax(-1) for model in (ours, read))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_file_names_tokens_and_template(tiny_policy: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_policy, tmp_path / "policy.gguf", "bfloat16")
    tokenizer = load_tokenizer(tiny_policy)
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    text = "the answer is 42.\n"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds == {"BF16", "F32"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model_type": "gemma2"}, "type gemma2"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, r"scales its positions \(llama3\)"),
        ({"mlp_bias": True}, "biases"),
    ],
)
def test_other_models_are_sent_to_the_converter(
    change: dict[str, object], what: str, tiny_policy: Path, tmp_path: Path
) -> None:
    policy = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    config = json.loads((policy / "config.json").read_text()) | change
    (policy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=what) as caught:
        write_gguf(policy, tmp_path / "policy.gguf", "float32")
    assert "convert_hf_to_gguf.py" in caught.value.remedy
    assert not (tmp_path / "policy.gguf").exists()


def test_an_unknown_way_to_split_text_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    policy = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    tokenizer = json.loads((policy / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (policy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="no name for"):
        write_gguf(policy, tmp_path / "policy.gguf", "float32")
