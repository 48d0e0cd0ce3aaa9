"""Why servers stop, in the words of different providers; and replies that are a completion all the same."""

import json
from typing import Any

import pytest

from tasks.panel.chat.completion import NotACompletion, read_completion


def body(content: Any = "half of it", finish: str | None = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice | more.pop("choice", {})]} | more).encode()


@pytest.mark.parametrize(
    ("finish", "error"),
    [
        ("LENGTH", "cut off"),
        ("MAX_TOKENS", "cut off"),
        ("model_length", "cut off"),
        ("max_output_tokens", "cut off"),
        ("SAFETY", "withheld"),
        ("content_filtered", "withheld"),
        ("PROHIBITED_CONTENT", "withheld"),
        ("refusal", "withheld"),
        ("STOP", None),
        ("end_turn", None),
        ("eos_token", None),
    ],
)
def test_a_reply_is_whole_or_not_in_every_providers_words(finish: str, error: str | None) -> None:
    completion = read_completion(body(finish=finish))
    assert completion.text == "half of it"
    assert (completion.error or "").startswith(error or "")
    assert (completion.error is None) == (error is None)


@pytest.mark.parametrize("finish", ["ERROR", "canceled", "network_error", "insufficient_system_resource"])
def test_a_server_that_stops_is_a_fault(finish: str) -> None:
    with pytest.raises(NotACompletion, match="the server stopped"):
        read_completion(body(finish=finish))


@pytest.mark.parametrize("nothing", [{}, "", False, 0, []])
def test_an_empty_error_beside_a_completion_is_none(nothing: Any) -> None:
    assert read_completion(body(error=nothing)).error is None
    assert read_completion(body(choice={"error": nothing})).error is None
    with pytest.raises(NotACompletion):
        read_completion(json.dumps({"error": nothing}).encode())


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_an_error_object_of_any_numbers_is_a_fault(number: str) -> None:
    with pytest.raises(NotACompletion, match="an error in place of a completion"):
        read_completion(f'{{"error": {{"code": {number}}}}}'.encode())


def test_the_completion_with_index_0_is_read() -> None:
    choices = [{"index": n, "message": {"content": f"[[{letter}]]"}} for n, letter in ((1, "B"), (0, "A"))]
    assert read_completion(json.dumps({"choices": choices}).encode()).text == "[[A]]"
    assert read_completion(json.dumps({"choices": choices[:1]}).encode()).text == "[[B]]"


def test_an_empty_refusal_is_none() -> None:
    completion = read_completion(body(None, choice={"message": {"content": None, "refusal": ""}}))
    assert completion.error == "no text (finish_reason stop)"
