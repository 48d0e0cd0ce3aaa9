"""What differs between two files is named by column, row, tensor, value or line, never only by bytes."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from storage.differences import compare_files
from storage.schemas import write_parquet

NAN = float("nan")


def tables(folder: Path, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    for name, columns in (("a", one), ("b", other)):
        write_parquet(folder / f"{name}.parquet", pa.table(columns))
    return compare_files(folder / "a.parquet", folder / "b.parquet")


def test_parquet_names_columns_rows_and_the_first_difference(tmp_path: Path) -> None:
    one = {"prompt_id": ["p", "q", "r"], "score": [1.0, 2.0, NAN], "text": ["x", "y", "z"], "old": [1, 1, 1]}
    other = {"prompt_id": ["p", "q", "r"], "score": [1.0, 2.5, NAN], "text": ["x", "y", "w"], "new": [1, 1, 1]}
    assert tables(tmp_path, one, other) == [
        "columns only in A: old",
        "columns only in B: new",
        "2 of 3 rows differ, by column: score (1, by at most 0.5), text (1)",
        "first in row 1 (prompt_id q):",
        "  score: 2 -> 2.5",
    ]


def test_parquet_lists_of_numbers_are_measured(tmp_path: Path) -> None:
    one = {"logprobs": [[-1.0, -2.0], [-3.0]], "ids": [[1, 2], [3]]}
    other = {"logprobs": [[-1.0, -2.25], [-3.0]], "ids": [[1, 2], [4]]}
    sentences = tables(tmp_path, one, other)
    assert sentences[0] == "2 of 2 rows differ, by column: logprobs (1, by at most 0.25), ids (1)"
    shorter = {"logprobs": [[-1.0], [-3.0]], "ids": [[1, 2], [3]]}
    assert tables(tmp_path, one, shorter)[0] == "1 of 2 rows differ, by column: logprobs (1)"


def test_parquet_of_other_length_is_compared_as_far_as_both_go(tmp_path: Path) -> None:
    assert tables(tmp_path, {"a": [1, 2, 3]}, {"a": [1, 2]}) == ["3 rows against 2; of those, the first 2 are compared"]


def test_parquet_of_the_same_rows_is_said_to_be_so(tmp_path: Path) -> None:
    assert tables(tmp_path, {"a": [NAN, None]}, {"a": [NAN, None]}) == [
        "the same columns and rows, written with other bytes"
    ]


def test_long_texts_are_shown_where_they_part(tmp_path: Path) -> None:
    sentences = tables(tmp_path, {"text": ["same " * 30 + "left"]}, {"text": ["same " * 30 + "right"]})
    assert sentences[-1] == "  text: …e same same left -> …e same same right"


def tensors(folder: Path, one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    save_file(one, folder / "a.safetensors")
    save_file(other, folder / "b.safetensors")
    return compare_files(folder / "a.safetensors", folder / "b.safetensors")


def test_tensors_that_differ_are_named_with_the_largest_difference(tmp_path: Path) -> None:
    same = np.arange(4, dtype=np.float32)
    one = {"same": same, "small": same, "large": same, "shape": same, "old": same}
    other = {"same": same, "small": same + 1, "large": same - 3, "shape": same.reshape(2, 2), "new": same}
    assert tensors(tmp_path, one, other) == [
        "1 tensor only in A: old",
        "1 tensor only in B: new",
        "3 of 4 tensors differ: large, shape (F32 [4] against F32 [2, 2]), small",
        "largest absolute difference 3, in large",
    ]


def test_tensors_of_integers_do_not_wrap_around(tmp_path: Path) -> None:
    sentences = tensors(tmp_path, {"a": np.array([0], np.uint8)}, {"a": np.array([1], np.uint8)})
    assert sentences[1] == "largest absolute difference 1, in a"


def raw_tensors(path: Path, kind: str, data: bytes, width: int) -> None:
    """A safetensors file of types that numpy does not have: `pad` comes first, so that offsets matter."""
    header = {
        "pad": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "w": {"dtype": kind, "shape": [len(data) // width], "data_offsets": [4, 4 + len(data)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4) + data)


def test_bfloat16_is_widened_without_loss(tmp_path: Path) -> None:
    raw_tensors(tmp_path / "a.safetensors", "BF16", b"\x80\x3f\x00\x40", 2)  # 1, 2
    raw_tensors(tmp_path / "b.safetensors", "BF16", b"\x80\x3f\x40\x40", 2)  # 1, 3
    assert compare_files(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == [
        "1 of 2 tensors differ: w",
        "largest absolute difference 1, in w",
    ]


def test_types_that_numpy_lacks_are_compared_by_bytes_and_said_to_be(tmp_path: Path) -> None:
    raw_tensors(tmp_path / "a.safetensors", "F8_E4M3", b"\x01\x02", 1)
    raw_tensors(tmp_path / "b.safetensors", "F8_E4M3", b"\x01\x03", 1)
    assert compare_files(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == [
        "1 of 2 tensors differ: w",
        "compared by their raw bytes only: w (F8_E4M3 [2])",
    ]


def texts(folder: Path, name: str, one: str, other: str) -> list[str]:
    paths = [folder / side / name for side in "ab"]
    for path, text in zip(paths, (one, other), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return compare_files(*paths)


@pytest.mark.parametrize(
    ("name", "one", "other", "sentence"),
    [
        ("m.json", '{"kl": {"mean": 1.0}, "n": 2}', '{"kl": {"mean": 1.5}, "n": 2}', "kl.mean: 1 -> 1.5"),
        ("m.json", '[{"reply": "a"}]', '[{"reply": "b"}, 1]', "0.reply: a -> b"),
        ("m.json", '{"x": 0.12345678}', '{"x": 0.12345679}', "x: 0.12345678 -> 0.12345679"),
        ("m.json", '{"x": 1}', '{"y": 1}', "x: 1 -> nothing"),
        ("m.json", '{"x":1}', '{"x": 1}', "the same values, written with other bytes"),
        ("m.jsonl", '{"s": 1}\n{"s": 2}\n', '{"s": 1}\n{"s": 3}\n', "1 of 2 lines differ, first line 2:"),
        ("m.jsonl", "{}\n", "{}\n{}\n", "1 lines against 2; those that both have are the same"),
        ("t.jinja", "a\nb", "a\nc", "  b -> c"),
        ("t.bin", "a", "bb", "1 bytes against 2; files of this kind are not compared further"),
        ("m.json", "{", "{}", "cannot be compared further: "),
        ("m.parquet", "no", "parquet", "cannot be compared further: "),
        ("m.safetensors", "no", "tensors", "cannot be compared further: "),
    ],
)
def test_values_and_lines_are_named(tmp_path: Path, name: str, one: str, other: str, sentence: str) -> None:
    assert any(text.startswith(sentence) for text in texts(tmp_path, name, one, other))


def test_a_missing_file_is_no_crash(tmp_path: Path) -> None:
    assert compare_files(tmp_path / "a.json", tmp_path / "b.json")[0].startswith("cannot be compared further")
