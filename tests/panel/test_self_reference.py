"""The self-reference judge: it answers each prompt once, and compares with its own answer."""

import json

import pytest

from tasks.panel.annotators.protocol import Fault
from tests.panel.chat_server import ChatServer, ask, comparison, fenced, opened


def like_mine(instruction: str) -> str:
    """Its own answer is "12345"; a response is better the closer its length is to that."""
    if not fenced(instruction):
        return "12345"
    reference, _, a, b = fenced(instruction)
    gap = abs(len(a) - len(reference)) - abs(len(b) - len(reference))
    return f"Because.\n[[{'C' if gap == 0 else 'A' if gap < 0 else 'B'}]]"


def test_compares_with_its_own_answer(server: ChatServer) -> None:
    server.script = like_mine
    judge = opened(server, kind="self_reference", answer_tokens=9)
    pairs = [comparison("1234", "1"), comparison("1", "123456"), comparison("1234", "123456")]
    votes = ask(judge, *pairs, comparison("1", "2", prompt="another"))
    assert [vote.outcome for vote in votes] == ["a", "b", "tie", "tie"]
    own = [each for each in server.requests if not fenced(each["messages"][0]["content"])]
    assert sorted(each["messages"][0]["content"] for each in own) == ["another", "ask"]
    assert {each["max_tokens"] for each in own} == {9}
    assert sum(vote.tokens for vote in votes) == 10 * len(server.requests)
    assert all(vote.ab is not None and json.loads(vote.raw)["instructions"] for vote in votes)


def test_no_answer_of_its_own_is_an_error(server: ChatServer) -> None:
    server.script, server.finish = like_mine, "length"
    (answer,) = ask(opened(server, kind="self_reference"), comparison("1", "2"))
    assert answer.outcome == "error"
    assert "the judge did not answer the prompt: cut off at max_tokens" in answer.raw
    assert answer.tokens == 10
    assert len(server.requests) == 1


def test_a_fault_is_no_answer_and_is_asked_again(server: ChatServer) -> None:
    faults = iter([(404, "no")])
    server.script = lambda instruction: next(faults, None) or like_mine(instruction)
    judge = opened(server, kind="self_reference")
    with pytest.raises(Fault, match="HTTP 404"):
        ask(judge, comparison("1234", "1"))
    assert ask(judge, comparison("1234", "1"))[0].outcome == "a"
