"""Somebody who is sent a report: one file, opened from a folder of downloads, on a desk or a phone."""

import shutil
from pathlib import Path

import pytest

from tasks.evaluation.gate import Decision
from tasks.reporting.report.write import write_report
from tests.flows.axe import violations
from tests.flows.browser import browser, needs_browser
from tests.reporting.made_up_run import HOSTILE, MadeUpRun

pytestmark = pytest.mark.slow


@needs_browser
@pytest.mark.parametrize(("width", "height", "phone", "dark"), [(1280, 900, False, False), (390, 844, True, True)])
def test_the_file_alone_answers_first(tmp_path: Path, width: int, height: int, phone: bool, dark: bool) -> None:
    run = MadeUpRun(tmp_path / "made", text=HOSTILE + " word" * 40)
    run.evaluate(0)
    run.round(1, base=0, decision=Decision(action="promote", by="human"))
    alone = tmp_path / "downloads" / "report.html"
    alone.parent.mkdir()
    shutil.copy(write_report(run.root), alone)
    shutil.rmtree(run.root)

    with browser() as page:
        page.listen("Network", "Runtime", "Log")
        page.look(width, height, phone=phone, dark=dark)
        page.open(alone.as_uri())
        first_screen = page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => !e.children.length"
            " && e.getBoundingClientRect().top < innerHeight).map(e => e.textContent).join(' ')"
        )
        assert "initial policy" in first_screen
        assert "%" in first_screen, "how often it is better, before anything is scrolled"
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # less where a scroll bar takes its place
        assert violations(page) == []
        assert page.evaluate("document.title") == "made: report of the run", "nothing that a model wrote runs"
        asked = {event["params"]["request"]["url"] for event in page.events
                 if event["method"] == "Network.requestWillBeSent"}  # fmt: skip
        assert {url for url in asked if not url.startswith("data:")} == {alone.as_uri()}
