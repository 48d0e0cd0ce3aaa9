"""Constrained verdicts: what is requested, and that every reply that is allowed can be read."""

from typing import Any

import pytest

from tasks.panel.annotators.rubric import Rubric, RubricSettings
from tasks.panel.annotators.verdicts import CHOICES, VerdictPlace, read_verdict
from tasks.panel.chat import Reply
from tests.panel.chat_server import ChatServer, ask, comparison, opened, response


def vote(server: ChatServer, **settings: Any) -> Any:
    return ask(opened(server, constrained=True, **settings), comparison("long text", "short"))[0]


@pytest.mark.parametrize("place", CHOICES)
def test_every_choice_is_a_verdict(place: VerdictPlace) -> None:
    read = [read_verdict(Reply(choice, None, 0.0, None, None), place) for choice in CHOICES[place]]
    assert [verdict.letter for verdict in read if verdict is not None] == ["A", "B", "C"]


@pytest.mark.parametrize(("template", "place"), [("short", "letter"), ("explain", "last_line")])
def test_a_judge_asks_for_one_of_the_verdicts(server: ChatServer, template: str, place: VerdictPlace) -> None:
    server.script = lambda instruction: CHOICES[place][0]
    assert vote(server, kind="judge", template=template).outcome == "tie"
    assert [request["structured_outputs"] for request in server.requests] == [{"choice": list(CHOICES[place])}] * 2


def test_without_the_setting_nothing_is_added(server: ChatServer) -> None:
    ask(opened(server, kind="judge"), comparison("a", "b"))
    assert "structured_outputs" not in server.requests[0]


def test_the_own_answer_of_a_self_reference_is_free(server: ChatServer) -> None:
    vote(server, kind="self_reference")
    assert ["structured_outputs" in request for request in server.requests] == [False, True, True]


def test_a_rubric_asks_for_one_of_the_scores(server: ChatServer) -> None:
    criteria = {"right": {"what": "Is it right?"}, "kind": {"what": "Is it kind?"}}
    server.script = lambda instruction: "[[0, 2]]"
    score = ask(opened(server, kind="rubric", scale=[0, 2], criteria=criteria, constrained=True), response("x"))[0]
    assert score.value == 1.0
    (request,) = server.requests
    choices = request["structured_outputs"]["choice"]
    assert choices[:4] == ["[[0, 0]]", "[[0, 1]]", "[[0, 2]]", "[[1, 0]]"]
    settings = RubricSettings.model_validate({"model": "m", "scale": [0, 2], "criteria": criteria, "constrained": True})
    rubric = Rubric("it", settings)
    assert None not in [rubric.read(Reply(choice, None, 0.0, None, None)) for choice in choices]


def test_too_many_scores_are_refused() -> None:
    criteria = {f"c{i}": {"what": "?"} for i in range(4)}
    with pytest.raises(ValueError, match="more than 1000"):
        RubricSettings.model_validate({"model": "m", "criteria": criteria, "constrained": True})


def test_the_setting_is_part_of_the_identity(server: ChatServer) -> None:
    for kind in ("judge", "self_reference", "rubric"):
        free, constrained = opened(server, kind=kind), opened(server, kind=kind, constrained=True)
        assert free.identity != constrained.identity


def test_a_null_is_left_out_of_every_request(server: ChatServer) -> None:
    nulls: dict[str, Any] = {"max_tokens": None, "temperature": None, "extra_body": {"max_completion_tokens": 9}}
    for kind in ("judge", "rubric", "self_reference"):
        more: dict[str, Any] = {"answer_tokens": None} if kind == "self_reference" else {}
        ask(opened(server, kind=kind, **nulls, **more), response("x") if kind == "rubric" else comparison("a", "b"))
    assert all({"max_tokens", "temperature"}.isdisjoint(request) for request in server.requests)
    assert all(request["max_completion_tokens"] == 9 for request in server.requests)


def test_vllm_on_this_machine_needs_both_numbers() -> None:
    for name in ("max_tokens", "temperature"):
        with pytest.raises(ValueError, match="backend=vllm needs numbers"):
            RubricSettings.model_validate({"model": "m", "backend": "vllm", name: None})
