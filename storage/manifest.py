"""Manifests: the only proof that a stage is done.

A stage writes its files into its folder and, last, `manifest.json`, which names every file with its size and sha256,
the key of the work, what it read, and the seeds. A manifest is valid when its own digest holds and every file it
names is there unchanged; a valid manifest with the right key is adopted and the work is not done again. Files that a
manifest does not name are refused (`Manifest.check_exact`).
"""

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from storage.errors import UserError
from storage.exact import CARD as CARD
from storage.exact import MANIFEST as MANIFEST
from storage.exact import foreign_files, link_in, refuse_path
from storage.files import canonical_json, digest, for_files, publish_text, sha256_file
from storage.retention import removed_files

_SHOWN = 5  # files that an error names
CHECKOUT = Path(__file__).resolve().parents[1]


class BrokenManifest(Exception):
    """A manifest, or a file it names, is missing, cut or altered. The message names the file."""


class ForeignFiles(UserError):
    """Files in a finished stage's folder that are not the stage's. Running the stage again would not remove them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        super().__init__(
            "a finished stage's folder has files that its manifest does not name; they could change what it is read as",
            where=", ".join(str(path) for path in paths[:_SHOWN]) + more,
            remedy="move them elsewhere, then give the same command again",
        )


class FileEntry(BaseModel):
    """One published file: path relative to the stage's folder, bytes, sha256 (hex)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, AfterValidator(refuse_path)]
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, path: Path) -> Self:
        return cls(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path))

    def check(self, folder: Path) -> None:
        """Raise BrokenManifest when the file under `folder` is not the one recorded here."""
        path = folder / self.path
        if link := link_in(folder, self.path):
            raise BrokenManifest(f"{link} is a link; a published file is a file of its own")
        if not path.is_file():
            raise BrokenManifest(f"{path} is missing")
        if path.stat().st_size != self.bytes:
            raise BrokenManifest(f"{path} has {path.stat().st_size} bytes, its manifest says {self.bytes}")
        if sha256_file(path) != self.sha256:
            raise BrokenManifest(f"{path} was altered: its sha256 is not the one in its manifest")


class Manifest(BaseModel):
    """What a finished stage left behind.

    inputs: the digest of what was read, by name. made_by: of inputs that a stage of the run made, that stage's folder
    below the run folder, such as round-01/generate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    round: int
    key: str
    inputs: dict[str, str]
    made_by: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any]
    files: list[FileEntry] = Field(min_length=1)
    rows: dict[str, int] = Field(default_factory=dict)
    summary: dict[str, Any] = Field(default_factory=dict)
    stage_version: int
    seed: int
    started: str
    seconds: float
    versions: dict[str, str]
    digest: str = ""

    @property
    def content(self) -> str:
        """Digest of what the stage produced: its files' names and sha256, not when or how fast it ran."""
        return digest(sorted((entry.path, entry.sha256) for entry in self.files))

    def sealed(self) -> Self:
        """A copy that carries the digest of its own fields."""
        return type(self)(**self.model_dump(exclude={"digest"}), digest=self._own_digest())

    def _own_digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"digest"}))

    def write(self, folder: Path) -> None:
        publish_text(folder / MANIFEST, canonical_json(self.model_dump(mode="json")) + "\n")

    def check_files(self, folder: Path) -> None:
        """Raise BrokenManifest, naming the file, unless every file is present and unchanged, or was removed to free
        disk (storage/retention.py).

        Raises ForeignFiles as well: see `check_exact`.
        """
        removed = removed_files(folder)
        entries = [entry for entry in self.files if entry.path not in removed]
        for_files(lambda entry: entry.check(folder), entries, total=sum(entry.bytes for entry in entries))
        self.check_exact(folder)

    def check_exact(self, folder: Path) -> None:
        """Raise ForeignFiles when `folder` has files that the stage did not publish and that do not belong there."""
        foreign = foreign_files(folder, [entry.path for entry in self.files])
        if foreign:
            raise ForeignFiles(foreign)


def read_manifest(folder: Path, *, check_files: bool = True) -> Manifest:
    """The manifest of a finished stage.

    Raises BrokenManifest when it is missing, cut or altered, or (with `check_files`) when a file it names is; and then
    ForeignFiles when there are files that it does not name.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenManifest(f"{path} is missing") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise BrokenManifest(f"{path} cannot be read as a manifest: {str(error).splitlines()[0]}") from None
    if manifest.digest != manifest._own_digest():
        raise BrokenManifest(f"{path} was altered: its own digest does not hold")
    if check_files:
        manifest.check_files(folder)
    return manifest


def describe_files(folder: Path, paths: Iterable[Path]) -> list[FileEntry]:
    """File entries (sorted by path) of `paths`; a folder stands for every file below it."""
    files: list[Path] = []
    for path in paths:
        files.extend(sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    total = sum(path.stat().st_size for path in files)
    return for_files(lambda path: FileEntry.of(folder, path), sorted(files), total=total)


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of every file below `folder`, but for its card.

    Two things do not count: the card (README.md), which no program reads and which is written anew when there is more
    to say, and what Python leaves in __pycache__.
    """
    entries = [entry for entry in describe_files(folder, [folder]) if "__pycache__" not in Path(entry.path).parts]
    return digest([(entry.path, entry.sha256) for entry in entries if entry.path != CARD])


def library_versions() -> dict[str, str]:
    """Versions of what shapes a stage's bytes: Python, libraries, and under `irepo` this code's (`code_version`)."""
    names = ("torch", "transformers", "pyarrow", "numpy")
    libraries = {name: version(name) for name in names}
    return {"python": platform.python_version()} | libraries | {"irepo": code_version()}


@cache
def code_version() -> str:
    """The commit of the checkout that this file lies in, with `+changes` when tracked files differ from it.

    "unknown" without a checkout, without git, or when git does not answer within five seconds. Asked once a process.
    """
    if not (CHECKOUT / ".git").exists():  # git itself would go up to a repository that merely contains this folder
        return "unknown"
    command = ["git", "-c", "core.fsmonitor=false", "describe", "--always", "--exclude=*", "--dirty=+changes"]
    # A git hook's GIT_DIR names another repository; without optional locks a git at work elsewhere is not disturbed.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        answer = subprocess.run(
            [*command, "--abbrev=12"],
            cwd=CHECKOUT,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.decode(errors="replace").strip() or "unknown"


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
