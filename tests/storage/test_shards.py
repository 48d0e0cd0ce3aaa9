"""Rows by number over several files and row groups, against all of them in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import shards as module
from storage.shards import Shards

SCHEMA = pa.schema([pa.field("n", pa.int32()), pa.field("ids", pa.list_(pa.int32())), pa.field("text", pa.string())])


@pytest.fixture
def written(tmp_path: Path) -> tuple[list[Path], pa.Table]:
    """Three files of 7, 0 and 11 rows, in row groups of 3."""
    rows = [{"n": n, "ids": [n] * (n % 4), "text": f"t{n}" if n % 5 else None} for n in range(18)]
    whole = pa.Table.from_pylist(rows, schema=SCHEMA)
    paths = [tmp_path / f"{name}.parquet" for name in "abc"]
    for path, part in zip(paths, (whole[:7], whole[:0], whole[7:]), strict=True):
        pq.write_table(part, path, row_group_size=3)
    return paths, whole


@pytest.mark.parametrize("rows", [[], [0], [17, 0], [6, 7], [3, 3, 2], list(range(18)), [9, 1, 16, 4, 9]])
def test_rows_come_as_they_are_asked_for(written, rows):
    paths, whole = written
    found = Shards(paths, SCHEMA).take(np.array(rows, dtype=np.int64), ["text", "ids"])
    assert found.to_pylist() == whole.select(["text", "ids"]).take(pa.array(rows, pa.int64())).to_pylist()
    assert all(column.num_chunks == 1 for column in found.columns) or not rows


def test_all_rows_in_order(written):
    paths, whole = written
    files = Shards(paths, SCHEMA)
    assert len(files) == 18
    assert pa.concat_tables(files.pass_over(["n"]))["n"].to_pylist() == whole["n"].to_pylist()


def test_neighbours_are_read_once(written, monkeypatch):
    read = []
    original = module.read_row_group
    monkeypatch.setattr(module, "read_row_group", lambda *given: read.append(given[:2]) or original(*given))
    files = Shards(written[0], SCHEMA)
    for row in range(18):
        files.take(np.array([row]), ["n"])
    assert len(read) == 7  # 3 + 4 row groups
    files.take(np.array([17]), ["text"])
    assert len(read) == 8


def test_a_file_that_does_not_fit_is_named(written, tmp_path):
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"n": ["a"]}), other)
    with pytest.raises(ValueError, match=r"other\.parquet"):
        Shards([*written[0], other], SCHEMA).take(np.array([18]), ["n"])
    other.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"other\.parquet"):
        Shards([other], SCHEMA)
