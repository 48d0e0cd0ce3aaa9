"""A policy's model whose weights have not been read: for ranks that each read only their shard."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from tasks.modeling.load import loading_options
from tasks.modeling.policy_folder import open_meta
from tasks.modeling.pretrained import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_unread(folder: Path, *, trust_remote_code: bool = False) -> "PreTrainedModel":
    """The causal language model in `folder` as `load_policy` returns it in float32 on a CPU, with arbitrary weights.

    Buffers have their values. Weights have address space but no memory until they are written: a CPU allocates pages
    at the first write. Raises UserError as `load_policy`.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    open_meta(folder, trust_remote_code=trust_remote_code)  # raises unless the folder's weights are the model's
    config = read_config(folder, trust_remote_code=trust_remote_code)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code, **loading_options(config)
        )
    model.tie_weights()
    unread: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                unread.setdefault(id(weight), nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype)))
                module._parameters[name] = unread[id(weight)]
    return cast("PreTrainedModel", model.eval())
