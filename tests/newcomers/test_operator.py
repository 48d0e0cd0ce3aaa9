"""An operator of Prefect's UI: logs in, fills in the form, watches a run, reads its report, decides at the gate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.browser import browser, needs_browser
from tests.flows.served import Served
from tests.flows.test_ui import log_in

pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path: Path, tiny_policy: Path) -> Iterator[Served]:
    service = Served(tmp_path, tiny_policy)
    service.environment["IREPO_RUN_FILES"] = str(service.runs)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def flow_run(served: Served, run: str) -> dict[str, Any]:
    found: dict[str, Any] = served.ask("GET", f"flow_runs/{run}")
    return found


@needs_browser
def test_from_the_form_to_a_decision(served: Served) -> None:
    ui = served.api.removesuffix("/api")
    deployment = served.ask("GET", "deployments/name/irepo/iterate")["id"]
    with browser() as page:
        log_in(page, served)
        page.open(f"{ui}/deployments/deployment/{deployment}/run")
        page.until_it_says(
            "who votes on the responses", "who decides whether a round helped", "what training minimizes"
        )
        wrong = {"parameters": {"panel": "nobody"}}
        refused = served.request("POST", f"deployments/{deployment}/create_flow_run", wrong)
        assert refused.status_code in (409, 422)

        run = served.run("mine", rounds=1, gate="human")
        served.await_state(run, "Suspended")
        waiting = flow_run(served, run)
        assert waiting["name"] == "mine: waits for a decision on round 1"
        assert {"irepo", "objective: irepo", "gate: human", "waits"} <= set(waiting["tags"])
        page.open(f"{ui}/runs/flow-run/{run}")
        page.until_it_says("mine: waits for a decision on round 1", "Suspended")
        page.click("Resume")
        asked = page.until_it_says("Shall the policy of round 1 be promoted?", "roll back: the next round starts")
        assert asked.index("Shall the policy") < asked.index("Held-out samples"), "the question comes first"

        # The report and the folder open in the browser that is logged in, and in no other.
        links = served.post("artifacts/filter", {"artifacts": {"key": {"any_": ["mine-report", "mine-folder"]}}})
        assert all(f"{ui}/run-files/mine/" in link["data"] for link in links)
        page.open(f"{ui}/run-files/mine/")
        page.until_it_says("report.html", "round-01/")
        page.open(f"{ui}/run-files/mine/report.html")
        page.until_it_says("Provenance")
        with browser() as stranger:
            stranger.open(f"{ui}/run-files/mine/report.html")
            stranger.until_it_says("Log in to Prefect's UI first")

    empty = served.post(f"flow_runs/{run}/resume", {"run_input": {}})
    assert empty["status"] == "REJECT", "nothing is decided by default"
    served.post(f"flow_runs/{run}/resume", {"run_input": {"action": "promote", "note": "better"}})
    served.await_state(run, "Completed")
    assert flow_run(served, run)["name"] == "mine"
    assert "waits" not in flow_run(served, run)["tags"]

    # What had been done before the gate is neither drawn nor published twice.
    drawn = served.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert len({task["name"] for task in drawn}) == len(drawn)
    lines = served.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    assert any("finished after" in line["message"] for line in lines)
    assert "Traceback" not in served.log.read_text()
