"""Asking remote annotators: once per content, many at once, stored as answers arrive, within the budget."""

import asyncio
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.panel.annotators.protocol import Answer, Comparison, Fault, Limits, Vote
from tasks.panel.budget import Spending
from tasks.panel.chat import faults_met
from tasks.panel.journal import Journal
from tasks.panel.remote import ask_all
from tasks.panel.settings import Budget
from tests.panel.scripted import LIMITS, Scripted, comparison

QUESTIONS = [comparison(f"{i}", f"{i + 1}", prompt=f"p{i}") for i in range(20)]


def by_first(question: Comparison) -> Vote:
    return Vote("a" if int(question.a.text) % 2 else "b", raw=question.a.text, tokens=10, cost=0.5)


def ask(
    folder: Path, annotator: Scripted, questions: list[Comparison], budget: Budget | None = None
) -> tuple[list[Answer], list[int]]:
    counts: list[int] = []
    with Journal(folder, annotator.name, annotator.identity, annotator.answer_type) as journal:
        purse = Spending(budget or Budget())
        return asyncio.run(ask_all(annotator, questions, journal, purse, counts.append)).answers, counts


def test_answers_come_in_order_and_many_are_asked_at_once(tmp_path: Path) -> None:
    annotator = Scripted(by_first, delay=0.005)
    answers, counts = ask(tmp_path, annotator, QUESTIONS)
    assert answers == [by_first(question) for question in QUESTIONS]
    assert annotator.most_active == 4
    assert (counts[0], counts[-1]) == (0, 20)
    assert counts == sorted(counts)


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    """Equal to the annotator: the same messages and texts, whatever ids they have."""
    twins = [comparison("1", "2"), comparison("1", "2"), comparison("2", "1")]
    annotator = Scripted(by_first)
    answers, counts = ask(tmp_path, annotator, twins)
    assert [answer.outcome for answer in answers] == ["a", "a", "b"]
    assert len(annotator.asked) == 2
    assert counts[-1] == 3


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def half(question: Comparison) -> Vote:
        if int(question.a.text) >= 10:
            raise Killed
        return by_first(question)

    first = Scripted(half, limits=Limits(1, 3, 0.0, 0))
    with pytest.raises(BaseExceptionGroup):
        ask(tmp_path, first, QUESTIONS)
    second = Scripted(by_first)
    answers, counts = ask(tmp_path, second, QUESTIONS)
    assert answers == [by_first(question) for question in QUESTIONS]
    assert [question.a.text for question in second.asked] == [str(i) for i in range(10, 20)]
    assert counts[0] == 10
    third = Scripted(by_first)
    assert ask(tmp_path, third, QUESTIONS)[0] == answers
    assert (third.asked, third.connections) == ([], 0)
    other = Scripted(by_first, identity="another template")
    ask(tmp_path, other, QUESTIONS)
    assert len(other.asked) == 20


def test_a_fault_is_an_error_that_is_asked_again_next_time(tmp_path: Path) -> None:
    def broken(question: Comparison) -> Vote:
        faults_met.get().extend(["HTTP 500", "timeout"])
        if question.a.text == "3":
            raise Fault("timeout: gone", 1.0)
        return by_first(question)

    answers, _ = ask(tmp_path, Scripted(broken), QUESTIONS)
    assert (answers[3].outcome, answers[3].faults) == ("error", "HTTP 500, timeout, " * 2 + "unanswered")
    assert "gone" in (answers[3].raw or "")
    assert answers[4].faults == "HTTP 500, timeout"
    again = Scripted(by_first)
    answers, _ = ask(tmp_path, again, QUESTIONS)
    assert [question.a.text for question in again.asked] == ["3"]
    assert answers[3] == by_first(QUESTIONS[3])


def test_an_answer_that_cannot_be_read_is_kept(tmp_path: Path) -> None:
    ask(tmp_path, Scripted(lambda _: Vote("error", raw="I prefer both")), QUESTIONS[:3])
    again = Scripted(by_first)
    answers, _ = ask(tmp_path, again, QUESTIONS[:3])
    assert [(answer.outcome, answer.raw) for answer in answers] == [("error", "I prefer both")] * 3
    assert again.asked == []


def test_a_dead_endpoint_is_given_up(tmp_path: Path) -> None:
    def dead(question: Comparison) -> Vote:
        raise Fault("ConnectError", 0.0)

    annotator = Scripted(dead, limits=Limits(concurrency=2, faults=3, pause=0.01, probes=2))
    answers, _ = ask(tmp_path, annotator, QUESTIONS)
    assert len(annotator.asked) <= 3 + 1 + 2  # one more was under way when the circuit opened; two probes
    assert {answer.outcome for answer in answers} == {"error"}
    assert "given up after ConnectError" in (answers[-1].raw or "")
    assert answers[-1].faults == "unanswered"


def test_an_endpoint_that_comes_back_is_asked_on(tmp_path: Path) -> None:
    calls = 0

    def ailing(question: Comparison) -> Vote:
        nonlocal calls
        calls += 1
        if 2 < calls <= 6:
            raise Fault("HTTP 503", 0.0)
        return by_first(question)

    annotator = Scripted(ailing, limits=Limits(concurrency=1, faults=3, pause=0.01, probes=2))
    answers, _ = ask(tmp_path, annotator, QUESTIONS)
    assert {answer.outcome for answer in answers} == {"a", "b"}
    assert len(annotator.asked) == 24  # the four that faulted were asked once more


@pytest.mark.parametrize(
    ("budget", "name", "used"), [(Budget(tokens=75), "tokens", 80), (Budget(money=3.9), "money", 4.0)]
)
def test_a_spent_budget_stops_cleanly_and_goes_on(tmp_path: Path, budget: Budget, name: str, used: float) -> None:
    annotator = Scripted(by_first, limits=Limits(1, 3, 0.0, 0))
    with pytest.raises(UserError, match=f"budget is spent: {used:g} of .* {name}; 8 of 20") as stopped:
        ask(tmp_path, annotator, QUESTIONS, budget)
    assert stopped.value.where == f"panel.budget.{name}"
    assert len(annotator.asked) == 8
    with pytest.raises(UserError, match="8 of 20"):  # what was answered before counts
        ask(tmp_path, Scripted(by_first), QUESTIONS, budget)
    more = Scripted(by_first)
    answers, _ = ask(tmp_path, more, QUESTIONS, Budget(tokens=1000))
    assert len(more.asked) == 12
    assert answers == [by_first(question) for question in QUESTIONS]


def test_what_is_under_way_when_the_budget_is_spent_is_finished_and_kept(tmp_path: Path) -> None:
    annotator = Scripted(by_first, delay=0.02)
    with pytest.raises(UserError, match="8 of 20"):
        ask(tmp_path, annotator, QUESTIONS, Budget(tokens=50))  # spent by the fifth; four are under way then
    assert len(annotator.asked) == 8
    with Journal(tmp_path, annotator.name, annotator.identity, "pairs") as journal:
        assert len(journal.answers) == 8


def test_seconds_are_those_of_one_attempt(tmp_path: Path) -> None:
    annotator = Scripted(by_first, delay=0.05, limits=LIMITS)
    with pytest.raises(UserError, match="seconds"):
        ask(tmp_path, annotator, QUESTIONS, Budget(seconds=0.12))
    done = len(annotator.asked)
    assert 4 <= done < 20
    again = Scripted(by_first)
    ask(tmp_path, again, QUESTIONS, Budget(seconds=5))
    assert len(again.asked) == 20 - done
