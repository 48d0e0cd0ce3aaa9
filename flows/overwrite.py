"""Finished stages are not replaced by stages with other settings, unless the command says `overwrite=true`."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from flows.plan import Plan
from flows.round import play_round, play_start
from flows.stages import Stages
from storage.artifact import SPEC, Artifact, stage_name
from storage.diff import Change, changes
from storage.display import brief, change, counted
from storage.errors import UserError
from storage.files import parse_yaml
from storage.layout import RunLayout
from storage.manifest import MANIFEST, BrokenManifest, Manifest, read_manifest
from storage.stage import Spec, keyed
from tasks.evaluation.gate import DECISION, Decision

_LISTED = 8  # changes, and stages, that a refusal lists
_DIGITS = 12  # of a digest
#: Where a stage's settings are in the configuration: the group of all settings of a stage folder, or of one field.
_GROUPS = {
    "prompts": "prompts",
    "data": "data",
    "ask": "drafts",
    "assemble": "drafts",
    "mix": "mixing",
    "update": "update",
    "reference": "objective.reference",
    "judgements": "evaluation",
    "evaluate": "evaluation",
}
_FIELDS = {
    "annotators": "panel.annotators",
    "optimization": "training",
    "reasoning_end": "policy.reasoning_end",
    "trust_remote_code": "policy.trust_remote_code",
}


def refuse_overwrite(plan: Plan, first: Sequence[Spec]) -> None:
    """Raises UserError when finished work of the run would be made again because a setting, the seed or a file from
    outside the run changed; it lists these changes and the stages. first: the stages before round 0.

    Not refused: `overwrite=true`, more rounds, operational settings, and stages that are missing, damaged or of an
    earlier version of the code. Stages that take no time (those that run in the flow itself) do not count alone.
    """
    if plan.config.overwrite or not plan.layout.root.is_dir():
        return
    stages, number, chain = _ComparedStages(plan.config.seed), 0, [0]
    for spec in first:
        stages(spec)
    play_start(stages, plan)
    while not stages.changes and number < plan.config.rounds and _finished(plan.layout, number + 1):
        number += 1
        play_round(stages, plan, number, chain)
        if not _rolled_back(plan.layout, number):
            chain.append(number)
    later = [name for n in range(number + 1, plan.config.rounds + 1) for name in _finished(plan.layout, n)]
    if stages.changes and (stages.costs or later):
        raise _refusal(plan.layout.root, stages.changes, [*stages.replaced, *later])


def _refusal(root: Path, changed: dict[str, None], replaced: list[str]) -> UserError:
    lines = [
        f"{counted(len(replaced), 'finished stage')} of this run would be made again, because these changed:",
        *_shortened(list(changed)),
        "the stages:",
        *_shortened(replaced),
    ]
    return UserError(
        "\n    ".join(lines),
        where=str(root),
        remedy="start a run with another name (name=...), or replace these stages: overwrite=true",
    )


def _shortened(items: list[str]) -> list[str]:
    rest = len(items) - _LISTED
    return [f"  {item}" for item in items[:_LISTED]] + ([f"  and {rest} more"] if rest > 0 else [])


class _ComparedStages(Stages):
    """Nothing runs: specs are compared with the manifests in their folders.

    changes: what changed, in words, for those that the run would replace. replaced: their names, those that only read
    what another one makes included. costs: whether one of them is more than a moment's work.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.changes: dict[str, None] = {}  # in order, each once
        self.replaced: list[str] = []
        self.costs = False
        self._seed = seed
        self._made: dict[Path, Artifact] = {}

    def __call__(self, spec: Spec) -> Artifact:
        manifest = _read(spec.folder)
        if manifest is not None and manifest.key == spec.key():
            made = Artifact.of_stage(spec.folder, manifest)
        else:
            made = Artifact.planned(spec.folder)
        if manifest is not None and manifest.key != spec.key():
            self.replaced.append(stage_name(spec.folder))
            self.costs = self.costs or spec.task is not None
            self.changes |= dict.fromkeys(differences(manifest, spec, self._seed))
        self._made[spec.folder] = made
        return made

    def _do(self, spec: Spec) -> Manifest:
        raise AssertionError("stages are only compared")

    def made(self, plan: Plan, round_number: int, stage: str) -> Artifact:
        return self._of(plan.folder(round_number, stage))

    def prompts(self, plan: Plan) -> Artifact:
        return self._of(plan.layout.prompts)

    def data(self, plan: Plan) -> Artifact:
        return self._of(plan.layout.data)

    def _of(self, folder: Path) -> Artifact:
        if folder not in self._made:
            manifest = _read(folder)
            self._made[folder] = Artifact.of_stage(folder, manifest) if manifest else Artifact.planned(folder)
        return self._made[folder]

    def outside(self, path: Path) -> Artifact:
        if path not in self._made:
            self._made[path] = Artifact.of(path)
        return self._made[path]


def differences(manifest: Manifest, spec: Spec, seed: int) -> list[str]:
    """How a spec differs from the finished work in its folder, apart from what other stages of the run make.

    seed: the run's, that the spec's is derived from.
    """
    folder = spec.folder.name
    found = [f"{_in_config(folder, item['key'])}: {_changed(item)}" for item in _settings(manifest, spec)]
    if manifest.seed != spec.seed:
        found.append(f"seed: {change(manifest.seed - spec.seed + seed, seed)}")
    if manifest.stage_version == spec.version:
        found += _inputs(manifest, spec) + _values(spec)
    return found


def _settings(manifest: Manifest, spec: Spec) -> list[Change]:
    """Settings that differ and are part of the key; those that the manifest does not have count as their defaults."""
    try:
        return changes(keyed(type(spec.settings).model_validate(manifest.settings)), keyed(spec.settings))
    except (ValidationError, UserError):  # the settings are of another kind, or of another version of the code
        return changes(manifest.settings, spec.settings.model_dump(mode="json"))


def _changed(item: Change) -> str:
    if item["only_in"] is None:
        return change(item["a"], item["b"])
    return f"{brief(item['a'])} -> not set" if item["only_in"] == "a" else f"not set -> {brief(item['b'])}"


def _in_config(folder: str, key: str) -> str:
    first, dot, rest = key.partition(".")
    if first in _FIELDS:
        return f"{_FIELDS[first]}{dot}{rest}"
    return f"{_GROUPS[folder]}.{key}" if folder in _GROUPS else key


def _inputs(manifest: Manifest, spec: Spec) -> list[str]:
    """Inputs that come from another place, and those from outside the run whose content changed."""
    if not manifest.made_by and spec.made_by:  # of an early version of the code, which did not record makers
        return []
    found = []
    for name in dict.fromkeys([*manifest.inputs, *spec.inputs]):
        old, new = _source(name, manifest.inputs, manifest.made_by), _source(name, spec.inputs, spec.made_by)
        if old != new:
            found.append(f"input {name}: {old} -> {new}")
    return found


def _source(name: str, inputs: dict[str, str], makers: dict[str, str]) -> str:
    if name not in inputs:
        return "none"
    return makers.get(name) or f"{inputs[name][:_DIGITS]} (outside the run)"


def _values(spec: Spec) -> list[str]:
    """Fields of the spec itself that differ from those in the folder's spec.yaml."""
    try:
        old = parse_yaml((spec.folder / SPEC).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    if not isinstance(old, dict):
        return []
    return [
        f"{name}: {change(old.get(name), value)}" for name, value in spec.values().items() if old.get(name) != value
    ]


def _read(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder, check_files=False)
    except BrokenManifest:
        return None


def _finished(layout: RunLayout, number: int) -> list[str]:
    """Names of the finished stages of a round."""
    return sorted(stage_name(path.parent) for path in layout.round(number).rglob(MANIFEST))


def _rolled_back(layout: RunLayout, number: int) -> bool:
    try:
        text = (layout.stage(number, "gate") / DECISION).read_text(encoding="utf-8")
        return Decision.model_validate_json(text).action == "roll back"
    except (OSError, ValueError):
        return False
