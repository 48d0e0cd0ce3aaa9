"""`storage.keep_policies`: what is removed and kept; a run without its old policies goes on and is explained."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from conf.compose import compose_config, dump_config
from flows.chain import chain_of
from flows.retention import free_policies, policy_stages
from flows.round import play_round, play_start
from flows.stages import FinishedStages, Stages
from storage.errors import UserError
from storage.files import publish_text
from storage.lineage import find, trace
from storage.manifest import BrokenManifest, Manifest, read_manifest
from storage.retention import refuse_removed
from storage.stage import Outcome, Spec, run_stage
from tasks.evaluation.gate import Action
from tasks.evaluation.record import RoundRecord
from tests.flows.test_overwrite import Run
from tests.reporting.records import round_record

_BYTES = 100


class MadeStages(Stages):
    """Every stage publishes a file that names the work; those that make a policy, also its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def _do(self, spec: Spec) -> Manifest:
        def body() -> Outcome:
            self.ran.append(f"round-{spec.round:02d}/{spec.folder.name}")
            paths = [spec.folder / "made.txt"]
            publish_text(paths[0], spec.key())
            if spec.stage in ("train", "update", "reference"):
                paths.append(spec.folder / "policy")
                publish_text(paths[1] / "model.safetensors", spec.key()[:1] * _BYTES)
            return Outcome(paths=paths)

        return run_stage(spec, body)


class Played:
    """A run whose rounds are made in order, each followed by its decision and by retention."""

    def __init__(self, run: Run, *words: str, decisions: Sequence[Action] = ("promote", "promote", "promote")) -> None:
        self.run, self.words = run, words
        self.plan, spec = run.plan("storage.keep_policies=promoted", *words)
        self.stages = MadeStages()
        self.stages(spec)
        play_start(self.stages, self.plan)
        self.rounds: list[RoundRecord] = [round_record(0, decision="promote")]
        for number, decision in enumerate(decisions, start=1):
            base = self.chain()[-1]
            play_round(self.stages, self.plan, number, self.chain())
            self.rounds.append(round_record(number, base=base, decision=decision))
            self.rounds = free_policies(self.plan, self.rounds, None)

    def chain(self) -> list[int]:
        return chain_of(self.rounds)

    def kept(self) -> list[str]:
        return sorted(
            path.parent.parent.relative_to(self.run.root).as_posix()
            for path in self.run.root.rglob("model.safetensors")
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize(
    ("words", "decisions", "kept"),
    [
        (["storage.keep_policies=all"], ["promote"] * 3, ["round-01/train", "round-02/train", "round-03/train"]),
        ([], ["promote"] * 3, ["round-03/train"]),
        ([], ["promote", "promote", "roll back"], ["round-02/train"]),
        (["storage.keep_policies=last:2"], ["promote"] * 3, ["round-02/train", "round-03/train"]),
        (["storage.keep_policies=last:1"], ["promote", "roll back", "roll back"], ["round-01/train", "round-03/train"]),
        (["update=merge", "update.last=2"], ["promote"] * 3, ["round-03/train", "round-03/update"]),
        (["objective.reference=previous"], ["promote"] * 3, ["round-02/train", "round-03/train"]),
    ],
)
def test_what_is_kept(run: Run, words: list[str], decisions: list[Action], kept: list[str]) -> None:
    played = Played(run, *words, decisions=decisions)
    if words != ["objective.reference=previous"]:
        assert played.kept() == kept
    made = [stage for number in (1, 2, 3) for stage, _ in policy_stages(played.plan, number)]
    assert sum(record.freed for record in played.rounds) == _BYTES * (len(made) - len(played.kept()))


def test_a_run_without_its_old_policies_goes_on_and_is_explained(run: Run) -> None:
    played = Played(run)
    assert [record.freed for record in played.rounds] == [0, _BYTES, _BYTES, 0]
    played.stages.ran.clear()
    checked = FinishedStages(check_files=True)
    for number, chain in ((1, [0]), (2, [0, 1]), (3, [0, 1, 2])):
        play_round(checked, played.plan, number, chain)
        play_round(played.stages, played.plan, number, chain)
    assert played.stages.ran == [], "finished stages are adopted"
    play_round(played.stages, played.plan, 4, [0, 1, 2, 3])
    assert "round-04/train" in played.stages.ran
    publish_text(run.root / "config.yaml", dump_config(played.plan.config))
    found, asked = find(run.root / "round-03" / "evaluate")
    assert trace(found, asked).breaks == []


def test_work_that_reads_a_removed_policy_is_refused(run: Run) -> None:
    played = Played(run)
    first = run.root / "round-01" / "train"
    (run.root / "round-02" / "label" / "manifest.json").unlink()
    (run.root / "round-02" / "generate" / "manifest.json").unlink()
    with pytest.raises(
        UserError, match=r"the policy was removed to free disk \(storage\.keep_policies=promoted\)"
    ) as no:
        play_round(played.stages, played.plan, 2, [0, 1])
    assert no.value.where == str(first / "policy")
    assert "python -m storage.mirror pull" in no.value.remedy
    assert f"python -m tasks.run {first}" in no.value.remedy
    # The remedy: the stage is made again, with the same bytes, and what depends on it goes on.
    (first / "manifest.json").unlink()
    (first / "removed.json").unlink()
    play_round(played.stages, played.plan, 1, [0])
    refuse_removed([first / "policy"])
    play_round(played.stages, played.plan, 2, [0, 1])


def test_only_what_was_removed_may_be_missing(run: Run) -> None:
    Played(run)
    first = run.root / "round-01" / "train"
    read_manifest(first)
    (first / "made.txt").unlink()
    with pytest.raises(BrokenManifest, match=r"made\.txt is missing"):
        read_manifest(first)
    (run.root / "round-02" / "train" / "removed.json").write_text("{")
    with pytest.raises(BrokenManifest, match=r"model\.safetensors is missing"):
        read_manifest(run.root / "round-02" / "train")


def test_a_restored_policy_is_checked_again(run: Run) -> None:
    Played(run)
    first = run.root / "round-01" / "train"
    (first / "policy" / "model.safetensors").write_text("x" * _BYTES)
    with pytest.raises(BrokenManifest, match="was altered"):
        read_manifest(first)


def test_names_of_rules() -> None:
    with pytest.raises(UserError, match="'newest' is not one of all, promoted, last:N"):
        compose_config(["run=demo", "storage.keep_policies=newest"])
