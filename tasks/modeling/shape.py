"""How large a policy is: its tensors, from the headers of its weights or from config.json alone. Nothing is loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from storage.errors import UserError
from tasks.modeling.json_files import read_json
from tasks.modeling.policy_folder import read_header, weight_files

#: Architectures whose MLP has two matrices (up, down); the others have a gate as well.
_TWO_MATRICES = frozenset({"phi", "gpt2", "gpt_neox", "opt", "starcoder2", "falcon", "bloom", "gptj", "mpt"})
#: Names of a size in config.json, by architecture.
_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "inner": ("intermediate_size", "ffn_dim", "n_inner"),
    "context": ("max_position_embeddings", "n_positions", "n_ctx"),
}
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Shape:
    """Sizes of a causal language model. Tied embeddings are counted once."""

    parameters: int
    layer: int  # parameters of its largest layer
    matrices: tuple[tuple[int, int], ...]  # of all layers: the linear layers, as (rows, columns)
    layers: int
    hidden: int
    inner: int  # of the MLP
    queries: int  # heads * size of a head
    keys: int  # key heads * size of a head
    heads: int
    vocabulary: int
    gated: bool
    tied: bool
    context: int  # tokens

    @property
    def output(self) -> int:
        """Parameters of the output layer, which may be the embedding."""
        return self.vocabulary * self.hidden

    @property
    def linear(self) -> int:
        """Parameters of the linear layers inside the decoder's layers."""
        return sum(rows * columns for rows, columns in self.matrices)

    def cache_bytes(self, itemsize: int) -> int:
        """Bytes of keys and values of one token, in all layers."""
        return 2 * self.layers * self.keys * itemsize

    def adapter(self, rank: int) -> int:
        """Parameters of LoRA adapters of this rank on all linear layers but the output."""
        return rank * sum(rows + columns for rows, columns in self.matrices)

    @classmethod
    def of_folder(cls, folder: Path) -> "Shape":
        """From config.json and, where there are weights, the headers of its safetensors.

        Raises UserError for damaged files and for a config.json without the sizes.
        """
        config = read_json(folder / "config.json")
        if any(folder.glob("*.safetensors")):
            headers = [read_header(path) for path in weight_files(folder)]
            return _of_tensors(
                config, {name: entry["shape"] for part in headers for name, entry in part.items()}, folder
            )
        return _of_tensors(config, _expected(config, folder), folder)


def _of_tensors(config: Mapping[str, Any], tensors: Mapping[str, list[int]], folder: Path) -> Shape:
    text = _text_config(config)
    hidden, layers, heads = (_size(text, name, folder) for name in ("hidden", "layers", "heads"))
    head_size = text.get("head_dim") or hidden // heads
    by_layer: dict[str, int] = {}
    matrices = []
    for name, shape in tensors.items():
        place = _LAYER.search(name)
        if place is not None:
            by_layer[place[1]] = by_layer.get(place[1], 0) + prod(shape)
            if len(shape) == 2:
                matrices.append((shape[0], shape[1]))
    embedding = max((shape for name, shape in tensors.items() if not _LAYER.search(name) and len(shape) == 2), key=prod)
    outside = [shape for name, shape in tensors.items() if not _LAYER.search(name) and shape == embedding]
    inner = next((int(text[name]) for name in _NAMES["inner"] if text.get(name)), 4 * hidden)
    return Shape(
        parameters=sum(prod(shape) for shape in tensors.values()),
        layer=max(by_layer.values()),
        matrices=tuple(matrices),
        layers=layers,
        hidden=hidden,
        inner=inner,
        queries=heads * head_size,
        keys=int(text.get("num_key_value_heads") or heads) * head_size,
        heads=heads,
        vocabulary=embedding[0],
        gated=text.get("model_type") not in _TWO_MATRICES,
        tied=len(outside) < 2,
        context=_size(text, "context", folder),
    )


def _expected(config: Mapping[str, Any], folder: Path) -> dict[str, list[int]]:
    """The tensors of a model with this config.json, for dense decoders. Norms and biases are within 0.1 %."""
    text = _text_config(config)
    hidden, layers, heads, inner = (_size(text, name, folder) for name in ("hidden", "layers", "heads", "inner"))
    head_size = text.get("head_dim") or hidden // heads
    queries, keys = heads * head_size, int(text.get("num_key_value_heads") or heads) * head_size
    vocabulary = int(text["vocab_size"])
    tensors = {"embed": [vocabulary, hidden], "norm": [hidden]}
    if not config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)):
        tensors["head"] = [vocabulary, hidden]
    linear = {"q": [queries, hidden], "k": [keys, hidden], "v": [keys, hidden], "o": [hidden, queries]}
    linear |= {"up": [inner, hidden], "down": [hidden, inner]}
    if text.get("model_type") not in _TWO_MATRICES:
        linear["gate"] = [inner, hidden]
    for layer in range(layers):
        tensors |= {f"layers.{layer}.{name}.weight": shape for name, shape in linear.items()}
        tensors |= {f"layers.{layer}.norm_{number}": [hidden] for number in (1, 2)}
    return tensors


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that describes the language model."""
    text: Mapping[str, Any] = config.get("text_config") or config
    return text


def _size(config: Mapping[str, Any], name: str, folder: Path) -> int:
    for key in _NAMES[name]:
        if isinstance(config.get(key), int):
            return int(config[key])
    raise UserError(
        f"the policy's config.json does not say its {name}: none of {', '.join(_NAMES[name])} is a number",
        where=str(folder / "config.json"),
        remedy="add the size there, under the first of these names",
    )
