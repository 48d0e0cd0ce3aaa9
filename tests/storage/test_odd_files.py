"""Files and rows as people find them on disk and on the web: read as they are, or refused with what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import UserError
from storage.prompts import each_prompt
from storage.rows import read_rows
from tests.storage.corpus import Write, file, folder_of, gzipped, jsonl, lines

ROW = {"prompt": "One?", "answer": "1"}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def prompts(path: Path) -> list[dict[str, Any]]:
    return list(each_prompt(read_rows(path), where=str(path)))


def twice(folder: Path) -> Path:
    path = folder / "p.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), path)
    return path


FILES: dict[str, tuple[Write, str, str]] = {
    "a pointer of Git LFS": (file("p.jsonl", LFS), "Git LFS", "git lfs pull"),
    "a pointer in place of Parquet": (file("p.parquet", LFS), "Git LFS", "git lfs pull"),
    "a web page": (file("p.jsonl", b"<!DOCTYPE html><html>"), "page of HTML", "download"),
    "a web page in place of Parquet": (file("p.parquet", b"<html>"), "page of HTML", "download"),
    "UTF-16 without a mark": (file("p.jsonl", lines([ROW]).decode().encode("utf-16-le")), "UTF-16", "UTF-16LE"),
    "UTF-32": (file("p.jsonl", lines([ROW]).decode().encode("utf-32")), "UTF-32 text", "iconv -f UTF-32"),
    "UTF-16 in gzip": (file("p.jsonl.gz", gzipped("{}".encode("utf-16"))), "UTF-16", "iconv"),
    "carriage returns alone": (file("p.jsonl", lines([ROW, ROW], end="\r")), "not JSON", "carriage return alone"),
    "one object on many lines": (file("p.json", json.dumps(ROW, indent=1).encode()), "not JSON", "an array of objects"),
    "an array named jsonl": (file("p.jsonl", json.dumps([ROW], indent=1).encode()), "not JSON", "a .jsonl file"),
    "a column that comes twice": (twice, "'prompt' comes twice", "rename"),
    "two splits by a word in the name": (
        folder_of(file("my-train.jsonl", lines([ROW])), file("My-Test.jsonl", lines([ROW]))), "several splits", "split="
    ),
    "state.json of another kind": (folder_of(file("state.json", b'{"_data_files": [1]}')), "lacks a file", "save"),
    "dataset_dict.json nested without end": (
        folder_of(file("dataset_dict.json", b"[" * 100_000)), "cannot be read", "save_to_disk"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_other_content_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    write, what, remedy = FILES[name]
    with pytest.raises(UserError, match=what) as refused:
        prompts(write(tmp_path))
    assert remedy in refused.value.remedy


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "a.jsonl")


def dangling(folder: Path) -> None:
    (folder / "a.jsonl").symlink_to(folder / "nowhere")


def another_folder(folder: Path) -> None:
    (folder.parent / "more").mkdir()
    (folder.parent / "more" / "b.jsonl").write_bytes(lines([{"prompt": "Two?"}]))
    (folder / "more").symlink_to(folder.parent / "more")


@pytest.mark.parametrize("add", [pipe, dangling, another_folder])
def test_what_is_no_file_neither_hangs_nor_is_left_out(add: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "z.jsonl").write_bytes(lines([ROW]))
    add(folder)
    with pytest.raises(UserError, match=r"not a file|link to another folder"):
        prompts(folder)
    if add is not another_folder:
        with pytest.raises(UserError, match=r"not a file|no such file"):
            prompts(folder / "a.jsonl")


def test_names_in_capitals_are_read(tmp_path: Path) -> None:
    assert [row["answer"] for row in prompts(file("P.JSONL", lines([ROW]))(tmp_path))] == ["1"]


def test_a_number_that_no_float_holds_is_read(tmp_path: Path) -> None:
    digits = "9" * 400
    (row,) = prompts(jsonl(f'{{"prompt": "One?", "answer": {digits}}}')(tmp_path))
    assert row["answer"] == digits


def conversation(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


USER = {"role": "user", "content": "One?"}
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "a tool's turn": (conversation(USER, {"role": "tool", "content": "1"}, USER), "message 2 .* role 'tool'"),
    "a function's turn": (conversation(USER, {"role": "function", "content": "1"}, USER), "role 'function'"),
    "ShareGPT's speakers as roles": (conversation({"role": "human", "content": "One?"}), "message 1 .* role 'human'"),
    "a role in capitals": (conversation({"role": "User", "content": "One?"}), "role 'User'"),
    "an empty role": (conversation({"role": "", "content": "x"}, USER), "role ''"),
    "a refusal": (conversation(USER, {"role": "assistant", "content": "", "refusal": "No."}, USER), "has refusal"),
    "a file beside the text": (conversation(USER | {"files": ["a.pdf"]}), "has files"),
    "documents": (conversation(USER, documents=[{"text": "x"}]), "the row has documents"),
    "an article beside the question": ({"question": "One?", "article": "x"}, "the row has article beside question"),
    "contexts beside the question": ({"question": "One?", "contexts": ["x"]}, "the row has contexts beside question"),
    "messages as Python prints them": ({"prompt": str([USER])}, "holds a conversation"),
    "messages as numpy prints them": (
        {"prompt": "[{'content': 'One?', 'role': 'user'}\n {'content': '1', 'role': 'assistant'}]"}, "a conversation"
    ),
    "characters without width": ({"prompt": "\u200b\ufeff "}, "no prompt"),
    "null characters": ({"prompt": "\0"}, "no prompt"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_would_be_lost_is_refused_by_line(name: str, tmp_path: Path) -> None:
    row, what = ROWS[name]
    with pytest.raises(UserError, match=what) as refused:
        prompts(jsonl(ROW, row)(tmp_path))
    assert refused.value.where.endswith("rows.jsonl:2")


@pytest.mark.parametrize("text", ["['a', 'b']", "[{'x': 1}]", "Print [{'role': 'user'}] in Python", "[role: user]"])
def test_text_with_brackets_is_text(text: str, tmp_path: Path) -> None:
    (row,) = prompts(jsonl({"prompt": text})(tmp_path))
    assert row["messages"] == [{"role": "user", "content": text}]
