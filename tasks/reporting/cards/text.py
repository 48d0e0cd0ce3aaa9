"""Small parts of both cards. Text from users and models is shown, never interpreted."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.reporting.report.files import Round


def licence(config: Mapping[str, Any]) -> dict[str, str]:
    """The licence in the metadata: the run's `license`, or the hub's marker for one that is not stated."""
    stated = config.get("license")
    return {"license": str(stated)} if stated else {"license": "other", "license_name": "not-stated"}


def named(path: object) -> str:
    """A hub id as it is; for a path on this machine, its last part."""
    if not path:
        return "not recorded"
    text = str(path)
    return Path(text).name if text.startswith(("/", ".", "~")) else text


def cell(value: object) -> str:
    """Any value on one line of Markdown."""
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", " ".join(plain.split())).replace("<", "&lt;")


def value(rate: Mapping[str, float]) -> list[str]:
    """A figure and its interval."""
    return [f"{rate['mean']:.3f}", f"{rate['low']:.3f} to {rate['high']:.3f}"]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """One Markdown block; empty without rows."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return ["\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])] if rows else []


def versions(round_: Round) -> list[str]:
    lines = sorted({", ".join(f"{n} {v}" for n, v in stage.versions.items()) for stage in round_.stages.values()})
    return [f"Made with {line}." for line in lines]
