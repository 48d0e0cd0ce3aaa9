"""How two files of the same name differ: rows and columns of Parquet, tensors, values of JSON, lines of text."""

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

_SHOWN = 4  # values, tensors or columns that are named; the rest is counted
_WIDE = 48  # characters shown of a value
_MISSING = object()


def compare_files(a: Path, b: Path) -> list[str]:
    """How two files with different bytes differ, in short sentences; values of A come first."""
    try:
        if a.suffix == ".parquet":
            return compare_parquet(a, b)
        if a.suffix == ".safetensors":
            return compare_tensors(a, b)
        if a.suffix == ".json":
            return compare_values(*(json.loads(path.read_text(encoding="utf-8")) for path in (a, b)))
        if a.suffix in (".jsonl", ".jinja", ".txt"):
            return compare_lines(*(path.read_text(encoding="utf-8").splitlines() for path in (a, b)))
    except (OSError, ValueError, SafetensorError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        return [f"cannot be compared further: {str(error).splitlines()[0]}"]
    return [f"{a.stat().st_size} bytes against {b.stat().st_size}; files of this kind are not compared further"]


def compare_parquet(a: Path, b: Path) -> list[str]:
    """Columns that differ, in how many rows and by how much, and the first row that differs."""
    left, right = pq.read_table(a), pq.read_table(b)
    sentences = []
    for name, one, other in (("A", left, right), ("B", right, left)):
        only = [column for column in one.column_names if column not in other.column_names]
        if only:
            sentences.append(f"columns only in {name}: {', '.join(only)}")
    rows = min(left.num_rows, right.num_rows)
    if left.num_rows != right.num_rows:
        sentences.append(f"{left.num_rows} rows against {right.num_rows}; of those, the first {rows} are compared")
    columns: dict[str, tuple[list[int], float | None]] = {}
    for name in left.column_names:
        if name in right.column_names and not left.column(name).equals(right.column(name)):
            differing_rows, largest = _differing(left.column(name).slice(0, rows), right.column(name).slice(0, rows))
            if differing_rows:
                columns[name] = differing_rows, largest
    if not columns:
        return sentences or ["the same columns and rows, written with other bytes"]
    first = min(numbers[0] for numbers, _ in columns.values())
    differing = len(set().union(*(numbers for numbers, _ in columns.values())))
    counts = [
        f"{name} ({len(numbers)}{'' if largest is None else f', by at most {largest:.3g}'})"
        for name, (numbers, largest) in columns.items()
    ]
    sentences.append(f"{differing} of {counted(rows, 'row')} differ, by column: {', '.join(counts)}")
    sentences.append(f"first in row {first}{_row_name(left, right, first)}:")
    changed = [name for name, (numbers, _) in columns.items() if numbers[0] == first]
    for name in changed[:_SHOWN]:
        sentences.append(f"  {name}: {_change(left.column(name)[first].as_py(), right.column(name)[first].as_py())}")
    if len(changed) > _SHOWN:
        sentences.append(f"  and {counted(len(changed) - _SHOWN, 'more column')}: {', '.join(changed[_SHOWN:])}")
    return sentences


def _row_name(left: pa.Table, right: pa.Table, row: int) -> str:
    """The prompt, response and annotator of a row, where both tables have the same."""
    names = []
    for name in ("prompt_id", "response_index", "annotator"):
        if name in left.column_names and name in right.column_names:
            values = {table.column(name)[row].as_py() for table in (left, right)}
            if len(values) == 1:
                names.append(f"{name} {values.pop()}")
    return f" ({', '.join(names)})" if names else ""


def _differing(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[list[int], float | None]:
    """Rows in which two columns differ, and the largest absolute difference if all differing values are numbers."""
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
    """The largest absolute difference of two numbers or of two lists of equal length; None for anything else."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        gaps = [_gap(*pair) for pair in zip(one, other, strict=True)]
        return max((gap for gap in gaps if gap is not None), default=0.0) if None not in gaps else None
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return abs(one - other) if numbers and math.isfinite(one) and math.isfinite(other) else None


def compare_tensors(a: Path, b: Path) -> list[str]:
    """Tensors that differ, and the largest absolute difference over all of them."""
    sentences, differing, gaps, raw = [], [], [], []
    with safe_open(a, framework="numpy") as left, safe_open(b, framework="numpy") as right:
        names, others = set(left.keys()), set(right.keys())
        for label, only in (("A", names - others), ("B", others - names)):
            if only:
                sentences.append(f"{counted(len(only), 'tensor')} only in {label}: {_listed(sorted(only))}")
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
        return sentences or ["the same tensors, written with other bytes"]
    sentences.append(f"{len(differing)} of {counted(len(shared), 'tensor')} differ: {_listed(differing)}")
    if gaps:
        largest, name = max(gaps)
        sentences.append(f"largest absolute difference {largest:.3g}, in {name}")
    if raw:
        sentences.append(f"compared by their raw bytes only: {_listed(raw)}")
    return sentences


_RAW = np.dtype("V1")  # a byte of a type that numpy lacks
_NUMERIC = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


def _tensor(file: Any, path: Path, name: str) -> np.ndarray:
    """The tensor's values: bfloat16 as float32, and raw bytes for other types that numpy lacks."""
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
    """The largest absolute difference; None when no difference is finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(one.astype(np.float64) - other.astype(np.float64))
    gaps = gaps[np.isfinite(gaps)]
    return float(gaps.max()) if gaps.size else None


def compare_values(a: Any, b: Any) -> list[str]:
    """Values that differ between two JSON documents, by dotted key."""
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
    """How many lines differ, and how the first of them does; for JSON lines, which values."""
    lines = f"{len(a)} lines against {len(b)}; " if len(a) != len(b) else ""
    differing = [i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other]
    if not differing:
        return [f"{lines}those that both have are the same" if lines else "the same lines, with other line endings"]
    first = differing[0]
    sentences = [f"{lines}{len(differing)} of {counted(min(len(a), len(b)), 'line')} differ, first line {first + 1}:"]
    try:
        changes = compare_values(json.loads(a[first]), json.loads(b[first]))[1:]
    except ValueError:
        changes = [_change(a[first], b[first])]
    return sentences + [f"  {change}" for change in changes]


def _change(one: Any, other: Any) -> str:
    """`one -> other`; for long texts, only from where they diverge."""
    texts = ["nothing" if value is _MISSING else brief(value, 10**6) for value in (one, other)]
    if max(map(len, texts)) > _WIDE:
        pairs = enumerate(zip(*texts, strict=False))
        equal = next((i for i, (a, b) in pairs if a != b), min(map(len, texts)))
        start = max(equal - 12, 0)
        texts = [("…" if start else "") + text[start:] for text in texts]
    return change(texts[0], texts[1], limit=_WIDE) if texts[0] != texts[1] else change(one, other, limit=_WIDE)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
