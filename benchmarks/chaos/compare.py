"""Compare two run folders byte for byte, except for the times and paths named here."""

import json
from pathlib import Path
from typing import Any

from storage.files import canonical_json

#: Fields of manifests and rounds.json, at any depth, that hold times.
TIMES = {"started", "seconds", "tokens_per_second"}
#: Files for people, and files of the attempt itself.
LOGS = {".owner", "run.log", "engine.log", "train.log", "report.html", "time.svg", "time.png", "README.md"}


def compare(reference: Path, other: Path) -> dict[str, str]:
    """Relative path -> what differs: missing, extra, or other content. Empty when the runs are equal."""
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
    """The part of a file that must be equal: its bytes; for JSON and YAML, the content without times and folders."""
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
