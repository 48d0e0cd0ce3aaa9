"""A stage is not published with holes: when a judge is given up, the same command asks it again."""

import asyncio
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conf.compose import compose_config
from storage.errors import UserError
from storage.manifest import MANIFEST, read_manifest
from storage.schemas import DIALOGUES, table, write_parquet
from tasks.evaluation.judging import run_judging
from tasks.evaluation.mt_bench.dialogue import FILE
from tasks.evaluation.mt_bench.grading import GradeSettings, GradeSpec, run_grading
from tasks.evaluation.mt_bench.settings import GraderSettings
from tasks.evaluation.settings import JudgeSpec, JudgingSettings
from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import run
from tasks.panel.annotators.protocol import Answer, Comparison, Fault, Limits, Refused, Score, Vote
from tasks.panel.budget import Spending
from tasks.panel.journal import Journal
from tasks.panel.remote import Asked, ask_all
from tasks.panel.settings import Budget
from tests.panel.chat_server import ChatServer, prefer
from tests.panel.conftest import World
from tests.panel.scripted import Scripted, comparison

QUESTIONS = [comparison(f"{i}", f"{i + 1}", prompt=f"p{i}") for i in range(20)]
TEXTS = {f"p{i}": ["x" * (i + 1), "y" * (i + 2)] for i in range(3)}
QUICK = {"retries": 0, "pause": 0.01, "probes": 1}


def ask(folder: Path, script: Callable[[Comparison], Answer], **limits: Any) -> tuple[Asked, Scripted]:
    annotator = Scripted(
        script, limits=Limits(**({"concurrency": 2, "faults": 3, "pause": 0.01, "probes": 1} | limits))
    )
    with Journal(folder, annotator.name, annotator.identity, annotator.answer_type) as journal:
        asked = asyncio.run(ask_all(annotator, QUESTIONS, journal, Spending(Budget()), lambda _: None))
    return asked, annotator


def number(question: Comparison) -> int:
    return int(question.a.text)


def test_a_refused_question_is_its_own_error_and_no_outage(tmp_path: Path) -> None:
    def mostly_too_long(question: Comparison) -> Vote:
        if number(question) < 15:
            raise Refused("HTTP 400: too long", 0.0)
        return Vote("a")

    asked, annotator = ask(tmp_path, mostly_too_long)
    assert asked.outage is None
    assert [answer.outcome for answer in asked.answers] == ["error"] * 15 + ["a"] * 5
    assert asked.answers[0].raw == "HTTP 400: too long"
    assert len(annotator.asked) == 20
    again = ask(tmp_path, lambda _: Vote("b"))[1]
    assert len(again.asked) == 15  # a refusal is not stored


@pytest.mark.parametrize(
    "answer",
    [
        KeyError("broken"),
        RecursionError("deep"),
        ConnectionResetError("gone"),
        None,
        Score("score", 1.0),
        Vote("better"),  # type: ignore[arg-type]
        Vote("a", tokens=10**30),
        Vote("a", cost=float("nan")),
        Vote("a", raw="\ud800"),
        Vote("a", probability=7.0),
    ],
)
def test_whatever_goes_wrong_on_a_question_is_the_error_of_that_question(tmp_path: Path, answer: object) -> None:
    def sometimes(question: Comparison) -> Any:
        if number(question) != 7:
            return Vote("a")
        if isinstance(answer, Exception):
            raise answer
        return answer

    asked, _ = ask(tmp_path, sometimes)
    assert asked.outage is None
    assert [answer.outcome for answer in asked.answers] == ["a"] * 7 + ["error"] + ["a"] * 12
    assert asked.answers[7].raw
    assert len(ask(tmp_path, lambda _: Vote("b"))[1].asked) == 1  # it is not stored


@pytest.mark.parametrize(
    "stops", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), UserError("x", where="y", remedy="z")]
)
def test_what_must_stop_the_pass_does(tmp_path: Path, stops: BaseException) -> None:
    def stop(question: Comparison) -> Vote:
        raise stops

    with pytest.raises((BaseExceptionGroup, KeyboardInterrupt)):
        ask(tmp_path, stop)


def test_a_dead_judge_is_an_outage_however_few_questions_there_are(tmp_path: Path) -> None:
    def dead(question: Comparison) -> Vote:
        raise Fault("HTTP 503: down", 0.0)

    assert ask(tmp_path, dead)[0].outage == "HTTP 503: down"
    asked, annotator = ask(tmp_path, dead, faults=1000)  # the circuit never opens
    assert asked.outage == "HTTP 503: down"
    assert len(annotator.asked) == 40  # each once more, after the others


def test_a_lasting_fault_is_not_probed(tmp_path: Path) -> None:
    def wrong_key(question: Comparison) -> Vote:
        raise Fault("HTTP 401: wrong key", 0.0, lasting=True)

    asked, annotator = ask(tmp_path, wrong_key, pause=600.0, probes=5)
    assert asked.outage == "HTTP 401: wrong key"
    assert len(annotator.asked) <= 4


def test_one_question_that_never_answers_is_no_outage(tmp_path: Path) -> None:
    def slow(question: Comparison) -> Vote:
        if number(question) == 7:
            raise Fault("no whole reply within 1 s", 1.0)
        return Vote("a")

    asked, _ = ask(tmp_path, slow)
    assert asked.outage is None
    assert [number for number, answer in enumerate(asked.answers) if answer.outcome == "error"] == [7]


def test_a_budget_that_ends_during_a_pause_ends_the_pass(tmp_path: Path) -> None:
    def dead(question: Comparison) -> Vote:
        raise Fault("HTTP 503", 0.0)

    annotator = Scripted(dead, limits=Limits(concurrency=4, faults=2, pause=0.05, probes=50))
    with Journal(tmp_path, "it", "it", "pairs") as journal, pytest.raises(UserError, match="seconds"):
        asyncio.run(ask_all(annotator, QUESTIONS, journal, Spending(Budget(seconds=0.08)), lambda _: None))


def down(instruction: str) -> tuple[int, str]:
    return 503, "down"


def labels(world: World, server: ChatServer, **more: Any) -> LabelSpec:
    judge = {"kind": "judge", "model": "m", "base_url": server.url} | QUICK
    spec = world.spec(TEXTS, {"judge": judge, "rule": {"kind": "rule", "shorter": True}})
    return LabelSpec.model_validate(dict(spec) | more)


def test_a_label_stage_waits_for_its_judge(server: ChatServer, world: World) -> None:
    server.script = down
    with pytest.raises(UserError, match=r"judge was given up: HTTP 503: down\. The stage is not finished") as stopped:
        run(labels(world, server))
    assert "give the same command again" in stopped.value.remedy
    assert "panel.on_outage=go_on" in stopped.value.remedy
    folder = labels(world, server).folder
    assert not (folder / MANIFEST).exists()
    votes = pq.read_table(folder / "votes.parquet").to_pylist()
    assert {vote["raw"][:8] for vote in votes if vote["annotator"] == "judge"} == {"HTTP 503"}
    server.script = prefer(len)
    run(labels(world, server))
    votes = pq.read_table(folder / "votes.parquet").to_pylist()
    assert {vote["outcome"] for vote in votes if vote["annotator"] == "judge"} == {"b"}


def test_go_on_publishes_errors(server: ChatServer, world: World, caplog: pytest.LogCaptureFixture) -> None:
    server.script = down
    run(labels(world, server, on_outage="go_on"))
    assert labels(world, server).key() == labels(world, server, on_outage="go_on").key()
    manifest = read_manifest(labels(world, server).folder)
    assert manifest.summary["votes"]["judge"] == {"error": 3}
    assert "panel.on_outage=go_on: label goes on without answers. judge was given up: HTTP 503: down" in caplog.text


def test_answers_before_an_outage_are_kept(server: ChatServer, world: World) -> None:
    right = prefer(len)
    server.script = lambda instruction: right(instruction) if len(server.requests) <= 2 else down(instruction)
    judge = {"concurrency": 1, "faults": 2}
    spec = labels(world, server)
    settings = spec.settings.model_dump()
    settings["annotators"]["judge"] |= judge
    spec = LabelSpec.model_validate(dict(spec) | {"settings": settings})
    with pytest.raises(UserError, match="given up"):
        run(spec)
    server.script = right
    before = len(server.requests)
    run(spec)
    assert len(server.requests) == before + 4  # both orders of the two pairs that had no answer


def test_an_evaluation_waits_for_its_judge(server: ChatServer, world: World) -> None:
    judge = {"kind": "judge", "model": "m", "base_url": server.url} | QUICK
    spec = JudgeSpec(
        folder=world.folder / "judge",
        round=1,
        seed=1,
        settings=JudgingSettings.model_validate({"judges": {"held-out": judge}}),
        responses={name: world.responses(TEXTS, name=name) for name in ("policy", "initial")},
        prompts=world.prompts(list(TEXTS)),
    )
    server.script = down
    with pytest.raises(UserError, match="held-out was given up") as stopped:
        run_judging(spec)
    assert "evaluation.on_outage=go_on" in stopped.value.remedy
    server.script = prefer(len)
    assert run_judging(spec).summary["votes"] == {"held-out": {"tie": 6}}


def test_a_gate_by_rules_needs_its_judges() -> None:
    words = ["run=demo", "evaluation.on_outage=go_on"]
    assert compose_config(words).evaluation.on_outage == "go_on"
    with pytest.raises(UserError, match=r"gate=policy with evaluation\.on_outage=go_on"):
        compose_config([*words, "gate=policy"])


def test_mt_bench_waits_for_its_judge(server: ChatServer, world: World) -> None:
    row = {"question_id": "1", "category": "writing", "turns": ["a", "b"], "replies": ["c", "d"],
           "finish_reasons": ["stop", "stop"], "references": None}  # fmt: skip
    write_parquet(world.folder / FILE, table([row], DIALOGUES))
    spec = GradeSpec(
        folder=world.folder / "grades",
        round=0,
        seed=0,
        settings=GradeSettings(judge=GraderSettings.model_validate({"model": "m", "base_url": server.url} | QUICK)),
        dialogues=world.folder / FILE,
    )
    server.script = lambda instruction: (200, json.dumps({"error": "overloaded"}))
    with pytest.raises(UserError, match="mt-bench was given up: an error in place of a completion: overloaded"):
        run_grading(spec)
    server.script = lambda instruction: "[[7]]"
    assert run_grading(spec).summary["graded"] == 2
