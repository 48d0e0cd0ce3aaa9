"""What a person sees in Prefect's UI, in a real browser: rounds, states, artifacts with their numbers, the gate."""

import json
from typing import Any
from urllib.parse import quote

from flows.operations.guard import LOGIN
from tests.flows.browser import Page, browser, needs_browser
from tests.flows.served import Served


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
        page.until_it_says("Resume Flow Run", "seen: round 1", "Action", "promote", "Note")
        page.click("Submit")
        served.await_state(run, "Completed")
        page.until_it_says("Completed")
        open_artifact(page, served, "seen-rounds", "promote")
    decision = json.loads((served.runs / "seen" / "round-01" / "gate" / "decision.json").read_text())
    assert (decision["action"], decision["by"]) == ("promote", "human")


def test_the_running_stage_shows_its_progress(served: Served) -> None:
    body = {"artifacts": {"type": {"any_": ["progress"]}}, "sort": "CREATED_DESC"}
    before = {each["id"] for each in served.post("artifacts/filter", body)}  # of the runs of other tests
    run = served.run("moving", "training.epochs=20000", rounds=1)

    def progress() -> list[float]:
        new = [each for each in served.post("artifacts/filter", body) if each["id"] not in before]
        return [float(each["data"]) for each in new if "train of round 1" in each["description"]]

    served.until(lambda: bool(progress()), 90)
    first = progress()[0]
    served.until(lambda: progress()[0] > first, 30)
    served.prefect("flow-run", "cancel", run)
    served.await_state(run, "Cancelled", seconds=60)
