"""Which stage of a run made what another stage read: manifests, joined by the digests of their contents."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Literal

import yaml

from storage.errors import UserError
from storage.files import parse_yaml
from storage.manifest import MANIFEST, BrokenManifest, Manifest, read_manifest

CONFIG = "config.yaml"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"round-\d+$|prompts$")  # what is called so in a run folder, irepo made
_DEEPEST = 3  # a stage lies at most so far below its run folder: round-NN/evaluate/responses
#: Stage folders of a round in the order in which they are made; the run's own `prompts` come before all rounds.
_ORDER = (
    "prompts",
    "ask",
    "drafts",
    "generate",
    "label",
    "mix",
    "reference",
    "extra",
    "train",
    "update",
    "against",
    "evaluate/responses",
    "evaluate/judgements",
    "evaluate/dialogues",
    "evaluate/grades",
    "evaluate/harness",
    "evaluate/pairs",
    "evaluate",
    "gate",
)
#: Inputs that stages of a run make for one another, for when the spec with the path is gone.
_MADE_HERE = (
    "prompts", "responses", "preferences", "extra", "judgements", "asked", "drafts", "pairs", "evaluation", "harness",
    "dialogues", "mt_bench",
)  # fmt: skip


@dataclass(frozen=True)
class Input:
    """What a stage read under `names` (several where they are the same content).

    kind: `stage` (the run's stage `stage` made it), `outside` (no stage of the run makes it), `value` (not a digest),
    `lost` (a stage of this run should have made it, and none has this content). `path` is where the stage's spec.yaml
    read it from (for a function its name), None where that is not known; `problem` says what is wrong with a lost one.
    """

    names: tuple[str, ...]
    digest: str
    kind: Literal["stage", "outside", "value", "lost"]
    stage: str | None = None
    path: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Stage:
    """A finished stage of a run. `name` is its folder below the run folder, as in `round-01/train`."""

    name: str
    folder: Path
    manifest: Manifest

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What spec.yaml says, {} when it is not there, is no spec, or is that of other work."""
        try:
            spec = parse_yaml((self.folder / "spec.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return spec if isinstance(spec, dict) and spec.get("inputs") == self.manifest.inputs else {}

    @cached_property
    def run_folder(self) -> PurePath | None:
        """Where the run folder was when the stage ran (it may have moved since), None when the spec does not say."""
        folder = self.spec.get("folder")
        name = PurePath(self.name).parts
        if not isinstance(folder, str):
            return None
        parts = PurePath(os.path.normpath(folder)).parts
        return PurePath(*parts[: -len(name)]) if parts[-len(name) :] == name else None

    def origin(self, name: str) -> str | None:
        """Where the spec read input `name` from, None when it does not say."""
        group, _, member = name.partition(":")
        settings = self.manifest.settings
        if member:
            for annotators in (settings.get(f"{group}s"), self.spec.get(group)):
                if isinstance(annotators, Mapping) and member in annotators:
                    return _source(annotators[member])
            return None
        value = self.spec.get(name)
        if value is not None:
            return _source(value.get("policy") if isinstance(value, Mapping) else value)
        if self.manifest.stage == "prompts":  # the only stage whose settings, not its spec, name what it reads
            return _source(settings.get("path" if name == "prompts" else name))
        return None

    def broken_files(self) -> list[str]:
        """One sentence for every file of the manifest that is missing or altered; it is named from the run folder."""
        problems = []
        for entry in self.manifest.files:
            try:
                entry.check(self.folder)
            except BrokenManifest as broken:
                problems.append(str(broken).replace(f"{self.folder}/", f"{self.name}/"))
        return problems


def _source(value: Any) -> str | None:
    if isinstance(value, Mapping):  # an annotator's settings
        named = (value.get(field) for field in ("path", "function", "utility", "template"))
        value = next((text for text in named if text), None)
    return value if isinstance(value, str) else None


@dataclass(frozen=True)
class Run:
    """The finished stages of a run folder in the order in which they are made.

    `unreadable` has, by stage name, why a manifest is none.
    """

    root: Path
    stages: dict[str, Stage]
    unreadable: dict[str, str]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.yaml says (of the latest command that was given for this run); {} without one."""
        try:
            config = parse_yaml((self.root / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return config if isinstance(config, dict) else {}

    @cached_property
    def _origins(self) -> dict[str, tuple[str, str]]:
        """Content digest -> (stage, path) of the first spec that names a path for it."""
        origins: dict[str, tuple[str, str]] = {}
        for stage in self.stages.values():
            for name, value in stage.manifest.inputs.items():
                path = stage.origin(name)
                if path is not None:
                    origins.setdefault(value, (stage.name, path))
        return origins

    @cached_property
    def _makers(self) -> dict[str, list[str]]:
        makers: dict[str, list[str]] = {}
        for stage in self.stages.values():
            makers.setdefault(stage.manifest.content, []).append(stage.name)
        return makers

    def inputs(self, name: str) -> list[Input]:
        """What stage `name` read: inputs made by the run first, in the order in which they were made."""
        grouped: dict[tuple[str, str | None], list[str]] = {}
        stage = self.stages[name]
        for label, value in stage.manifest.inputs.items():
            grouped.setdefault((value, stage.origin(label) or self._origin(value)), []).append(label)
        merged: dict[Input, list[str]] = {}
        for (value, path), labels in grouped.items():
            found = self._input(stage, labels, value, path)
            merged.setdefault(found, []).extend(labels)
        inputs = [
            Input(tuple(labels), found.digest, found.kind, found.stage, found.path, found.problem)
            for found, labels in merged.items()
        ]
        kinds = ("stage", "lost", "outside", "value")
        return sorted(inputs, key=lambda i: (kinds.index(i.kind), order(i.stage or ""), i.names))

    def _origin(self, value: str) -> str | None:
        return self._origins[value][1] if value in self._origins else None

    def _input(self, stage: Stage, labels: Sequence[str], value: str, path: str | None) -> Input:
        """The input without its names. A path inside the run tells content that is lost from content from outside."""
        if not _DIGEST.fullmatch(value):
            return Input((), value, "value", path=path)
        reader = stage if path is None or stage.origin(labels[0]) else self.stages[self._origins[value][0]]
        maker = self._maker_by_path(reader, path)
        makers = [name for name in self._makers.get(value, []) if name != stage.name]
        if makers:
            return Input((), value, "stage", stage=maker if maker in makers else makers[0])
        expected = maker is not None
        if path is None and stage.manifest.stage != "prompts":
            expected = labels[0].partition(":")[0] in _MADE_HERE
        if not expected:
            return Input((), value, "outside", path=path)
        return Input((), value, "lost", path=path, problem=self._loss(stage, labels, value, maker))

    def _maker_by_path(self, reader: Stage, path: str | None) -> str | None:
        """The stage of this run that a path of `reader`'s spec lies in, finished or not; else None."""
        if path is None or reader.run_folder is None:
            return None
        inside = PurePath(os.path.normpath(path))
        if not inside.is_relative_to(reader.run_folder):
            return None
        relative = inside.relative_to(reader.run_folder)
        known = self.stages.keys() | self.unreadable.keys()
        places = [place.as_posix() for place in (relative, *relative.parents)]
        unfinished = relative.as_posix() if relative.parts and _PLACE.match(relative.parts[0]) else None
        return next((place for place in places if place in known), unfinished)

    def _loss(self, stage: Stage, labels: Sequence[str], value: str, maker: str | None) -> str:
        read = f"{stage.name} read {', '.join(labels)} ({value[:12]})"
        if maker in self.unreadable:
            return f"{read} from {maker}, and {self.unreadable[maker]}"
        if maker in self.stages:
            now = self.stages[maker].manifest.content
            return f"{read} from {maker}, which now has other content ({now[:12]}): it was made again since"
        if maker is not None:
            return f"{read} from {maker}, where no finished stage is any more"
        return f"{read}, and no stage of this run has that content"


@dataclass(frozen=True)
class Lineage:
    """The stages `asked` and all that stand behind them, with their inputs; what is broken, by stage."""

    run: Run
    asked: list[str]
    inputs: dict[str, list[Input]] = field(default_factory=dict)  # in the order in which stages were reached
    broken: dict[str, list[str]] = field(default_factory=dict)

    @property
    def breaks(self) -> list[tuple[str, str]]:
        """(stage, what is wrong) of every break on the way."""
        return [(name, problem) for name, problems in self.broken.items() for problem in problems]


def trace(run: Run, asked: Sequence[str]) -> Lineage:
    """Walk from the stages `asked` back to all they were made from; every file on the way is read and checked."""
    lineage = Lineage(run, list(asked))
    waiting = list(asked)
    while waiting:
        name = waiting.pop(0)
        if name in lineage.inputs:
            continue
        if name in run.unreadable:
            lineage.broken[name] = [run.unreadable[name]]
            continue
        lineage.inputs[name] = run.inputs(name)
        lost = [found.problem for found in lineage.inputs[name] if found.problem]
        lineage.broken[name] = [*run.stages[name].broken_files(), *lost]
        waiting.extend(found.stage for found in lineage.inputs[name] if found.stage)
    return lineage


def order(name: str) -> tuple[int, int, str]:
    """Sort key of stage names: as the stages of a run are made, round by round. Unknown ones come last in theirs."""
    place = re.fullmatch(r"round-(\d+)/(.+)", name)
    number, stage = (int(place[1]), place[2]) if place else (-1, name)
    known = "against" if stage.startswith("against/") else stage
    return number, _ORDER.index(known) if known in _ORDER else len(_ORDER), stage


def open_run(root: Path) -> Run:
    """Read every manifest below `root`. Files are not checked here."""
    stages, unreadable = {}, {}
    names = {path.parent.relative_to(root).as_posix() for path in root.rglob(MANIFEST)}
    for name in sorted(names, key=order):
        try:
            stages[name] = Stage(name, root / name, read_manifest(root / name, check_files=False))
        except BrokenManifest as broken:
            unreadable[name] = str(broken).replace(f"{root}/", "")
    return Run(root, stages, unreadable)


def find(path: Path) -> tuple[Run, list[str]]:
    """The run that `path` lies in, and the stages it stands for.

    That is the stage whose folder holds `path`; of a folder above stages (a round, a run) those stages in it that no
    other one in it was made from. Raises UserError when `path` does not exist or no finished stage holds it.
    """
    if not path.exists():
        raise UserError(
            "there is no such file or folder",
            where=str(path),
            remedy="give a stage's folder, a file in it, or a round, such as runs/<name>/round-01/train/policy",
        )
    held = _holder(path.resolve())
    if held is None:
        raise UserError(
            f"no finished stage holds this: there is no {MANIFEST} in it or above it",
            where=str(path),
            remedy="give a path inside runs/<name>/; a stage that did not finish has no manifest yet",
        )
    root, stage = held
    run = open_run(root)
    if stage is not None:
        return run, [stage.relative_to(root).as_posix()]
    inside = [name for name in (*run.stages, *run.unreadable) if (root / name).is_relative_to(path.resolve())]
    if not inside:
        raise UserError(
            f"no finished stage is in this folder: there is no {MANIFEST} in it, above it or below it",
            where=str(path),
            remedy="finish the stage first: the command that started the run goes on where it stopped",
        )
    behind = {found.stage for name in inside if name in run.stages for found in run.inputs(name)}
    return run, [name for name in inside if name not in behind]


def _holder(path: Path) -> tuple[Path, Path | None] | None:
    """(run folder, stage folder) of a path; the stage is None when the path lies above all stages."""
    stage = None
    for folder in (path, *path.parents):
        if stage is None and (folder / MANIFEST).is_file():
            stage = folder
        elif (folder / CONFIG).is_file() and (stage is None or len(stage.relative_to(folder).parts) <= _DEEPEST):
            return folder, stage
    return (stage, stage) if stage is not None else None


def flat(value: Any, prefix: str = "", *, lists: bool = False) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested mappings and, with `lists`, lists; empty ones are leaves."""
    if isinstance(value, Mapping) and value:
        items = [(str(key), inner) for key, inner in value.items()]
    elif lists and isinstance(value, list) and value:
        items = [(str(i), inner) for i, inner in enumerate(value)]
    else:
        yield prefix, value
        return
    for key, inner in items:
        yield from flat(inner, f"{prefix}.{key}" if prefix else key, lists=lists)
