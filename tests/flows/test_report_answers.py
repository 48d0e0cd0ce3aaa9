"""The report in a browser: the answer on the first screen, samples that can be filtered and sorted, accessibility."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.evaluation.gate import Decision
from tasks.reporting.report.write import write_report
from tests.flows.axe import violations
from tests.flows.browser import Browser, Page, needs_browser
from tests.reporting.made_up_run import MadeUpRun


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two rounds; the second one waits for a person. Never write into it."""
    folder = tmp_path_factory.mktemp("answers")
    run = MadeUpRun(folder / "made", annotators=("one", "two", "three"), judges=("truth", "held-out"), priced=True)
    (run.root / "config.yaml").write_text((run.root / "config.yaml").read_text() + "gate: {kind: human}\n")
    run.evaluate(0)
    run.round(1, base=0, decision=Decision(action="promote", by="human", note="good"))
    run.round(2, base=1)
    return write_report(run.root, figures=False)


@pytest.fixture
def page(running: Browser, report: Path) -> Iterator[Page]:
    with running.tab() as tab:
        tab.listen("Runtime", "Page")
        tab.look(1280, 900)
        tab.open(report.as_uri())
        yield tab


SHOWN = """
[...document.querySelectorAll('#replies .pair')].filter(e => e.offsetParent)
  .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top).map(e => e.className)
"""
LEFT = "Math.round(Math.max(...[...document.querySelectorAll('.answer *')].map(e => e.getBoundingClientRect().bottom)))"


@needs_browser
def test_the_answer_and_the_question_are_on_the_first_screen(report: Path, page: Page) -> None:
    for width, height, phone in ((1280, 900, False), (390, 844, True)):
        page.look(width, height, phone=phone)
        page.open(report.as_uri())
        text = page.until_it_says("Better than the initial policy", "Round 2 waits for your decision")
        assert text.index("Better than") < text.index("Initial policy and now")
        assert page.evaluate(LEFT) <= height
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sheets = "[...document.querySelectorAll('table.stacked, #changes table')]"
        wide: int = page.evaluate(f"{sheets}.filter(e => e.getBoundingClientRect().width > {width}).length")
        assert wide == 0
    assert not page.evaluate("document.querySelector('#provenance details').open")


@needs_browser
def test_samples_are_filtered_sorted_and_compared_without_a_script(page: Page) -> None:
    page.evaluate("document.querySelector('#replies').scrollIntoView()")
    every = page.evaluate(SHOWN)
    assert len(every) == 6
    page.evaluate("document.querySelector('#replies .show-left').click()")
    assert page.evaluate(SHOWN) == [name for name in every if name == "pair left"] != every
    page.evaluate("document.querySelector('#replies .show-all').click()")
    page.evaluate("document.querySelector('#replies .sort').click()")
    assert page.evaluate(SHOWN)[:2] == ["pair even", "pair even"]
    shown = "getComputedStyle(document.querySelector('#replies .difference')).display"
    assert page.evaluate(shown) == "none"
    page.evaluate("document.querySelector('#replies .changed').click()")
    assert page.evaluate(shown) == "block"


@needs_browser
@pytest.mark.parametrize(("width", "phone", "dark"), [(1280, False, False), (390, True, True)])
def test_no_accessibility_rule_is_broken(report: Path, page: Page, width: int, phone: bool, dark: bool) -> None:
    page.look(width, 900, phone=phone, dark=dark)
    page.open(report.as_uri())
    assert violations(page) == []
