"""`make judge-server` with a real vLLM: judges ask it through the endpoint. The model is a tiny random one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from conf.compose import PROJECT
from flows.operations.temporary_server import free_port
from storage.errors import UserError
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_policy, load_tokenizer
from tasks.panel.annotators.judge import JudgeSettings
from tasks.panel.annotators.protocol import Fault, Refused, Vote
from tasks.panel.chat import Reply
from tasks.panel.chat.endpoint import Endpoint
from tasks.panel.chat.preflight import check_servers
from tests.panel.chat_server import ask, comparison, opened
from tests.waiting import limit, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

QUESTIONS = [comparison(f"{i}", f"{i} and more") for i in range(4)]


@pytest.fixture(scope="module")
def url(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server, which is started once."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "tasks.panel.chat.judge_server", str(tiny_policy), "--port", str(port),
             "--served-model-name", "tiny", "--dtype", "float32"],
            cwd=PROJECT, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}/v1"

    def ready() -> bool:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            return httpx.get(f"{address}/models", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, 120, lambda: log.read_text()[-3000:], pause=1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(limit(30))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def votes(url: str, folder: Path, **settings: Any) -> list[Vote]:
    template = folder / "template"
    template.write_text("{prompt}{response_a}{response_b}")  # short enough for a context of 256 tokens
    chat: dict[str, Any] = {"model": "tiny", "base_url": url, "max_tokens": 6, "timeout": limit(60), "retries": 0}
    found: list[Vote] = ask(opened(None, kind="judge", template=str(template), **chat | settings), *QUESTIONS)
    return found


def test_every_constrained_verdict_is_read_in_both_orders(url: str, tmp_path: Path) -> None:
    assert {vote.outcome for vote in votes(url, tmp_path)} == {"error"}  # a random model writes no verdict
    for place in ("letter", "last_line"):
        for vote in votes(url, tmp_path, verdict=place, constrained=True, soft=True):
            assert {vote.ab, vote.ba} <= {"a", "b", "tie"}
            assert vote.probability is not None
            assert 0 <= vote.probability <= 1
            assert vote.faults is None


def test_log_probabilities_are_those_of_the_model(url: str, tiny_policy: Path) -> None:
    messages = [{"role": "user", "content": "What is the sum of 1 and 2?"}]
    endpoint = Endpoint("it", JudgeSettings(model="tiny", base_url=url, timeout=limit(60)))

    class Chat:
        connected = endpoint.connected

        async def ask(self, _: object) -> Reply:
            return await endpoint.chat(messages, max_tokens=3, temperature=0.0, top_logprobs=5)

    (reply,) = ask(Chat(), None)
    tokenizer, model = load_tokenizer(tiny_policy), load_policy(tiny_policy, dtype="float32", device="cpu")
    ids = encode_chat(tokenizer, messages)
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(0)
    first = reply.top_logprobs[0]
    assert first.top[first.text] == pytest.approx(logprobs.max().item(), abs=1e-3)
    assert reply.tokens == len(ids) + len(reply.top_logprobs)


def test_a_wrong_model_name_is_refused_with_the_list(url: str) -> None:
    check_servers({"panel.annotators.judge": JudgeSettings(model="tiny", base_url=url)})
    with pytest.raises(UserError, match="does not serve the model 'other'; it serves: tiny"):
        check_servers({"panel.annotators.judge": JudgeSettings(model="other", base_url=url)})
    with pytest.raises(Fault, match="HTTP 404") as fault:
        ask(opened(None, kind="judge", model="other", base_url=url), QUESTIONS[0])
    assert fault.value.lasting


def test_a_question_that_is_too_long_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="HTTP 400"):
        ask(opened(None, kind="judge", model="tiny", base_url=url), comparison("a " * 400, "b"))


def test_a_request_that_takes_too_long_is_tried_again(url: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"no whole reply within 0\.001 s"):
        votes(url, tmp_path, timeout=0.001, retries=1)
    assert len(votes(url, tmp_path, constrained=True)) == len(QUESTIONS)
