"""A published folder is exactly what its manifest names: nothing beside it, nothing elsewhere, no links.

A program that loads a folder reads what lies in it: an adapter that somebody adds to a policy would change the next
round, and no digest would show it.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

MANIFEST = "manifest.json"
SPEC = "spec.yaml"
CARD = "README.md"  # of a policy or data set, for people and the hub
REMOVED = "removed.json"  # which files of a finished stage were removed to free disk

_CHECKPOINTS = "checkpoints"  # of a training that is not finished
_ANSWERS = "answers"  # of a judge, where a stage is run outside of a run folder: no question is paid for twice
BATCH_FOLDERS = "humans-"  # start of the name of a folder with comparisons that people vote on, and with their votes
_OF_SYSTEMS = (".nfs", ".DS_Store")  # left by file systems and file managers


def refuse_path(path: str) -> str:
    """`path`, if it is one of a file below the stage's folder. Raises ValueError for any other."""
    pure = PurePosixPath(path)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is not the path of a file in the stage's folder")
    return path


def link_in(folder: Path, path: str) -> Path | None:
    """The first component of `path` (below `folder`) that is a symbolic link, or None."""
    place = folder
    for part in PurePosixPath(path).parts:
        place = place / part
        if place.is_symlink():
            return place
    return None


def foreign_files(folder: Path, published: Iterable[str]) -> list[Path]:
    """Files and links in a finished stage's folder that its manifest does not name and that do not belong there.

    What belongs there: the manifest, the spec, cards, logs, the sidecars of parts, temporary files and checkpoints that
    a killed process left, stored answers of judges, votes of people, and the folders of other stages, which have a
    manifest or spec of their own.
    """
    names = set(published)
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents} - {"."}
    return [path for path in _walk(folder, folder, folders) if path.relative_to(folder).as_posix() not in names]


def _walk(folder: Path, root: Path, published: set[str]) -> Iterator[Path]:
    """Files and links below `folder`, without those that belong there although no manifest names them."""
    for path in sorted(folder.iterdir()):
        top = folder == root
        if path.is_symlink():
            yield path
        elif path.is_dir():
            inside = path.relative_to(root).as_posix() in published
            if inside or not (top and (_leftover(path) or _stages_only(path))):
                yield from _walk(path, root, published)
        elif not (path.name == CARD or path.name.startswith(_OF_SYSTEMS) or (top and _belongs(path))):
            yield path


def _belongs(path: Path) -> bool:
    """Whether a file directly in a stage's folder belongs there although the manifest does not name it."""
    hidden = path.name.startswith(".") and path.name.endswith((".part.json", ".tmp"))
    return path.name in (MANIFEST, SPEC, REMOVED) or path.suffix == ".log" or hidden


def _leftover(folder: Path) -> bool:
    temporary = folder.name.startswith(".") and folder.name.endswith(".tmp")
    return folder.name in (_CHECKPOINTS, _ANSWERS) or folder.name.startswith(BATCH_FOLDERS) or temporary


def _stages_only(folder: Path) -> bool:
    """Whether `folder` is another stage's, or holds folders of other stages only."""
    if (folder / MANIFEST).is_file() or (folder / SPEC).is_file():
        return True
    inner = list(folder.iterdir())
    return all(path.is_dir() and not path.is_symlink() and _stages_only(path) for path in inner)
