"""The contract of a stage: spec in, files and a manifest out, adopted when it is already done.

Every stage is a plain function from a spec to a Manifest. `python -m tasks.run <stage folder>` runs any of them again.
"""

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializeAsAny
from pydantic_core import to_jsonable_python

from storage.artifact import artifacts, stage_name
from storage.disk_errors import disk_faults
from storage.errors import UserError
from storage.exact import foreign_files
from storage.files import digest, parse_yaml, publish_text, sha256_file, sweep_temporaries, yaml_text
from storage.manifest import (
    CHECKOUT,
    MANIFEST,
    BrokenManifest,
    FileEntry,
    Manifest,
    describe_files,
    library_versions,
    now,
    read_manifest,
)
from storage.plugins import Family
from storage.retention import refuse_removed

log = logging.getLogger("irepo")

_CLASS = "spec"  # the line of spec.yaml that names the class
_PACKAGES = ("tasks", "tests")  # where stages are defined


class Progress(Protocol):
    """Called as work proceeds: `done` of `total` units, and what the unit is."""

    def __call__(self, done: int, total: int, unit: str) -> None: ...


def silent(done: int, total: int, unit: str) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True)
class Unkeyed:
    """Marks a field of a spec, as in Annotated[Path, Unkeyed("a cache")], that is not part of the stage's key."""

    why: str


@dataclass(frozen=True)
class KeyedBy:
    """Marks a path in a stage's settings whose content is the artifact in the spec's field of this name.

    kind: of the values that are paths, where a setting may also be something else.
    """

    field: str
    kind: type = object


#: Which of the four Prefect tasks runs a stage; None: the stage is quick and runs in the flow itself.
TaskName = Literal["generate", "label", "train", "evaluate"]


class Spec(BaseModel):
    """Everything a stage needs. Subclasses add what they read, as Artifact fields, and narrow `settings`.

    `inputs` follows from the fields: what a stage reads is what its key holds. A path that is not part of the key says
    so in its type (`Unkeyed`); any other field is part of the key by its value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: ClassVar[str]
    version: ClassVar[int]
    #: The function that does the work, as package.module:name. It takes the spec and a Progress, and if `samples`
    #: also an engine, and returns the Manifest. Empty for a stage that holds a decision.
    runs: ClassVar[str] = ""
    task: ClassVar[TaskName | None] = None
    samples: ClassVar[bool] = False

    folder: Annotated[Path, Unkeyed("where the stage writes; a run folder may move")]
    round: int = Field(ge=0)
    seed: int
    settings: SerializeAsAny[BaseModel]

    @property
    def inputs(self) -> dict[str, str]:
        """The digest of every artifact that the stage reads, by field name; `field:key` inside a mapping or list."""
        read: dict[str, str] = {}
        for name in type(self).model_fields:
            read |= {key: made.digest for key, made in artifacts(name, getattr(self, name)).items()}
        return read

    @property
    def made_by(self) -> dict[str, str]:
        """The stage that made each input, by the names of `inputs`; without inputs from outside the run."""
        run = _run_folder(self.folder, stage_name(self.folder))
        makers: dict[str, str] = {}
        for name in type(self).model_fields:
            for key, made in artifacts(name, getattr(self, name)).items():
                if made.maker and _run_folder(made.path, made.maker) == run:
                    makers[key] = made.maker
        return makers

    def key(self) -> str:
        """sha256 over the stage, its contract's version, settings, round, seed, the digests of its inputs and its
        other fields, without what is operational or `Unkeyed`."""
        content = {
            "stage": self.stage,
            "version": self.version,
            "settings": keyed(self.settings),
            "round": self.round,
            "seed": self.seed,
            "inputs": self.inputs,
        }
        if values := self.values():
            content["values"] = values
        return digest(content)

    def values(self) -> dict[str, JsonValue]:
        """Fields of subclasses that are neither artifacts nor `Unkeyed`, as JSON."""
        names = []
        for name, field in type(self).model_fields.items():
            unkeyed = any(isinstance(mark, Unkeyed) for mark in field.metadata)
            value = getattr(self, name)
            empty = value is None or value == {} or value == []
            if name not in Spec.model_fields and not unkeyed and not empty and not artifacts(name, value):
                names.append(name)
        return self.model_dump(mode="json", include=set(names)) if names else {}

    def save(self, path: Path) -> None:
        """Write the spec as YAML, with the name of its class, for `load_spec`.

        The file is replaced, never written in place: runs that share a stage by hard links stay apart.
        """
        kind = type(self)
        content = {_CLASS: f"{kind.__module__}:{kind.__qualname__}"} | self.model_dump(mode="json")
        publish_text(path, yaml_text(content), private=True)


def _run_folder(path: Path, stage: str) -> Path | None:
    """The folder of the run that has `path` in its stage `stage`."""
    names = Path(stage).parts
    for folder in (path.absolute(), *path.absolute().parents):
        if folder.parts[-len(names) :] == names:
            return folder.parents[len(names) - 1]
    return None


def keyed(value: object) -> Any:
    """Settings as JSON, without fields that are `KeyedBy` an artifact or that their model lists in `operational`.

    Operational settings change how fast, where or at what price a stage runs, but not what it makes. Where a setting is
    a class of the user's (see storage.plugins), `<setting>_source` is the digest of the file that defines it.
    """
    return _keyed(value, to_jsonable_python(value))


def _keyed(value: object, dumped: Any) -> Any:
    """As `keyed`. dumped: the value as written to spec.yaml (900.0 for a float 900), so that both give the same key."""
    if isinstance(value, BaseModel):
        left_out: frozenset[str] = getattr(value, "operational", frozenset())
        fields, content = value.model_dump(mode="json"), dict[str, Any]()
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if name in left_out or any(_is_elsewhere(mark, inner) for mark in field.metadata):
                continue
            content[name] = _keyed(inner, fields[name])
            families = [mark for mark in field.metadata if isinstance(mark, Family)]
            if any(type(inner) not in family.ours().values() for family in families):
                content[f"{name}_source"] = sha256_file(Path(inspect.getfile(type(inner))))
        return content
    if isinstance(value, Mapping):
        return {key: _keyed(inner, item) for inner, (key, item) in zip(value.values(), dumped.items(), strict=True)}
    if isinstance(value, list | tuple):
        return [_keyed(inner, item) for inner, item in zip(value, dumped, strict=True)]
    return dumped


def _is_elsewhere(mark: object, value: object) -> bool:
    """Whether a mark of a setting says that its value is not in the key, or is there as an artifact."""
    return isinstance(mark, Unkeyed) or (isinstance(mark, KeyedBy) and isinstance(value, mark.kind))


S = TypeVar("S", bound=Spec)


class Outcome(BaseModel):
    """What a stage's body hands back: the paths it published, row counts, and figures worth a line in a table."""

    paths: list[Path]
    rows: dict[str, int] = Field(default_factory=dict)
    summary: dict[str, Any] = Field(default_factory=dict)


def finished(spec: Spec) -> Manifest | None:
    """The valid manifest of this very work, if there is one; otherwise says (in the log) why not and returns None."""
    try:
        manifest = read_manifest(spec.folder)
    except BrokenManifest as broken:
        if (spec.folder / MANIFEST).exists():
            log.warning("%s of round %d is done again: %s", spec.stage, spec.round, broken)
        return None
    if manifest.key != spec.key():
        log.warning("%s of round %d is done again: its settings or inputs changed", spec.stage, spec.round)
        return None
    return manifest


def run_stage(spec: Spec, body: Callable[[], Outcome]) -> Manifest:
    """Adopt the finished stage in `spec.folder`, or run `body` there and publish its manifest last.

    Raises UserError when it reads a policy that was removed to free disk, and when the disk is full or cannot be
    written: the stage is not done then, and what it had published is kept for the next attempt.
    """
    adopted = finished(spec)
    if adopted is not None:
        return adopted
    refuse_removed(path for name in type(spec).model_fields for path in _read_by(spec, name))
    with disk_faults(spec.folder):
        return _run_anew(spec, body)


def _read_by(spec: Spec, name: str) -> list[Path]:
    return [made.path for made in artifacts(name, getattr(spec, name)).values()]


def _run_anew(spec: Spec, body: Callable[[], Outcome]) -> Manifest:
    spec.folder.mkdir(parents=True, exist_ok=True)
    (spec.folder / MANIFEST).unlink(missing_ok=True)
    sweep_temporaries(spec.folder)
    spec.save(spec.folder / "spec.yaml")
    versions = library_versions()  # of the code that is about to run: a checkout may change meanwhile
    started, clock = now(), time.monotonic()
    outcome = body()
    files = describe_files(spec.folder, outcome.paths)
    _clear(spec, files)
    manifest = Manifest(
        stage=spec.stage,
        round=spec.round,
        key=spec.key(),
        inputs=spec.inputs,
        made_by=spec.made_by,
        settings=spec.settings.model_dump(mode="json"),
        files=files,
        rows=outcome.rows,
        summary=outcome.summary,
        stage_version=spec.version,
        seed=spec.seed,
        started=started,
        seconds=round(time.monotonic() - clock, 3),
        versions=versions,
    ).sealed()
    manifest.write(spec.folder)
    return manifest


def _clear(spec: Spec, files: Sequence[FileEntry]) -> None:
    """Remove parts, once they are put together, and what earlier attempts left, such as other numbers of shards."""
    for path in foreign_files(spec.folder, [entry.path for entry in files]):
        if not _sidecar(path).exists():
            log.warning("%s of round %d: removed %s, which an earlier attempt left", spec.stage, spec.round, path)
        path.unlink()
        _sidecar(path).unlink(missing_ok=True)


class Part(BaseModel):
    """The sidecar of a published part (a shard) of an unfinished stage: which work it belongs to, and its digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    file: FileEntry


def _sidecar(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.json")


def mark_part(spec: Spec, path: Path) -> None:
    """Record that `path` (published, directly in the stage's folder) is a whole part of this very work."""
    publish_text(_sidecar(path), Part(key=spec.key(), file=FileEntry.of(spec.folder, path)).model_dump_json())


def has_part(spec: Spec, path: Path) -> bool:
    """True when `path` is a part of this very work, whole and unchanged: it need not be made again."""
    try:
        part = Part.model_validate_json(_sidecar(path).read_text(encoding="utf-8"))
        part.file.check(spec.folder)
    except (FileNotFoundError, ValueError, BrokenManifest):
        return False
    return part.key == spec.key() and part.file.path == path.name


def load_spec(path: Path, kind: type[S]) -> S:
    """Read a spec written by `Spec.save`. Raises UserError when the file does not fit `kind`."""
    spec = load_any_spec(path)
    if not isinstance(spec, kind):
        raise _not_a_spec(path, f"it is the spec of a {spec.stage} stage, not of a {kind.stage} stage")
    return spec


def load_any_spec(path: Path) -> Spec:
    """Read the spec of any stage of this project. Raises UserError when the file is no spec.

    The file names the spec's class. Only classes of this project are accepted: a file must not choose code to import.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _not_a_spec(path, str(error)) from None
    if not isinstance(content, dict) or not isinstance(content.get(_CLASS), str):
        raise _not_a_spec(path, f"it has no line `{_CLASS}: tasks.<room>.<module>:<class>`")
    kind = _spec_class(content.pop(_CLASS))
    if kind is None:
        raise _not_a_spec(path, f"its line `{_CLASS}` names no stage of this project")
    try:
        return kind.model_validate(content)
    except ValueError as error:
        raise _not_a_spec(path, str(error)) from None


def _spec_class(name: str) -> type[Spec] | None:
    module, _, attribute = name.partition(":")
    if module.split(".")[0] not in _PACKAGES:
        return None
    try:
        origin = find_spec(module)
    except ModuleNotFoundError:
        return None
    if origin is None or origin.origin is None or not Path(origin.origin).is_relative_to(CHECKOUT):
        return None
    kind = getattr(import_module(module), attribute, None)
    return kind if isinstance(kind, type) and issubclass(kind, Spec) and kind is not Spec else None


def _not_a_spec(path: Path, why: str) -> UserError:
    return UserError(
        f"this is not the spec of a stage: {why}",
        where=str(path),
        remedy="give the spec.yaml that the stage left in its folder, or one written like it",
    )
