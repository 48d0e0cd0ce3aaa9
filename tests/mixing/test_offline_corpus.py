"""A corpus of preference files: TRL's formats, whole conversations and damages, with the expected pair or refusal."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pytest

from storage.errors import UserError
from tasks.mixing.encode import OfflineCounts
from tasks.mixing.offline import OfflineSettings, read_offline, read_pairs
from tasks.mixing.shapes.pair import OfflinePair
from tasks.modeling.load import load_tokenizer
from tests.storage.corpus import BYTE_ORDER_MARK, Write, file, folder_of, gzipped, jsonl, lines, parquet, saved, zstd

Row = dict[str, Any]


def turn(role: str, content: object, **more: object) -> Row:
    return {"role": role, "content": content, **more}


def pair(prompt: object, chosen: object, rejected: object, **more: object) -> Row:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected} | more
    return {name: value for name, value in row.items() if value is not None}


ASK, YES, NO = turn("user", "Ask?"), turn("assistant", "yes"), turn("assistant", "no")
SYSTEM = turn("system", "Be brief.")
BEFORE = [turn("user", "First?"), turn("assistant", "One."), turn("user", "Ask?")]
TEXTS = pair("Ask?", "yes", "no")
CALL = turn("assistant", None, tool_calls=[{"type": "function", "function": {"name": "f", "arguments": "{}"}}])
PARTS = [{"type": "text", "text": "yes"}]
ULTRAFEEDBACK = pair("Ask?", [ASK, YES], [ASK, NO], prompt_id="x", messages=[ASK, YES], score_chosen=8.5)

#: Rows that are read: the conversation before the responses, which are always "yes" and "no".
READ: dict[str, tuple[Row, list[Row]]] = {
    "texts": (TEXTS, [ASK]),
    "messages, explicit prompt": (pair([ASK], [YES], [NO]), [ASK]),
    "messages, implicit prompt": (pair(None, [ASK, YES], [ASK, NO]), [ASK]),
    "several turns, implicit": (pair(None, [*BEFORE, YES], [*BEFORE, NO]), BEFORE),
    "several turns, explicit": (pair(BEFORE, [YES], [NO]), BEFORE),
    "several turns, both": (pair(BEFORE, [*BEFORE, YES], [*BEFORE, NO]), BEFORE),
    "a text prompt, the first turn": (pair("First?", [*BEFORE, YES], [*BEFORE, NO]), BEFORE),
    "a text prompt, the last turn": (pair("Ask?", [*BEFORE, YES], [*BEFORE, NO]), BEFORE),
    "a text prompt beside a system message": (pair("Ask?", [SYSTEM, ASK, YES], [SYSTEM, ASK, NO]), [SYSTEM, ASK]),
    "a text prompt and messages": (pair("Ask?", [YES], [NO]), [ASK]),
    "a text beside messages": (pair("Ask?", "yes", [ASK, NO]), [ASK]),
    "a system field": (pair("Ask?", "yes", "no", system="Be brief."), [SYSTEM, ASK]),
    "UltraFeedback, binarized": (ULTRAFEEDBACK, [ASK]),
    "ShareGPT": (
        pair(
            [{"from": "human", "value": "Ask?"}],
            [{"from": "gpt", "value": "yes"}],
            [{"from": "gpt", "value": "no"}],
        ),
        [ASK],
    ),
    "ShareGPT, one message a side": (
        {
            "conversations": [{"from": "human", "value": "Ask?"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        [ASK],
    ),
    "a question": ({"question": "Ask?", "system": "Be brief.", "chosen": "yes", "rejected": "no"}, [SYSTEM, ASK]),
    "text parts": (pair([ASK], [turn("assistant", PARTS)], [NO]), [ASK]),
    "null fields of a message": (pair([ASK], [YES | {"tool_calls": None}], [NO]), [ASK]),
}
REFUSED: dict[str, tuple[Row, str]] = {
    "HH-RLHF, not asked for": (
        pair(None, "\n\nHuman: Ask?\n\nAssistant: yes", "\n\nHuman: Ask?\n\nAssistant: no"),
        "the turns of 'Human:' and 'Assistant:'",
    ),
    "no rejected": (pair("Ask?", "yes", None), "no rejected: it is not a pair"),
    "no responses": ({"prompt": "Ask?"}, "no chosen and no rejected"),
    "no prompt": (pair(None, "yes", "no"), "no prompt"),
    "no prompt before the last turn": (pair(None, [YES], [NO]), "no prompt"),
    "null content of a tool call": (pair("Ask?", [CALL], [NO]), "message 1 of chosen has tool_calls"),
    "null content": (pair("Ask?", [YES], [turn("assistant", None)]), "message 1 of rejected is null"),
    "a tool call between": (
        pair([ASK], [turn("assistant", "Let me look"), turn("tool", "42"), YES], [NO]),
        "message 2 of chosen has the role 'tool'",
    ),
    "turns that differ": (pair(None, [ASK, YES], [turn("user", "Other?"), NO]), "do not start with the same turns"),
    "a system message on one side": (pair("Ask?", [SYSTEM, ASK, YES], [ASK, NO]), "do not start with the same turns"),
    "another prompt": (pair("Other?", [ASK, YES], [ASK, NO]), "are not the prompt"),
    "a prompt that ends with a reply": (pair([ASK, YES], [YES], [NO]), "does not end with a user's turn"),
    "a response of the user": (pair("Ask?", [ASK], [NO]), "chosen does not end with the assistant's turn"),
    "an image": (pair("Ask?", [turn("assistant", [{"type": "image"}])], [NO]), "part that is not text: image"),
    "a number as a response": (pair("Ask?", 1, "no"), "chosen is a number"),
    "an object as a response": (pair("Ask?", "yes", {"text": "no"}), "rejected is an object"),
    "a list of texts": (pair("Ask?", ["yes"], ["no"]), "message 1 of chosen is text"),
    "responses as JSON text": (pair("Ask?", json.dumps([ASK, YES]), "no"), "chosen is a conversation as JSON text"),
    "a prompt as JSON text": (pair(json.dumps([ASK]), "yes", "no"), "prompt is a conversation as JSON text"),
    "half a surrogate pair": (pair("Ask?", "\ud83d", "no"), "half of a surrogate pair"),
    "tools": (pair("Ask?", "yes", "no", tools=[{"name": "f"}]), "the row has tools"),
    "two system messages": (pair(None, [SYSTEM, ASK, YES], [SYSTEM, ASK, NO], system="No."), "two system messages"),
    "p_hat below one half": (TEXTS | {"p_hat": 0.2}, "p_hat is 0.2"),
    "p_hat of one": (TEXTS | {"p_hat": 1}, "p_hat is 1"),
    "p_hat as text": (TEXTS | {"p_hat": "0.8"}, "p_hat is text, not a number"),
    "p_hat true": (TEXTS | {"p_hat": True}, "p_hat is true or false"),
    "p_hat NaN": (TEXTS | {"p_hat": float("nan")}, "p_hat is nan"),
}
ROWS = [pair(f"{number}?", "yes", "no") for number in range(4)]
FORMATS: dict[str, Write] = {
    "JSON lines": jsonl(*ROWS),
    "byte order mark": file("p.jsonl", BYTE_ORDER_MARK + lines(ROWS)),
    "JSON array": file("p.json", json.dumps(ROWS).encode()),
    "gzip": file("p.jsonl", gzipped(lines(ROWS))),
    "zstd": file("p.jsonl.zst", zstd(lines(ROWS))),
    "Parquet": parquet(ROWS),
    "folder of shards": folder_of(*(parquet(ROWS[2 * n :][:2], f"train-0000{n}-of-00002.parquet") for n in (0, 1))),
    "save_to_disk": folder_of(*saved(ROWS)),
}  # fmt: skip


def read(path: Path, p_hat: float | None = 0.9) -> list[OfflinePair]:
    return list(read_pairs(OfflineSettings(path=path, share=0.5, p_hat=p_hat)))


@pytest.mark.parametrize("name", READ)
def test_a_row_keeps_its_whole_conversation(name: str, tmp_path: Path) -> None:
    row, prompt = READ[name]
    for path in (jsonl(row)(tmp_path), parquet([row])(tmp_path)):
        (found,) = read(path)
        assert found.prompt == prompt
        assert (found.chosen, found.rejected, found.p_hat) == ("yes", "no", 0.9)


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_is_no_pair_is_refused_by_file_and_row(name: str, tmp_path: Path) -> None:
    row, refused = REFUSED[name]
    path = jsonl(TEXTS, row)(tmp_path)
    with pytest.raises(UserError, match=refused) as caught:
        read(path)
    assert caught.value.where == f"{path}:2"
    assert caught.value.remedy


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_every_format_is_read(write: Write, tmp_path: Path) -> None:
    assert [found.prompt[0]["content"] for found in read(write(tmp_path))] == ["0?", "1?", "2?", "3?"]


@pytest.mark.parametrize(
    ("value", "refused"),
    [(datetime.date(2026, 1, 2), "a date or time"), (b"yes", "bytes"), (decimal.Decimal("0.5"), "a decimal number")],
)
def test_values_of_parquet_that_are_not_text_are_refused(value: object, refused: str, tmp_path: Path) -> None:
    path = parquet([pair("Ask?", value, "no")])(tmp_path)
    with pytest.raises(UserError, match=f"chosen is {refused}") as caught:
        read(path)
    assert caught.value.where == f"{path}:row 0"


def test_a_null_p_hat_is_a_missing_one(tmp_path: Path) -> None:
    path = parquet([TEXTS | {"p_hat": 0.7}, TEXTS | {"p_hat": None}])(tmp_path)
    assert [found.p_hat for found in read(path)] == [0.7, 0.9]
    with pytest.raises(UserError, match="the row has no p_hat") as caught:
        read(path, None)
    assert caught.value.where == f"{path}:row 1"


def test_rows_are_counted(tmp_path: Path, tiny_policy: Path) -> None:
    rows = [TEXTS, TEXTS, pair("Ask?", "no", "yes"), pair("Ask?", "same", "same"), pair("Other?", "yes", "no")]
    counts = OfflineCounts()
    settings = OfflineSettings(path=jsonl(*rows)(tmp_path), share=0.5, p_hat=0.9)
    assert read_offline(settings, load_tokenizer(tiny_policy), counts).num_rows == 4
    assert counts == OfflineCounts(rows=5, equal=1, repeated=1, contradicted=1)


def test_a_set_without_a_pair_is_refused(tmp_path: Path, tiny_policy: Path) -> None:
    for rows, refused in (([], "no pairs"), ([pair("Ask?", "x", "x")], "responses of every row are equal")):
        settings = OfflineSettings(path=jsonl(*rows)(tmp_path), share=0.5, p_hat=0.9)
        with pytest.raises(UserError, match=refused):
            read_offline(settings, load_tokenizer(tiny_policy))
