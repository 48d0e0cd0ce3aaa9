"""Policies that were removed from finished stages to free disk, and that their stages still vouch for.

`removed.json` in a stage's folder names the files and why they are gone. The stage stays finished: its manifest says
what the files were, so the run is explained, reported and continued. Work that reads them is refused.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import UserError
from storage.exact import MANIFEST, REMOVED
from storage.files import publish_text, sync_folder

POLICY = "policy"  # the folder in a stage's folder that may be removed


class Removed(BaseModel):
    """The content of removed.json. files: paths in the stage's folder, with their bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    files: dict[str, int]

    @classmethod
    def of(cls, stage: Path) -> "Removed | None":
        """None where nothing was removed, and for a file that cannot be read: what it names then counts as missing."""
        try:
            return cls.model_validate_json((stage / REMOVED).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError, UnicodeDecodeError):
            return None


def removed_files(stage: Path) -> frozenset[str]:
    """The files that were removed from a finished stage, and are not there again."""
    removed = Removed.of(stage)
    if removed is None:
        return frozenset()
    return frozenset(name for name in removed.files if not (stage / name).exists())


def removed_bytes(stage: Path) -> int:
    """Bytes of the files that were removed from a finished stage."""
    removed = Removed.of(stage)
    gone = removed_files(stage)
    return sum(count for name, count in removed.files.items() if name in gone) if removed else 0


def remove_policy(stage: Path, files: Sequence[tuple[str, int]], *, why: str) -> int:
    """Remove the policy of a finished stage; returns the bytes that this frees.

    files: of its manifest, each with its bytes. What is removed is written down first: a process that dies meanwhile
    leaves a finished stage.
    """
    gone = {name: count for name, count in files if name.startswith(f"{POLICY}/")}
    there = {name: count for name, count in gone.items() if (stage / name).is_file()}
    if not there:
        return 0
    publish_text(stage / REMOVED, Removed(why=why, files=gone).model_dump_json(indent=1) + "\n")
    for name in there:
        (stage / name).unlink()
    sync_folder(stage / POLICY)
    return sum(there.values())


def refuse_removed(paths: Iterable[Path]) -> None:
    """Raises UserError when work would read a policy that was removed. paths: of all that it reads."""
    for path in paths:
        stage = next((folder for folder in (path, *path.parents)[:4] if (folder / MANIFEST).is_file()), None)
        if stage is None:
            continue
        below = path.relative_to(stage).as_posix()
        if any(below in (".", name) or name.startswith(f"{below}/") for name in removed_files(stage)):
            removed = Removed.of(stage)
            raise removed_policy(stage, removed.why if removed else "")


def removed_policy(stage: Path, why: str) -> UserError:
    return UserError(
        f"the policy was removed to free disk ({why})",
        where=str(stage / POLICY),
        remedy=f"restore it from the run's mirror: python -m storage.mirror pull <address> <run folder> --stage "
        f"<stage>; or make it again: remove {stage / MANIFEST} and {stage / REMOVED}, then python -m tasks.run {stage}",
    )
