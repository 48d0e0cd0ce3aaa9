"""Files to rows: JSON lines, JSON arrays, Parquet and Arrow, plain or compressed.

Compression, Parquet and Arrow files are recognised by their first bytes, other formats by name. A row that cannot be
read is an error that names the file and the line or row. Values stay as the file has them (a date stays a date); what
a field may hold is checked where it is used (storage/conversations.py).
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from storage.dataset_folders import FORMATS, data_files
from storage.errors import UserError

Row = dict[str, Any]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PARQUET, _ARROW_FILE = b"PAR1", b"ARROW1"
#: First bytes of files that are refused, and what to do with them.
_REFUSED = {
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"BZh": ("compressed with bzip2", "unpack it, or compress it with gzip or zstd"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it, or compress it with gzip or zstd"),
    b"\xff\xfe\0\0": ("UTF-32 text", "convert it to UTF-8: iconv -f UTF-32 -t UTF-8"),
    b"\xff\xfe": ("UTF-16 text", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"{\0": ("UTF-16 text", "convert it to UTF-8: iconv -f UTF-16LE -t UTF-8"),
    b"\0{": ("UTF-16 text", "convert it to UTF-8: iconv -f UTF-16BE -t UTF-8"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the data", "fetch the data: git lfs pull"),
    b"<!DOCTYPE": ("a page of HTML, not the data", "download the file itself; some sites ask to log in first"),
    b"<!doctype": ("a page of HTML, not the data", "download the file itself; some sites ask to log in first"),
    b"<html": ("a page of HTML, not the data", "download the file itself; some sites ask to log in first"),
}
_LONGEST = max(map(len, _REFUSED))
_BATCH = 1024  # rows converted at once
_CHECK = "check or replace the file"
_FIX = "fix or remove it"


def read_rows(path: Path, *, split: str | None = None) -> Iterator[tuple[str, Row]]:
    """(where, row) of every row of a file, or of the data files of a folder; `where` is 'file:line' or 'file:row N'.

    split: of a folder with several. Lines and rows of JSON lines count from 1, rows of other formats from 0.

    Raises UserError when the path is missing or in another format, and, with the line or row, for what cannot be read.
    """
    for file in data_files(path, split=split):
        yield from _file_rows(file)


def _file_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        str(path).encode()
        with path.open("rb") as file:
            head = file.read(_LONGEST)
        _refuse_other_content(path, head)
        if head.startswith(_PARQUET) or path.name.lower().endswith(".parquet"):
            yield from _parquet_rows(path)
        elif head.startswith(_ARROW_FILE):
            yield from _batch_rows(path, _checked(_arrow_file(path)))
        elif path.name.lower().endswith(".arrow"):
            yield from _batch_rows(path, _checked(pa.ipc.open_stream(pa.memory_map(str(path)))))
        else:
            yield from _text_rows(path, head)
    except UnicodeEncodeError:
        raise _refuse("the file's name is not UTF-8", ascii(str(path)), "rename the file") from None
    except (OSError, EOFError, zlib.error, ValueError, ArithmeticError, pa.ArrowException) as error:
        raise _unreadable(error, str(path)) from None


def _unreadable(error: Exception, where: str) -> UserError:
    what = str(error).splitlines()[0] if str(error) else type(error).__name__
    return _refuse(f"the file cannot be read: {what}", where, _CHECK)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from _batch_rows(path, file.iter_batches(batch_size=_BATCH))


def _arrow_file(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_file(pa.memory_map(str(path))) as file:
        for index in range(file.num_record_batches):
            yield file.get_batch(index)


def _checked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Arrow's own files hold memory as it was: a damaged offset would be read as an address."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _batch_rows(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, Row]]:
    number = 0
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _refuse(f"the column {twice!r} comes twice", str(path), "rename or drop one of the two")
        for start in range(0, len(batch), _BATCH):
            part = batch.slice(start, _BATCH)
            for row in _converted(path, part, number):
                yield f"{path}:row {number}", row
                number += 1


def _converted(path: Path, batch: pa.RecordBatch, first: int) -> list[Row]:
    """The batch as Python values. Raises UserError with the number of a row that cannot be converted."""
    try:
        return cast(list[Row], batch.to_pylist())
    except (ValueError, ArithmeticError, pa.ArrowException):
        for index in range(len(batch)):
            try:
                batch.slice(index, 1).to_pylist()
            except (ValueError, ArithmeticError, pa.ArrowException) as error:
                raise _unreadable(error, f"{path}:row {first + index}") from None
        raise


def _text_rows(path: Path, head: bytes) -> Iterator[tuple[str, Row]]:
    with closing(_opened(path, head)) as file:
        start = file.peek(_LONGEST)[:_LONGEST]
        _refuse_other_content(path, start)
        if start.startswith((_GZIP, _ZSTD, _PARQUET, _ARROW_FILE)):
            raise _refuse("the file is compressed twice, or is a compressed Parquet file", str(path), "unpack it once")
        if not _is_text(path):
            raise _refuse("irepo does not read files of this format", str(path), f"convert it to one of {FORMATS}")
        is_array = start.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")
        if is_array and ".json" in [suffix.lower() for suffix in path.suffixes]:
            yield from _array_rows(path, file)
        else:
            yield from _line_rows(path, file)


def _refuse_other_content(path: Path, start: bytes) -> None:
    """Raises UserError when the file's first bytes are those of something that is not read."""
    for first, (what, remedy) in _REFUSED.items():
        if start.startswith(first):
            raise _refuse(f"the file is {what}", str(path), remedy)


def _is_text(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return name.endswith((".jsonl", ".ndjson", ".json"))


def _opened(path: Path, head: bytes) -> BufferedReader:
    """The file's bytes, unpacked."""
    if head.startswith(_GZIP):
        return BufferedReader(gzip.open(path))
    if head.startswith(_ZSTD):
        return BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _line_rows(path: Path, file: BufferedReader) -> Iterator[tuple[str, Row]]:
    number = 0
    lines = iter(file)
    while True:
        try:
            line = next(lines, None)
        except (OSError, EOFError, zlib.error) as error:
            raise _refuse(f"the file is damaged after line {number}: {error}", str(path), _CHECK) from None
        if line is None:
            return
        number += 1
        line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line.strip():
            continue
        row = _parsed(line, f"{path}:{number}", "line", _line_remedy(line))
        if not isinstance(row, dict):
            raise _refuse("the line is not a JSON object", f"{path}:{number}", "write one object a line: {...}")
        yield f"{path}:{number}", row


def _line_remedy(line: bytes) -> str:
    """What to do with a line that is not JSON."""
    if line.strip() in (b"{", b"["):
        return "a .json file is an array of objects, or has one object a line; a .jsonl file has one object a line"
    if b"\r" in line.rstrip():
        return "end lines with a line feed, not with a carriage return alone: tr '\\r' '\\n' < file"
    return _FIX


def _array_rows(path: Path, file: BufferedReader) -> Iterator[tuple[str, Row]]:
    rows = _parsed(file.read().removeprefix(_BYTE_ORDER_MARK), str(path), "file")
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        if not isinstance(row, dict):
            raise _refuse("the row is not a JSON object", f"{path}:row {number}", "write an array of objects")
        yield f"{path}:row {number}", row


def _parsed(data: bytes, where: str, what: str, remedy: str = _FIX) -> object:
    """The JSON in `data`. remedy: for what is not JSON."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        _raise(f"the {what} is not UTF-8: byte {data[error.start]:#04x} at byte {error.start + 1}", where)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if what == "file" else f"column {error.colno}"
        raise _refuse(f"the {what} is not JSON: {error.msg} ({place})", where, remedy) from None
    except RecursionError:
        _raise(f"the {what} is nested too deeply", where)
    except ValueError as error:  # a number of thousands of digits, a field that comes twice
        _raise(f"the {what} cannot be read: {error}", where)


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return row


def _raise(what: str, where: str) -> NoReturn:
    raise _refuse(what, where, _FIX)


def _refuse(what: str, where: str, remedy: str) -> UserError:
    return UserError(what, where=where, remedy=remedy)
