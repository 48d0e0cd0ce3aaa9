"""Tables are exactly of their schema, and equal rows give equal bytes."""

from pathlib import Path
from typing import Any

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
    read_parquet,
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
