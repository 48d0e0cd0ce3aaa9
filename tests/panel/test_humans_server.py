"""The server of the voting page: each person's queue, stored votes, and requests that it refuses."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.errors import UserError
from tasks.panel.humans.batch import read_batch
from tasks.panel.humans.server import VoteServer
from tasks.panel.humans.votes import read_votes
from tests.panel.people import exported, serving


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "mine" / "round-01" / "label"


@pytest.fixture
def client(stage: Path) -> Iterator[httpx.Client]:
    """A person at a server for all runs, with a batch of ten comparisons."""
    exported(stage / "humans-people", 10)
    with (
        serving(stage.parents[2]) as server,
        httpx.Client(base_url=server.address, headers={"Origin": server.address}, trust_env=False) as client,
    ):
        yield client


def work(client: httpx.Client, person: str, **words: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/api/work", params={"person": person, **words}).raise_for_status().json()
    return answer


def cast(client: httpx.Client, work: dict[str, Any], question: dict[str, Any], **vote: Any) -> httpx.Response:
    whose = {"batch": work["batch"], "person": work["person"], "id": question["id"], "order": question["order"]}
    return client.post("/api/votes", json=whose | {"choice": "a"} | vote)


def test_what_a_person_sees_tells_nothing_of_who_wrote_it(client: httpx.Client, stage: Path) -> None:
    given = work(client, "Ann")
    assert given["person"] == "ann"
    assert given["batch"] == "mine/round-01/label/humans-people"
    batch = read_batch(stage / "humans-people")
    for question in given["questions"]:
        assert set(question) == {"id", "prompt", "a", "b", "html", "order"}
        kept = batch.items[question["id"]]
        shown = (kept.a, kept.b) if question["order"] == "ab" else (kept.b, kept.a)
        assert (question["a"], question["b"]) == shown
    assert {question["order"] for question in given["questions"]} == {"ab", "ba"}


def test_a_vote_is_on_the_disk_as_what_it_was_cast_for(client: httpx.Client, stage: Path) -> None:
    given = work(client, "ann")
    for question in given["questions"]:
        progress = cast(client, given, question, seconds=1.5, note="n").json()
    assert (progress["complete"], progress["mine"], progress["left"], progress["reached"]) == (6, 6, 4, False)
    batch = read_batch(stage / "humans-people")
    arrived = read_votes(batch.folder, batch.items)
    for question in given["questions"]:
        vote = arrived.votes[question["id"]]["ann"]
        kept = batch.items[question["id"]]
        assert (kept.a if vote.outcome == "a" else kept.b) == question["a"]
        assert (vote.order, vote.seconds, vote.note) == (question["order"], 1.5, "n")
    again = work(client, "ann")
    assert len(again["questions"]) == 4
    assert not {q["id"] for q in again["questions"]} & {q["id"] for q in given["questions"]}


def test_two_people_at_once_get_different_comparisons(client: httpx.Client) -> None:
    ann, ben = work(client, "ann"), work(client, "ben")
    hers, his = ([question["id"] for question in each["questions"]] for each in (ann, ben))
    assert len(set(hers) & set(his)) == 2, "6 and 6 of 10: only what cannot be helped, and last"
    assert not set(hers) & set(his[:4])


def test_a_comparison_that_has_its_votes_is_not_offered(client: httpx.Client) -> None:
    for person in ("ann", "ben"):
        while (given := work(client, person))["questions"]:
            for question in given["questions"][:2]:
                assert cast(client, given, question, choice="skip").json()["batch"] == given["batch"]
        (progress,) = given["batches"]
    assert (progress["complete"], progress["reached"], progress["mine"]) == (10, True, 0)


def test_a_finished_stage_asks_nobody_but_keeps_what_is_still_sent(client: httpx.Client, stage: Path) -> None:
    given = work(client, "ann")
    (stage / "manifest.json").write_text("{}")
    assert work(client, "ann")["batches"] == []
    assert cast(client, given, given["questions"][0], choice="tie").status_code == 200
    assert len((stage / "humans-people" / "votes.jsonl").read_text().splitlines()) == 1


def test_files_that_are_edited_are_seen(client: httpx.Client, stage: Path) -> None:
    name = work(client, "ann")["questions"][0]["id"]
    line = json.dumps({"id": name, "person": "ann", "outcome": "tie"})
    (stage / "humans-people" / "votes-by-hand.jsonl").write_text(line)
    assert work(client, "ann")["batches"][0]["mine"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_others_pages_are_refused(client: httpx.Client, stage: Path, headers: dict[str, str], status: int) -> None:
    given = work(client, "ann")
    vote = {"batch": given["batch"], "id": given["questions"][0]["id"], "person": "ann", "choice": "a", "order": "ab"}
    headers = {"Content-Type": "application/json"} | headers
    answer = client.post("/api/votes", content=json.dumps(vote), headers=headers)
    assert answer.status_code == status
    assert not (stage / "humans-people" / "votes.jsonl").exists()
    if "Host" in headers:
        assert client.get("/api/work?person=ann", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"choice": "c"}, 400),
        ({"person": "??"}, 400),
        ({"seconds": -1}, 400),
        ({"more": 1}, 400),
        ({"note": "x" * 2001}, 400),
        ({"note": "x" * 70000}, 413),
        ({"id": "0" * 16}, 410),
        ({"batch": "../elsewhere"}, 410),
        ({"batch": "/etc"}, 410),
    ],
)
def test_votes_that_cannot_be_one_are_refused(
    client: httpx.Client, stage: Path, wrong: dict[str, Any], status: int
) -> None:
    given = work(client, "ann")
    answer = cast(client, given, given["questions"][0], **wrong)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert not (stage / "humans-people" / "votes.jsonl").exists()
    assert work(client, "ann")["batches"][0]["mine"] == 0, "the next request is heard"


def test_a_vote_that_cannot_be_written_is_not_acknowledged(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    given = work(client, "ann")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        answer = cast(client, given, given["questions"][0])
    assert answer.status_code == 503
    assert "No space left" in answer.json()["error"]
    assert cast(client, given, given["questions"][0]).status_code == 200


def test_the_page_runs_no_script_but_its_own(client: httpx.Client) -> None:
    scripts = {f"/{name}.js": "text/javascript" for name in ("page", "unsent", "views")}
    for path, kind in ({"/": "text/html", "/page.css": "text/css"} | scripts).items():
        answer = client.get(path)
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
        assert "://" not in answer.text, "nothing comes from elsewhere"
    assert client.get("/server.py").status_code == 404


def test_a_folder_that_is_not_there_and_a_port_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        VoteServer(tmp_path / "absent")
    with serving(tmp_path) as server, pytest.raises(UserError, match="cannot be served") as caught:
        VoteServer(tmp_path, server.server_port)
    assert "--port" in caught.value.remedy
