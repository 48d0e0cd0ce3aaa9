"""Prepare a policy for training (adapters, gradient checkpointing) and publish its folder."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from storage.errors import UserError
from storage.files import publish_folder
from tasks.modeling.policy_folder import open_meta
from tasks.modeling.save import keep_nominal_dtype, save_model
from tasks.training.settings import LoraSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

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
    """The model with LoRA adapters and frozen weights. `seed` determines the adapters; seeds torch's global RNG.

    Raises UserError when `target_modules` names no module of the model, or one whose weight another module shares:
    merging the adapter would change both, and only one was trained with it.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float works; peft annotates int
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    recomputed = [module for module in model.modules() if module.training]  # see `checkpoint_activations`
    torch.manual_seed(seed)
    where = f"training.lora.target_modules={settings.target_modules}"
    try:
        adapted: Any = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"peft cannot adapt these modules of {type(model).__name__}: {str(error).splitlines()[0]}",
            where=where,
            remedy="name linear layers of the model, or adapt all of them: training.lora.target_modules=all-linear",
        ) from None
    shared = _adapted_shared_weights(adapted)
    if shared:
        raise UserError(
            f"the weight of {', '.join(shared)} is shared with another module (tied embeddings): the published policy "
            "would not be the trained one",
            where=where,
            remedy="leave the output layer and the embedding out: training.lora.target_modules=all-linear",
        )
    adapted.eval()
    for layer in recomputed:
        layer.training = True
    return cast("PeftModel", adapted)


def check_adapters(policy: Path, settings: LoraSettings, *, trust_remote_code: bool = False) -> None:
    """Raise UserError as `add_adapters` would for the policy in this folder, without reading its weights."""
    with torch.random.fork_rng([]):
        add_adapters(open_meta(policy, trust_remote_code=trust_remote_code), settings, seed=0)


def _adapted_shared_weights(adapted: torch.nn.Module) -> list[str]:
    """Names of adapted modules whose base weight is also a parameter of another module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders = Counter(id(weight) for module in adapted.modules() for weight in module._parameters.values())
    return [
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if isinstance(module, BaseTunerLayer)
        if any(holders[id(weight)] > 1 for weight in module.get_base_layer()._parameters.values() if weight is not None)
    ]


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
    """Write `model` as an ordinary Hugging Face folder: weights in float32, other files copied from `source`.

    The model is converted in place. Copying keeps configuration, tokenizer and chat template byte for byte, so that
    `dtype` in config.json stays the one in which the policy is sampled (`tasks.modeling.save`).
    """
    model.to(torch.float32)  # type: ignore[arg-type]
    with publish_folder(folder) as temporary:
        save_model(model, temporary)
        (temporary / "generation_config.json").unlink(missing_ok=True)
        copy_other_files(source, temporary)


def copy_other_files(source: Path, folder: Path) -> None:
    """Copy all but the weights of the policy `source` into `folder`, which keeps its nominal dtype."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and not _is_weights(path):
            shutil.copyfile(path, folder / path.name)
    keep_nominal_dtype(source, folder)


def _is_weights(path: Path) -> bool:
    return path.suffix in _WEIGHTS or path.name.endswith(".index.json") or path.name in {"manifest.json", "README.md"}


def merge(model: "PreTrainedModel | PeftModel") -> "PreTrainedModel":
    """The model with any adapters merged into its weights."""
    adapted: Any = model
    merged = adapted.merge_and_unload() if hasattr(adapted, "merge_and_unload") else adapted
    return cast("PreTrainedModel", merged)
