"""What a round reads and writes, and what its keys hold; no stage is run."""

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from conf.compose import compose_config, group_options
from flows.chain import moves_reference, reference_of
from flows.digests import files_of
from flows.evaluation import rivals_of
from flows.plan import Plan
from flows.round import list_stages, play_round, play_start
from flows.stages import ListedStages
from storage.artifact import Artifact, stage_name
from storage.errors import UserError
from storage.manifest import folder_digest
from storage.stage import Spec
from tasks.panel.annotators.function import FunctionSettings

INITIAL = Artifact(path=Path("initial"), digest="initial")


class MadeUpStages(ListedStages):
    """Every stage is made, with a digest that names it. changed: stages whose content is another one."""

    def __init__(self, changed: Sequence[str] = ()) -> None:
        super().__init__()
        self._changed = changed

    def _made(self, folder: Path) -> Artifact:
        name = stage_name(folder)
        return Artifact(path=folder, digest=f"{name} again" if name in self._changed else name, maker=name)

    def __call__(self, spec: Spec) -> Artifact:
        super().__call__(spec)
        return self._made(spec.folder)

    def made(self, plan: Plan, round_number: int, stage: str) -> Artifact:
        return self._made(plan.folder(round_number, stage))

    def prompts(self, plan: Plan) -> Artifact:
        return self._made(plan.layout.prompts)


@cache
def plan(*words: str) -> Plan:
    return Plan(compose_config(["run=demo", *words]), INITIAL)


def round_specs(run: Plan, number: int, chain: Sequence[int], changed: Sequence[str] = ()) -> dict[str, Spec]:
    """The specs of a round by stage folder."""
    stages = MadeUpStages(changed)
    play_round(stages, run, number, chain)
    return {stage_name(spec.folder).partition("/")[2]: spec for spec in stages.specs}


@pytest.mark.parametrize("preset", group_options("run"))
def test_every_spec_of_a_preset_is_built(preset: str) -> None:
    config = compose_config([f"run={preset}", "prompts.path=prompts.jsonl"])
    specs = list_stages(config)
    pairs = ["label"] if config.evaluation.pairs else []
    evaluation = ["generate", "judge"]
    assert [spec.stage for spec in specs] == [
        "prompts", *evaluation, *pairs, "evaluate",
        "select", "generate", "label", "train", *evaluation, "evaluate",
    ]  # fmt: skip
    assert len({spec.key() for spec in specs}) == len(specs)


def test_a_dry_run_shows_stages_that_are_not_in_every_run() -> None:
    mixed = compose_config([
        "run=demo", "policy.aligned_from=tests", "mixing=replay", "update=momentum", "+evaluation.against.other=there",
        "+mixing.offline={path: not-there, share: 0.2, keep: {share: 0.5}}",
    ])  # fmt: skip
    names = [stage_name(spec.folder) for spec in list_stages(mixed)]
    assert names[1] == "round-00/against/other"
    assert names[names.index("round-01/label") :][1:4] == ["round-01/mix", "round-01/train", "round-01/update"]


def test_a_round_starts_from_the_policy_of_the_round_before() -> None:
    first, second = round_specs(plan(), 1, [0])["train"], round_specs(plan(), 2, [0, 1])["train"]
    assert first.inputs["policy"] == first.inputs["reference"] == "initial"
    assert second.inputs["policy"] == second.inputs["reference"] == "round-01/train"
    fixed = round_specs(plan("objective.reference=initial"), 2, [0, 1])["train"]
    assert (fixed.inputs["policy"], fixed.inputs["reference"]) == ("round-01/train", "initial")
    after_roll_back = round_specs(plan(), 3, [0, 1])
    assert after_roll_back["train"].inputs["policy"] == "round-01/train"
    assert after_roll_back["generate"].inputs["policy"] == "round-01/train"


def test_a_moving_reference_is_a_stage_of_its_own() -> None:
    ema = plan("objective.reference=ema", "evaluation.pairs=false")
    assert "reference" not in round_specs(ema, 1, [0])
    assert round_specs(ema, 1, [0])["train"].inputs["reference"] == "initial"
    first = round_specs(ema, 2, [0, 1])
    assert first["reference"].inputs == {"trained": "round-01/train", "earlier:0": "initial"}
    assert first["train"].inputs["reference"] == "round-02/reference"
    second = round_specs(ema, 3, [0, 1, 2])["reference"]
    assert second.inputs == {"trained": "round-02/train", "earlier:0": "round-02/reference"}
    rolled_back = round_specs(ema, 3, [0, 1])["reference"]
    assert rolled_back.inputs == {"trained": "round-01/train", "earlier:0": "initial"}


def test_updates_of_tr_wait_and_hard_ones_copy() -> None:
    soft, stages = plan("objective.reference={kind: tr, rate: 0.6, every: 2}", "evaluation.pairs=false"), MadeUpStages()
    chains = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert [moves_reference(soft, len(chain), chain) for chain in chains] == [False, False, True, False, True]
    assert reference_of(stages, soft, 4, chains[3]).digest == "round-03/reference"
    hard = plan("objective.reference={kind: tr, rate: 1.0, every: 2}", "evaluation.pairs=false")
    references = [reference_of(stages, hard, len(chain), chain).digest for chain in chains]
    assert references == ["initial", "initial", "round-02/train", "round-02/train", "round-04/train"]
    assert not any(moves_reference(hard, len(chain), chain) for chain in chains)


@pytest.mark.parametrize("word", ["objective=dno", "objective=inpo"])
def test_methods_with_one_reference_refuse_another(word: str) -> None:
    with pytest.raises(UserError, match="reference"):
        plan(word, "objective.reference=ema")


def test_more_rounds_do_not_change_the_keys_of_done_ones() -> None:
    keys = {
        words: round_specs(plan(*words), 1, [0])["generate"].key()
        for words in [("rounds=1",), ("rounds=9", "name=moved"), ("seed=1",), ("sampling.temperature=0.9",)]
    }
    assert keys[("rounds=1",)] == keys[("rounds=9", "name=moved")]
    assert len(set(keys.values())) == 3


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("generate", ["engine.verify_sequences=0", "engine.verify_tolerance=0.3", "engine.start_timeout=9",
                      "engine.between_stages=sleep", "engine.gpu_memory_utilization=0.5", "engine.kv_cache_gib=1"]),
        ("train", ["training.checkpoint_steps=1", "training.launch=process", "training.gradient_checkpointing=true"]),
    ],
)  # fmt: skip
def test_operational_settings_do_not_throw_work_away(stage: str, words: list[str]) -> None:
    before = round_specs(plan(), 1, [0])[stage].key()
    assert {word: round_specs(plan(word), 1, [0])[stage].key() == before for word in words} == dict.fromkeys(
        words, True
    )


def test_policies_are_compared_with_the_initial_and_the_previous_one() -> None:
    assert rivals_of(0, [0]) == {}
    assert rivals_of(1, [0]) == rivals_of(2, [0]) == {"initial": 0}
    assert rivals_of(3, [0, 1]) == {"initial": 0, "previous": 1}
    judge = round_specs(plan(), 2, [0, 1])["evaluate/judgements"]
    assert {name: digest for name, digest in judge.inputs.items() if name.startswith("responses")} == {
        "responses:policy": "round-02/evaluate/responses",
        "responses:initial": "round-00/evaluate/responses",
        "responses:previous": "round-01/evaluate/responses",
    }


def test_a_folders_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = folder_digest(tmp_path)
    (tmp_path / "a").write_text("2")
    changed = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({before, changed, folder_digest(tmp_path)}) == 3


def test_a_function_that_changed_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    settings = FunctionSettings(kind="function", function="my_rules:score")
    assert files_of(settings) is None
    (tmp_path / "my_rules.py").write_text("def score(*_): return 1.0")
    importlib.invalidate_caches()
    before = files_of(settings)
    (tmp_path / "my_rules.py").write_text("def score(*_): return 2.0")
    assert before is not None
    assert files_of(settings) != before


@pytest.mark.parametrize("words", [["objective=rebel"], ["objective=sppo"], ["objective=lcpo"]])
def test_a_round_trains_again_when_its_own_votes_changed(words: list[str]) -> None:
    """Also with mixing on, where the preferences may be the same: scores and votes are read beside them."""
    run = plan(*words, "mixing=replay")
    before = round_specs(run, 2, [0, 1])["train"]
    own, replayed = (round_specs(run, 2, [0, 1], [f"round-{n:02d}/label"])["train"] for n in (2, 1))
    assert len({before.key(), own.key(), replayed.key()}) == 3


def test_objectives_read_what_the_label_stage_and_one_more_generate_stage_left() -> None:
    specs = round_specs(plan("objective=selm"), 2, [0, 1])
    assert specs["train"].inputs["extra"] == "round-02/extra"
    greedy = specs["extra"].settings.model_dump()["sampling"]
    assert (greedy["temperature"], greedy["responses"]) == (0.0, 1)
    sampled = round_specs(plan("objective=xpo"), 2, [0, 1])["extra"]
    assert (sampled.inputs["policy"], sampled.settings.model_dump()["sampling"]["temperature"]) == ("initial", 1.0)
    assert "extra" not in round_specs(plan(), 2, [0, 1])
    assert round_specs(plan("objective=rebel"), 2, [0, 1])["train"].inputs["scores:2"] == "round-02/label"
    assert round_specs(plan("objective=sppo"), 2, [0, 1])["train"].inputs["votes:2"] == "round-02/label"
    assert not {"scores:2", "votes:2"} & round_specs(plan(), 2, [0, 1])["train"].inputs.keys()


def test_an_embedder_on_this_machine_is_in_the_key(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    local = round_specs(plan("objective=rpo", f"objective.embedder={tmp_path}"), 1, [0])["train"]
    assert local.inputs["embedder"] == folder_digest(tmp_path)
    assert "embedder" not in round_specs(plan("objective=rpo"), 1, [0])["train"].inputs


def test_the_last_policy_of_a_round_with_an_update_is_what_is_evaluated() -> None:
    specs = round_specs(plan("update=momentum"), 2, [0, 1])
    assert specs["update"].inputs == {"trained": "round-02/train", "earlier:0": "round-01/train"}
    assert specs["evaluate"].inputs["policy"] == "round-02/update"
    assert specs["generate"].inputs["policy"] == "round-01/update"


def test_held_out_pairs_are_made_once_and_read_by_every_round() -> None:
    stages, run = MadeUpStages(), plan("evaluation.pairs=true")
    play_start(stages, run)
    assert "round-00/evaluate/pairs" in {stage_name(spec.folder) for spec in stages.specs}
    evaluation = round_specs(run, 2, [0, 1])["evaluate"]
    assert evaluation.inputs["pairs"] == "round-00/evaluate/pairs"
    assert evaluation.inputs["evaluations:previous"] == "round-01/evaluate"
