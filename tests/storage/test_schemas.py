"""Tables are exactly of their schema, and equal rows give equal bytes."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.files import sha256_file
from storage.schemas import (
    PREFERENCES,
    PROMPTS,
    REFERENCE,
    RESPONSES,
    SCORES,
    VOTES,
    parquet_writer,
    read_parquet,
    read_row_groups,
    table,
    write_parquet,
)

ROW: dict[str, Any] = {"prompt_id": "p", "round": 1, "response_index": 0, "logprob": -1.5}


def test_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"not in the schema: \['reward'\]"):
        table([ROW, ROW | {"reward": 1.0}], REFERENCE)


@pytest.mark.parametrize("field", sorted(ROW))
def test_missing_or_null_field_is_refused_by_name(field: str) -> None:
    missing = {name: value for name, value in ROW.items() if name != field}
    for row in (missing, ROW | {field: None}):
        with pytest.raises(ValueError, match=f"'{field}' has nulls"):
            table([ROW, row], REFERENCE)


def test_field_that_may_be_null_may_be_left_out() -> None:
    row = {"prompt_id": "p", "messages": [{"role": "user", "content": "hi"}], "source": "a.jsonl:1"}
    assert table([row], PROMPTS).to_pylist()[0]["answer"] is None


def test_wrong_type_is_refused() -> None:
    with pytest.raises(ValueError, match="Could not convert 'first'"):
        table([ROW | {"round": "first"}], REFERENCE)


@pytest.mark.parametrize("schema", [PROMPTS, RESPONSES, SCORES, VOTES, PREFERENCES, REFERENCE])
def test_empty_table_survives_the_round_trip(schema: Any, tmp_path: Path) -> None:
    write_parquet(tmp_path / "empty.parquet", table([], schema))
    assert read_parquet(tmp_path / "empty.parquet", schema).schema.equals(schema)


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows = [ROW | {"response_index": i, "logprob": -i / 7} for i in range(10_000)]
    for name in ("a", "b"):
        write_parquet(tmp_path / f"{name}.parquet", table(rows, REFERENCE))
    assert sha256_file(tmp_path / "a.parquet") == sha256_file(tmp_path / "b.parquet")
    assert read_parquet(tmp_path / "a.parquet", REFERENCE).to_pylist() == rows


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    paths = [tmp_path / "b.parquet", tmp_path / "a.parquet"]
    for index, path in enumerate(paths):
        write_parquet(path, table([ROW | {"response_index": index}], REFERENCE))
    data = read_parquet(paths, REFERENCE, ["response_index", "prompt_id"])
    assert data.to_pydict() == {"response_index": [0, 1], "prompt_id": ["p", "p"]}


@pytest.mark.parametrize("columns", [None, ["round", "logprob"]])
def test_file_without_a_wanted_column_is_refused_by_name(tmp_path: Path, columns: list[str] | None) -> None:
    pq.write_table(table([ROW], REFERENCE).drop_columns(["round"]), tmp_path / "old.parquet")
    with pytest.raises(ValueError, match=r"old\.parquet .*round"):
        read_parquet(tmp_path / "old.parquet", REFERENCE, columns)


def test_cut_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    write_parquet(path, table([ROW], REFERENCE))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cut\.parquet cannot be read"):
        read_parquet(path, REFERENCE)


def rows(count: int) -> pa.Table:
    return table([ROW | {"prompt_id": str(n), "logprob": float(n)} for n in range(count)], REFERENCE)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 47])
@pytest.mark.parametrize("block", [1, 7, 10, 25])
def test_rows_written_block_by_block_are_the_bytes_of_rows_written_at_once(
    tmp_path: Path, count: int, block: int
) -> None:
    write_parquet(tmp_path / "whole.parquet", rows(count), row_group_size=10)
    with parquet_writer(tmp_path / "blocks.parquet", REFERENCE, row_group_size=10) as file:
        for start in range(0, count, block):
            file.write(rows(count)[start : start + block])
    assert file.count == count
    assert sha256_file(tmp_path / "blocks.parquet") == sha256_file(tmp_path / "whole.parquet")


def test_nothing_is_published_when_writing_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with parquet_writer(tmp_path / "rows.parquet", REFERENCE) as file:
            file.write(rows(3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_row_groups_are_read_one_at_a_time_and_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_parquet(paths[0], rows(25), row_group_size=10)
    write_parquet(paths[1], rows(4))
    groups = list(read_row_groups(paths, REFERENCE, ["logprob"]))
    assert [len(group) for group in groups] == [10, 10, 5, 4]
    assert pa.concat_tables(groups)["logprob"].to_pylist() == [*range(25), *range(4)]
    with pytest.raises(ValueError, match=r"a\.parquet does not have the expected columns"):
        list(read_row_groups(paths, SCORES))
    paths[1].write_bytes(paths[0].read_bytes()[:100])
    with pytest.raises(ValueError, match=r"b\.parquet cannot be read"):
        list(read_row_groups(paths[1], REFERENCE))
