"""The chat endpoint: retries, answers, limits on requests, and where the key must not appear."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import UserError
from tasks.labeling.settings import LabelSettings, LabelSpec
from tasks.labeling.stage import run
from tasks.panel.annotators.protocol import Fault, Vote
from tasks.panel.annotators.registry import open_annotators
from tests.panel.chat_server import ChatServer, Scripted, ask, comparison, opened, prefer, response
from tests.panel.conftest import World


def vote(server: ChatServer, **settings: Any) -> Vote:
    (answer,) = ask(opened(server, kind="judge", **settings), comparison("long text", "short"))
    assert isinstance(answer, Vote)
    return answer


def test_transient_faults_are_retried(server: ChatServer) -> None:
    faults = iter([(500, "busy"), (429, "slow down"), (503, "soon")])
    right = prefer(len)
    server.script = lambda instruction: next(faults, None) or right(instruction)
    assert vote(server).outcome == "a"
    assert len(server.requests) == 5


def test_lasting_faults_are_faults(server: ChatServer) -> None:
    server.script = lambda instruction: (500, "down for good")
    with pytest.raises(Fault, match="HTTP 500: down for good"):
        vote(server, retries=2)
    assert len(server.requests) == 6
    server.requests.clear()
    server.script = lambda instruction: (404, "no such model")
    with pytest.raises(Fault, match="no such model") as lasting:
        vote(server)
    assert lasting.value.lasting
    assert len(server.requests) == 2  # the request is wrong: asking again would not help


def test_no_server_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    gone = ChatServer()
    gone.close()
    with pytest.raises(Fault, match="ConnectError"):
        vote(gone, retries=0)


@pytest.mark.parametrize(
    "body",
    ["", "not json", "<html>", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {}}]}', '{"error": "busy"}'],
)
def test_what_is_no_completion_is_retried_as_a_fault(server: ChatServer, body: str) -> None:
    server.script = lambda instruction: (200, body)
    with pytest.raises(Fault):
        vote(server, retries=1)
    assert len(server.requests) == 4
    right = prefer(len)
    bodies = iter([body])
    server.script = lambda instruction: next(((200, text) for text in bodies), None) or right(instruction)
    assert vote(server).outcome == "a"


def test_price(server: ChatServer) -> None:
    answer = vote(server, price={"prompt": 1e6, "completion": 1e5})
    assert answer.tokens == 20
    assert answer.cost == pytest.approx(2 * (7 + 0.3))
    assert vote(server).cost is None


def test_concurrency_is_bounded(server: ChatServer) -> None:
    server.script, server.delay = prefer(len), 0.02
    judge = opened(server, kind="judge", concurrency=3)
    answers = ask(judge, *(comparison("xx", "x", prompt=f"{i}") for i in range(20)))
    assert {answer.outcome for answer in answers} == {"a"}
    assert len(server.requests) == 40
    assert server.most_active == 3


KEY = 'sk-"secret"/key'
ANNOTATORS: dict[str, dict[str, Any]] = {
    "judge": {"kind": "judge"},
    "soft": {"kind": "judge", "template": "short", "soft": True},
    "ranking": {"kind": "ranking_judge"},
    "rubric": {"kind": "rubric"},
    "self": {"kind": "self_reference"},
}


@pytest.mark.parametrize(
    "echo",
    [
        lambda instruction: (401, f"wrong key {KEY}"),
        lambda instruction: (500, "x" * 1990 + KEY),  # at the place where the kept text ends
        lambda instruction: (200, json.dumps({"error": f"wrong key {KEY}"})),
        lambda instruction: f"Your key is {KEY}.\n[[A]]",
        lambda instruction: KEY,
    ],
)
def test_a_server_that_echoes_the_key_gets_it_nowhere(
    server: ChatServer,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    echo: Callable[[str], Scripted],
) -> None:
    """It is not in votes, scores, stored answers, manifest, spec, logs or errors, and it is read when it is needed."""
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server.script = echo
    chat = {"model": "m", "base_url": server.url, "api_key_env": "TEST_JUDGE_KEY", "retries": 0}
    annotators = {name: each | chat | {"pause": 0} for name, each in ANNOTATORS.items()}
    spec = world.spec({"p": ["aaa", "bb"]}, annotators | {"rule": {"kind": "rule", "shorter": True}})
    run(LabelSpec.model_validate(dict(spec) | {"on_outage": "go_on"}))
    assert set(server.keys) == {f"Bearer {KEY}"}
    forms = [KEY, json.dumps(KEY)[1:-1], "secret", "sk-"]
    read = [path.read_bytes() for path in spec.folder.rglob("*") if path.is_file()]
    for form in forms:
        assert not any(form.encode() in content for content in read)
        assert form not in caplog.text
    for annotator in open_annotators(spec.settings.annotators, 1):
        assert KEY not in repr(vars(annotator))
        assert KEY not in getattr(annotator, "identity", "")


def test_keys_do_not_travel_in_addresses() -> None:
    with pytest.raises(ValueError, match="use api_key_env"):
        LabelSettings.model_validate(
            {"annotators": {"it": {"kind": "judge", "model": "m", "base_url": "http://user:word@host/v1"}}}
        )


def test_a_key_that_is_not_set_is_the_users_error(server: ChatServer) -> None:
    for settings in ANNOTATORS.values():
        with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
            opened(server, api_key_env="NO_SUCH_KEY", **settings)


def test_what_the_backend_does_not_heed_is_refused() -> None:
    for settings, named in (
        ({"backend": "vllm", "base_url": "http://elsewhere/v1"}, "base_url"),
        ({"engine": {"enforce_eager": True}}, "engine"),
    ):
        with pytest.raises(ValueError, match=f"does not use {named}"):
            LabelSettings.model_validate({"annotators": {"it": {"kind": "judge", "model": "m"} | settings}})


def test_identity_is_what_decides_an_answer(server: ChatServer, tmp_path: Path) -> None:
    """Address, key and limits may change between attempts; model, sampling, template and system message may not."""
    template = tmp_path / "judge.txt"
    template.write_text("Q {prompt} 1 {response_a} 2 {response_b}")
    same: list[dict[str, Any]] = [
        {},
        {"concurrency": 3},
        {"retries": 0},
        {"base_url": "http://elsewhere/v1"},
        {"price": {"prompt": 1, "completion": 1}},
    ]
    other: list[dict[str, Any]] = [
        {"model": "n"},
        {"temperature": 1},
        {"max_tokens": 9},
        {"system": "Be strict."},
        {"extra_body": {"seed": 1}},
    ]
    own: list[dict[str, Any]] = [
        {"template": "mt-bench"},
        {"template": str(template)},
        {"soft": True},
        {"verdict": "letter"},
    ]
    assert len({opened(server, kind="judge", **each).identity for each in same}) == 1
    assert len({opened(server, kind="judge", **each).identity for each in [{}, *other, *own]}) == 10
    before = opened(server, kind="judge", template=str(template)).identity
    template.write_text("Q {prompt} 2 {response_a} 1 {response_b}")
    assert opened(server, kind="judge", template=str(template)).identity != before
    for kind in ("ranking_judge", "rubric", "self_reference"):
        assert len({opened(server, kind=kind, **each).identity for each in [{}, *other]}) == 6


def test_the_system_message_is_sent(server: ChatServer) -> None:
    server.script = lambda instruction: "[[5]]"
    ask(opened(server, kind="rubric", system="Be strict."), response("x"))
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Be strict."}
