"""A policy as one GGUF file, for llama.cpp and what is built on it.

Written are Llama, Mistral and Qwen2 models with a byte-level BPE tokenizer whose pre-tokenizer llama.cpp knows by name.
For all others llama.cpp has a converter; the refusal names its command.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open

from storage.errors import UserError
from storage.files import publishing
from tasks.modeling.json_files import read_json
from tasks.modeling.load import check_policy_folder
from tasks.modeling.policy_folder import weight_files

if TYPE_CHECKING:
    from gguf import GGUFWriter

GgufDtype = Literal["float32", "float16", "bfloat16"]
#: model_type -> llama.cpp's architecture. Mistral's models are written as llama there.
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
_LLAMA3 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
_QWEN2 = _LLAMA3.replace("\\p{N}{1,3}", "\\p{N}")
#: What splits text before BPE -> llama.cpp's name of it.
_PRE_TOKENIZERS = {
    ("gpt2",): "gpt-2",
    ("digits", "gpt2"): "smollm",
    (_LLAMA3, "bytes"): "llama-bpe",
    (_QWEN2, "bytes"): "qwen2",
}


def write_gguf(policy: Path, out: Path, dtype: GgufDtype) -> Path:
    """Write the policy to the new file `out`: matrices in `dtype`, vectors in float32. Returns `out`.

    Holds one tensor at a time. Raises UserError for a folder that is not a policy, for a file that exists, without the
    package gguf, and, with the command of llama.cpp's converter, for a model or tokenizer that is not written here.
    """
    check_policy_folder(policy, trust_remote_code=True)  # nothing of it is run
    if out.exists():
        raise UserError("the file exists already", where=str(out), remedy="give a new file")
    gguf = _package()
    config, tokenizer = read_json(policy / "config.json"), read_json(policy / "tokenizer.json")
    _check_model(config, policy)
    pre = _pre_tokenizer(tokenizer, policy)
    with publishing(out) as temporary:
        writer = gguf.GGUFWriter(temporary, _ARCHITECTURES[config["model_type"]])
        _add_settings(writer, config, policy, dtype)
        _add_tokenizer(writer, config, tokenizer, policy, pre)
        tensors = gguf.get_tensor_name_map(gguf.MODEL_ARCH[writer.arch.upper()], config["num_hidden_layers"])
        for name, tensor in _tensors(policy):
            known = tensors.get_name(name, try_suffixes=(".weight", ".bias"))
            if known is None:
                raise _use_converter(f"the tensor {name} has no name in GGUF", policy)
            if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            values = _permuted(name, tensor, config)
            kind = gguf.GGMLQuantizationType[_kind(values, dtype)]
            writer.add_tensor(known, gguf.quantize(values.float().numpy(), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError(
            "the package gguf is not installed", where="--gguf", remedy=".venv/bin/python -m pip install 'gguf>=0.19'"
        ) from None
    return gguf


def _check_model(config: dict[str, Any], policy: Path) -> None:
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise _use_converter(f"models of the type {kind} are not written as GGUF here", policy)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise _use_converter(f"the policy scales its positions ({rope.get('rope_type', rope.get('type'))})", policy)
    if config.get("attention_bias") or config.get("mlp_bias") or config.get("use_sliding_window"):
        raise _use_converter("the policy has biases or a sliding window", policy)


def _pre_tokenizer(tokenizer: dict[str, Any], policy: Path) -> str:
    """llama.cpp's name of what splits text before BPE."""
    model, split = tokenizer["model"], tokenizer.get("pre_tokenizer") or {}
    if (
        model["type"] != "BPE"
        or model.get("byte_fallback")
        or tokenizer.get("normalizer") not in (None, {"type": "NFC"})
    ):
        raise _use_converter("the policy's tokenizer is not byte-level BPE", policy)
    parts = tuple(map(_split, split["pretokenizers"] if split.get("type") == "Sequence" else [split]))
    if parts not in _PRE_TOKENIZERS:
        raise _use_converter("the policy's tokenizer splits text in a way that GGUF has no name for here", policy)
    return _PRE_TOKENIZERS[parts]


def _split(part: dict[str, Any]) -> str:
    if part.get("type") == "ByteLevel" and not part.get("add_prefix_space"):
        return "gpt2" if part.get("use_regex", True) else "bytes"
    if part.get("type") == "Digits" and part.get("individual_digits"):
        return "digits"
    if part.get("type") == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return str(part["pattern"].get("Regex"))
    return "unknown"


def _add_settings(writer: "GGUFWriter", config: dict[str, Any], policy: Path, dtype: GgufDtype) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    types = {"float32": 0, "float16": 1, "bfloat16": 32}
    writer.add_name(policy.resolve().parent.parent.name if policy.name == "policy" else policy.name)
    writer.add_file_type(types[dtype])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))


def _add_tokenizer(
    writer: "GGUFWriter", config: dict[str, Any], tokenizer: dict[str, Any], policy: Path, pre: str
) -> None:
    from gguf import TokenType

    tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in tokenizer.get("added_tokens") or []}
    tokens |= {number: entry["content"] for number, entry in added.items()}
    special = {number for number, entry in added.items() if entry["special"]}
    names, types = [], []
    for number in range(config["vocab_size"]):
        names.append(tokens.get(number, f"[PAD{number}]"))
        kind = TokenType.NORMAL if number in tokens else TokenType.UNUSED
        kind = TokenType.USER_DEFINED if number in added else kind
        types.append(TokenType.CONTROL if number in special else kind)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    _add_special_tokens(writer, policy)


def _add_special_tokens(writer: "GGUFWriter", policy: Path) -> None:
    from tasks.modeling.conversation import turn_end
    from tasks.modeling.load import load_tokenizer

    loaded = load_tokenizer(policy)
    end = turn_end(loaded).token_id  # what ends a reply in the chat template; llama.cpp stops there
    writer.add_eos_token_id(int(end if end is not None else loaded.eos_token_id))
    if loaded.bos_token_id is not None:
        writer.add_bos_token_id(int(loaded.bos_token_id))
    if loaded.pad_token_id is not None:
        writer.add_pad_token_id(int(loaded.pad_token_id))
    writer.add_add_bos_token(False)  # the chat template writes it where there is one
    writer.add_chat_template(str(loaded.chat_template))


def _tensors(policy: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in weight_files(policy):
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)


def _permuted(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Queries and keys of llama in llama.cpp's order: it rotates neighbours where transformers rotates halves."""
    if _ARCHITECTURES[config["model_type"]] != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    heads = config["num_attention_heads"]
    if name.endswith("k_proj.weight"):
        heads = config.get("num_key_value_heads") or heads
    rows, *rest = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(tensor.shape)


def _kind(tensor: torch.Tensor, dtype: GgufDtype) -> str:
    if tensor.ndim < 2:
        return "F32"
    return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]


def _use_converter(what: str, policy: Path) -> UserError:
    return UserError(
        what,
        where=str(policy),
        remedy="export a folder (without --gguf), then, in a checkout of llama.cpp: "
        "python convert_hf_to_gguf.py <folder> --outfile <file>.gguf --outtype bf16",
    )
