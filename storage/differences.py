"""What differs between two files of the same name: rows and columns of Parquet, tensors, values of JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from storage.display import brief, change, counted
from storage.lineage import flat

_SHOWN = 4  # values, tensors or columns that are spelled out; the rest is counted
_WIDE = 48  # characters of a value that are shown
_MISSING = object()


def compare_files(a: Path, b: Path) -> list[str]:
    """Short sentences on how two files that differ in their bytes differ; A's value is named first."""
    try:
        if a.suffix == ".parquet":
            return compare_parquet(a, b)
        if a.suffix == ".safetensors":
            return compare_tensors(a, b)
        if a.suffix == ".json":
            return compare_values(*(json.loads(path.read_text(encoding="utf-8")) for path in (a, b)))
        if a.suffix in (".jsonl", ".jinja", ".txt"):
            return compare_lines(*(path.read_text(encoding="utf-8").splitlines() for path in (a, b)))
    except (OSError, ValueError, SafetensorError) as error:  # pyarrow's errors are among these
        return [f"cannot be compared further: {str(error).splitlines()[0]}"]
    return [f"{a.stat().st_size} bytes against {b.stat().st_size}, compared no further"]


def compare_parquet(a: Path, b: Path) -> list[str]:
    """Columns that differ, in how many rows, the largest difference of numbers, and the first row that differs."""
    left, right = pq.read_table(a), pq.read_table(b)
    said = []
    for name, here, there in (("A", left, right), ("B", right, left)):
        only = [column for column in here.column_names if column not in there.column_names]
        if only:
            said.append(f"columns only in {name}: {', '.join(only)}")
    rows = min(left.num_rows, right.num_rows)
    if left.num_rows != right.num_rows:
        said.append(f"{left.num_rows} rows against {right.num_rows}; of those, the first {rows} are compared")
    columns: dict[str, tuple[list[int], float | None]] = {}
    for name in left.column_names:
        if name in right.column_names and not left.column(name).equals(right.column(name)):
            found = _differing(left.column(name).slice(0, rows), right.column(name).slice(0, rows))
            if found[0]:
                columns[name] = found
    if not columns:
        return said or ["the same columns and rows, written with other bytes"]
    first = min(numbers[0] for numbers, _ in columns.values())
    differing = len(set().union(*(numbers for numbers, _ in columns.values())))
    spread = [
        f"{name} ({len(numbers)}{'' if largest is None else f', by at most {largest:.3g}'})"
        for name, (numbers, largest) in columns.items()
    ]
    said.append(f"{differing} of {counted(rows, 'row')} differ, by column: {', '.join(spread)}")
    said.append(f"first in row {first}{_row_name(left, right, first)}:")
    there = [name for name, (numbers, _) in columns.items() if numbers[0] == first]
    for name in there[:_SHOWN]:
        said.append(f"  {name}: {_change(left.column(name)[first].as_py(), right.column(name)[first].as_py())}")
    if len(there) > _SHOWN:
        said.append(f"  and {counted(len(there) - _SHOWN, 'more column')}: {', '.join(there[_SHOWN:])}")
    return said


def _row_name(left: pa.Table, right: pa.Table, row: int) -> str:
    """Whose row it is, where both tables say the same."""
    names = []
    for name in ("prompt_id", "response_index", "annotator"):
        if name in left.column_names and name in right.column_names:
            values = {table.column(name)[row].as_py() for table in (left, right)}
            if len(values) == 1:
                names.append(f"{name} {values.pop()}")
    return f" ({', '.join(names)})" if names else ""


def _differing(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[list[int], float | None]:
    """Rows in which two columns differ, and the largest absolute difference where all that differs is numbers."""
    pairs = list(zip(left.to_pylist(), right.to_pylist(), strict=True))
    rows = [i for i, (one, other) in enumerate(pairs) if not _same(one, other)]
    if not any(pa.types.is_floating(kind) for kind in (left.type, getattr(left.type, "value_type", left.type))):
        return rows, None
    gaps = [_gap(*pairs[i]) for i in rows]
    return rows, max((gap for gap in gaps if gap is not None), default=None) if None not in gaps else None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or bool(one == other)


def _gap(one: Any, other: Any) -> float | None:
    """The largest absolute difference of two numbers or equally long lists of numbers, None where there is none."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        gaps = [_gap(*pair) for pair in zip(one, other, strict=True)]
        return max((gap for gap in gaps if gap is not None), default=0.0) if None not in gaps else None
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return abs(one - other) if numbers and math.isfinite(one) and math.isfinite(other) else None


def compare_tensors(a: Path, b: Path) -> list[str]:
    """Tensors that differ, and the largest absolute difference over all of them."""
    said, differing, gaps, raw = [], [], [], []
    with safe_open(a, framework="numpy") as left, safe_open(b, framework="numpy") as right:
        names, others = set(left.keys()), set(right.keys())
        for label, only in (("A", names - others), ("B", others - names)):
            if only:
                said.append(f"{counted(len(only), 'tensor')} only in {label}: {_listed(sorted(only))}")
        shared = sorted(names & others)
        for name in shared:
            kinds = [f"{view.get_dtype()} {view.get_shape()}" for view in (left.get_slice(name), right.get_slice(name))]
            if kinds[0] != kinds[1]:
                differing.append(f"{name} ({kinds[0]} against {kinds[1]})")
                continue
            one, other = _tensor(left, a, name), _tensor(right, b, name)
            if one.tobytes() == other.tobytes():
                continue
            differing.append(name)
            gap = None if one.dtype == _RAW else _largest(one, other)
            if gap is None:
                raw.append(f"{name} ({kinds[0]})")
            else:
                gaps.append((gap, name))
    if not differing:
        return said or ["the same tensors, written with other bytes"]
    said.append(f"{len(differing)} of {counted(len(shared), 'tensor')} differ: {_listed(differing)}")
    if gaps:
        largest, name = max(gaps)
        said.append(f"largest absolute difference {largest:.3g}, in {name}")
    if raw:
        said.append(f"compared by their raw bytes only: {_listed(raw)}")
    return said


_RAW = np.dtype("V1")  # a byte of a type that numpy does not have
_NUMERIC = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


def _tensor(file: Any, path: Path, name: str) -> np.ndarray:
    """The tensor's values; of a type that numpy has not, its raw bytes, and bfloat16 widened to the same float32."""
    kind = file.get_slice(name).get_dtype()
    if kind in _NUMERIC:
        return np.asarray(file.get_tensor(name))
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        start, end = json.loads(raw.read(length))[name]["data_offsets"]
        raw.seek(8 + length + start)
        data = np.frombuffer(raw.read(end - start), dtype=_RAW)
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else data


def _largest(one: np.ndarray, other: np.ndarray) -> float | None:
    """The largest absolute difference, None when nothing finite differs."""
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(one.astype(np.float64) - other.astype(np.float64))
    gaps = gaps[np.isfinite(gaps)]
    return float(gaps.max()) if gaps.size else None


def compare_values(a: Any, b: Any) -> list[str]:
    """Values of two JSON documents that differ, by dotted key."""
    left, right = (dict(flat(value, lists=True)) for value in (a, b))
    changes = [
        f"{key}: {_change(left.get(key, _MISSING), right.get(key, _MISSING))}"
        for key in dict.fromkeys([*left, *right])
        if not _same(left.get(key, _MISSING), right.get(key, _MISSING))
    ]
    if not changes:
        return ["the same values, written with other bytes"]
    more = [f"and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
    return [f"{counted(len(changes), 'value')} of {len({*left, *right})} differ", *changes[:_SHOWN], *more]


def compare_lines(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """How many lines differ, and the first one; of JSON lines which of its values."""
    lines = f"{len(a)} lines against {len(b)}; " if len(a) != len(b) else ""
    differing = [i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other]
    if not differing:
        return [f"{lines}those that both have are the same" if lines else "the same lines, with other ends"]
    first = differing[0]
    said = [f"{lines}{len(differing)} of {counted(min(len(a), len(b)), 'line')} differ, first line {first + 1}:"]
    try:
        changes = compare_values(json.loads(a[first]), json.loads(b[first]))[1:]
    except ValueError:
        changes = [_change(a[first], b[first])]
    return said + [f"  {change}" for change in changes]


def _change(one: Any, other: Any) -> str:
    """`one -> other`; of long text only from where it parts."""
    texts = ["nothing" if value is _MISSING else brief(value, 10**6) for value in (one, other)]
    if max(map(len, texts)) > _WIDE:
        same = next((i for i, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), min(map(len, texts)))
        start = max(same - 12, 0)
        texts = [("…" if start else "") + text[start:] for text in texts]
    return change(texts[0], texts[1], limit=_WIDE) if texts[0] != texts[1] else change(one, other, limit=_WIDE)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
