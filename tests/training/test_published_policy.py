"""What a round learns is in the policy that it publishes, and the next round starts from it."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from storage.errors import UserError
from tasks.modeling.load import load_policy
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs
from tasks.training.groups import PromptGroup, read_preferences
from tasks.training.model_loading import ModelLoader
from tasks.training.policy import check_adapters
from tasks.training.settings import LoraSettings
from tasks.training.trainer import run
from tasks.training.update import Merge, Momentum, UpdateSpec, run_update
from tasks.training.update_share import UpdateSummary
from tests.training.conftest import MakeSpec

WEIGHTS = "model.safetensors"


@pytest.fixture
def half(tiny_policy: Path, tmp_path: Path) -> Path:
    """A bfloat16 policy with weights as small as real policies have (standard deviation 0.02)."""
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "half"))
    weights = {name: (value * 0.08 if value.ndim > 1 else value) for name, value in load_file(folder / WEIGHTS).items()}
    save_file({name: value.bfloat16() for name, value in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return folder


def margins(folder: Path, groups: list[PromptGroup]) -> np.ndarray:
    """log p(chosen) - log p(rejected) of every pair, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    pairs = [(group, pair) for group in groups for pair in group.pairs]
    sides = [
        sequence_logprobs(
            model,
            [TokenSequence(group.prompt_ids, group.responses[getattr(pair, side)]) for group, pair in pairs],
            tokens=4096,
        )
        for side in ("chosen", "rejected")
    ]
    return np.asarray(sides[0] - sides[1])


#: What a real run uses, at a learning rate at which most of an update is below bfloat16's resolution.
SLOW: dict[str, Any] = {"learning_rate": 5e-7, "prompts_per_step": 3, "warmup_ratio": 0.1}


def test_two_rounds_from_a_bfloat16_policy_keep_what_they_learn(
    make_spec: MakeSpec, half: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second round starts, number for number, from the float32 weights that the first one trained."""
    start = half
    groups = read_preferences(make_spec("unused").preferences.path).groups
    for number in (1, 2):
        spec = make_spec(f"round-{number}", policy=start, reference=start, optimization=SLOW)
        trained: dict[str, torch.Tensor] = {}
        first: dict[str, torch.Tensor] = {}

        class Watched(ModelLoader):
            def load_trainable(self, policy: Any) -> Any:
                forward = super().load_trainable(policy)
                first.update({name: value.clone() for name, value in forward.model.state_dict().items()})  # noqa: B023
                return forward

            def publish(self, model: Any) -> Any:
                trained.update({name: value.clone() for name, value in model.state_dict().items()})  # noqa: B023
                return super().publish(model)

        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, "irepo"):
            patch.setattr("tasks.training.trainer.ModelLoader", Watched)
            manifest = run(spec)
        stored, published = load_file(start / WEIGHTS), load_file(spec.folder / "policy" / WEIGHTS)
        for name, value in published.items():
            assert value.dtype == torch.float32
            assert torch.equal(first[name], stored[name].float())
            assert torch.equal(value, trained[name])
        update = UpdateSummary.model_validate(manifest.summary["update"])
        assert update.share == pytest.approx(1, abs=1e-6)
        assert update.dtype == "bfloat16"
        assert update.share_in_dtype is not None
        if number == 1:  # later starts are off bfloat16's grid, so that rounding is not all in one direction
            assert update.share_in_dtype < 0.5
            assert "in bfloat16 only" in caplog.text
        # By what it does: the change of margins, against the same training from float32 values of the same weights.
        gained = margins(spec.folder / "policy", groups) - margins(start, groups)
        whole = Path(shutil.copytree(start, start.with_name(f"whole-{number}")))
        save_file({n: v.float() for n, v in stored.items()}, whole / WEIGHTS, metadata={"format": "pt"})
        exact = make_spec(f"exact-{number}", policy=whole, reference=whole, optimization=SLOW)
        run(exact)
        wanted = margins(exact.folder / "policy", groups) - margins(whole, groups)
        assert float(gained @ wanted / (wanted @ wanted)) > 0.99
        start = spec.folder / "policy"


def test_readers_cast_to_the_dtype_in_the_configuration(make_spec: MakeSpec, half: Path) -> None:
    """config.json is the start's, so transformers and vLLM load bfloat16, and training loads float32."""
    spec = make_spec(policy=half, reference=half)
    run(spec)
    folder = spec.folder / "policy"
    assert (folder / "config.json").read_bytes() == (half / "config.json").read_bytes()
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
    assert load_policy(folder, dtype="float32", device="cpu").dtype == torch.float32
    published = load_file(folder / WEIGHTS)
    for name, value in load_policy(folder, dtype="bfloat16", device="cpu").state_dict().items():
        if name in published:
            assert torch.equal(value, published[name].bfloat16())


def test_a_configuration_without_dtype_gets_the_starts(make_spec: MakeSpec, half: Path) -> None:
    config = json.loads((half / "config.json").read_text())
    config.pop("dtype")
    (half / "config.json").write_text(json.dumps(config))
    spec = make_spec(policy=half, reference=half)
    run(spec)
    assert json.loads((spec.folder / "policy" / "config.json").read_text()) == config | {"dtype": "bfloat16"}


def test_adapters_are_merged_in_float32(make_spec: MakeSpec, half: Path) -> None:
    """Most of a merged update of a slow round would be lost in bfloat16."""
    spec = make_spec(policy=half, reference=half, optimization=SLOW | {"lora": {"rank": 4}, "learning_rate": 5e-6})
    manifest = run(spec)
    update = UpdateSummary.model_validate(manifest.summary["update"])
    assert update.share == pytest.approx(1, abs=1e-6)
    assert update.share_in_dtype is not None
    assert update.share_in_dtype < 0.9


def test_momentum_and_merge_keep_float32(make_spec: MakeSpec, half: Path, tmp_path: Path) -> None:
    spec = make_spec(policy=half, reference=half, optimization=SLOW)
    run(spec)
    trained = spec.folder / "policy"
    before, after = load_file(half / WEIGHTS), load_file(trained / WEIGHTS)
    kinds = {"momentum": (Momentum(kind="momentum"), (-0.3, 1.3)), "merge": (Merge(kind="merge", power=0), (0.5, 0.5))}
    for name, (settings, (first, second)) in kinds.items():
        work = UpdateSpec(
            folder=tmp_path / name, round=1, seed=0, settings=settings, trained=trained, earlier=[half]
        )  # fmt: skip
        run_update(work)
        for key, value in load_file(tmp_path / name / "policy" / WEIGHTS).items():
            exact = first * before[key].double() + second * after[key].double()
            assert value.dtype == torch.float32
            torch.testing.assert_close(value.double(), exact, rtol=1e-7, atol=1e-9)


def test_the_share_is_the_projection(tiny_policy: Path, tmp_path: Path) -> None:
    """By hand: half of the update is taken back in the published policy, and noise at right angles does not count."""
    start = load_file(tiny_policy / WEIGHTS)
    name = "model.norm.weight"
    update = torch.zeros_like(start[name])
    update[0] = 2.0
    noise = torch.zeros_like(update)
    noise[1] = 7.0
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "published"))
    save_file(start | {name: start[name] + update / 2 + noise}, folder / WEIGHTS, metadata={"format": "pt"})
    summary = UpdateSummary.of(tiny_policy, start | {name: start[name] + update}, folder)
    assert summary.share == pytest.approx(0.5)
    assert summary.norm == pytest.approx(2.0)
    size = sum(float(value.double().square().sum()) for value in start.values()) ** 0.5
    assert summary.relative == pytest.approx(2.0 / size)
    unmoved = UpdateSummary.of(tiny_policy, start, tiny_policy)
    assert (unmoved.norm, unmoved.share, unmoved.share_in_dtype) == (0.0, None, None)


def test_a_lost_update_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    summary = UpdateSummary(norm=1.0, relative=1e-5, share=0.04, dtype="float32", share_in_dtype=0.04)
    with caplog.at_level(logging.WARNING, "irepo"):
        summary.warn()
    assert "only 4 % of this round's update is in the published policy" in caplog.text


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
def test_generation_settings_that_cannot_be_saved_do_not_stop_publishing(
    make_spec: MakeSpec, tiny_policy: Path, tmp_path: Path, where: str
) -> None:
    """A temperature without do_sample: transformers loads it and refuses to write it."""
    policy = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    values = json.loads((policy / where).read_text()) | {"temperature": 0.9, "top_p": 0.6}
    (policy / where).write_text(json.dumps(values))
    if where == "config.json":
        (policy / "generation_config.json").unlink()
    spec = make_spec(policy=policy, reference=policy)
    run(spec)
    published = spec.folder / "policy"
    assert (published / where).read_bytes() == (policy / where).read_bytes()
    assert sorted(path.name for path in published.iterdir()) == sorted(path.name for path in policy.iterdir())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer")  # peft; we refuse it
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_adapters_on_tied_embeddings_are_refused(make_spec: MakeSpec, tiny_policy: Path, module: str) -> None:
    """Merging would change the embedding and the output layer, of which one was trained with the adapter."""
    lora = {"rank": 2, "target_modules": [module, "q_proj"]}
    with pytest.raises(UserError, match=f"{module} is shared with another module"):
        run(make_spec(optimization={"lora": lora}))
    with pytest.raises(UserError, match=f"{module} is shared") as refused:
        check_adapters(tiny_policy, LoraSettings.model_validate(lora))
    assert "target_modules=all-linear" in refused.value.remedy


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")  # peft; as it should be
def test_adapters_on_an_untied_output_layer_are_published(make_spec: MakeSpec, tiny_policy_untied: Path) -> None:
    from peft import PeftModel

    lora = {"rank": 4, "alpha": 8, "target_modules": ["lm_head", "q_proj"]}
    check_adapters(tiny_policy_untied, LoraSettings.model_validate(lora))
    spec = make_spec(
        policy=tiny_policy_untied, reference=tiny_policy_untied, optimization={"lora": lora, "learning_rate": 1e-2}
    )
    run(spec)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        published = load_policy(spec.folder / "policy", dtype="float32", device="cpu")(ids).logits
        base = load_policy(tiny_policy_untied, dtype="float32", device="cpu")
        trained = PeftModel.from_pretrained(base, str(spec.folder / "adapter")).eval()(input_ids=ids).logits
    torch.testing.assert_close(published, trained, rtol=1e-4, atol=1e-4)


def test_modules_that_do_not_exist_are_refused(tiny_policy: Path) -> None:
    with pytest.raises(UserError, match="peft cannot adapt these modules of LlamaForCausalLM"):
        check_adapters(tiny_policy, LoraSettings(target_modules=["query"]))
