"""Write a model's weights, whatever its generation settings say, and the dtypes in which a policy is kept and sampled.

Weights of a policy are stored in float32 from the first round on, because the next round starts from them. A bfloat16
number has 8 bits: an update of 5e-7 to a weight of 0.02 would be rounded away. `dtype` in config.json stays that of the
initial policy, and everyone who only reads the policy (vLLM, transformers' from_pretrained, an export) casts to it.
"""

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from storage.errors import UserError
from tasks.modeling.json_files import read_json
from tasks.modeling.policy_folder import read_header, weight_files

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def save_model(model: "PreTrainedModel", folder: Path) -> None:
    """`model.save_pretrained`, also when the generation settings that came with the model cannot be saved.

    Widely used models have a temperature without do_sample: transformers loads this and refuses to write it.
    """
    settings = writable(getattr(model, "generation_config", None))  # a classifier has none
    if settings is not None:
        model.generation_config = settings
    model.save_pretrained(folder)


def writable(settings: "GenerationConfig | None") -> "GenerationConfig | None":
    """Generation settings that transformers can write: those given, with do_sample where they sample, or else only
    their token ids. irepo samples by its own settings and reads only the end tokens."""
    from transformers import GenerationConfig

    if settings is None or _is_valid(settings):
        return settings
    sampling = GenerationConfig.from_dict(settings.to_dict() | {"do_sample": True})
    if _is_valid(sampling):
        return sampling
    return GenerationConfig(
        bos_token_id=settings.bos_token_id, eos_token_id=settings.eos_token_id, pad_token_id=settings.pad_token_id
    )


def _is_valid(settings: "GenerationConfig") -> bool:
    try:
        settings.validate(strict=True)
    except ValueError:
        return False
    return True


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of most floating-point weights in a Hugging Face folder. Raises UserError if there are none."""
    sizes: Counter[torch.dtype] = Counter()
    for path in weight_files(folder):
        for entry in read_header(path).values():
            if entry["dtype"] in _DTYPES:
                sizes[_DTYPES[entry["dtype"]]] += prod(entry["shape"])
    if not sizes:
        raise UserError(
            "the folder holds no floating-point weights", where=str(folder), remedy="give the folder of a policy"
        )
    return sizes.most_common(1)[0][0]


def nominal_dtype(folder: Path) -> torch.dtype:
    """The dtype that readers of the policy use: `dtype` in its config.json, or else that of its weights."""
    config = read_json(folder / "config.json")
    name = config.get("dtype") or config.get("torch_dtype")
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    return dtype if isinstance(dtype, torch.dtype) else stored_dtype(folder)


def keep_nominal_dtype(source: Path, folder: Path) -> None:
    """Name the nominal dtype of `source` in the config.json of `folder` when it would be lost.

    A config.json without `dtype` leaves readers with the dtype of the weights, which is float32 in `folder`.
    """
    config = read_json(folder / "config.json")
    dtype = nominal_dtype(source)
    if dtype != torch.float32 and "dtype" not in config and "torch_dtype" not in config:
        config["dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
