"""How much memory is free, and how much a policy needs. Checked before an engine starts."""

from math import prod
from pathlib import Path

import psutil

from tasks.modeling.policy_folder import read_header, weight_files

GIB = 1 << 30

#: Bytes of a number, by dtype.
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def available_memory() -> int:
    """Free bytes: of the machine, or of the container's limit if that is less. Page cache counts as free."""
    free: int = psutil.virtual_memory().available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is None or used is None:
        return free
    return min(free, max(0, limit - used + (_cgroup_cache() or 0)))


def _cgroup(name: str) -> int | None:
    try:
        return int((Path("/sys/fs/cgroup") / name).read_text())
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return None


def _cgroup_cache() -> int | None:
    try:
        lines = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), None)


def weight_bytes(policy: Path, dtype: str) -> int:
    """Bytes of a policy's weights in `dtype`, computed from the headers of its safetensors files.

    Raises UserError for damaged or missing weights.
    """
    headers = [read_header(path) for path in weight_files(policy)]
    numbers: int = sum(prod(entry["shape"]) for header in headers for entry in header.values())
    return numbers * ITEM_BYTES[dtype]
