"""What a run's files say, in a form that holds on every CPU.

Text, token ids, counts and names are compared exactly. Floats are compared within a tolerance: their last digits
depend on the instructions that a CPU has.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import load_file

#: Relative tolerance.
RELATIVE = 1e-4
#: Of a weight's change: that is a small difference, and optimizers divide by small numbers.
RELATIVE_OF_CHANGE = 1e-3
#: Absolute tolerance of a figure that is measured: a log-ratio is a difference of sums, and may be near zero.
ABSOLUTE = 5e-4
#: What depends on the machine, the day or the installed releases.
_LEFT_OUT = re.compile(r"seconds|tokens_per_second|sampler_gap_\w+|transformers_version")
#: Figures in JSON that are set, not measured.
_SET = re.compile(r"config\.json > |learning_rate$")
_DIGITS = 7


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def load_weights(path: Path) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = load_file(path)
    return weights


def file_facts(path: Path, start: dict[str, np.ndarray], folder: Path) -> Any:
    """What one published file says. `start`: weights of the initial policy. `folder`: a path that does not count."""
    if path.suffix == ".parquet":
        return _table_facts(pq.read_table(path), folder)
    if path.suffix == ".safetensors":
        return _weight_facts(load_weights(path), start)
    if path.suffix == ".json":
        return _json_facts(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [_json_facts(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {"sha256": sha256(path.read_bytes())}


def plain(value: Any) -> Any:
    """A JSON value without what depends on the machine; floats rounded."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if not _LEFT_OUT.fullmatch(name)}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _json_facts(value: Any) -> Any:
    """The value itself where it has floats, otherwise its digest."""
    kept = plain(value)
    if any(isinstance(leaf, float) for _, leaf in _leaves(kept, "")):
        return kept
    return {"json": sha256(json.dumps(kept, sort_keys=True).encode())}


def _table_facts(table: pa.Table, folder: Path) -> dict[str, Any]:
    """Per column its type and the digest of its values, or figures of its floats."""
    found: dict[str, Any] = {"rows": table.num_rows}
    for name in table.column_names:
        column, kind = table[name], str(table.schema.field(name).type)
        if _LEFT_OUT.fullmatch(name):
            found[name] = {"type": kind}
            continue
        flat = column
        while pa.types.is_list(flat.type):
            flat = pc.list_flatten(flat)
        if pa.types.is_floating(flat.type):
            values = flat.drop_null().to_numpy().astype(np.float64)
            found[name] = {"type": kind, "nulls": flat.null_count} | _figures(values)
        else:
            text = json.dumps(column.to_pylist(), sort_keys=True).replace(str(folder), "<folder>")
            found[name] = {"type": kind, "values": sha256(text.encode())[:16]}
    return found


def _weight_facts(weights: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> dict[str, Any]:
    """Per tensor its type, its shape, and how it differs from the initial policy's."""
    found = {}
    for name, tensor in sorted(weights.items()):
        change = (tensor.astype(np.float64) - start[name].astype(np.float64)).ravel()
        found[name] = {"type": f"{tensor.dtype} {list(tensor.shape)}", "change": _figures(change)}
    return found


def _figures(values: np.ndarray) -> dict[str, Any]:
    """How many values, their size, and a mean that tells values and their order apart."""
    if not len(values):
        return {"count": 0}
    weights = 2 * np.mod(np.arange(1, len(values) + 1) * (math.sqrt(5) - 1) / 2, 1) - 1
    figures = {"size": np.sqrt(np.mean(values**2)), "weighted": (values * weights).mean()}
    return {"count": len(values)} | {name: float(f"{value:.{_DIGITS}g}") for name, value in figures.items()}


def differences(recorded: Any, now: Any) -> list[str]:
    """Where two facts differ, one line each."""
    old, new = dict(_leaves(recorded, "")), dict(_leaves(now, ""))
    lines = [f"{name}: is gone, was {old[name]!r}" for name in old if name not in new]
    lines += [f"{name}: is new, {new[name]!r}" for name in new if name not in old]
    for name, before in old.items():
        if name in new and not _same(name, before, new[name], old):
            lines.append(f"{name}: was {before!r}, is {new[name]!r}")
    return lines


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no dictionary and no list, with where it is; an empty one counts as a value."""
    if isinstance(value, dict | list) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for name, each in parts:
            yield from _leaves(each, f"{place} > {name}" if place else str(name))
    else:
        yield place, value


def _same(name: str, before: Any, after: Any, recorded: dict[str, Any]) -> bool:
    if not (isinstance(before, float) and isinstance(after, float)):
        return type(before) is type(after) and bool(before == after)
    size = recorded.get(f"{name.rpartition(' > ')[0]} > size")  # of the values that a mean is of; it may be near zero
    if size is None:
        return math.isclose(before, after, rel_tol=RELATIVE, abs_tol=0.0 if _SET.search(name) else ABSOLUTE)
    return bool(abs(before - after) <= (RELATIVE_OF_CHANGE if " > change > " in name else RELATIVE) * size)
