"""JSON files of a model's folder."""

import json
from pathlib import Path
from typing import Any

from storage.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError when it cannot be read or is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"is not valid JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(value, dict):
        raise damaged(path, f"holds a {type(value).__name__} and not an object")
    return value


def damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path.name} is damaged: it {what}", where=str(path), remedy="download or copy the file again")
