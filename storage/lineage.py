"""Which stage of a run made what another stage read, as the manifests record it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from storage.artifact import Artifact, artifacts
from storage.errors import UserError
from storage.exact import foreign_files
from storage.files import parse_yaml
from storage.manifest import MANIFEST, BrokenManifest, Manifest, read_manifest
from storage.retention import removed_files

CONFIG = "config.yaml"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"round-(\d+)/(.+)")
_DEEPEST = 3  # the most folders between a stage and its run: round-NN/evaluate/responses

#: Sort key of a stage: round, depth, start, name below the round.
Rank = tuple[int, int, str, str]


@dataclass(frozen=True)
class Input:
    """What a stage read under `names`; several names have the same content.

    kind: `stage` (the run's stage `stage` made it), `outside` (no stage of the run made it), `value` (identified by
    something other than a digest, such as a data set's id), `lost` (a stage of this run made it, and its content is
    gone). path: where a stage read it, for what comes from outside or is lost; None when that is not known.
    problem: what is wrong with a lost one.
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
    def artifacts(self) -> Mapping[str, Artifact]:
        """What spec.yaml names as inputs, by input name; {} when it is missing, damaged, or describes other work."""
        read: dict[str, Artifact] = {}
        try:
            spec = parse_yaml((self.folder / "spec.yaml").read_text(encoding="utf-8"))
            for name, value in spec.items() if isinstance(spec, dict) else ():
                read |= artifacts(str(name), _parsed(value))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        digests = {name: artifact.digest for name, artifact in read.items()}
        return read if digests == self.manifest.inputs else {}

    def broken_files(self) -> list[str]:
        """One sentence for every file of the manifest that is missing or altered; paths start at the run folder.

        Policies that were removed to free disk are not broken.
        """
        problems, removed = [], removed_files(self.folder)
        for entry in self.manifest.files:
            if entry.path in removed:
                continue
            try:
                entry.check(self.folder)
            except BrokenManifest as broken:
                problems.append(str(broken).replace(f"{self.folder}/", f"{self.name}/"))
        for path in foreign_files(self.folder, [entry.path for entry in self.manifest.files]):
            problems.append(
                f"{self.name}/{path.relative_to(self.folder)} is not one of the files that the stage published"
            )
        return problems


def _parsed(value: Any) -> Any:
    """A field of spec.yaml, with an Artifact in place of each mapping that has the fields of one."""
    if isinstance(value, Mapping):
        if value.keys() == Artifact.model_fields.keys():
            return Artifact.model_validate(value)
        return {key: _parsed(inner) for key, inner in value.items()}
    return [_parsed(inner) for inner in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class StageOrder:
    """The order of stages: `order(name)` is a sort key.

    Rounds follow one another. Within a round, stages are sorted by their depth: the longest way from a stage back to
    one that reads nothing of its round. Stages of equal depth are sorted by when they started, then by name.

    makers: for a stage, by its name below the round, the stages that it reads in its round, in any round.
    started: when each stage started (ISO 8601), by its name below the run.
    """

    makers: Mapping[str, frozenset[str]]
    started: Mapping[str, str]

    def __call__(self, name: str) -> Rank:
        number, inner = place(name)
        return number, self._depths.get(inner, 0), self.started.get(name, ""), inner

    def __or__(self, other: "StageOrder") -> "StageOrder":
        """The order of both runs' stages."""
        stages = self.makers.keys() | other.makers.keys()
        none = frozenset[str]()
        makers = {stage: self.makers.get(stage, none) | other.makers.get(stage, none) for stage in stages}
        return StageOrder(makers, {**other.started, **self.started})

    @cached_property
    def _depths(self) -> Mapping[str, int]:
        depths = dict.fromkeys(self.makers, 0)
        for _ in self.makers:  # no way is longer than this, and damaged files that form a cycle end here too
            for stage, makers in self.makers.items():
                depths[stage] = max((1 + depths.get(maker, 0) for maker in makers), default=0)
        return depths


def place(name: str) -> tuple[int, str]:
    """(round, name below the round) of a stage; the round is -1 for a stage outside all rounds."""
    match = _PLACE.fullmatch(name)
    return (int(match[1]), match[2]) if match else (-1, name)


@dataclass(frozen=True)
class Run:
    """The finished stages of a run folder, sorted by `order`. unreadable: by stage name, what is wrong with the
    manifests that cannot be read."""

    root: Path
    stages: Mapping[str, Stage]
    unreadable: Mapping[str, str]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.yaml, as the latest command for this run wrote it; {} without one."""
        try:
            config = parse_yaml((self.root / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return config if isinstance(config, dict) else {}

    @cached_property
    def order(self) -> StageOrder:
        """The sort key of stage names, from what each stage read: `run.order(name)`."""
        makers: dict[str, set[str]] = {}
        for name, stage in self.stages.items():
            number, inner = place(name)
            makers.setdefault(inner, set())
            for maker in filter(None, (self._maker(stage, label) for label in stage.manifest.inputs)):
                if place(maker)[0] == number:
                    makers[inner].add(place(maker)[1])
        started = {name: stage.manifest.started for name, stage in self.stages.items()}
        return StageOrder({stage: frozenset(read) for stage, read in makers.items()}, started)

    @cached_property
    def _by_content(self) -> Mapping[str, list[str]]:
        """The stages that have a content digest."""
        names: dict[str, list[str]] = {}
        for name, stage in self.stages.items():
            names.setdefault(stage.manifest.content, []).append(name)
        return names

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        """The first path under which any stage read a digest."""
        paths: dict[str, str] = {}
        for stage in self.stages.values():
            for artifact in stage.artifacts.values():
                paths.setdefault(artifact.digest, str(artifact.path))
        return paths

    def _maker(self, stage: Stage, label: str) -> str | None:
        """The stage that made an input; None for one from outside the run.

        A manifest without a record of makers, as early versions wrote them, gets the first stage with this content.
        """
        manifest = stage.manifest
        if manifest.made_by:
            return manifest.made_by.get(label)
        names = self._by_content.get(manifest.inputs[label], [])
        return next((name for name in names if name != stage.name), None)

    def inputs(self, name: str) -> list[Input]:
        """What stage `name` read: what stages of the run made comes first, in their order."""
        stage = self.stages[name]
        labels: dict[Input, list[str]] = {}
        for label in stage.manifest.inputs:
            labels.setdefault(self._input(stage, label), []).append(label)
        inputs = []
        for source, names in labels.items():
            problem = f"{name} read {', '.join(names)} ({source.digest[:12]}) {source.problem}"
            inputs.append(replace(source, names=tuple(names), problem=problem if source.problem else None))
        kinds = ("stage", "lost", "outside", "value")
        return sorted(inputs, key=lambda read: (kinds.index(read.kind), self.order(read.stage or ""), read.names))

    def _input(self, stage: Stage, label: str) -> Input:
        """The input without its names."""
        digest, maker = stage.manifest.inputs[label], self._maker(stage, label)
        path = str(stage.artifacts[label].path) if label in stage.artifacts else self._paths.get(digest)
        if maker is None:
            return Input((), digest, "outside" if _DIGEST.fullmatch(digest) else "value", path=path)
        if maker in self.stages and self.stages[maker].manifest.content == digest:
            return Input((), digest, "stage", stage=maker)
        return Input((), digest, "lost", path=path, problem=self._loss(maker))

    def _loss(self, maker: str) -> str:
        if maker in self.unreadable:
            return f"from {maker}, and {self.unreadable[maker]}"
        if maker in self.stages:
            content = self.stages[maker].manifest.content
            return f"from {maker}, which was made again since: its content is now {content[:12]}"
        return f"from {maker}, and no finished stage is there now"


@dataclass(frozen=True)
class Lineage:
    """The stages `asked`, all that they were made from, their inputs, and what is broken.

    inputs: by stage, in the order in which stages were reached. broken: by stage, one sentence for each problem.
    """

    run: Run
    asked: list[str]
    inputs: dict[str, list[Input]] = field(default_factory=dict)
    broken: dict[str, list[str]] = field(default_factory=dict)

    @property
    def breaks(self) -> list[tuple[str, str]]:
        """(stage, what is wrong) for everything that is broken."""
        return [(name, problem) for name, problems in self.broken.items() for problem in problems]


def trace(run: Run, asked: Sequence[str]) -> Lineage:
    """Walk from the stages `asked` back to all they were made from. Every file of each stage is read and checked."""
    lineage = Lineage(run, list(asked))
    queue = list(asked)
    while queue:
        name = queue.pop(0)
        if name in lineage.inputs:
            continue
        if name in run.unreadable:
            lineage.broken[name] = [run.unreadable[name]]
            continue
        inputs = run.inputs(name)
        lineage.inputs[name] = inputs
        lineage.broken[name] = [*run.stages[name].broken_files(), *(read.problem for read in inputs if read.problem)]
        queue.extend(read.stage for read in inputs if read.stage)
    return lineage


def open_run(root: Path) -> Run:
    """Read every manifest below `root`. The files that they name are not checked."""
    stages, unreadable = {}, {}
    for name in sorted(path.parent.relative_to(root).as_posix() for path in root.rglob(MANIFEST)):
        try:
            stages[name] = Stage(name, root / name, read_manifest(root / name, check_files=False))
        except BrokenManifest as broken:
            unreadable[name] = str(broken).replace(f"{root}/", "")
    order = Run(root, stages, unreadable).order
    return Run(
        root,
        {name: stages[name] for name in sorted(stages, key=order)},
        {name: unreadable[name] for name in sorted(unreadable, key=order)},
    )


def find(path: Path) -> tuple[Run, list[str]]:
    """The run that `path` lies in, and the stages that it stands for.

    For a stage's folder or a path inside one, that is the stage. For a folder of several stages (a round, a run) it is
    those that no other stage in the folder was made from. Raises UserError when `path` does not exist or belongs to no
    finished stage.
    """
    if not path.exists():
        raise UserError(
            "there is no such file or folder",
            where=str(path),
            remedy="give a stage's folder, a file in it, or a round, such as runs/<name>/round-01/train/policy",
        )
    holder = _holder(path.resolve())
    if holder is None:
        raise UserError(
            f"this belongs to no finished stage: there is no {MANIFEST} in it or above it",
            where=str(path),
            remedy="give a path inside runs/<name>/; a stage that did not finish has no manifest yet",
        )
    root, stage = holder
    run = open_run(root)
    if stage is not None:
        return run, [stage.relative_to(root).as_posix()]
    inside = [name for name in (*run.stages, *run.unreadable) if (root / name).is_relative_to(path.resolve())]
    if not inside:
        raise UserError(
            f"this folder has no finished stage: there is no {MANIFEST} in it, above it or below it",
            where=str(path),
            remedy="repeat the command that started the run: it goes on where it stopped",
        )
    makers = {read.stage for name in inside if name in run.stages for read in run.inputs(name)}
    return run, [name for name in inside if name not in makers]


def _holder(path: Path) -> tuple[Path, Path | None] | None:
    """(run folder, stage folder) of a path; the stage is None when the path is not inside one."""
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
