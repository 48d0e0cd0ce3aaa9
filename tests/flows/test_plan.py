"""The plan of a run: where stages write, what they read, and that a dry run builds every spec of every preset."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from conf.compose import compose_config, group_options
from flows.digests import what_it_reads
from flows.dry_run import dry_run
from flows.evaluation import evaluation_specs, rivals
from flows.plan import Plan
from flows.training import extra_spec, reference_digest, reference_folder, reference_spec, train_spec
from storage.errors import UserError
from storage.manifest import folder_digest
from tasks.panel.annotators.function import FunctionSettings


def plan(*words: str) -> Plan:
    return Plan(compose_config(["run=demo", *words]), Path("initial"))


@pytest.mark.parametrize("preset", group_options("run"))
def test_every_spec_of_a_preset_is_built(preset: str) -> None:
    config = compose_config([f"run={preset}", "prompts.path=prompts.jsonl"])
    specs = dry_run(Plan(config, Path(config.policy.path)))
    pairs = ["label"] if config.evaluation.pairs else []
    assert [spec.stage for spec in specs] == [
        "prompts", "select", "generate", "label", "train", *pairs, "generate", "judge", "evaluate",
    ]  # fmt: skip
    assert len({spec.key() for spec in specs}) == len(specs)


def test_a_dry_run_shows_stages_that_are_not_in_every_run() -> None:
    words = ("mixing=replay", "+mixing.offline={path: not-there, share: 0.2, keep: {share: 0.5}}", "update=momentum")
    mixed = plan("policy.aligned_from=before", *words)
    folders = [spec.folder.name for spec in dry_run(Plan(mixed.config, mixed.initial, {"other": Path("other")}))]
    assert folders[3:7] == ["label", "mix", "train", "update"]
    assert folders[7:9] == ["pairs", "other"]


def test_a_round_starts_from_the_policy_of_the_round_before() -> None:
    inputs = {"policy": "p", "reference": "r", "preferences": "x"}
    first, second = train_spec(plan(), 1, [0], inputs), train_spec(plan(), 2, [0, 1], inputs)
    assert first.policy == first.reference == Path("initial")
    assert second.policy == second.reference == first.folder / "policy"
    fixed = train_spec(plan("objective.reference=initial"), 2, [0, 1], inputs)
    assert (fixed.policy, fixed.reference) == (first.folder / "policy", Path("initial"))
    after_roll_back = train_spec(plan(), 3, [0, 1], inputs)
    assert after_roll_back.policy == after_roll_back.reference == first.folder / "policy"
    assert plan().generate(3, 1, inputs).policy == first.folder / "policy"


def policies_until(number: int) -> dict[int, str]:
    return {each: f"policy-{each}" for each in range(number)}


def test_a_moving_reference_is_a_stage_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ema = plan("objective.reference=ema")
    assert reference_spec(ema, 1, [0], policies_until(1)) is None
    assert reference_folder(ema, 1, [0]) == Path("initial")
    first = reference_spec(ema, 2, [0, 1], policies_until(2))
    assert first is not None
    assert (first.earlier, first.trained) == ([Path("initial")], ema.policy(1))
    assert first.inputs == {"policy": "policy-1", "reference": "policy-0"}
    assert train_spec(ema, 2, [0, 1], {}).reference == first.folder / "policy"
    monkeypatch.setattr("flows.training.read_manifest", lambda folder: SimpleNamespace(content=folder.parent.name))
    second = reference_spec(ema, 3, [0, 1, 2], policies_until(3))
    assert second is not None
    assert second.earlier == [first.folder / "policy"]
    assert second.inputs == {"policy": "policy-2", "reference": "round-02"}
    rolled_back = reference_spec(ema, 3, [0, 1], policies_until(3))
    assert rolled_back is not None
    assert (rolled_back.earlier, rolled_back.trained) == ([Path("initial")], ema.policy(1))


def test_updates_of_tr_wait_and_hard_ones_copy() -> None:
    soft = plan("objective.reference={kind: tr, rate: 0.6, every: 2}")
    assert reference_spec(soft, 2, [0, 1], policies_until(2)) is None
    assert reference_folder(soft, 2, [0, 1]) == Path("initial")
    moved = reference_spec(soft, 3, [0, 1, 2], policies_until(3))
    assert moved is not None
    assert moved.earlier == [Path("initial")]
    assert reference_folder(soft, 4, [0, 1, 2, 3]) == moved.folder / "policy"
    hard = plan("objective.reference={kind: tr, rate: 1.0, every: 2}")
    chains = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert [reference_spec(hard, len(chain), chain, policies_until(5)) for chain in chains] == [None] * 5
    references = [reference_digest(hard, len(chain), chain, policies_until(5)) for chain in chains]
    assert references == ["policy-0", "policy-0", "policy-2", "policy-2", "policy-4"]


@pytest.mark.parametrize("word", ["objective=dno", "objective=inpo"])
def test_methods_with_one_reference_refuse_another(word: str) -> None:
    with pytest.raises(UserError, match="reference"):
        plan(word, "objective.reference=ema")


def test_more_rounds_do_not_change_the_keys_of_done_ones() -> None:
    inputs = {"prompts": "a", "policy": "b"}
    assert plan("rounds=1").generate(1, 0, inputs).key() == plan("rounds=9", "name=moved").generate(1, 0, inputs).key()
    assert plan().generate(1, 0, inputs).key() != plan("seed=1").generate(1, 0, inputs).key()
    assert plan().generate(1, 0, inputs).key() != plan("sampling.temperature=0.9").generate(1, 0, inputs).key()


def test_policies_are_compared_with_the_initial_and_the_previous_one() -> None:
    assert rivals(0, 0) == []
    assert rivals(1, 0) == rivals(2, 0) == [("initial", 0)]
    assert rivals(3, 1) == [("initial", 0), ("previous", 1)]
    _, judge, _ = evaluation_specs(plan(), 2, 1, {"prompts": "a", "policy": "b", "initial": "c"})
    assert list(judge.responses) == ["policy", "initial", "previous"]
    assert judge.responses["previous"].parent.parent.name == "round-01"


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
    assert what_it_reads(settings) is None
    (tmp_path / "my_rules.py").write_text("def score(*_): return 1.0")
    importlib.invalidate_caches()
    before = what_it_reads(settings)
    (tmp_path / "my_rules.py").write_text("def score(*_): return 2.0")
    assert before is not None
    assert what_it_reads(settings) != before


def test_objectives_read_what_the_label_stage_and_one_more_generate_stage_left() -> None:
    inputs = {"policy": "p", "reference": "r", "preferences": "x"}
    spec = train_spec(plan("objective=selm"), 2, [0, 1], inputs)
    labels = spec.preferences.parent
    assert (spec.scores, spec.votes) == ({2: labels / "scores.parquet"}, {2: labels / "votes.parquet"})
    greedy = extra_spec(plan("objective=selm"), 2, [0, 1], {"prompts": "a", "policy": "p"})
    assert greedy is not None
    assert (greedy.folder, greedy.policy) == (spec.extra, spec.reference)
    assert (greedy.settings.sampling.temperature, greedy.settings.sampling.responses) == (0.0, 1)
    sampled = extra_spec(plan("objective=xpo"), 2, [0, 1], {"prompts": "a", "policy": "p"})
    assert sampled is not None
    assert (sampled.policy, sampled.settings.sampling.temperature) == (Path("initial"), 1.0)
    assert extra_spec(plan(), 2, [0, 1], {"prompts": "a", "policy": "p"}) is None
    assert [spec.stage for spec in dry_run(plan("objective=selm"))][3:6] == ["label", "generate", "train"]


def test_an_embedder_on_this_machine_is_in_the_key(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    rpo = plan("objective=rpo", f"objective.embedder={tmp_path}")
    assert train_spec(rpo, 1, [0], {"policy": "p"}).inputs.keys() == {"policy", "embedder"}
    assert train_spec(plan("objective=rpo"), 1, [0], {"policy": "p"}).inputs == {"policy": "p"}


def test_an_irepo_run_of_before_keeps_its_key() -> None:
    """Options that came later are not in the key while they do nothing."""
    inputs = {"policy": "p", "reference": "p", "preferences": "x"}
    settings = train_spec(plan(), 1, [0], inputs).keyed_settings()["objective"]
    assert settings == {"name": "irepo", "beta": 0.6, "scale": "reward", "reference": "previous"}
    assert train_spec(plan("objective.logit=false"), 1, [0], inputs).keyed_settings()["objective"]["logit"] is False
