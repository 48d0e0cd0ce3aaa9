"""Random replies of a judge's server: no crash, no vote that the judge did not cast, no fault that is stored."""

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.panel.annotators.protocol import UNANSWERED, Comparison, Vote
from tasks.panel.answers import as_table
from tasks.panel.budget import Spending
from tasks.panel.chat import endpoint
from tasks.panel.journal import Journal, content_key
from tasks.panel.remote import Asked, ask_all
from tasks.panel.settings import Budget
from tests.panel.chat_server import comparison, fenced, opened
from tests.waiting import limit

QUESTIONS = [comparison(f"first {i}", f"second {i}") for i in range(3)]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**30, -1, "[[A]]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.sampled_from(
    ["[[A]]", "[[B]]", "Good.\n[[A]]", "Good.\n[[B]]", "**[[C]]**", "<think>[[A]]</think>\n[[B]]", "[[A]] or [[B]]",
     "<think>[[A]]", "", "A", "\ud83d"]
)  # fmt: skip
FINISHES = st.sampled_from(["stop"] * 6 + ["length", "error", "content_filter", "tool_calls", None, 7])


@st.composite
def often(draw: st.DrawFn, usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> Any:
    """`usual` in four of five cases."""
    return draw(other if draw(st.integers(0, 4)) == 4 else usual)


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    """A completion; in a third of them a part is missing, or something else."""
    message: dict[str, Any] = {"role": "assistant", "content": draw(often(TEXTS, st.text(max_size=20)))}
    choice = {"index": 0, "message": message, "finish_reason": draw(FINISHES)}
    whole: dict[str, Any] = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}, "error": None}
    if draw(st.integers(0, 2)) == 0:
        target = draw(st.sampled_from([whole, choice, message]))
        name = draw(st.sampled_from(sorted(target)))
        if draw(st.booleans()):
            target[name] = draw(JSON)
        else:
            del target[name]
    return whole


HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "content-encoding", "retry-after", "location", "content-length"]),
    st.sampled_from(
        ["", "0", "0.5", "1e999", "-3", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "gzip", "deflate", "br", "text/html",
         "/v2", "http://elsewhere.example/", "application/json", "999999999999"]
    ),
    max_size=2,
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """One reply of the server. ends: how its body ends."""

    status: int
    headers: dict[str, str]
    body: bytes
    ends: str


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def replies(draw: st.DrawFn) -> Sent:
    bodies = [completions().map(_dumped)] * 6 + [
        JSON.map(_dumped),
        st.binary(max_size=60),
        st.just(b"<html>Bad</html>"),
    ]
    body = draw(st.one_of(bodies))
    headers = draw(often(st.just({}), HEADERS))
    if draw(st.integers(0, 9)) == 0:
        body, headers = gzip.compress(body), headers | {"content-encoding": "gzip"}
    status = draw(st.sampled_from([200] * 30 + [201, 204, 301, 307, 400, 401, 404, 413, 422, 429, 500, 503, 529, 599]))
    ends = draw(st.sampled_from(["whole"] * 16 + ["cut", "breaks", "hangs", "never connects"]))
    return Sent(status, headers, body[: len(body) // 2] if ends == "cut" else body, ends)


def _verdict(letter: str) -> Sent:
    choice = {"message": {"role": "assistant", "content": f"[[{letter}]]"}, "finish_reason": "stop"}
    return Sent(200, {}, _dumped({"choices": [choice]}), "whole")


VERDICTS = st.sampled_from("ABC").map(_verdict)


class _Body(httpx.AsyncByteStream):
    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._sent.body
        if self._sent.ends == "breaks":
            raise httpx.ReadError("connection reset")
        if self._sent.ends == "hangs":
            await asyncio.sleep(60)


class Server:
    """Gives `sent` in turn, from the first again after the last. `given`: what each request got."""

    def __init__(self, sent: list[Sent]) -> None:
        self._sent = sent
        self.given: list[tuple[str, Sent]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.host == "judge.example"
        sent = self._sent[len(self.given) % len(self._sent)]
        self.given.append((json.loads(request.content)["messages"][-1]["content"], sent))
        if sent.ends == "never connects":
            raise httpx.ConnectError("refused")
        return httpx.Response(sent.status, headers=sent.headers, stream=_Body(sent))


def choice_of(sent: Sent) -> dict[str, Any] | None:
    """The choice of a whole completion, by a plain reading; None for anything else."""
    if not 200 <= sent.status < 300 or sent.ends in ("breaks", "hangs", "never connects"):
        return None
    try:
        body = gzip.decompress(sent.body) if sent.headers.get("content-encoding") == "gzip" else sent.body
        value = json.loads(body)
        choice = value["choices"][0]
    except (ValueError, LookupError, TypeError, OSError, EOFError):
        return None
    whole = isinstance(choice, dict) and isinstance(choice.get("message"), dict) and not value.get("error")
    return choice if whole and not choice.get("error") else None  # some servers write {} or "" where there is none


def verdict_of(sent: Sent) -> str | None:
    """The verdict at the end of a completion that was not cut; None without one."""
    choice = choice_of(sent) or {}
    content = choice.get("message", {}).get("content")
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else "" for part in content)
    if not isinstance(content, str) or choice.get("finish_reason") in ("length", "error", "content_filter", 7):
        return None
    last = content.rpartition("</think>")[2].strip().rpartition("\n")[2].strip("*`_. ")
    return {"[[A]]": "A", "[[B]]": "B", "[[C]]": "C"}.get(last)


def last_replies(server: Server, question: Comparison) -> list[Sent]:
    """The last reply in each order that was shown: a first, b first."""
    found = []
    for first, second in ((question.a.text, question.b.text), (question.b.text, question.a.text)):
        own = [sent for instruction, sent in server.given if fenced(instruction)[-2:] == [first, second]]
        found += own[-1:]
    return found


def expected(server: Server, question: Comparison) -> str:
    verdicts = [verdict_of(sent) for sent in last_replies(server, question)]
    if len(verdicts) < 2 or None in verdicts:
        return "error"
    votes = [{"A": "a", "B": "b", "C": "tie"}[str(verdicts[0])], {"A": "b", "B": "a", "C": "tie"}[str(verdicts[1])]]
    return votes[0] if votes[0] == votes[1] else "tie"


def ask(folder: Path) -> tuple[Asked, dict[str, Any]]:
    judge = opened(
        None, kind="judge", model="m", base_url="http://judge.example/v1", retries=1, timeout=limit(0.1), concurrency=1,
        pause=0, probes=1, faults=2,
    )  # fmt: skip
    with Journal(folder, judge.name, judge.identity, "pairs") as journal:
        asked = asyncio.run(ask_all(judge, QUESTIONS, journal, Spending(Budget()), lambda _: None))
    with Journal(folder, judge.name, judge.identity, "pairs") as journal:  # what is stored can be read again
        return asked, dict(journal.answers)


def check(server: Server, folder: Path) -> int:
    """Returns the number of votes."""
    asked, stored = ask(folder)
    as_table("pairs", asked.answers)
    votes = 0
    for question, answer in zip(QUESTIONS, asked.answers, strict=True):
        assert isinstance(answer, Vote)
        if answer.outcome != "error":
            assert answer.outcome == expected(server, question)
            votes += 1
        if content_key(question) in stored:
            assert all(choice_of(sent) is not None for sent in last_replies(server, question))
        else:
            assert answer.outcome == "error"
            assert (answer.faults or "").endswith(UNANSWERED)
    return votes


def fuzz(examples: int, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Every example is a server that mixes random replies with whole ones. Retries do not wait."""
    patch.setattr(endpoint, "_FIRST_WAIT", 0.0)
    patch.setattr(endpoint, "_LONGEST_WAIT", 0.0)
    counts = Counter[str]()

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(replies(), min_size=1, max_size=6), st.lists(VERDICTS, min_size=1, max_size=6))
    def one(random: list[Sent], whole: list[Sent]) -> None:
        server = Server([sent for both in zip_longest(random, whole) for sent in both if sent is not None])

        def client(*_: object) -> httpx.AsyncClient:
            return httpx.AsyncClient(transport=httpx.MockTransport(server), trust_env=False, timeout=None)

        patch.setattr(endpoint, "open_client", client)
        counts["examples"] += 1
        counts["votes"] += check(server, folder / str(counts["examples"]))
        counts["replies"] += len(server.given)

    started = time.monotonic()
    one()
    assert counts["votes"] > examples
    assert counts["replies"] > examples
    assert time.monotonic() - started < limit(0.5 * examples)


def test_replies_of_a_few_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(40, tmp_path, monkeypatch)


@pytest.mark.slow
def test_replies_of_many_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(400, tmp_path, monkeypatch)
