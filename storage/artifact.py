"""Artifacts: what stages read, each with the digest of its content and the stage that made it."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from storage.errors import UserError
from storage.files import sha256_file
from storage.manifest import MANIFEST, Manifest, folder_digest, read_manifest

SPEC = "spec.yaml"  # beside the manifest of every stage
UNKNOWN = "?"  # the digest of an artifact that is planned and not made yet
_ROUND = re.compile(r"round-\d+")


class Artifact(BaseModel):
    """A file or folder that a stage reads, identified by its content.

    path: a stage's folder, a file or folder inside one, or a file or folder outside the run.
    digest: sha256 (hex). Inside a stage it is the content digest of the stage's manifest, for the folder and for
        every file in it; outside it is the digest of the file or folder. What is not on this machine (a data set on
        the hub) has its id instead.
    maker: the stage's folder below the run folder, such as round-01/generate; None when no stage made it.

    A plain path is accepted where a model has an Artifact field; its digest is then looked up (`Artifact.of`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    digest: str
    maker: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _look_up(cls, value: Any) -> Any:
        if isinstance(value, str | os.PathLike):
            return cls.of(Path(value)).model_dump()
        return value

    @classmethod
    def of(cls, path: Path) -> Self:
        """The artifact at `path`. Raises UserError when nothing is there, BrokenManifest for a damaged manifest."""
        for folder in (path, *path.parents)[:4]:
            if (folder / MANIFEST).is_file() and (folder / SPEC).is_file():
                stage = cls.of_stage(folder)
                return cls(path=path, digest=stage.digest, maker=stage.maker)
        if path.is_dir():
            return cls(path=path, digest=folder_digest(path))
        if path.is_file():
            return cls(path=path, digest=sha256_file(path))
        raise UserError("there is no such file or folder", where=str(path), remedy="give a path that exists")

    @classmethod
    def of_stage(cls, folder: Path, manifest: Manifest | None = None) -> Self:
        """The finished stage in `folder`, read from its manifest unless that is given; files are not checked.

        Raises BrokenManifest when the manifest is missing or damaged.
        """
        manifest = manifest or read_manifest(folder, check_files=False)
        return cls(path=folder, digest=manifest.content, maker=stage_name(folder))

    @classmethod
    def planned(cls, folder: Path) -> Self:
        """What a stage will make in `folder`."""
        return cls(path=folder, digest=UNKNOWN, maker=stage_name(folder))

    def __truediv__(self, name: str) -> "Artifact":
        """A file or folder inside this artifact. It keeps the digest and the maker."""
        return Artifact(path=self.path / name, digest=self.digest, maker=self.maker)

    def refuse_changed(self) -> None:
        """Raise UserError when this is a file outside the run whose content is no longer that of the digest.

        A stage calls it when it has read the file: its key holds the digest.
        """
        if self.maker is None and self.path.is_file() and sha256_file(self.path) != self.digest:
            raise UserError(
                "the file was changed after the run had looked at it, so that the stage would have read something else",
                where=str(self.path),
                remedy="give the same command again when the file is complete",
            )

    def manifest(self) -> Manifest:
        """The manifest of the stage folder that this is; every file is checked.

        Raises BrokenManifest for a missing or altered file, UserError when the stage was made again since.
        """
        manifest = read_manifest(self.path)
        if manifest.content != self.digest:
            raise UserError(
                f"this stage was made again: its content is {manifest.content[:12]}, expected {self.digest[:12]}",
                where=str(self.path),
                remedy="start the run again; it runs the stages that depend on this one",
            )
        return manifest


def stage_name(folder: Path) -> str:
    """A stage folder's name below its run folder: round-01/evaluate/responses. Outside rounds, its own name."""
    parts = folder.parts
    rounds = [place for place, part in enumerate(parts) if _ROUND.fullmatch(part)]
    return "/".join(parts[rounds[-1] :]) if rounds else folder.name


def artifacts(name: str, value: object) -> dict[str, Artifact]:
    """{name: artifact}, and {name:key: artifact} for every artifact in a mapping or list; {} for anything else."""
    if isinstance(value, Artifact):
        return {name: value}
    if isinstance(value, Mapping):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        items = [(str(place), inner) for place, inner in enumerate(value)]
    else:
        return {}
    return {f"{name}:{key}": inner for key, inner in items if isinstance(inner, Artifact)}
