"""Attention checks, the strength of a vote, the second question, and how far people agree."""

import json
import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.agreement import agreement_lines
from flows.vote import check_people
from storage.errors import UserError
from tasks.panel.humans.agreement import summarize
from tasks.panel.humans.attention import Attention
from tasks.panel.humans.batch import Batch, batch_label, export, read_batch
from tasks.panel.humans.collect import WaitingForVotes, collect
from tasks.panel.humans.vote_queue import SubmittedVote, VoteQueue
from tasks.panel.humans.votes import read_batch_votes
from tests.panel.people import comparison, comparisons, exported, settings, write

FOLDER = "mine/round-02/label/humans-people"


def checks_by(batch: Batch, person: str, right: int) -> list[dict[str, str]]:
    """The person's votes on all checks, of which the first `right` are passed."""
    other = {"a": "b", "b": "a"}
    return [
        {"id": check.id, "person": person, "outcome": check.answer if i < right else other[check.answer]}
        for i, check in enumerate(batch.checks.values())
    ]


def votes_by(batch: Batch, person: str, outcome: str) -> list[dict[str, str]]:
    return [{"id": item, "person": person, "outcome": outcome} for item in batch.items]


def test_a_check_shows_a_prompt_with_its_own_reply_and_with_another_ones(tmp_path: Path) -> None:
    batch = exported(tmp_path / "one", 8, checks=3)
    assert len(batch.checks) == 3
    assert batch.info.needed == batch.info.comparisons == 8, "checks are no comparisons of the round"
    for check in batch.checks.values():
        prompt = check.prompt[0]["content"].removeprefix("ask p")
        own, foreign = (check.a, check.b) if check.answer == "a" else (check.b, check.a)
        assert f" {prompt}." in own
        assert f" {prompt}." not in foreign
    assert read_batch(batch.folder) == batch
    exported(tmp_path / "two", 8, checks=3)
    assert (tmp_path / "one/checks.jsonl").read_bytes() == (tmp_path / "two/checks.jsonl").read_bytes()


def test_one_prompt_gives_no_check_and_equal_replies_are_no_check(tmp_path: Path) -> None:
    one = [comparison("p", "yes", "no")]
    assert not export(settings(checks=5), "people", tmp_path / "one", one)[0].checks
    same = [*one, comparison("q", "yes", "no")]
    assert not export(settings(checks=5), "people", tmp_path / "same", same)[0].checks


def test_everyone_is_asked_the_checks_and_their_votes_are_no_votes_of_the_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batch = exported(tmp_path, 6, checks=2)
    write(batch.folder / "votes.jsonl", *votes_by(batch, "ann", "a"), *checks_by(batch, "ann", right=1))
    caplog.set_level(logging.INFO, "irepo")
    collected = collect(settings(checks=2), "people", tmp_path, comparisons(6))
    assert collected.faults == []
    assert [len(votes) for votes in collected.votes] == [1] * 6
    assert "people/ann passed 1 of 2 attention checks" in caplog.text


def test_who_passes_too_few_checks_is_left_out_and_others_are_asked(tmp_path: Path) -> None:
    batch = exported(tmp_path, 6, checks=4, least_passed=0.7)
    careless = [*votes_by(batch, "ben", "b"), *checks_by(batch, "ben", right=2)]
    write(batch.folder / "votes.jsonl", *careless)
    with pytest.raises(WaitingForVotes) as waiting:
        collect(settings(checks=4, least_passed=0.7), "people", tmp_path, comparisons(6))
    assert waiting.value.have == 0
    queue = VoteQueue(tmp_path)
    assert queue.work("ben")["questions"] == []
    assert queue.work("ann")["batches"][0]["left"] == 10
    write(batch.folder / "votes-ann.jsonl", *votes_by(batch, "ann", "a"), *checks_by(batch, "ann", right=3))
    assert collect(settings(checks=4, least_passed=0.7), "people", tmp_path, comparisons(6)).annotators == [
        "people/ann"
    ]


def test_one_wrong_answer_leaves_nobody_out_while_the_share_can_be_reached() -> None:
    assert not Attention(answered=1, passed=0).too_few(0.8, checks=5)
    assert Attention(answered=2, passed=0).too_few(0.8, checks=5)
    assert not Attention(answered=5, passed=0).too_few(None, checks=5)


def test_a_least_share_without_checks_is_refused() -> None:
    with pytest.raises(ValidationError, match="set checks to their number"):
        settings(least_passed=0.8)


def test_strength_and_second_answer_are_kept_as_what_they_were_given_for(tmp_path: Path) -> None:
    batch = exported(tmp_path / FOLDER, 6, strength=True, second="Which one is kinder?")
    queue = VoteQueue(tmp_path)
    work = queue.work("ann")
    assert (work["batches"][0]["strength"], work["batches"][0]["second"]) == (True, "Which one is kinder?")
    for question in work["questions"]:
        queue.submit(
            SubmittedVote(
                batch=str(work["batch"]), id=question["id"], person="ann", choice="tie", order=question["order"],
                second="a", strength="clear",
            )
        )  # fmt: skip
    received = read_batch_votes(batch)
    for question in work["questions"]:
        vote = received.votes[question["id"]]["ann"]
        item = batch.items[question["id"]]
        assert (item.a if vote.second == "a" else item.b) == question["a"]
        assert vote.strength is None, "a tie has no strength"
    assert {vote["second"] for vote in map(json.loads, (batch.folder / "votes.jsonl").read_text().splitlines())} == {
        "a", "b",
    }  # fmt: skip


def test_agreement_is_that_of_cohen(tmp_path: Path) -> None:
    """Ten comparisons: both a on 4, both b on 3, ann a and ben b on 2, ann b and ben a on 1: kappa = 0.4."""
    batch = exported(tmp_path, 10)
    sides = ["aa"] * 4 + ["bb"] * 3 + ["ab"] * 2 + ["ba"]
    lines = [
        {"id": item, "person": person, "outcome": outcome, "seconds": 2.0}
        for item, pair in zip(batch.items, sides, strict=True)
        for person, outcome in zip(("ann", "ben"), pair, strict=True)
    ]
    write(batch.folder / "votes.jsonl", *lines)
    found = summarize(read_batch_votes(batch))
    ((one, other, agreement),) = found.pairs
    assert (one, other, agreement.both, agreement.same) == ("ann", "ben", 10, 7)
    assert agreement.kappa == pytest.approx(0.4)
    assert [person.others.same for person in found.people] == [7, 7]
    text = "\n".join(agreement_lines(batch))
    assert "ann and ben: 7 of 10, kappa 0.40" in text
    assert "Traceback" not in text


def test_a_voter_learns_of_agreement_only_when_nothing_is_left(tmp_path: Path) -> None:
    batch = exported(tmp_path, 3, votes=2)
    write(batch.folder / "votes.jsonl", *votes_by(batch, "ann", "a"))
    queue = VoteQueue(tmp_path)
    assert (queue.work("ben")["batches"][0]["agrees"], queue.work("ben")["batches"][0]["shared"]) == (None, None)
    write(batch.folder / "votes-ben.jsonl", *votes_by(batch, "ben", "a"))
    assert (queue.work("ben")["batches"][0]["agrees"], queue.work("ben")["batches"][0]["shared"]) == (3, 3)


def test_a_batch_has_a_name_that_people_understand(tmp_path: Path) -> None:
    assert batch_label(tmp_path / FOLDER) == "mine, round 2"
    assert batch_label(tmp_path / "mine/round-12/label/humans-experts") == "mine, round 12: experts"
    assert batch_label(tmp_path / "humans-experts") == "experts"


def test_a_run_without_people_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this folder does not exist"):
        check_people(tmp_path / "absent")
    with pytest.raises(UserError, match="there is no run in this folder"):
        check_people(tmp_path)
    exported(tmp_path / FOLDER, 2)
    check_people(tmp_path / "mine")
