"""Prepare a policy for training (adapters, gradient checkpointing) and publish its folder."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open

from storage.files import publish_folder
from tasks.training.settings import LoraSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}


def checkpoint_activations(model: "PreTrainedModel") -> None:
    """Recompute activations in the backward pass. Dropout stays off.

    transformers only recomputes layers in training mode, so `training` is set on these layers but not on their
    submodules, and their own dropout rates are set to 0. Raises NotImplementedError for a model without such layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise NotImplementedError(f"{type(model).__name__} has no layers that transformers can recompute")
    for layer in layers:
        layer.training = True
        for name, value in vars(layer).items():
            if "dropout" in name and isinstance(value, float):
                setattr(layer, name, 0.0)


def add_adapters(model: "PreTrainedModel", settings: LoraSettings, seed: int) -> "PeftModel":
    """The model with LoRA adapters and frozen weights. `seed` determines the adapters; seeds torch's global RNG."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float works; peft annotates int
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    torch.manual_seed(seed)
    adapted: Any = get_peft_model(model, config)
    adapted.eval()
    return cast("PeftModel", adapted)


def publish_adapter(model: "PeftModel", folder: Path) -> None:
    """Write only the adapters, for peft's PeftModel.from_pretrained."""
    with publish_folder(folder) as temporary:
        model.save_pretrained(str(temporary))
        config = temporary / "adapter_config.json"
        values = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(values["target_modules"], list):  # made from a set, whose order differs between processes
            values["target_modules"].sort()
        config.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
        (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card


def publish_policy(model: "PreTrainedModel", source: Path, folder: Path) -> None:
    """Write `model` as an ordinary Hugging Face folder: weights in the dtype of `source`, other files copied from it.

    The model is converted in place. Copying keeps configuration, tokenizer and chat template byte for byte.
    """
    model.to(stored_dtype(source))  # type: ignore[arg-type]
    with publish_folder(folder) as temporary:
        model.save_pretrained(temporary)
        for path in sorted(source.iterdir()):
            if path.is_file() and not path.name.startswith(".") and not _is_weights(path):
                shutil.copyfile(path, temporary / path.name)


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of most floating-point weights in a Hugging Face folder. Raises ValueError if there are none."""
    sizes: Counter[torch.dtype] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensor = file.get_slice(name)
                if tensor.get_dtype() in _DTYPES:
                    sizes[_DTYPES[tensor.get_dtype()]] += torch.Size(tensor.get_shape()).numel()
    if not sizes:
        raise ValueError(f"{folder} holds no floating-point weights")
    return sizes.most_common(1)[0][0]


def _is_weights(path: Path) -> bool:
    return path.suffix in _WEIGHTS or path.name.endswith(".index.json") or path.name in {"manifest.json", "README.md"}


def merge(model: "PreTrainedModel | PeftModel") -> "PreTrainedModel":
    """The model with any adapters merged into its weights."""
    adapted: Any = model
    merged = adapted.merge_and_unload() if hasattr(adapted, "merge_and_unload") else adapted
    return cast("PreTrainedModel", merged)
