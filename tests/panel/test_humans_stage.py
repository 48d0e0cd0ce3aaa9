"""People on the panel of a label stage: it waits, keeps the other votes, and collects those of people."""

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.errors import UserError
from storage.schemas import VOTES
from tasks.labeling.stage import run
from tasks.panel.annotators.registry import open_annotators
from tasks.panel.humans.batch import Batch, read_batch
from tasks.panel.humans.collect import WaitingForVotes
from tests.commands import run_module
from tests.panel.conftest import World
from tests.panel.people import settings, write

LENGTH = {"kind": "function", "function": "voters:length"}
CHECK = {"kind": "verifier", "method": "contains"}
TEXTS = {"p": ["aaa", "bb", "c"], "q": ["dd", "ee", "f"]}


def votes_of(batch: Batch, **outcomes: str) -> list[dict[str, str]]:
    """Every person in `outcomes` gives that outcome for every comparison."""
    return [
        {"id": name, "person": person, "outcome": outcome}
        for person, outcome in outcomes.items()
        for name in batch.items
    ]


def test_the_stage_waits_and_then_publishes_equal_bytes_whatever_came_first(world: World) -> None:
    spec = world.spec(TEXTS, {"length": LENGTH, "people": {"kind": "human", "votes": 2}, "check": CHECK})
    with pytest.raises(WaitingForVotes) as waiting:
        run(spec)
    folder = spec.folder / "humans-people"
    assert (waiting.value.folder, waiting.value.have, waiting.value.need) == (folder, 0, 6)
    assert not (spec.folder / "manifest.json").exists()
    parts = {path: path.stat().st_ino for path in spec.folder.glob("part-panel-*.parquet")}
    assert len(parts) == 2
    batch = read_batch(folder)
    votes = votes_of(batch, ann="a", ben="tie")
    write(folder / "votes.jsonl", *votes[:-1])
    with pytest.raises(WaitingForVotes) as waiting:
        run(spec)
    assert waiting.value.have == 5
    assert {path: path.stat().st_ino for path in parts} == parts, "the others are not asked again"

    published = []
    for seed in range(3):
        write(folder / "votes.jsonl", *random.Random(seed).sample(votes, len(votes)))
        (spec.folder / "manifest.json").unlink(missing_ok=True)
        manifest = run(spec)
        published.append([(spec.folder / f"{name}.parquet").read_bytes() for name in ("votes", "preferences")])
    assert published[0] == published[1] == published[2]
    assert not list(spec.folder.glob("part-*"))
    assert manifest.summary["votes"]["people/ben"] == {"tie": 6}
    assert sum(manifest.summary["votes"]["people/ann"].values()) == 6
    (ann,) = [row for row in manifest.summary["annotators"] if row["annotator"] == "people/ann"]
    assert ann["agrees_with_panel"] is not None
    assert ann["first_share"] is not None
    table = pq.read_table(spec.folder / "votes.parquet")
    assert table.schema.equals(VOTES)
    texts = {(prompt, i): text for prompt, responses in TEXTS.items() for i, text in enumerate(responses)}
    for row in (row for row in table.to_pylist() if row["annotator"] == "people/ann"):
        pair = {side: texts[row["prompt_id"], row[f"index_{side}"]] for side in "ab"}
        question = next(q for q in batch.items.values() if {q.a, q.b} == set(pair.values()))
        assert pair[row["outcome"]] == question.a
        assert row["kind"] == "pairs"

    # What comes later changes nothing that is done.
    write(folder / "votes.jsonl", *votes, {"id": next(iter(batch.items)), "person": "late", "outcome": "b"})
    assert run(spec).content == manifest.content


def test_people_alone_are_a_panel(world: World) -> None:
    spec = world.spec(TEXTS, {"people": {"kind": "human", "sample": 2}})
    with pytest.raises(WaitingForVotes):
        run(spec)
    batch = read_batch(spec.folder / "humans-people")
    assert len(batch.items) == 2
    write(spec.folder / "humans-people" / "votes.jsonl", *votes_of(batch, ann="b"))
    manifest = run(spec)
    assert manifest.rows["votes"] == manifest.rows["preferences"] == 2
    assert manifest.summary["dropped"] == {"quorum": 4}


def test_the_command_says_how_to_vote(world: World, tmp_path: Path) -> None:
    spec = world.spec(TEXTS, {"people": {"kind": "human"}})
    spec.save(tmp_path / "spec.yaml")
    done = run_module("tasks.run", tmp_path / "spec.yaml")
    assert done.code == 3, done.err
    assert "waiting for people: 0 of 6 comparisons have their votes" in done.err
    assert f"python -m tasks.panel.humans {spec.folder / 'humans-people'}" in done.err


def test_people_are_no_judges() -> None:
    with pytest.raises(UserError, match="people"):
        open_annotators({"people": settings()}, 0)
