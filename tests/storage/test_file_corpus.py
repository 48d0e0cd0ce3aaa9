"""A corpus of prompt files: formats, encodings, shapes of rows and damages, with the expected reading or refusal."""

import datetime
import decimal
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.errors import UserError
from storage.prompts import each_prompt
from storage.rows import read_rows
from tests.storage.corpus import (
    BYTE_ORDER_MARK,
    Write,
    arrow,
    column,
    file,
    flipped,
    folder_of,
    gzipped,
    jsonl,
    lines,
    parquet,
    saved,
    zstd,
)

TEXTS = ["What is 1 plus 2?", "Größe? 🙂 \u2028 two\nlines", "a\\ud835b", '{"role": "a"}']
ROWS = [{"prompt": text, "answer": str(number)} for number, text in enumerate(TEXTS)]
DATA = lines(ROWS)
Turns = list[tuple[str, str]]


@dataclass(frozen=True)
class Case:
    """prompts: the expected conversations, as (role, content). refused: what the refusal says, and where it points."""

    write: Write
    prompts: Sequence[Turns] = ()
    refused: str = ""
    where: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    split: str | None = None


def users(*texts: str) -> list[Turns]:
    return [[("user", text)] for text in texts]


def turn(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


READ = users(*TEXTS)
FORMATS: dict[str, Write] = {
    "JSON lines": file("p.jsonl", DATA),
    "JSON lines named ndjson": file("p.ndjson", DATA),
    "JSON lines named json": file("p.json", DATA),
    "JSON array": file("p.json", json.dumps(ROWS, indent=1).encode()),
    "JSON array with a byte order mark": file("p.json", BYTE_ORDER_MARK + json.dumps(ROWS).encode()),
    "not escaped": file("p.jsonl", lines(ROWS, ascii_only=False)),
    "byte order mark": file("p.jsonl", BYTE_ORDER_MARK + DATA),
    "byte order marks of joined files": file(
        "p.jsonl", BYTE_ORDER_MARK + lines(ROWS[:2]) + BYTE_ORDER_MARK + lines(ROWS[2:])
    ),
    "carriage returns": file("p.jsonl", lines(ROWS, end="\r\n")),
    "blank lines": file("p.jsonl", lines(ROWS, end="\n\n  \n")),
    "no end of the last line": file("p.jsonl", DATA.rstrip()),
    "gzip": file("p.jsonl.gz", gzipped(DATA)),
    "gzip of two members": file("p.jsonl.gz", gzipped(lines(ROWS[:1])) + gzipped(lines(ROWS[1:]))),
    "gzip with a byte order mark": file("p.jsonl.gz", gzipped(BYTE_ORDER_MARK + DATA)),
    "gzip that is not named so": file("p.jsonl", gzipped(DATA)),
    "plain text named gzip": file("p.jsonl.gz", DATA),
    "JSON array, gzip": file("p.json.gz", gzipped(json.dumps(ROWS).encode())),
    "zstd": file("p.jsonl.zst", zstd(DATA)),
    "zstd that is not named so": file("p.jsonl", zstd(DATA)),
    "Parquet": parquet(ROWS),
    "Parquet that is not named so": parquet(ROWS, "p.data"),
    "Parquet named JSON lines": parquet(ROWS, "p.jsonl"),
    "Parquet, dictionary": column("prompt", pa.array(TEXTS).dictionary_encode()),
    "Parquet, large text": column("prompt", pa.array(TEXTS, pa.large_string())),
    "Arrow file": arrow(ROWS, "p.arrow", stream=False),
    "Arrow stream": arrow(ROWS, "p.arrow", stream=True),
    "folder of JSON lines": folder_of(
        file("a.jsonl", lines(ROWS[:1])), file("b.jsonl.gz", gzipped(lines(ROWS[1:]))), file("README.md", b"#")
    ),
    "folder of Parquet shards": folder_of(
        parquet(ROWS[:2], "data/train-00000-of-00002-0123456789abcdef.parquet"),
        parquet(ROWS[2:], "data/train-00001-of-00002-0123456789abcdef.parquet"),
        file(".gitattributes", b""),
    ),
    "folder of parts": folder_of(
        parquet(ROWS[:2], "part-00000.parquet"), parquet(ROWS[2:], "part-00001.parquet"), file("_SUCCESS", b"")
    ),
    "save_to_disk": folder_of(*saved(ROWS)),
    "save_to_disk of one split": folder_of(*saved(ROWS, "train"), file("dataset_dict.json", b'{"splits": ["train"]}')),
}
SPLITS = (file("train.jsonl", DATA), file("test.jsonl", lines([{"prompt": "held out"}])))
BOTH = b'{"splits": ["train", "test"]}'
CONVERSATION = [turn("system", "Be brief."), turn("user", "One?"), turn("assistant", "1"), turn("user", "Two?")]
TURNS = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")]
SHAREGPT = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "One?"}]
SHAREGPT += [{"from": "gpt", "value": "1"}, {"from": "human", "value": "Two?"}, {"from": "gpt", "value": "2"}]
CHAT = [turn("user", "One?"), turn("assistant", "1")]

SHAPES: dict[str, Case] = {
    "messages": Case(jsonl({"messages": [*CONVERSATION, turn("assistant", "2")]}), [TURNS]),
    "messages in Parquet": Case(parquet([{"messages": CONVERSATION}]), [TURNS]),
    "a prompt of messages (TRL)": Case(jsonl({"prompt": CONVERSATION}), [TURNS]),
    "a named field of messages": Case(
        jsonl({"prompt": CONVERSATION}), [TURNS], options={"prompt_fields": ["prompt"]}
    ),
    "a named dotted field of messages": Case(
        jsonl({"a": {"b": [CONVERSATION]}}), [TURNS], options={"prompt_fields": ["a.b.0"]}
    ),
    "prompt and completion": Case(jsonl({"prompt": "One?", "completion": "1"}), users("One?")),
    "UltraFeedback": Case(
        jsonl({"prompt": "One?", "prompt_id": "x", "chosen": CHAT, "rejected": CHAT, "messages": CHAT, "score": 1.0}),
        users("One?"),
        options={"prompt_fields": ["prompt"]},
    ),
    "ShareGPT": Case(jsonl({"conversations": SHAREGPT}), [TURNS]),
    "ShareGPT in Parquet": Case(parquet([{"conversations": SHAREGPT}]), [TURNS]),
    "conversation (LMSYS)": Case(jsonl({"conversation": CHAT, "model": "m"}), users("One?")),
    "Alpaca": Case(
        jsonl(*({"instruction": "Add.", "input": text, "output": ""} for text in ("1 and 2", "2 and 3", ""))),
        users("Add.\n\n1 and 2", "Add.\n\n2 and 3", "Add."),
    ),
    "a system field": Case(
        jsonl({"system_prompt": "Be brief.", "question": "One?"}, {"system_prompt": "", "question": "Two?"}),
        [[("system", "Be brief."), ("user", "One?")], [("user", "Two?")]],
    ),
    "a system setting": Case(
        jsonl({"prompt": "One?"}, {"messages": CONVERSATION}),
        [[("system", "Short."), ("user", "One?")], TURNS],
        options={"system": "Short."},
    ),
    "text parts": Case(
        jsonl({"messages": [turn("user", [{"type": "text", "text": "On"}, {"type": "text", "text": "e?"}])]}),
        users("One?"),
    ),
    "null fields of messages": Case(jsonl({"messages": [turn("user", "One?", tool_calls=None)]}), users("One?")),
    "named fields, one empty": Case(
        jsonl({"a": "x", "b": "y"}, {"a": "z", "b": ""}), users("x\n\ny", "z"), options={"prompt_fields": ["a", "b"]}
    ),
    "numbers as labels": Case(jsonl({"prompt": "One?", "answer": 1, "category": 2.5}), users("One?")),
    "odd fields that nobody reads": Case(
        parquet([{"prompt": "One?", "when": datetime.date(2026, 1, 2), "raw": b"\xff", "price": decimal.Decimal(1)}]),
        users("One?"),
    ),
    "NaN in a field that nobody reads": Case(jsonl('{"prompt": "One?", "score": NaN}'), users("One?")),
    "a named split": Case(folder_of(*SPLITS), users("held out"), split="test"),
    "a named split of save_to_disk": Case(
        folder_of(*saved(ROWS, "train"), *saved(ROWS[:2], "test"), file("dataset_dict.json", BOTH)),
        users(*TEXTS[:2]),
        split="test",
    ),
}  # fmt: skip


def bad(write: Write, refused: str, where: str, *, split: str | None = None) -> Case:
    return Case(write, refused=refused, where=where, split=split)


DAMAGES: dict[str, Case] = {
    "a line that is not JSON": bad(jsonl(*ROWS, "{broken"), "not JSON", ":5"),
    "a line that is cut": bad(file("p.jsonl", DATA[:-9]), "not JSON", ":4"),
    "a line that is an array": bad(jsonl("[1]"), "not a JSON object", ":1"),
    "an array of other things": bad(file("p.json", b'[{"prompt": "x"}, 1]'), "not a JSON object", ":row 1"),
    "an array that is cut": bad(file("p.json", json.dumps(ROWS).encode()[:-2]), "not JSON", "p.json"),
    "a field that comes twice": bad(jsonl('{"prompt": "x", "prompt": "y"}'), "'prompt' comes twice", ":1"),
    "a number of 5000 digits": bad(jsonl(f'{{"prompt": "x", "n": {"9" * 5000}}}'), "cannot be read", ":1"),
    "a line of nulls": bad(file("p.jsonl", DATA + b"\0" * 64 + b"\n"), "not JSON", ":5"),
    "nested too deeply": bad(jsonl("[" * 200_000), "nested too deeply", ":1"),
    "not UTF-8": bad(file("p.jsonl", '{"prompt": "Größe"}'.encode("latin-1")), "not UTF-8", ":1"),
    "UTF-16": bad(file("p.jsonl", DATA.decode().encode("utf-16")), "UTF-16", "p.jsonl"),
    "half a surrogate pair": bad(jsonl(*ROWS, {"prompt": "\ud835"}), "surrogate", ":5"),
    "half a surrogate pair in an answer": bad(jsonl({"prompt": "x", "answer": "\udc00"}), "surrogate", ":1"),
    "gzip, a flipped byte": bad(file("p.jsonl.gz", flipped(gzipped(DATA * 9))), "damaged|read", ".gz"),
    "gzip, a wrong checksum": bad(file("p.jsonl.gz", flipped(gzipped(DATA), 0.99)), "damaged|read", ".gz"),
    "gzip, cut": bad(file("p.jsonl.gz", gzipped(DATA)[:-12]), "damaged|read", ".gz"),
    "zstd, a flipped byte": bad(file("p.jsonl.zst", flipped(zstd(DATA * 9), 0.2)), "damaged|read|JSON|UTF", "zst"),
    "zstd, cut": bad(file("p.jsonl.zst", zstd(DATA)[:-12]), "damaged|read", "p.jsonl.zst"),
    "gzip twice": bad(file("p.jsonl.gz", gzipped(gzipped(DATA))), "compressed twice", "p.jsonl.gz"),
    "a zip archive": bad(file("p.jsonl", b"PK\x03\x04" + DATA), "zip archive", "p.jsonl"),
    "a bzip2 file": bad(file("p.jsonl.bz2", b"BZh9" + DATA), "bzip2", "p.jsonl.bz2"),
    "an xz file": bad(file("p.jsonl.xz", b"\xfd7zXZ\0" + DATA), "compressed with xz", "p.jsonl.xz"),
    "a table of text": bad(file("p.csv", b"prompt\nOne?\n"), "does not read files of this format", "p.csv"),
    "a Parquet file that is none": bad(file("p.parquet", DATA), "cannot be read", "p.parquet"),
    "a Parquet file that is cut": bad(file("p.parquet", b"PAR1" + DATA), "cannot be read", "p.parquet"),
    "an Arrow stream that is cut": bad(file("p.arrow", b"\xff\xff\xff\xff\x10\0\0\0"), "cannot be read", ".arrow"),
    "Parquet text that is not UTF-8": bad(
        column("prompt", pa.array([b"ok", b"\xff"]).view(pa.string())), "cannot be read", ":row 1"
    ),
    "no rows": bad(jsonl(), "no prompts", "rows.jsonl"),
    "no such file": bad(lambda folder: folder / "absent.jsonl", "no such file", "absent.jsonl"),
    "an empty folder": bad(folder_of(file("README.md", b"#")), "no data files", "set"),
    "a folder with other files": bad(folder_of(file("a.jsonl", DATA), file("b.csv", b"")), "does not", "b.csv"),
    "several splits": bad(folder_of(*SPLITS), "several splits: test, train", "set"),
    "no such split": bad(folder_of(*SPLITS), "no split 'dev'", "set", split="dev"),
    "a split of a file": bad(jsonl(*ROWS), "no splits", "rows.jsonl", split="train"),
    "save_to_disk without a file": bad(folder_of(*saved(ROWS)[1:]), "lacks a file", "set"),
    "save_to_disk, damaged state": bad(folder_of(*saved(ROWS), file("state.json", b"{")), "cannot be", "state.json"),
}  # fmt: skip


def odd(prompt: object) -> dict[str, object]:
    return {"prompt": prompt}


def message(content: object, **more: object) -> dict[str, object]:
    return {"messages": [turn("user", content, **more)]}


OTHER_VALUES: dict[str, Case] = {
    name: Case(write, refused=refused, where=where, options=options)
    for name, write, refused, where, options in [
        ("a number", jsonl(odd(1)), "prompt is a number, not text", ":1", {}),
        ("true", jsonl(odd(True)), "prompt is true or false", ":1", {}),
        ("an object", jsonl(odd({"a": 1})), "prompt is an object", ":1", {}),
        ("a list of texts", jsonl(odd(["One?"])), "message 1 of prompt is text", ":1", {}),
        ("a list of texts, named", jsonl(odd(["a"])), "message 1", ":1", {"prompt_fields": ["prompt"]}),
        ("an object, named", jsonl(odd({"a": 1})), "is an object", ":1", {"prompt_fields": ["prompt"]}),
        ("a list beside text", jsonl({"a": "x", "b": ["y"]}), "b is a list", ":1", {"prompt_fields": ["a", "b"]}),
        ("messages as text", jsonl(odd(json.dumps(CONVERSATION))), "as JSON text", ":1", {}),
        ("messages that are text", jsonl({"messages": json.dumps(CHAT)}), "messages is text", ":1", {}),
        ("a date", parquet([odd(datetime.date(2026, 1, 2))]), "prompt is a date or time", ":row 0", {}),
        ("a time", parquet([odd(datetime.datetime(2026, 1, 2))]), "prompt is a date or time", ":row 0", {}),
        ("a decimal", parquet([odd(decimal.Decimal("1.5"))]), "prompt is a decimal", ":row 0", {}),
        ("bytes", parquet([odd(b"One?")]), "prompt is bytes", ":row 0", {}),
        ("NaN", jsonl('{"prompt": NaN}'), "prompt is a number", ":1", {}),
        ("a null prompt", jsonl(*ROWS, odd(None)), "no prompt", ":5", {}),
        ("a blank prompt", jsonl(odd(" \n")), "no prompt", ":1", {}),
        ("a misspelt field", jsonl(*ROWS), "no row has the field p", "", {"prompt_fields": ["prompt", "p"]}),
        ("null content", jsonl(message(None)), "content of message 1 of messages is null", ":1", {}),
        ("an image part", jsonl(message([{"type": "image_url"}])), "part that is not text: image_url", ":1", {}),
        ("a number as content", jsonl(message(7)), "is a number", ":1", {}),
        ("a tool call", jsonl(message("x", tool_calls=[{"id": "1"}])), "has tool_calls, which", ":1", {}),
        ("an empty turn", jsonl(message(" ")), "last user's turn is empty", ":1", {}),
        ("a reply alone", jsonl({"messages": [turn("assistant", "1")]}), "user's turn", ":1", {}),
        ("a message without content", jsonl({"messages": [{"role": "user"}]}), "is null, not text", ":1", {}),
        ("a turn without a role", jsonl({"messages": [{"content": "x"}]}), "neither role and content", ":1", {}),
        ("an unknown speaker", jsonl({"conversations": [{"from": "x", "value": "y"}]}), "no known speaker", ":1", {}),
        ("columns of messages", jsonl({"messages": {"role": ["user"], "content": ["x"]}}), "is an object", ":1", {}),
        ("images beside text", jsonl({"prompt": "x", "images": ["a.png"]}), "the row has images", ":1", {}),
        ("a context beside a question", jsonl({"question": "x", "context": "y"}), "the row has context", ":1", {}),
        ("choices beside a question", jsonl({"question": "x", "choices": ["y"]}), "the row has choices", ":1", {}),
        ("two system messages", jsonl({"messages": CONVERSATION, "system": "No."}), "two system messages", ":1", {}),
        ("a list as an answer", jsonl({"prompt": "x", "answer": ["1"]}), "answer is a list", ":1", {}),
        ("NaN as an answer", jsonl('{"prompt": "x", "answer": NaN}'), "answer is nan", ":1", {}),
        ("an object as a category", jsonl({"prompt": "x", "category": {}}), "category is an object", ":1", {}),
        ("a decimal answer", parquet([odd("x") | {"answer": decimal.Decimal(1)}]), "answer is a decimal", ":row 0", {}),
    ]
}  # fmt: skip

CASES = {f"format: {name}": Case(write, READ) for name, write in FORMATS.items()}
CASES |= {f"shape: {name}": case for name, case in SHAPES.items()}
CASES |= {f"damage: {name}": case for name, case in DAMAGES.items()}
CASES |= {f"value: {name}": case for name, case in OTHER_VALUES.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_file_is_read_as_it_is_or_refused_by_file_and_row(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)

    def read() -> list[dict[str, Any]]:
        return list(each_prompt(read_rows(path, split=case.split), where=str(path), **case.options))

    if not case.refused:
        prompts = [[(turn["role"], turn["content"]) for turn in row["messages"]] for row in read()]
        assert prompts == list(case.prompts)
        return
    with pytest.raises(UserError, match=case.refused) as caught:
        read()
    assert str(tmp_path) in caught.value.where
    assert caught.value.where.endswith(case.where)
    assert caught.value.remedy


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 100
