"""Two run folders, byte for byte; what tells the time or the place is left out, and it is named here."""

import json
from pathlib import Path
from typing import Any

from storage.files import canonical_json

#: Fields (of manifests and rounds.json, at any depth) that say when and how fast, not what.
TIMES = {"started", "seconds", "tokens_per_second"}
#: Written for people, or by the attempt itself.
LOGS = {".owner", "engine.log", "train.log", "report.html", "time.svg", "time.png", "README.md"}


def compare(reference: Path, other: Path) -> dict[str, str]:
    """File (relative) -> what differs: missing, extra (left behind), or other content. Empty when runs are equal."""
    ours, theirs = _files(reference), _files(other)
    differing = dict.fromkeys(sorted(ours - theirs), "missing") | dict.fromkeys(sorted(theirs - ours), "left behind")
    for name in sorted(ours & theirs):
        if content(reference, name) != content(other, name):
            differing[name] = "other content"
    return differing


def _files(run: Path) -> set[str]:
    return {
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if (path.is_file() or path.is_symlink()) and path.name not in LOGS
    }


def content(run: Path, name: str) -> bytes:
    """What must be equal of a file: its bytes; of JSON and YAML that name times or folders, the rest."""
    path = run / name
    if path.is_symlink():
        return str(path.readlink()).replace(str(run), "").encode()
    data = path.read_bytes()
    if path.name == "manifest.json":
        manifest = json.loads(data)
        manifest.pop("digest")
        return canonical_json(_timeless(manifest)).replace(str(run.parent), "").encode()
    if path.name == "rounds.json":
        return canonical_json(_timeless(json.loads(data))).replace(str(run.parent), "").encode()
    if path.suffix == ".yaml":
        return data.replace(str(run.parent).encode(), b"")
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
