"""Batches for people and the votes on them: what is in a batch, which votes count, when it is complete."""

import itertools
import json
import logging
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from storage.errors import UserError
from tasks.panel.annotators.protocol import Comparison, Vote
from tasks.panel.humans.batch import export, read_batch, shown_order
from tasks.panel.humans.collect import WaitingForVotes, collect
from tasks.panel.humans.votes import HumanVote, append_vote, clean_person, read_votes
from tests.panel.people import comparison, comparisons, exported, settings, write


def test_equal_comparisons_give_equal_bytes_and_an_export_is_not_written_twice(tmp_path: Path) -> None:
    batch = exported(tmp_path / "one", 5)
    exported(tmp_path / "two", 5)
    for name in ("batch.jsonl", "batch.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    written = (batch.folder / "batch.jsonl").stat().st_ino
    exported(tmp_path / "one", 5)
    assert (batch.folder / "batch.jsonl").stat().st_ino == written
    assert read_batch(batch.folder) == batch
    assert len(batch.items) == 5


def test_a_comparison_is_named_by_its_content_whatever_side_is_a(tmp_path: Path) -> None:
    """Swapped, or under other indices, equal texts are one item, and votes mean the same response."""
    there, back = comparison("p", "good", "bad"), comparison("p", "bad", "good")
    batch, places = export(settings(), "people", tmp_path, [there, back, comparison("q", "good", "bad")])
    assert len(batch.items) == 2
    assert places[0] is not None
    assert places[1] is not None
    assert (places[0].id, places[0].swapped) == (places[1].id, not places[1].swapped)
    question = batch.items[places[0].id]
    other = batch.items[next(name for name in batch.items if name != question.id)]
    write(
        tmp_path / "votes.jsonl",
        {"id": question.id, "person": "ann", "outcome": "a" if question.a == "good" else "b", "order": "ba"},
        {"id": other.id, "person": "ann", "outcome": "skip"},
    )
    one, mirrored, skipped = collect(
        settings(), "people", tmp_path, [there, back, comparison("q", "good", "bad")]
    ).votes
    assert (one["people/ann"].outcome, mirrored["people/ann"].outcome) == ("a", "b")
    assert {one["people/ann"].order, mirrored["people/ann"].order} == {"ab", "ba"}
    # "ba": the question's b was shown first.
    assert one["people/ann"].order == ("ba" if question.a == "good" else "ab")
    assert skipped["people/ann"].outcome == "abstain"


def test_responses_that_read_the_same_are_not_asked_about(tmp_path: Path) -> None:
    batch, places = export(settings(), "people", tmp_path, [comparison("p", "same", "same"), comparison("p", "x", "y")])
    assert len(batch.items) == batch.info.needed == 1
    assert places[0] is None


def test_a_sample_is_spread_over_prompts_and_does_not_depend_on_order(tmp_path: Path) -> None:
    questions = comparisons(10, each=6)
    batch, places = export(settings(sample=25), "people", tmp_path / "one", questions)
    counts = [sum(place is not None for place in places[6 * p : 6 * p + 6]) for p in range(10)]
    assert sum(counts) == 25
    assert set(counts) == {2, 3}
    shuffled = random.Random(3).sample(questions, len(questions))
    assert set(export(settings(sample=25), "people", tmp_path / "two", shuffled)[0].items) == set(batch.items)
    fewer = export(settings(sample=10), "people", tmp_path / "three", questions)[0]
    assert set(fewer.items) < set(batch.items), "a larger sample keeps the comparisons of a smaller one"


def test_the_order_shown_is_even_and_each_persons_own(tmp_path: Path) -> None:
    ids = list(exported(tmp_path, 1000).items)
    orders = {person: [shown_order(name, person) for name in ids] for person in ("ann", "ben")}
    for order in orders.values():
        assert abs(order.count("ab") - 500) < 64  # four standard deviations
    same = sum(one == other for one, other in zip(orders["ann"], orders["ben"], strict=True))
    assert abs(same - 500) < 64


def test_the_round_waits_for_its_quorum(tmp_path: Path) -> None:
    """Share 0.6 of 5 comparisons, two people each: 3 must have both."""
    questions, how = comparisons(5), settings(votes=2, share=0.6)
    with pytest.raises(WaitingForVotes) as waiting:
        collect(how, "people", tmp_path, questions)
    assert (waiting.value.have, waiting.value.need, waiting.value.folder) == (0, 3, tmp_path)
    assert f"python -m tasks.panel.humans {tmp_path}" in str(waiting.value)
    ids = list(read_batch(tmp_path).items)
    for number, (person, name) in enumerate(itertools.product(("ann", "ben"), ids[:3])):
        with pytest.raises(WaitingForVotes) as waiting:
            collect(how, "people", tmp_path, questions)
        assert waiting.value.have == max(0, number - 3)
        append_vote(tmp_path, HumanVote(id=name, person=person, outcome="tie"))
        append_vote(tmp_path, HumanVote(id=name, person=person, outcome="tie"))  # again: no second person
    collected = collect(how, "people", tmp_path, questions)
    assert collected.annotators == ["people/ann", "people/ben"]
    assert [len(votes) for votes in collected.votes] == [2, 2, 2, 0, 0]


def test_the_last_word_holds_and_a_withdrawn_vote_is_none(tmp_path: Path) -> None:
    one, two, three = exported(tmp_path, 3).items
    write(
        tmp_path / "votes.jsonl",
        {"id": one, "person": "Ann", "outcome": "a"},
        {"id": two, "person": "ann", "outcome": "a"},
        {"id": two, "person": "ann", "outcome": "withdrawn"},
        {"id": one, "person": "ann", "outcome": "b", "note": "on reflection"},
    )
    write(
        tmp_path / "votes-more.jsonl",
        {"id": one, "person": "ann", "outcome": "tie"},  # votes.jsonl has the last word
        {"id": three, "person": "ann", "outcome": "tie"},
    )
    arrived = read_votes(tmp_path, {one, two, three})
    outcomes = {
        name: {person: vote.outcome for person, vote in people.items()} for name, people in arrived.votes.items()
    }
    assert outcomes == {one: {"ann": "b"}, three: {"ann": "tie"}}
    assert arrived.faults == []


def test_bytes_do_not_depend_on_the_order_in_which_votes_come(tmp_path: Path) -> None:
    questions = comparisons(4)
    ids = list(exported(tmp_path, 4).items)
    outcomes = itertools.cycle(["a", "b", "tie", "skip"])
    votes = [
        {"id": name, "person": person, "outcome": next(outcomes), "seconds": 1.5}
        for name in ids
        for person in ("cy", "ann", "ben")
    ]
    seen = []
    for seed in range(5):
        write(tmp_path / "votes.jsonl", *random.Random(seed).sample(votes, len(votes)))
        seen.append(repr(collect(settings(), "people", tmp_path, questions)))
    assert len(set(seen)) == 1
    assert list(collect(settings(), "people", tmp_path, questions).votes[0]) == [
        "people/ann",
        "people/ben",
        "people/cy",
    ]


def test_bad_lines_are_named_and_the_others_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    questions = comparisons(2)
    one, two = exported(tmp_path, 2).items
    (tmp_path / "votes.jsonl").write_bytes(
        b"\xef\xbb\xbf"
        + json.dumps({"id": one, "person": "ann", "outcome": "a"}).encode()
        + b"\r\n\n"
        + json.dumps({"id": two, "person": "ann", "outcome": "better"}).encode()
        + b"\n\xff\xfe\n"
        + json.dumps({"id": two, "person": "!?", "outcome": "a"}).encode()
        + b"\n"
        + json.dumps({"id": "0" * 16, "person": "ann", "outcome": "a"}).encode()
        + b"\n"
        + json.dumps({"id": two, "person": "ann", "outcome": "b"}).encode()
        + b'\n{"id": "'
    )
    with caplog.at_level(logging.WARNING, "irepo"):
        collected = collect(settings(), "people", tmp_path, questions)
    assert [set(votes) for votes in collected.votes] == [{"people/ann"}, {"people/ann"}]
    assert [fault.partition(":")[0] for fault in collected.faults] == [
        f"votes.jsonl, line {number}" for number in (3, 4, 5, 8, 6)
    ]
    assert "outcome: Input should be 'a', 'b', 'tie'" in collected.faults[0]
    assert "needs a letter or a digit" in collected.faults[2]
    assert "0000000000000000" in collected.faults[4]
    assert "4 lines cannot be read: votes.jsonl, line 3" in caplog.text
    assert "1 lines are about a comparison that is not in the batch: votes.jsonl, line 6" in caplog.text


def test_a_vote_after_a_torn_line_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    (name,) = exported(tmp_path, 1).items
    (tmp_path / "votes.jsonl").write_text('{"id": "')
    append_vote(tmp_path, HumanVote(id=name, person="ann", outcome="tie"))
    arrived = read_votes(tmp_path, {name})
    assert len(arrived.faults) == 1
    assert arrived.votes[name]["ann"].outcome == "tie"


def test_many_append_at_once(tmp_path: Path) -> None:
    ids = list(exported(tmp_path, 10).items)

    def work(person: str) -> None:
        for name in ids:
            append_vote(tmp_path, HumanVote(id=name, person=person, outcome="a", note="x" * 500))

    threads = [threading.Thread(target=work, args=(f"p{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    arrived = read_votes(tmp_path, ids)
    assert sum(len(people) for people in arrived.votes.values()) == 80
    assert arrived.faults == []


def test_votes_outlive_a_new_export(tmp_path: Path) -> None:
    """Votes stay valid with more comparisons and other settings."""
    first = exported(tmp_path, 2)
    for name in first.items:
        append_vote(tmp_path, HumanVote(id=name, person="ann", outcome="a"))
    with pytest.raises(WaitingForVotes) as waiting:
        collect(settings(title="Again"), "people", tmp_path, comparisons(3))
    assert (waiting.value.have, waiting.value.need) == (2, 3)


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [("Ann", "ann"), (" Jörg  Müller ", "jörg-müller"), ("../../etc", "etc"), ("a/b", "a-b"), ("x" * 60, "x" * 40)],
)
def test_names_of_people(name: str, cleaned: str) -> None:
    assert clean_person(name) == cleaned


def test_what_cannot_be_a_setting_is_refused() -> None:
    for fields in ({"votes": 0}, {"share": 0}, {"share": 1.1}, {"sample": 0}, {"voters": 2}):
        with pytest.raises(ValidationError):
            settings(**fields)


def test_a_broken_batch_is_named_by_line(tmp_path: Path) -> None:
    batch = exported(tmp_path, 3)
    path = batch.folder / "batch.jsonl"
    path.write_text(path.read_text().replace('"id"', '"di"', 2).replace('"di"', '"id"', 1))
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_batch(batch.folder)
    assert caught.value.where.endswith("batch.jsonl:2")


def test_a_vote_carries_time_and_note(tmp_path: Path) -> None:
    questions: list[Comparison] = comparisons(1)
    (question,) = exported(tmp_path, 1).items.values()
    append_vote(tmp_path, HumanVote(id=question.id, person="ann", outcome="tie", seconds=2.5, note="both fine"))
    (votes,) = collect(settings(), "people", tmp_path, questions).votes
    vote = Vote("tie", raw="both fine", seconds=2.5)
    if question.a == questions[0].a.text:
        wanted = replace(vote, order="ab", ab="tie")  # the bias towards the first shown is measured on ab and ba
    else:
        wanted = replace(vote, order="ba", ba="tie")
    assert votes == {"people/ann": wanted}
