"""Whether the folder of a policy is whole, from its headers: no weights are read.

    check_files   files alone, in milliseconds: JSON that parses, one complete set of safetensors, no adapter beside it
    check_whole   also the model, built without memory: every weight is there and used, nothing is quantized, the
                  tokenizer's ids have embeddings

transformers draws missing weights at random and only logs it, applies an adapter that lies beside the weights, and
ignores weights that it does not know. A policy like that trains, and is not the policy that anyone meant.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import UserError
from tasks.modeling.json_files import damaged, read_json
from tasks.modeling.pretrained import read_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_SHOWN = 5  # names in an error
_LARGEST_HEADER = 100_000_000  # bytes, the format's own limit


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> {dtype, shape, data_offsets}, without its metadata.

    Raises UserError for a file that is cut off or has another format.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
            if length > min(size - 8, _LARGEST_HEADER):
                raise damaged(path, f"is not a whole safetensors file (it has {size} bytes)")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"has a safetensors header that cannot be read ({error})") from None
    if 8 + length + end != size:
        raise damaged(path, f"has {size} bytes, and its header describes {8 + length + end}")
    return dict(header)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files with the policy's weights: those of the index, or model.safetensors.

    Other files beside an index are nobody's weights (some models ship a second copy in another format). Raises
    UserError when it is not clear which files count, or one is missing.
    """
    index = folder / INDEX
    present = sorted(path.name for path in folder.glob("*.safetensors"))
    if not index.is_file():
        if present == [SINGLE]:
            return [folder / SINGLE]
        if SINGLE in present:
            raise _two_sets(folder, SINGLE, [name for name in present if name != SINGLE])
        raise UserError(
            f"the policy's weights cannot be found: there is neither {SINGLE} nor {INDEX} "
            f"beside {', '.join(present[:_SHOWN]) or 'the configuration'}",
            where=str(folder),
            remedy="write the folder with model.save_pretrained(folder), or download all of its files",
        )
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise damaged(index, "has no weight_map from tensors to files")
    files = sorted(set(named.values()))
    missing = [name for name in files if name not in present]
    if missing:
        raise UserError(
            f"{len(missing)} of the policy's {len(files)} weight files are missing: {', '.join(missing[:_SHOWN])}",
            where=str(folder),
            remedy=f"download or copy them again, or delete {INDEX} if all weights are in {SINGLE}",
        )
    if SINGLE in present and SINGLE not in files:
        raise _two_sets(folder, SINGLE, files)
    return [folder / name for name in files]


def tensor_files(folder: Path) -> dict[str, Path]:
    """Name of each tensor of the policy -> its file. Raises UserError as `weight_files` and `read_header`."""
    return {name: path for path in weight_files(folder) for name in read_header(path)}


def check_files(folder: Path) -> None:
    """Refuse damaged JSON, damaged, missing or ambiguous weights, and adapters beside the weights.

    Raises UserError. Reads JSON files and the headers of the weights only.
    """
    for name in _JSON:
        if (folder / name).is_file():
            read_json(folder / name)
    adapters = [name for name in _ADAPTERS if (folder / name).is_file()]
    if adapters:
        raise UserError(
            f"an adapter lies beside the policy's weights ({', '.join(adapters)}): transformers would apply it, and "
            "vLLM would not",
            where=str(folder),
            remedy="if it is merged into the weights, delete its files; if not, merge it: "
            "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(other_folder)",
        )
    found = {name: path.name for path in weight_files(folder) for name in read_header(path)}
    index = folder / INDEX
    if index.is_file():
        named: Mapping[str, str] = read_json(index)["weight_map"]
        wrong = sorted(name for name, file in named.items() if found.get(name) != file)
        if wrong:
            raise UserError(
                f"tensors are not in the files that {INDEX} names: {_listed(wrong)}",
                where=str(index),
                remedy="download or copy the weights again: index and files belong to different versions",
            )


def check_whole(folder: Path, vocabulary: Mapping[str, int], *, trust_remote_code: bool = False) -> None:
    """`check_files`, and that the folder's weights are exactly those of its model and of its tokenizer.

    vocabulary: the id of each of the tokenizer's tokens.
    Raises UserError for quantized weights, weights that are missing, unknown or of another shape, and tokenizer ids
    without an embedding. Builds the model on torch's meta device: about a tenth of a second, and no memory.
    """
    check_files(folder)
    model = open_meta(folder, trust_remote_code=trust_remote_code)
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    beyond = {token: at for token, at in vocabulary.items() if at >= rows}
    if beyond:
        token = max(beyond, key=lambda name: beyond[name])
        raise UserError(
            f"{len(beyond)} of the tokenizer's tokens have no embedding: {token!r} has id {beyond[token]}, and the "
            f"policy's embedding has {rows} rows",
            where=str(folder),
            remedy="add the rows and train them (model.resize_token_embeddings(len(tokenizer)), then "
            "python -m flows.warmup), or use the tokenizer that belongs to the weights",
        )


def open_meta(folder: Path, *, trust_remote_code: bool = False) -> "PreTrainedModel":
    """The model of the folder on the meta device: shapes without values. Raises UserError as `load_complete`."""
    import torch

    return load_complete(folder, dtype=torch.float32, device_map="meta", trust_remote_code=trust_remote_code)


def load_complete(folder: Path, *, trust_remote_code: bool = False, **options: Any) -> "PreTrainedModel":
    """The causal language model of the folder, loaded by transformers with `options`.

    Raises UserError unless weights and model fit exactly, and for code in the folder that is not trusted.
    """
    refuse_quantized(folder)
    try:
        model, report = read_model(
            "causal", folder, trust_remote_code=trust_remote_code, ignore_mismatched_sizes=True, **options
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"transformers cannot load the policy: {(str(error) or type(error).__name__).splitlines()[0]}",
            where=str(folder),
            remedy="check that AutoModelForCausalLM.from_pretrained(folder) works; download damaged files again",
        ) from None
    problems = {
        "missing (transformers would draw them at random)": report["missing_keys"],
        "not part of the model (they would be lost)": report["unexpected_keys"],
        "of another shape": [name for name, *_ in report["mismatched_keys"]],
    }
    faults = [f"{what}: {_listed(sorted(names))}" for what, names in problems.items() if names]
    if faults:
        raise UserError(
            "the folder's weights are not those of its model: " + "; ".join(faults),
            where=str(folder),
            remedy="write weights and configuration together with model.save_pretrained(folder): for an untied output "
            "layer check tie_word_embeddings, for names like base_model.model... merge the adapter first",
        )
    return model


def refuse_quantized(folder: Path) -> None:
    """Raise UserError for quantized weights: they can be neither trained nor published."""
    config = folder / "config.json"
    quantized = read_json(config).get("quantization_config")
    method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
    eight = sorted({entry["dtype"] for path in weight_files(folder) for entry in read_header(path).values()
                    if entry["dtype"].startswith("F8")})  # fmt: skip
    if quantized or eight:
        raise UserError(
            f"the policy's weights are quantized ({method if quantized else ', '.join(eight)})",
            where=str(config),
            remedy="start from the model in bfloat16 or float32, or convert it: load it with transformers, "
            "model.dequantize(), delete model.config.quantization_config, and model.save_pretrained(other_folder)",
        )


def _two_sets(folder: Path, one: str, others: list[str]) -> UserError:
    return UserError(
        f"the folder holds two sets of weights: {one}, and {', '.join(others[:_SHOWN])}",
        where=str(folder),
        remedy="keep the set that you mean, and move the other files out of the folder",
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
