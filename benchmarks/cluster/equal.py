"""Whether two runs made the same: every file that a manifest names, byte for byte."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from storage.manifest import MANIFEST, read_manifest

#: What a file is called on the page, by how its name begins or ends.
_KINDS = {"responses": "responses", "votes": "votes", "preferences": "preferences", "model": "weights"}


@dataclass(frozen=True)
class Equality:
    """kinds: how many files of each kind were compared. differing: what differs, as paths below the run."""

    kinds: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)


def compare(reference: Path, other: Path) -> Equality:
    """Compare the stages of two run folders: which there are, their keys, and their files."""
    equality = Equality()
    ours, theirs = _stages(reference), _stages(other)
    equality.differing.extend(f"{name}: missing" for name in sorted(ours ^ theirs))
    for name in sorted(ours & theirs):
        one, two = (read_manifest(run / name, check_files=False) for run in (reference, other))
        if one.key != two.key:
            equality.differing.append(f"{name}: another key")
        files, others = ({entry.path for entry in manifest.files} for manifest in (one, two))
        equality.differing.extend(f"{name}/{file}: missing" for file in sorted(files ^ others))
        for file in sorted(files & others):
            equality.kinds[_kind(file)] += 1
            if (reference / name / file).read_bytes() != (other / name / file).read_bytes():
                equality.differing.append(f"{name}/{file}: other content")
    return equality


def _stages(run: Path) -> set[str]:
    return {path.parent.relative_to(run).as_posix() for path in run.rglob(MANIFEST)}


def _kind(file: str) -> str:
    name = Path(file).name
    return next((kind for start, kind in _KINDS.items() if name.startswith(start)), "others")
