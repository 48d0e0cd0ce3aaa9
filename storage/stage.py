"""The contract of a stage: spec in, files and a manifest out, adopted when it is already done.

Every stage is a plain function from a spec to a Manifest; each room has a command for its main one,
`python -m tasks.<room> spec.yaml`.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from storage.disk_errors import disk_faults
from storage.errors import UserError
from storage.files import digest, parse_yaml, publish_text, sweep_temporaries, yaml_text
from storage.manifest import (
    MANIFEST,
    BrokenManifest,
    FileEntry,
    Manifest,
    describe_files,
    library_versions,
    now,
    read_manifest,
)

log = logging.getLogger("irepo")


class Progress(Protocol):
    """Called as work proceeds: `done` of `total` units, and what the unit is."""

    def __call__(self, done: int, total: int, unit: str) -> None: ...


def silent(done: int, total: int, unit: str) -> None:
    """A Progress that shows nothing."""


class Spec(BaseModel):
    """Everything a stage needs. Sub-classes add the paths they read and narrow `settings`.

    Paths say where to read and write and are not part of the key: a run folder may move. What was read is in
    `inputs`, by digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: ClassVar[str]
    version: ClassVar[int]

    folder: Path
    round: int = Field(ge=0)
    seed: int
    inputs: dict[str, str]
    settings: SerializeAsAny[BaseModel]

    def key(self) -> str:
        """sha256 over the stage, its contract's version, settings, round, seed and the digests of its inputs."""
        return digest(
            {
                "stage": self.stage,
                "version": self.version,
                "settings": self.keyed_settings(),
                "round": self.round,
                "seed": self.seed,
                "inputs": self.inputs,
            }
        )

    def keyed_settings(self) -> dict[str, Any]:
        """The settings that decide the stage's outcome. Sub-classes leave out those that decide how fast it comes."""
        return self.settings.model_dump(mode="json")

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml_text(self.model_dump(mode="json")), encoding="utf-8")


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

    Raises UserError when the disk is full or cannot be written: the stage is not done then, and what it had published
    is kept for the next attempt.
    """
    adopted = finished(spec)
    if adopted is not None:
        return adopted
    with disk_faults(spec.folder):
        return _run_anew(spec, body)


def _run_anew(spec: Spec, body: Callable[[], Outcome]) -> Manifest:
    spec.folder.mkdir(parents=True, exist_ok=True)
    (spec.folder / MANIFEST).unlink(missing_ok=True)
    sweep_temporaries(spec.folder)
    spec.save(spec.folder / "spec.yaml")
    versions = library_versions()  # of the code that is about to run: a checkout may change meanwhile
    started, clock = now(), time.monotonic()
    outcome = body()
    manifest = Manifest(
        stage=spec.stage,
        round=spec.round,
        key=spec.key(),
        inputs=spec.inputs,
        settings=spec.settings.model_dump(mode="json"),
        files=describe_files(spec.folder, outcome.paths),
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
    """Read a spec written by `Spec.save`. Raises UserError when the file does not fit."""
    try:
        return kind.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"this is not the spec of a {kind.stage} stage: {error}",
            where=str(path),
            remedy="give the spec.yaml that the stage left in its folder, or one written like it",
        ) from None
