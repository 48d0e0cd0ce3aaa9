"""The sizes of a policy from headers or config.json alone, against the model that transformers and peft build."""

import shutil
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.modeling.policy_folder import open_meta
from tasks.modeling.shape import Shape
from tasks.training.policy import add_adapters
from tasks.training.settings import LoraSettings


@pytest.mark.parametrize("tied", [True, False])
def test_headers_and_config_agree_with_the_model(
    tied: bool, tiny_policy: Path, tiny_policy_untied: Path, tmp_path: Path
) -> None:
    folder = tiny_policy if tied else tiny_policy_untied
    shape, model = Shape.of_folder(folder), open_meta(folder)
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.layer, shape.layers, shape.tied) == (layer, 2, tied)
    assert (shape.queries, shape.keys) == (64, 32)
    shutil.copy(folder / "config.json", tmp_path)
    assert Shape.of_folder(tmp_path).parameters == shape.parameters


def test_adapters_are_those_of_peft(tiny_policy: Path) -> None:
    settings = LoraSettings(rank=8)
    adapted = add_adapters(open_meta(tiny_policy), settings, seed=0)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert Shape.of_folder(tiny_policy).adapter(8) == trained


def test_a_config_without_sizes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 10}')
    with pytest.raises(UserError, match="does not say its hidden: none of hidden_size, n_embd, d_model"):
        Shape.of_folder(tmp_path)
