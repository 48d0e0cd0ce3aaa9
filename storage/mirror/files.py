"""What of a run folder goes into its mirror."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.exact import BATCH_FOLDERS, CARD, MANIFEST, REMOVED, SPEC
from storage.manifest import BrokenManifest, Manifest, read_manifest

#: Left out: what a training that is not finished can go on from (large, and soon replaced), and policies from outside
#: the run with their template, which are made of links and made again.
_LEFT_OUT = ("checkpoints", "policies", "__pycache__")
_BESIDE = (SPEC, CARD, REMOVED)  # in a stage's folder, besides logs


@dataclass(frozen=True)
class RunFiles:
    """The finished stages of a run folder, the files that no manifest names, and links to places inside it."""

    stages: dict[str, Manifest]
    loose: dict[str, Path]
    links: dict[str, str]


class Scanner:
    """Lists a run folder again and again; manifests that have not changed are not read again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._manifests: dict[Path, tuple[tuple[int, int, int], Manifest]] = {}

    def scan(self) -> RunFiles:
        files = RunFiles({}, {}, {})
        self._folder(self._root, files)
        return files

    def _folder(self, folder: Path, files: RunFiles) -> None:
        try:
            paths = sorted(folder.iterdir())
        except FileNotFoundError:  # removed meanwhile
            return
        names = {path.name for path in paths}
        stage = folder != self._root and not names.isdisjoint({MANIFEST, SPEC})
        if stage and MANIFEST in names and (manifest := self._manifest(folder)) is not None:
            files.stages[self._name(folder)] = manifest
        for path in paths:
            if path.is_symlink():
                self._link(path, files)
            elif path.name.startswith(".") or path.name in _LEFT_OUT:
                continue
            elif path.is_dir():
                self._inside(path, files, stage=stage)
            elif not stage or path.name in _BESIDE or path.suffix == ".log":
                files.loose[self._name(path)] = path

    def _inside(self, folder: Path, files: RunFiles, *, stage: bool) -> None:
        """A folder, which in a stage's folder holds published files, other stages, or answers and votes."""
        if not stage or self._is_stage(folder):
            self._folder(folder, files)
        elif folder.name == "answers" or folder.name.startswith(BATCH_FOLDERS):
            files.loose.update((self._name(path), path) for path in _plain(folder))
        else:
            files.loose.update((self._name(path), path) for path in _plain(folder) if path.name == CARD)

    def _is_stage(self, folder: Path) -> bool:
        """Whether it is a stage's folder, or holds one (round-01/evaluate/against/other)."""
        return any(path.name in (MANIFEST, SPEC) for path in folder.glob("*")) or any(
            self._is_stage(path) for path in folder.glob("*") if path.is_dir() and not path.is_symlink()
        )

    def _manifest(self, folder: Path) -> Manifest | None:
        path = folder / MANIFEST
        try:
            stat = path.stat()
            signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if path not in self._manifests or self._manifests[path][0] != signature:
                self._manifests[path] = (signature, read_manifest(folder, check_files=False))
        except (FileNotFoundError, BrokenManifest):  # being made again; a damaged stage is made again by the run
            return None
        return self._manifests[path][1]

    def _link(self, path: Path, files: RunFiles) -> None:
        target = path.resolve()
        if target.is_relative_to(self._root.resolve()):
            files.links[self._name(path)] = target.relative_to(self._root.resolve()).as_posix()

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _plain(folder: Path) -> Iterator[Path]:
    """Files below `folder` that are neither hidden nor links."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
            yield path
