"""A run name that is used again: the same settings go on, other ones are refused with what they would replace."""

import json
import shutil
from pathlib import Path

import pytest

from conf.compose import compose_config
from conf.schema import RunConfig
from flows.checks import prepare_run
from flows.overwrite import refuse_overwrite
from flows.plan import Plan
from flows.round import play_round, play_start
from flows.specs import prompts_spec
from flows.stages import Stages
from storage.artifact import Artifact, stage_name
from storage.errors import UserError
from storage.files import publish_text
from storage.manifest import MANIFEST, Manifest, describe_files
from storage.stage import Spec
from tasks.evaluation.gate import DECISION, Decision
from tasks.generation.prompts import PromptsSpec, prompt_artifacts


class PretendedStages(Stages):
    """Every stage is finished at once: a file that names the work, and its manifest."""

    def _do(self, spec: Spec) -> Manifest:
        path = spec.folder / "made.txt"
        publish_text(path, spec.key())
        spec.save(spec.folder / "spec.yaml")
        manifest = Manifest(
            stage=spec.stage, round=spec.round, key=spec.key(), inputs=spec.inputs, made_by=spec.made_by,
            settings=spec.settings.model_dump(mode="json"), files=describe_files(spec.folder, [path]),
            stage_version=spec.version, seed=spec.seed, started="2026-11-01T00:00:00Z", seconds=1.0, versions={},
        ).sealed()  # fmt: skip
        manifest.write(spec.folder)
        return manifest


class Run:
    """A run of the demo's settings on files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "runs" / "mine"
        self.prompts, self.heldout, self.policy = folder / "p.jsonl", folder / "h.jsonl", folder / "policy"
        self.policy.mkdir()
        (self.policy / "config.json").write_text("{}")
        self.prompts.write_text(json.dumps({"prompt": "One?"}) + "\n")
        self.heldout.write_text(json.dumps({"prompt": "Two?"}) + "\n")

    def plan(self, *words: str) -> tuple[Plan, PromptsSpec]:
        given = [
            "run=demo", "name=mine", f"runs={self.folder / 'runs'}", f"policy={self.policy}",
            f"prompts={self.prompts}", f"prompts.heldout={self.heldout}", "panel=rules", "evaluation=plain",
            "policy.warmup=null", "rounds=2", *words,
        ]  # fmt: skip
        config = compose_config(given)
        plan = Plan(config, Artifact.of(self.policy))
        return plan, prompts_spec(plan, *prompt_artifacts(config.prompts), context=256)

    def play(self, *words: str, rounds: int = 2) -> None:
        plan, spec = self.plan(*words)
        stages = PretendedStages()
        stages(spec)
        play_start(stages, plan)
        chain = [0]
        for number in range(1, rounds + 1):
            play_round(stages, plan, number, chain)
            chain.append(number)

    def refusal(self, *words: str) -> str:
        plan, spec = self.plan(*words)
        with pytest.raises(UserError) as caught:
            refuse_overwrite(plan, [spec])
        assert caught.value.where == str(self.root)
        assert "overwrite=true" in caught.value.remedy
        wanted = RunConfig.model_validate(plan.config.model_dump() | {"overwrite": True})
        refuse_overwrite(Plan(wanted, plan.initial), [spec])
        return caught.value.what

    def goes_on(self, *words: str) -> None:
        plan, spec = self.plan(*words)
        refuse_overwrite(plan, [spec])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_same_settings_go_on(run: Run) -> None:
    run.goes_on()
    run.play()
    run.goes_on()
    run.goes_on("rounds=5")
    run.goes_on("rounds=1")
    run.goes_on("gate=human", "tracker=tensorboard")
    run.goes_on("training.checkpoint_steps=1", "engine.verify_sequences=0")  # operational


@pytest.mark.parametrize(
    ("word", "change", "first", "kept"),
    [
        ("sampling.temperature=0.5", "sampling.temperature: 1 -> 0.5", "round-00/evaluate/responses", "prompts"),
        ("training.learning_rate=0.5", "training.learning_rate: 0.0003 -> 0.5", "round-01/train", "round-01/label"),
        ("objective.beta=0.25", "objective.beta: 0.45 -> 0.25", "round-01/train", "round-01/label"),
        ("seed=3", "seed: 0 -> 3", "round-00/evaluate/responses", ""),
        ("prompts.limit=1", "prompts.limit: null -> 1", "prompts", ""),
        ("sampling.max_tokens=7", "max_tokens: 64 -> 7", "prompts", ""),
        ("mixing=replay", "input preferences: round-01/label -> round-01/mix", "round-01/train", "round-01/label"),
        ("objective=dpo", "objective.name: irepo -> dpo", "round-01/train", "round-01/label"),
        ("+panel.annotators.new={kind: rule, shorter: true}", "panel.annotators.new: not set", "round-01/label", ""),
    ],
)  # fmt: skip
def test_other_settings_are_refused_with_what_they_would_replace(
    run: Run, word: str, change: str, first: str, kept: str
) -> None:
    run.play()
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    said = run.refusal(word)
    assert change in said
    listed = [line.strip() for line in said.partition("the stages:")[2].splitlines()]
    assert first in listed
    assert kept not in listed or not kept
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_files_from_outside_that_changed_are_refused(run: Run) -> None:
    run.play()
    for path in (run.prompts, run.heldout, run.policy / "config.json"):
        old = path.read_text()
        path.write_text(json.dumps({"prompt": f"New {path.name}?"}) + "\n")
        assert "(outside the run) -> " in run.refusal()
        path.write_text(old)
        run.goes_on()


def test_a_held_out_file_may_have_another_path(run: Run) -> None:
    run.play()
    moved = run.heldout.with_name("moved.jsonl")
    shutil.copy(run.heldout, moved)
    run.goes_on(f"prompts.heldout={moved}")
    run.refusal("prompts.heldout=0.2")


def test_a_share_that_is_held_out_is_part_of_the_key(run: Run) -> None:
    keys = {run.plan(f"prompts.heldout={share}")[1].key() for share in (0.1, 0.2, run.heldout)}
    assert len(keys) == 3


def test_an_unfinished_run_goes_on(run: Run) -> None:
    run.play()
    for lost in ("round-02/evaluate", "round-01/train"):
        shutil.rmtree(run.root / lost)
        run.goes_on()
    assert "sampling.top_p" in run.refusal("sampling.top_p=0.5")


def test_what_followed_a_stage_that_is_made_again_is_made_again_too(run: Run) -> None:
    """A stage whose content changed, with the settings it had: those that read it are not refused."""
    run.play()
    manifest = Manifest.model_validate_json((run.root / "round-01/train" / MANIFEST).read_text())
    (run.root / "round-01/train/made.txt").write_text("another rounding")
    other = Manifest(
        **manifest.model_dump(exclude={"digest", "files"}),
        files=describe_files(run.root / "round-01/train", [run.root / "round-01/train/made.txt"]),
    ).sealed()
    other.write(run.root / "round-01/train")
    run.goes_on()


def test_stages_of_another_version_of_the_code_are_not_refused(run: Run) -> None:
    run.play()
    folder = run.root / "round-01/train"
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    Manifest(
        **manifest.model_dump(exclude={"digest", "key", "stage_version"}), key="old", stage_version=0
    ).sealed().write(folder)
    run.goes_on()
    run.refusal("training.learning_rate=0.5")


def test_prompts_alone_may_be_read_again(run: Run) -> None:
    _, spec = run.plan()
    PretendedStages()(spec)
    run.goes_on("prompts.limit=1")


def test_rounds_that_were_rolled_back_leave_no_trace(run: Run) -> None:
    plan, spec = run.plan("rounds=3")
    stages = PretendedStages()
    stages(spec)
    play_start(stages, plan)
    for number, chain in ((1, [0]), (2, [0, 1]), (3, [0, 1])):
        play_round(stages, plan, number, chain)
        action = "roll back" if number == 2 else "promote"
        decision = Decision(action=action, by="human")
        publish_text(plan.folder(number, "gate") / DECISION, decision.model_dump_json())
    run.goes_on("rounds=3")
    (plan.folder(2, "gate") / DECISION).unlink()
    assert "round-02/train" in run.refusal("rounds=3")


def test_preparing_a_run_stops_before_anything_is_replaced(run: Run, tiny_policy: Path) -> None:
    words = [f"policy={tiny_policy}", "engine=transformers"]
    ready = prepare_run(run.plan(*words)[0].config)
    play_start(PretendedStages(), ready)
    prompts = (run.root / "prompts" / MANIFEST).read_bytes()
    prepare_run(run.plan(*words)[0].config)
    with pytest.raises(UserError, match=r"prompts\.limit: null -> 1"):
        prepare_run(run.plan(*words, "prompts.limit=1")[0].config)
    assert (run.root / "prompts" / MANIFEST).read_bytes() == prompts
    prepare_run(run.plan(*words, "prompts.limit=1", "overwrite=true")[0].config)
    assert (run.root / "prompts" / MANIFEST).read_bytes() != prompts


def test_names_are_those_of_the_run_folder(run: Run) -> None:
    run.play(rounds=1)
    said = run.refusal("training.epochs=7")
    names = {stage_name(path.parent) for path in run.root.rglob(MANIFEST)}
    listed = {line.strip() for line in said.partition("the stages:")[2].splitlines()} - {""}
    assert listed <= names
