"""A run with people on its panel: it suspends, their votes resume it; without a server it ends and is started again."""

import json

import httpx
import pyarrow.parquet as pq
import pytest

from conf.compose import compose_config
from storage.errors import UserError
from tasks.panel.humans.batch import read_batch
from tests.flows.served import Served
from tests.flows.vote_page import vote_page
from tests.waiting import limit

PEOPLE = "+panel.annotators.people={kind: human, sample: 4}"


def vote_on_all(address: str, person: str) -> int:
    """Vote for what is shown as A until nothing is left; returns how often."""
    cast = 0
    with httpx.Client(base_url=address, headers={"Origin": address}, trust_env=False, timeout=limit(10)) as client:
        while questions := (work := client.get("/api/work", params={"person": person}).json())["questions"]:
            one = questions[0]
            vote = {"batch": work["batch"], "id": one["id"], "order": one["order"], "person": person, "choice": "a"}
            client.post("/api/votes", json=vote).raise_for_status()
            cast += 1
    return cast


@pytest.mark.slow
def test_a_served_run_is_suspended_until_people_have_voted(served: Served) -> None:
    run = served.run("voted", PEOPLE, rounds=1)
    served.await_state(run, "Suspended")
    served.until(lambda: not served.workers(), 20)
    folder = served.runs / "voted"
    stage = folder / "round-01" / "label"
    (round_one,) = served.post("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})
    assert round_one["state"]["name"] == "Waiting"
    assert "0 of 4 comparisons have their votes" in round_one["state"]["message"]
    tasks = served.post("task_runs/filter", {"flow_runs": {"id": {"any_": [round_one["id"]]}}})
    assert {task["name"]: task["state"]["name"] for task in tasks} == {"generate": "Completed", "label": "Waiting"}
    told = served.post("artifacts/filter", {"artifacts": {"key": {"any_": ["voted-votes"]}}})
    assert f"python -m flows.vote {folder}" in told[0]["data"]
    others = {path: path.stat().st_ino for path in stage.glob("part-panel-*.parquet")}
    assert len(others) == 3

    served.post(f"flow_runs/{run}/resume", {})  # too early
    served.until(lambda: served.count(round_one["id"]) == 2, 60)  # the round's own run is gone on with
    served.await_state(run, "Suspended")
    assert {path: path.stat().st_ino for path in others} == others, "what the others said is kept"

    with vote_page(folder, served.environment) as address:
        assert vote_on_all(address, "ann") == 4
        served.await_state(run, "Completed")  # nobody pressed Resume
    votes = pq.read_table(stage / "votes.parquet").to_pylist()
    assert sum(row["annotator"] == "people/ann" for row in votes) == 4
    record = json.loads((folder / "rounds.json").read_text())[-1]
    assert sum(record["labels"]["votes"]["people/ann"].values()) == 4
    assert not (folder / "waiting.json").exists()


@pytest.mark.slow
def test_a_run_that_nobody_can_resume_ends_and_goes_on_with_its_command(served: Served) -> None:
    words = ("name=by-hand", "rounds=1", PEOPLE)
    stopped = served.by_hand(*words)
    assert stopped.returncode == 3, stopped.stdout + stopped.stderr
    folder = served.runs / "by-hand" / "round-01" / "label" / "humans-people"
    said = stopped.stdout.replace("\n", " ")
    assert "waiting for people: 0 of 4 comparisons have their votes" in said
    assert f"python -m tasks.panel.humans {folder}" in said
    assert "Traceback" not in stopped.stderr
    lines = [json.dumps({"id": name, "person": "ann", "outcome": "tie"}) for name in read_batch(folder).items]
    (folder / "votes.jsonl").write_text("\n".join(lines))  # by hand, in an editor
    done = served.by_hand(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((served.runs / "by-hand" / "rounds.json").read_text())[-1]
    assert record["labels"]["votes"]["people/ann"] == {"tie": 4}


@pytest.mark.parametrize("group", ["judges", "rates"])
def test_people_are_refused_as_judges(group: str) -> None:
    with pytest.raises(UserError, match="people is a group of people, who vote on the panel only"):
        compose_config(["run=demo", f"+evaluation.{group}.people={{kind: human}}"])
