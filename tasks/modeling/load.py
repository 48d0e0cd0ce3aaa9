"""Load policies and tokenizers from Hugging Face folders, after cheap checks."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from storage.errors import UserError
from tasks.modeling.json_files import read_json
from tasks.modeling.policy_folder import check_files, load_complete
from tasks.modeling.pretrained import read_config, read_tokenizer, refuse_code

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16", "float16"]


def check_policy_folder(folder: Path, *, trust_remote_code: bool = False, chat_template: bool = True) -> None:
    """Refuse a folder that cannot be a policy, without loading anything.

    Raises UserError for: no config.json, no tokenizer, no chat template (unless `chat_template=False`), weights that
    are not safetensors, files that are not whole (`policy_folder.check_files`), and code of the folder's own (unless
    `trust_remote_code`).
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            "this is not a Hugging Face model folder: config.json is missing",
            where=str(folder),
            remedy="give policy=<folder> a folder written by save_pretrained, or a Hugging Face model id",
        )
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(
            "the policy has no tokenizer: tokenizer_config.json is missing",
            where=str(folder),
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        )
    inline = read_json(folder / "tokenizer_config.json").get("chat_template")
    if chat_template and not inline and not (folder / "chat_template.jinja").is_file():
        raise UserError(
            "the policy's tokenizer has no chat template",
            where=str(folder / "tokenizer_config.json"),
            remedy="start from a policy that was tuned on chats, or train one with python -m flows.warmup",
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            "the policy's weights are not safetensors",
            where=str(folder),
            remedy="convert them: model.save_pretrained(folder, safe_serialization=True); pickled weights can run code",
        )
    check_files(folder)
    if not trust_remote_code:
        refuse_code(folder)


def check_readable(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise UserError when transformers cannot read the folder's configuration or tokenizer."""
    for what, read in (("configuration", read_config), ("tokenizer", read_tokenizer)):
        try:
            read(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            reason = " ".join(line.strip() for line in (str(error) or type(error).__name__).splitlines()[:3])
            raise UserError(
                f"transformers cannot read the policy's {what}: {reason}",
                where=str(folder),
                remedy="correct the field in config.json or tokenizer_config.json, or download the files again",
            ) from None


def resolve_device(name: str) -> str:
    """'auto' is cuda if available, else cpu; other names are returned as they are."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(folder: Path | str, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder, or of a hub id, with its chat template."""
    # mistral-common, which vLLM installs, reads tekken.json and has no chat template.
    return read_tokenizer(folder, trust_remote_code=trust_remote_code, mistral_format=False)


def load_policy(folder: Path, *, dtype: Dtype, device: str, trust_remote_code: bool = False) -> "PreTrainedModel":
    """The causal language model in `folder`, in eval mode, dropout off, weights in `dtype`.

    Raises UserError unless the folder has exactly the weights of its model (`policy_folder.load_complete`).
    """
    import torch

    config = read_config(folder, trust_remote_code=trust_remote_code)
    model = load_complete(
        folder,
        dtype=getattr(torch, dtype),
        trust_remote_code=trust_remote_code,
        **loading_options(config),
    )
    policy: PreTrainedModel = model.to(resolve_device(device)).eval()  # type: ignore[arg-type]  # takes a name, too
    return policy


def loading_options(config: "PreTrainedConfig") -> dict[str, str]:
    """Options with which a model of this configuration is built."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return {"attn_implementation": "eager"} if capped else {}  # sdpa silently omits soft-capping


def unload(model: "PreTrainedModel") -> None:
    """Free the memory of a model's weights now, on a GPU for other processes too. The model cannot be used afterwards.

    Models have reference cycles, so their weights would stay until the garbage collector runs. A full collection takes
    0.3 s with torch, transformers and Prefect imported.
    """
    import torch

    model.to("meta")  # type: ignore[arg-type]  # takes a name, too
    if torch.cuda.is_initialized():
        free_unused()


def free_unused() -> None:
    """Free models that nothing refers to any more, and return what this process does not use to the GPU.

    torch's allocator keeps freed blocks for this process, and a vLLM engine in another one cannot use them.
    """
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def autocast(device: str, dtype: str) -> "torch.autocast":
    """A context that autocasts to `dtype` on `device`; disabled for float32."""
    import torch

    return torch.autocast(device_type=device.split(":")[0], dtype=getattr(torch, dtype), enabled=dtype != "float32")
