"""Small files of rows in every format, encoding and state of damage."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[Any]
Write = Callable[[Path], Path]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines(rows: Rows, *, end: str = "\n", ascii_only: bool = True) -> bytes:
    """JSON lines; a row that is text is a line as it stands."""
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    return "".join(text + end for text in texts).encode("utf-8", "surrogatepass")


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def flipped(data: bytes, place: float = 0.5) -> bytes:
    """The bytes with one of them inverted."""
    changed = bytearray(data)
    changed[int(len(changed) * place)] ^= 0xFF
    return bytes(changed)


def file(name: str, data: bytes) -> Write:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write


def jsonl(*rows: Any) -> Write:
    return file("rows.jsonl", lines(rows))


def parquet(rows: Rows, name: str = "rows.parquet", schema: pa.Schema | None = None) -> Write:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
        return path

    return write


def column(name: str, array: pa.Array) -> Write:
    """A Parquet file of one column of any type."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: array}), folder / "rows.parquet")
        return folder / "rows.parquet"

    return write


def arrow(rows: Rows, name: str, *, stream: bool) -> Write:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(list(rows))
        open_writer = pa.ipc.new_stream if stream else pa.ipc.new_file
        with open_writer(str(path), table.schema) as writer:
            writer.write_table(table)
        return path

    return write


def folder_of(*writers: Write) -> Write:
    """A folder with what each of `writers` writes."""

    def write(folder: Path) -> Path:
        for each in writers:
            each(folder / "set")
        return folder / "set"

    return write


def saved(rows: Rows, folder: str = "") -> list[Write]:
    """What save_to_disk writes: two Arrow streams and their state."""
    names = [f"data-0000{index}-of-00002.arrow" for index in range(2)]
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    prefix = f"{folder}/" if folder else ""
    return [
        *(arrow(half, f"{prefix}{name}", stream=True) for half, name in zip(halves, names, strict=True)),
        file(f"{prefix}state.json", json.dumps(state).encode()),
        file(f"{prefix}dataset_info.json", b"{}"),
    ]


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
