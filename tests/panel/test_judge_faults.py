"""Faults of a judge that a retry cannot fix: no stage is published with holes, and no money is spent on retries."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from storage.errors import UserError
from tasks.panel.annotators.judge import JudgeSettings
from tasks.panel.annotators.protocol import Answer, Comparison, Fault, Refused, Vote
from tasks.panel.budget import Spending
from tasks.panel.chat import preflight
from tasks.panel.chat.preflight import check_servers
from tasks.panel.chat.transport import TransportError, request
from tasks.panel.journal import Journal
from tasks.panel.remote import Asked, ask_all
from tasks.panel.settings import Budget
from tests.panel.chat_server import ChatServer, ask, comparison, opened
from tests.panel.scripted import Scripted


def ask_of(folder: Path, count: int, answers: Any) -> Asked:
    """`count` questions; the answer to question i is `answers(i)`."""

    def script(question: Comparison) -> Answer:
        answer: Answer = answers(int(question.a.text))
        return answer

    annotator = Scripted(script)
    questions = [comparison(str(i), "other", prompt=f"p{i}") for i in range(count)]
    with Journal(folder, annotator.name, annotator.identity, annotator.answer_type) as journal:
        return asyncio.run(ask_all(annotator, questions, journal, Spending(Budget()), lambda _: None))


def refuses(number: int) -> Vote:
    raise Refused("HTTP 400: max_tokens is not supported", 0.0)


def fails(number: int) -> Vote:
    raise KeyError("broken")


@pytest.mark.parametrize("answers", [refuses, fails])
def test_a_judge_that_answers_no_question_is_an_outage(tmp_path: Path, answers: Any) -> None:
    asked = ask_of(tmp_path, 3, answers)
    assert asked.outage is not None
    assert asked.outage.startswith("it answers none of 3 questions, the last one with: ")
    assert ask_of(tmp_path, 3, lambda number: Vote("a")).outage is None  # asked again, and answered


def test_one_question_alone_may_be_refused(tmp_path: Path) -> None:
    assert ask_of(tmp_path, 1, refuses).outage is None


def test_refusals_after_stored_answers_are_errors_of_their_questions(tmp_path: Path) -> None:
    ask_of(tmp_path, 1, lambda number: Vote("a"))
    assert ask_of(tmp_path, 4, refuses).outage is None


def failing(error: Exception) -> httpx.AsyncClient:
    def handler(sent: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("cannot connect") from error

    return httpx.AsyncClient(transport=httpx.MockTransport(handler), trust_env=False)


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), True),
        (tls("WRONG_VERSION_NUMBER"), True),
        (tls("UNEXPECTED_EOF_WHILE_READING"), False),
        (ConnectionRefusedError(), False),
    ],
)
def test_a_certificate_that_is_not_trusted_is_no_reason_to_ask_again(error: Exception, lasting: bool) -> None:
    async def work() -> None:
        async with failing(error) as client:
            await request(client, "GET", "https://judge.example/v1", seconds=5, most_bytes=100)

    with pytest.raises(TransportError) as raised:
        asyncio.run(work())
    assert raised.value.lasting is lasting
    assert (raised.value.kind == "TLS") is lasting


def test_a_server_without_tls_is_refused_before_a_run(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_asked", set())
    judge = JudgeSettings(model="m", base_url=server.url.replace("http:", "https:"))
    with pytest.raises(UserError, match="TLS") as refused:
        check_servers({"panel.annotators.judge": judge})
    assert "SSL_CERT_FILE" in refused.value.remedy
    annotator = opened(None, kind="judge", model="m", base_url=judge.base_url)
    with pytest.raises(Fault) as fault:
        ask(annotator, comparison("one", "two"))
    assert fault.value.lasting


@pytest.mark.parametrize(
    "field", [{"messages": []}, {"model": "other"}, {"stream": True}, {"n": 3}], ids=lambda field: next(iter(field))
)
def test_fields_that_replace_the_question_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=rf"extra_body\.{next(iter(field))}"):
        JudgeSettings(model="m", extra_body=field)
    JudgeSettings(model="m", extra_body=dict.fromkeys(field) | {"seed": 0})


def test_a_server_without_token_counts_is_said_once(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    whole = server.completion
    server.script = lambda instruction: (200, whole("[[A]]").replace('"usage"', '"use"'))
    with caplog.at_level(logging.WARNING, logger="irepo"):
        answers = ask(opened(server, kind="judge"), comparison("one", "two"), comparison("three", "four"))
    assert [answer.tokens for answer in answers] == [None, None]
    assert [record.message for record in caplog.records] == [
        "judge: its server sends no token counts: its answers cost nothing in panel.budget"
    ]
