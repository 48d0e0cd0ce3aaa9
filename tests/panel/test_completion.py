"""What a server's reply is: a completion, part of one, or a fault. Bodies as public servers and gateways send them."""

import json
from typing import Any

import pytest

from tasks.panel.chat.completion import NotACompletion, printable, read_completion


def body(content: Any = "[[A]]", finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content} | more.pop("message", {})
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message, **more.pop("choice", {})}]} | more


FAULTS = {
    "nothing": b"",
    "white space": b" \n",
    "a page": b"<html><body>502 Bad Gateway</body></html>",
    "a stream": b'data: {"choices": []}\n\ndata: [DONE]\n',
    "cut JSON": json.dumps(body()).encode()[:-3],
    "another encoding": json.dumps(body("é"), ensure_ascii=False).encode("latin-1"),
    "a lone surrogate": json.dumps(body("\ud800")).encode(),
    "a list": b"[]",
    "a number of many digits": b"9" * 5000,
    "deep nesting": b"[" * 100_000,
    "no choices": b"{}",
    "empty choices": b'{"choices": []}',
    "choices is null": b'{"choices": null}',
    "no message": b'{"choices": [{"finish_reason": "stop"}]}',
    "an empty message": b'{"choices": [{"message": {}}]}',
    "content is a number": json.dumps(body(5)).encode(),
    "content is an object": json.dumps(body({"text": "[[A]]"})).encode(),
    "an error": b'{"error": {"message": "Provider returned error", "code": 429}}',
    "an error as text": b'{"error": "busy"}',
    "an error beside choices": json.dumps(body(error={"message": "overloaded"})).encode(),
    "an error in the choice": json.dumps(body(choice={"error": {"message": "died"}})).encode(),
    "the server stopped": json.dumps(body("[[A", "error")).encode(),
    "the request was aborted": json.dumps(body("[[A", "abort")).encode(),
    "null without a reason": json.dumps(body(None, None)).encode(),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_completion_is_a_fault(name: str) -> None:
    with pytest.raises(NotACompletion) as fault:
        read_completion(FAULTS[name])
    assert len(str(fault.value)) < 1000


def test_an_errors_message_is_shown() -> None:
    with pytest.raises(NotACompletion, match="Provider returned error"):
        read_completion(FAULTS["an error"])
    with pytest.raises(NotACompletion, match="502 Bad Gateway"):
        read_completion(FAULTS["a page"])


@pytest.mark.parametrize(
    ("sent", "text", "error"),
    [
        (body(), "[[A]]", None),
        (body(finish=None), "[[A]]", None),
        (body(finish="eos"), "[[A]]", None),
        (body(error=None), "[[A]]", None),
        (body([{"type": "text", "text": "Good.\n"}, {"type": "text", "text": "[[A]]"}]), "Good.\n[[A]]", None),
        (body([{"type": "thinking", "thinking": [{"text": "[[B]]"}]}, {"type": "text", "text": "A"}]), "A", None),
        (body("[[A]]", message={"reasoning_content": "[[B]]"}), "[[A]]", None),
        (body("The first", "length"), "The first", "cut off at max_tokens"),
        (body(None, "length"), None, "cut off at max_tokens"),
        (body(None, "length", message={"reasoning": "First,"}), None, "cut off at max_tokens"),
        (body(None, "stop", message={"reasoning": "First,"}), None, "no text after its reasoning (finish_reason stop)"),
        (body("", "stop"), "", "no text (finish_reason stop)"),
        (body([], "stop"), None, "no text (finish_reason stop)"),
        (body(None, "tool_calls"), None, "no text (finish_reason tool_calls)"),
        (body(None, "stop", message={"refusal": "I cannot."}), None, "the model refuses: I cannot."),
        (body("[[A", "content_filter"), "[[A", "withheld by the server's content filter"),
    ],
)
def test_a_completion_is_read(sent: dict[str, Any], text: str | None, error: str | None) -> None:
    completion = read_completion(b"\xef\xbb\xbf" + json.dumps(sent).encode())
    assert (completion.text, completion.error) == (text, error)


@pytest.mark.parametrize("count", [10**30, -1, 1.5, "7", True, float("nan"), float("inf"), [7]])
def test_token_counts_out_of_range_are_left_out_and_named(count: Any) -> None:
    completion = read_completion(json.dumps(body(usage={"prompt_tokens": count, "completion_tokens": 3})).encode())
    assert completion.text == "[[A]]"
    assert (completion.prompt_tokens, completion.completion_tokens) == (None, None)
    (left_out,) = completion.left_out
    assert left_out.startswith("usage (prompt_tokens: ")


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 5}, {"prompt_tokens": None, "completion_tokens": None}])
def test_missing_token_counts_are_unknown(usage: Any) -> None:
    completion = read_completion(json.dumps(body(usage=usage)).encode())
    assert (completion.prompt_tokens, completion.left_out) == (None, ())


def test_log_probabilities() -> None:
    top = [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": -1.0}]
    tokens = {"content": [{"token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": top}]}
    (token,) = read_completion(json.dumps(body("A", choice={"logprobs": tokens})).encode()).top_logprobs
    assert (token.text, token.top) == ("A", {"A": -0.5, "B": -1.0})
    assert read_completion(json.dumps(body("A", choice={"logprobs": None})).encode()).top_logprobs == ()


@pytest.mark.parametrize("logprob", [5.0, 1e308, float("nan"), float("-inf"), "-1", None])
def test_log_probabilities_out_of_range_are_left_out_and_named(logprob: Any) -> None:
    tokens = {"content": [{"token": "A", "logprob": logprob, "top_logprobs": []}]}
    completion = read_completion(json.dumps(body("A", choice={"logprobs": tokens})).encode())
    assert (completion.text, completion.top_logprobs) == ("A", ())
    assert completion.left_out[0].startswith("logprobs (content.0.logprob: ")


def test_a_servers_text_cannot_control_the_terminal() -> None:
    assert printable("a\x1b[2J\u202eb\r\n\tc" + "d" * 1000, 12) == "a[2Jb cddddd"
