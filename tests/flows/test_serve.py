"""`make serve` for real: a run by `prefect deployment run`, gates, cancelling, kills, retries, nights."""

import json
import os
import signal
import time
from typing import Any

import pytest

from storage.manifest import read_manifest
from tests.flows.served import Served

LONG = ("training.epochs=20000", "training.launch=process", "training.checkpoint_steps=50")


def subflows(served: Served, run: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}, "sort": "START_TIME_ASC"}
    found: list[dict[str, Any]] = served.post("flow_runs/filter", body)
    return found


def decision(served: Served, run: str, number: int) -> str:
    folder = served.runs / run / f"round-{number:02d}" / "gate"
    return str(json.loads((folder / "decision.json").read_text())["action"])


@pytest.mark.slow
@pytest.mark.vllm
def test_a_deployment_run_goes_round_with_vllm(served: Served) -> None:
    run = served.run("by-deployment", "engine=vllm-small", rounds=1)
    served.await_state(run, "Completed", seconds=240)
    assert [each["name"] for each in subflows(served, run)] == ["by-deployment: round 1"]
    assert (served.runs / "by-deployment" / "round-01" / "train" / "policy" / "model.safetensors").is_file()
    assert (served.runs / "by-deployment" / "policy").resolve().parent.parent.name == "round-01"
    served.until(lambda: not served.workers(), 10)


def test_nights_are_scheduled(served: Served) -> None:
    found: list[dict[str, Any]] = []

    def nights() -> list[dict[str, Any]]:
        found[:] = served.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        return found

    served.until(lambda: bool(nights()), 30)  # the scheduler makes them soon after the deployment
    assert all(night["expected_start_time"].endswith("02:00:00Z") for night in found)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"rounds": 1000}, "greater than the maximum of 100"),
        ({"rounds": "many"}, "is not valid under any of the given schemas"),
        ({"preset": "demmo"}, "is not one of"),
        ({"name": "../elsewhere"}, "does not match"),
        ({"gate": "robot"}, "is not one of"),
        ({"overrides": ["rouds=3"]}, "'rouds=3' does not match"),
        ({"overrides": ["rounds"]}, "'rounds' does not match"),
        ({"overrides": ["training.launcher=sh"]}, "'training.launcher=sh' does not match"),
        ({"overrides": ["license=${oc.env:HOME}"]}, "does not match"),
    ],
)
def test_bad_parameters_are_refused_when_a_run_is_created(
    served: Served, parameters: dict[str, Any], said: str
) -> None:
    deployment = served.ask("GET", "deployments/name/irepo/iterate")["id"]
    answer = served.request("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})
    assert answer.status_code in (409, 422), answer.text
    assert said in answer.text


def test_a_human_gate_suspends_and_resumes_in_a_fresh_process(served: Served) -> None:
    run = served.run("gated", rounds=3, gate="human")
    served.await_state(run, "Suspended")
    served.until(lambda: not served.workers(), 20)
    refused = served.post(f"flow_runs/{run}/resume", {"run_input": {"action": "banana"}})
    assert refused["status"] == "REJECT"
    assert "not one of ['promote', 'roll back', 'stop']" in refused["details"]["reason"]
    assert served.state(run)["name"] == "Suspended"

    first = (served.runs / "gated" / "round-01" / "train" / "manifest.json").stat().st_mtime_ns
    served.post(f"flow_runs/{run}/resume", {"run_input": {"action": "roll back", "note": "too long"}})
    served.until(lambda: len(subflows(served, run)) == 2, 60)
    served.await_state(run, "Suspended")
    assert decision(served, "gated", 1) == "roll back"
    assert (served.runs / "gated" / "round-01" / "train" / "manifest.json").stat().st_mtime_ns == first
    assert not (served.runs / "gated" / "policy").exists()
    inputs = [read_manifest(served.runs / "gated" / f"round-0{n}" / "train").inputs["policy"] for n in (1, 2)]
    assert inputs[0] == inputs[1], "round 2 starts where round 1 did"

    served.post(f"flow_runs/{run}/resume", {"run_input": {"action": "stop"}})
    served.await_state(run, "Completed")
    rounds = json.loads((served.runs / "gated" / "rounds.json").read_text())
    assert [(each["round"], each["base"], each["decision"]) for each in rounds] == [
        (0, 0, "promote"), (1, 0, "roll back"), (2, 0, "stop"),
    ]  # fmt: skip
    assert (served.runs / "gated" / "policy").resolve().parent.parent.name == "round-02"
    assert [each["name"] for each in subflows(served, run)] == ["gated: round 1", "gated: round 2"]
    served.until(lambda: not served.workers(), 10)


@pytest.mark.slow
def test_a_cancelled_run_leaves_no_process(served: Served) -> None:
    run = served.run("cancelled", *LONG, rounds=1)
    served.until(lambda: bool(served.processes("tasks.training.launch")), 90)
    served.prefect("flow-run", "cancel", run)
    served.await_state(run, "Cancelled", seconds=60)
    served.until(lambda: not served.workers(), 10)


@pytest.mark.slow
def test_a_killed_run_is_crashed_and_goes_on_where_it_was_when_retried(served: Served) -> None:
    run = served.run("killed", "training.launch=process", rounds=2)
    folder = served.runs / "killed"
    served.until(lambda: (folder / "round-02" / "generate" / "spec.yaml").exists(), 120)
    (flow,) = served.processes("prefect.engine")
    os.kill(flow, signal.SIGKILL)
    served.await_state(run, "Crashed", seconds=60)
    served.until(lambda: not served.workers(), 10)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "round-01").rglob("manifest.json")}
    weights = folder / "round-01" / "train" / "policy" / "model.safetensors"
    assert len(kept) == 8
    weights.write_bytes(weights.read_bytes()[:-1])
    with served.free_device():
        served.prefect("flow-run", "retry", run)
        served.await_state(run, "Running")
        served.await_state(run, "Completed")
    changed = {path.parent.name for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert changed == {"train"}, "the stage whose file was cut, and no other"
    for manifest in folder.rglob("manifest.json"):
        read_manifest(manifest.parent)
    assert served.count(run) == 2


@pytest.mark.slow
def test_a_run_waits_for_a_server_that_is_started_again(served: Served) -> None:
    run = served.run("waiting", "training.epochs=60", rounds=2)
    served.until(lambda: (served.runs / "waiting" / "round-01" / "train" / "spec.yaml").exists(), 120)
    for pid in served.processes("flows.operations.prefect_server"):
        os.kill(pid, signal.SIGKILL)
    served.until(lambda: "Prefect's server does not answer; restarting it" in served.log.read_text(), 30)
    served.until(served.healthy, 60)
    served.await_state(run, "Completed", seconds=180)


@pytest.mark.slow
def test_each_night_adds_one_round_to_the_last_promoted_policy(served: Served) -> None:
    for rounds in (1, 2):
        run = served.run("nights", deployment="irepo/nightly", more_rounds=1)
        served.await_state(run, "Completed")
        found = json.loads((served.runs / "nights" / "rounds.json").read_text())
        assert [(each["round"], each["base"]) for each in found[1:]] == [(n, n - 1) for n in range(1, rounds + 1)]
    wanted = json.loads((served.runs / "nights" / "wanted.json").read_text())
    assert sorted(wanted.values()) == [1, 2]
    # Retried after it was done, a night adds nothing.
    served.prefect("flow-run", "retry", run)
    served.until(lambda: served.state(run)["type"] == "SCHEDULED" or served.count(run) == 2, 30)
    served.until(lambda: served.count(run) == 2, 60)
    served.await_state(run, "Completed")
    assert not (served.runs / "nights" / "round-03").exists()


@pytest.mark.slow
def test_a_dead_holder_loses_the_device_within_its_lease(served: Served) -> None:
    run = served.run("holder", *LONG, rounds=1)
    served.until(lambda: bool(served.processes("tasks.training.launch")), 90)
    (flow,) = served.processes("prefect.engine")
    os.kill(flow, signal.SIGKILL)
    killed = time.monotonic()
    served.await_state(run, "Crashed", seconds=60)
    waiting = served.run("waiter", rounds=1)
    served.await_state(waiting, "Running")
    assert not (served.runs / "waiter" / "prompts").exists()
    served.await_state(waiting, "Completed")
    started = (served.runs / "waiter" / "prompts" / "manifest.json").stat().st_mtime
    assert time.time() - started < time.monotonic() - killed < 120


@pytest.mark.slow
def test_without_runner_and_flow_a_run_is_crashed_within_two_minutes_and_can_be_retried(served: Served) -> None:
    run = served.run("zombie", "training.epochs=3000", "training.launch=process", rounds=1)
    served.until(lambda: bool(served.processes("tasks.training.launch")), 90)
    (flow,) = served.processes("prefect.engine")
    assert served.runner is not None
    for pid in (served.runner.pid, flow):
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    served.runner.wait()
    served.until(lambda: not served.workers(), 10)
    served.await_state(run, "Crashed", seconds=120)
    assert "No sign of life" in served.state(run)["message"]
    assert time.monotonic() - killed < 120
    served.start()  # finds the server that outlived its runner
    served.prefect("flow-run", "retry", run)
    served.until(lambda: served.count(run) == 2, 60)
    served.await_state(run, "Completed", seconds=300)


@pytest.mark.slow
def test_a_healthy_long_run_is_never_declared_dead(served: Served) -> None:
    run = served.run("healthy", "training.epochs=100000", rounds=1)
    served.until(lambda: (served.runs / "healthy" / "round-01" / "train" / "spec.yaml").exists(), 120)
    until = time.monotonic() + 200  # twice the silence after which a run is declared dead
    while time.monotonic() < until:
        assert served.state(run)["name"] == "Running"
        time.sleep(5)
    served.prefect("flow-run", "cancel", run)
    served.await_state(run, "Cancelled", seconds=60)


@pytest.mark.slow
def test_a_killed_runner_takes_its_runs_with_it(served: Served) -> None:
    served.run("orphan", *LONG, rounds=1)
    served.until(lambda: bool(served.processes("tasks.training.launch")), 90)
    assert served.runner is not None
    served.runner.kill()
    served.runner.wait()
    served.until(lambda: not served.workers(), 10)
    served.start()
