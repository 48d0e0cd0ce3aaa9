"""Rows by number over several files and row groups, against all of them in memory."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.schemas import read_row_group
from storage.shards import Shards

Written = tuple[list[Path], pa.Table]
SCHEMA = pa.schema([pa.field("n", pa.int32()), pa.field("ids", pa.list_(pa.int32())), pa.field("text", pa.string())])


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Three files of 7, 0 and 11 rows, in row groups of 3."""
    rows = [{"n": n, "ids": [n] * (n % 4), "text": f"t{n}" if n % 5 else None} for n in range(18)]
    whole = pa.Table.from_pylist(rows, schema=SCHEMA)
    paths = [tmp_path / f"{name}.parquet" for name in "abc"]
    for path, part in zip(paths, (whole[:7], whole[:0], whole[7:]), strict=True):
        pq.write_table(part, path, row_group_size=3)
    return paths, whole


@pytest.mark.parametrize("rows", [[], [0], [17, 0], [6, 7], [3, 3, 2], list(range(18)), [9, 1, 16, 4, 9]])
def test_rows_have_the_order_of_their_numbers(written: Written, rows: list[int]) -> None:
    paths, whole = written
    taken = Shards(paths, SCHEMA).take(np.array(rows, dtype=np.int64), ["text", "ids"])
    assert taken.to_pylist() == whole.select(["text", "ids"]).take(pa.array(rows, pa.int64())).to_pylist()
    assert all(column.num_chunks == 1 for column in taken.columns) or not rows


def test_all_rows_in_order(written: Written) -> None:
    paths, whole = written
    files = Shards(paths, SCHEMA)
    assert len(files) == 18
    assert pa.concat_tables(files.pass_over(["n"]))["n"].to_pylist() == whole["n"].to_pylist()


def test_neighbours_are_read_once(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Mock(side_effect=read_row_group)
    monkeypatch.setattr("storage.shards.read_row_group", read)
    files = Shards(written[0], SCHEMA)
    for row in range(18):
        files.take(np.array([row]), ["n"])
    assert read.call_count == 7  # 3 + 4 row groups
    files.take(np.array([17]), ["text"])
    assert read.call_count == 8


def test_a_file_that_does_not_fit_is_named(written: Written, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"n": ["a"]}), other)
    with pytest.raises(ValueError, match=r"other\.parquet"):
        Shards([*written[0], other], SCHEMA).take(np.array([18]), ["n"])
    other.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"other\.parquet"):
        Shards([other], SCHEMA)
