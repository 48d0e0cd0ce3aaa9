"""The memory plan: presets fit the card that they name, what does not fit is refused with a remedy that works."""

import shlex
from functools import cache

import pytest

from conf.compose import CONF, compose_config, group_options
from conf.schema import RunConfig
from flows import memory_checks
from flows.memory_plan import MemoryPlan, Need, memory_plan, shapes_folder
from flows.show.memory import refuse_too_large
from storage.errors import UserError
from tasks.modeling.device import CardSettings, Device, card_device
from tasks.modeling.shape import Shape
from tasks.training.memory import fullest_row
from tasks.training.settings import OptimizationSettings

GIB = 1 << 30
MACHINE = Device("this machine's memory", 16 * GIB, 16 * GIB, 1, gpu=False)
#: Presets whose prompts are the user's own file.
PROMPTS = {"small-gsm8k", "small-instructions"}


@cache
def composed(*words: str) -> RunConfig:
    return compose_config(words)


def plan(*words: str, device: Device | None = None) -> MemoryPlan:
    config = composed(*words)
    folder = shapes_folder(config, CONF / "shapes")
    assert folder is not None
    return memory_plan(
        config, Shape.of_folder(folder), device or (card_device(config.card) if config.card else MACHINE)
    )


def need(made: MemoryPlan, stage: str) -> Need:
    return next(each for each in made.needs if each.stage == stage)


@pytest.mark.parametrize("preset", group_options("run"))
def test_every_preset_fits_what_it_names(preset: str) -> None:
    words = [f"run={preset}", *(["prompts.path=prompts.jsonl"] if preset in PROMPTS else [])]
    made = plan(*words)
    assert {"generate", "train", "evaluate"} <= {each.stage for each in made.needs}
    refuse_too_large(made)
    named = composed(*words).card
    assert (named is not None) == (preset in {"mistral-7b", "phi2"})


def test_copies_of_responses_count() -> None:
    """spo trains on a copy of each response: four responses take what eight do without copies."""
    words = ("run=mistral-7b", "training.microbatch_tokens=1024")
    copied, doubled, plain = (
        need(plan(*words, f"objective={objective}", f"sampling.responses={responses}"), "train").parts
        for objective, responses in (("spo", 4), ("dpo", 8), ("dpo", 4))
    )
    assert copied == doubled != plain


@pytest.mark.parametrize(
    ("shape", "parameters", "layers"),
    # As counted by transformers from the published weights.
    [("mistral-7b", 7_248_023_552, 32), ("phi-2", 2_779_683_840, 32), ("smollm2-135m", 134_515_008, 30)],
)
def test_a_config_alone_tells_the_number_of_parameters(shape: str, parameters: int, layers: int) -> None:
    counted = Shape.of_folder(CONF / "shapes" / shape)
    assert counted.parameters == pytest.approx(parameters, rel=1e-3)
    assert counted.layers == layers


def test_full_training_holds_sixteen_bytes_a_weight() -> None:
    parts = need(plan("run=phi2"), "train").parts
    weights = 4 * Shape.of_folder(CONF / "shapes/phi-2").parameters
    assert (parts["weights"], parts["gradients"], parts["Adam"]) == (weights, weights, 2 * weights)


def test_ranks_share_weights_gradients_and_moments() -> None:
    one, eight = (
        need(plan("run=mistral-7b", "training=full", *words), "train").parts
        for words in ([], ["training.processes=8", "card.count=8"])
    )
    for part in ("weights", "gradients", "Adam"):
        assert one[part] == pytest.approx(8 * eight[part], rel=1e-6)


def test_full_training_of_seven_billion_is_refused_on_one_card_with_a_remedy_that_works() -> None:
    words = ["run=mistral-7b", "training=full"]
    made = plan(*words)
    assert need(made, "train").total > 100 * GIB
    with pytest.raises(
        UserError, match=r"stage train needs 1\d\d\.\d GiB, and it can have 70\.8 GiB of a GPU of 80 GB"
    ) as refused:
        refuse_too_large(made)
    assert "Adam 54.0" in refused.value.where
    remedy = need(made, "train").remedies[0]
    assert remedy in refused.value.remedy
    refuse_too_large(plan(*words, *shlex.split(remedy)))


def test_several_cards_are_a_remedy_where_there_are_several() -> None:
    words = ["run=mistral-7b", "training=full", "card.count=8"]
    remedy = need(plan(*words), "train").remedies[0]
    assert remedy.startswith("training.processes=")
    refuse_too_large(plan(*words, *shlex.split(remedy)))


def test_checkpointing_and_small_rows_are_remedies() -> None:
    words = ["run=phi2", "training.gradient_checkpointing=false", "training.microbatch_tokens=32768"]
    for remedy in need(plan(*words), "train").remedies:
        refuse_too_large(plan(*words, *shlex.split(remedy)))
    assert need(plan(*words), "train").remedies[0] == "training.gradient_checkpointing=true"


def test_an_engine_that_stays_awake_counts_beside_training() -> None:
    asleep, awake = (
        need(plan("run=phi2", f"engine.between_stages={setting}"), "train") for setting in ("auto", "keep")
    )
    assert asleep.fits
    assert awake.parts["engine"] > 60 * GIB
    assert not awake.fits


def test_the_cache_is_what_the_engine_leaves_of_its_share() -> None:
    made = need(plan("run=phi2"), "generate")
    assert made.total == made.available == int(0.85 * 80e9)
    small = plan("run=phi2", device=card_device(CardSettings(memory_gb=8)))
    with pytest.raises(UserError, match="stage generate needs"):
        refuse_too_large(small)


def test_models_of_annotators_count_one_at_a_time() -> None:
    implicit = "{kind: implicit_reward, policy: policy, reference: initial}"
    made = plan("run=phi2", f"+panel.annotators.implicit={implicit}")
    weights = 4 * Shape.of_folder(CONF / "shapes/phi-2").parameters
    assert need(made, "label").parts["largest model"] == 2 * weights


def test_a_model_that_is_not_here_is_named() -> None:
    made = plan("run=phi2", "+panel.annotators.reward={kind: reward_model, path: owner/reward}")
    assert made.unknown == ("owner/reward",)


def test_a_row_is_full_or_one_prompt_with_its_responses() -> None:
    settings = OptimizationSettings(microbatch_tokens=1000)
    row = fullest_row(settings, prompt=100, response=101, responses=4)
    assert (row.tokens, row.keys, row.predicted) == (1000, 1000 * 900 // 500, 1000 * 404 // 500)
    assert fullest_row(settings, prompt=100, response=1001, responses=2).tokens == 2100


def test_a_policy_of_unknown_size_has_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    memory_checks.show_memory(compose_config(["policy=owner/model", "prompts=prompts.jsonl"]))
    assert "owner/model is not on this machine" in capsys.readouterr().out


def test_a_run_that_does_not_fit_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config, policy = compose_config(["run=smollm2"]), CONF / "shapes/smollm2-135m"
    monkeypatch.setattr(memory_checks, "present_device", lambda: MACHINE)
    assert not [each for each in memory_checks.check_memory(config, policy).needs if not each.fits]
    small = Device("this machine's memory", 4 * GIB, 4 * GIB, 1, gpu=False)
    monkeypatch.setattr(memory_checks, "present_device", lambda: small)
    with pytest.raises(UserError, match=r"needs \d+\.\d GiB, and it can have 4\.0 GiB of this machine's memory"):
        memory_checks.check_memory(config, policy)
