"""What a person sees in Prefect's UI, in a real browser: rounds, states, artifacts with their numbers, the gate."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

from flows.operations.api import healthy
from flows.operations.guard import LOGIN
from flows.operations.prefect_server import launch
from flows.operations.secret import new_secret
from flows.operations.temporary_server import free_port
from tasks.processes import end_group
from tests.flows.another_origin import another_origin
from tests.flows.browser import Page, browser, needs_browser
from tests.flows.served import Served
from tests.waiting import wait_until


def artifact(served: Served, key: str) -> dict[str, Any]:
    """The newest version of an artifact."""
    found = served.post("artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})
    assert found, f"there is no artifact {key}"
    newest: dict[str, Any] = found[0]
    return newest


def log_in(page: Page, served: Served) -> None:
    """Open the link that `make serve` prints."""
    page.open(f"{served.api.removesuffix('/api')}{LOGIN}#{quote(served.secret, safe='')}")
    page.until_it_says("Flow Runs")


def open_artifact(page: Page, served: Served, key: str, *words: str) -> None:
    page.open(f"{served.api.removesuffix('/api')}/artifacts/artifact/{artifact(served, key)['id']}")
    page.until_it_says(key, *words)


@pytest.mark.slow
@needs_browser
def test_a_run_is_watched_and_its_gate_opened_in_the_browser(served: Served) -> None:
    run = served.run("seen", rounds=1, gate="human")
    served.await_state(run, "Suspended")
    with browser() as page:
        log_in(page, served)
        page.open(f"{served.api.removesuffix('/api')}/runs/flow-run/{run}")
        page.until_it_says("Suspended")
        page.click("Subflow Runs")
        page.until_it_says("seen: round 1", "Completed")
        page.click("Artifacts")
        page.until_it_says("seen-rounds", "seen-folder", "TABLE")

        figures = json.loads((served.runs / "seen" / "rounds.json").read_text())[-1]["figures"]
        open_artifact(page, served, "seen-rounds", "initial", "round 1", "waits", f"{figures['kl']['mean']:.2f}")
        words = ("Held-out samples, not hand-picked", "before the round", "annotator", f"{figures['tokens']:.1f}")
        open_artifact(page, served, "seen-round-1", *words)

        page.open(f"{served.api.removesuffix('/api')}/runs/flow-run/{run}")
        page.click("Resume")
        page.until_it_says("Resume Flow Run", "Shall the policy of round 1 be promoted?", "roll back: the next round")
        assert served.ask("GET", f"flow_runs/{run}")["name"] == "seen: waits for a decision on round 1"
        served.post(f"flow_runs/{run}/resume", {"run_input": {"action": "promote"}})
        served.await_state(run, "Completed")
        page.until_it_says("Completed")
        assert served.ask("GET", f"flow_runs/{run}")["name"] == "seen"
        open_artifact(page, served, "seen-rounds", "promote")
    decision = json.loads((served.runs / "seen" / "round-01" / "gate" / "decision.json").read_text())
    assert (decision["action"], decision["by"]) == ("promote", "human")


#: What a page of another origin tries on a server; the answer is what it could read, or that it could not.
ATTACK = """(async () => {
  const api = %s, found = {};
  const read = async (name, path, options) => {
    try { found[name] = (await fetch(api + path, options)).status; } catch (error) { found[name] = "refused"; }
  };
  await read("health", "/health");
  await read("version", "/admin/version", {headers: {Authorization: "Basic eDp5"}});
  await read("token", "/csrf-token?client=2f0f4a9e-64a8-4b5c-9d6f-0d1a6c6f7a10");
  await read("json", "/flow_runs/filter", {method: "POST", headers: {"content-type": "application/json"}, body: "{}"});
  await read("form", %s, {method: "POST", mode: "no-cors", body: "{}"});
  found.socket = await new Promise(resolve => {
    const socket = new WebSocket(api.replace("http", "ws") + "/events/out", "prefect");
    socket.onopen = () => resolve("open"); socket.onerror = () => resolve("refused");
  });
  const frame = document.createElement("iframe");
  frame.src = api.replace("/api", "/");
  document.body.append(frame);
  found.script = await new Promise(resolve => {
    const script = document.createElement("script");
    script.src = api + "/health"; script.onload = () => resolve("loaded"); script.onerror = () => resolve("refused");
    document.body.append(script);
  });
  window.found = found;
})()"""


@contextmanager
def temporary_api() -> Iterator[str]:
    """A temporary server, as a run from the command line has it."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = launch(port, new_secret(), log, temporary=True)
        api = f"http://127.0.0.1:{port}/api"
        try:
            wait_until(lambda: healthy(api), 60)
            yield api
        finally:
            end_group(process)


@needs_browser
def test_a_page_of_another_origin_reads_and_changes_nothing(served: Served) -> None:
    deployment = served.ask("GET", "deployments/name/irepo/iterate")["id"]
    of_it = {"deployments": {"id": {"any_": [deployment]}}}  # the scheduler makes runs of the nightly one
    runs = served.post("flow_runs/count", of_it)
    with another_origin() as address, temporary_api() as temporary, browser() as page:
        for api in (served.api, temporary):
            page.open(address)
            page.until_it_says("another page")
            page.evaluate(ATTACK % (json.dumps(api), json.dumps(f"/deployments/{deployment}/create_flow_run")))
            wait_until(lambda: page.evaluate("window.found"), 30)
            found = page.evaluate("window.found")
            form = found.pop("form")  # sent without asking, to be refused; the page cannot see either
            assert form in (0, "refused")
            assert set(found.values()) == {"refused"}, found
    assert served.post("flow_runs/count", of_it) == runs


@pytest.mark.slow
def test_the_running_stage_shows_its_progress(served: Served) -> None:
    body = {"artifacts": {"type": {"any_": ["progress"]}}, "sort": "CREATED_DESC"}
    before = {each["id"] for each in served.post("artifacts/filter", body)}  # of the runs of other tests
    run = served.run("moving", "training.epochs=20000", rounds=1)

    def progress() -> list[float]:
        new = [each for each in served.post("artifacts/filter", body) if each["id"] not in before]
        assert {each["key"] for each in new} <= {"moving-progress"}
        # Not that of the reference's log-probabilities, which is over before the first step.
        steps = [each for each in new if re.search("train of round 1: .* steps", each["description"])]
        return [float(each["data"]) for each in steps]

    served.until(lambda: bool(progress()), 90)
    first = progress()[0]
    served.until(lambda: progress()[0] > first, 30)
    served.prefect("flow-run", "cancel", run)
    served.await_state(run, "Cancelled", seconds=60)
