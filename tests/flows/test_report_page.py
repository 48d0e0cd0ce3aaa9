"""The run's report in a real browser, on a desk and on a phone; and that no round fails by it."""

import base64
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from conf.compose import compose_config
from flows.gate import ends, settle
from flows.plan import Plan
from flows.show.artifacts import draw_figures, publish_rounds
from storage.artifact import Artifact
from tasks.evaluation.gate import Action, Decision, Reason
from tasks.evaluation.record import RoundRecord
from tasks.reporting.report.write import write_report
from tests.flows.browser import Browser, Page, needs_browser
from tests.reporting.made_up_run import HOSTILE, MadeUpRun, interval
from tests.reporting.records import round_record
from tests.waiting import wait_until

CHOSEN = Reason(rule="near", holds=False, says="KL 9; at most 3", broken="roll back")
FIGURES = (
    "win-rate-initial", "win-rate-previous", "kl", "win-rate-over-kl", "categories", "rate-1", "rate-2", "length",
    "gap", "displacement", "calibration", "reply-tokens", "reply-finished", "reply-unique", "reply-distinct-1",
    "reply-distinct-2", "votes", "leanings", "agreement", "p-hat", "target", "training-loss", "training-margin",
    "training-ratios", "training-accuracy", "time", "money",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three rounds, the second one rolled back, by models that write HTML. Never write into it."""
    run = MadeUpRun(
        tmp_path_factory.mktemp("page") / "made", annotators=[f"annotator-{i}" for i in range(6)],
        judges=("truth", "held-out"), priced=True,
        text=HOSTILE + " word" * 90,
    )  # fmt: skip
    run.evaluate(0)
    run.round(1, base=0, decision=Decision(action="promote", by="human", note=HOSTILE))
    run.round(2, base=1, decision=Decision(action="roll back", by="policy", reasons=(CHOSEN,)))
    run.round(3, base=1)
    return write_report(run.root, figures=False)


def opened(page: Page, report: Path, width: int, **look: bool) -> None:
    page.listen("Runtime", "Log", "Network", "Page", "Security")
    page.look(width, 900, **look)
    page.open(report.as_uri())
    page.until_it_says("Rounds at a glance", "Provenance")


DRAWN = """
[...document.querySelectorAll('figure')].map(figure => {
  const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect()
  const unit = box.width / svg.viewBox.baseVal.width
  const texts = [...svg.querySelectorAll('text')]
  return {name: figure.id.slice(7), left: box.left, right: box.right, height: box.height,
          marks: svg.querySelectorAll('path, rect').length, title: svg.querySelector('title').textContent,
          least: Math.min(...texts.map(text => parseFloat(getComputedStyle(text).fontSize))) * unit,
          outside: texts.filter(text => { const b = text.getBoundingClientRect()
            return b.left < box.left - 1 || b.right > box.right + 1 || b.bottom > box.bottom + 1 })
            .map(text => text.textContent)}
})
"""


@needs_browser
@pytest.mark.parametrize(("width", "phone", "dark"), [(1280, False, False), (390, True, True), (320, True, False)])
def test_every_figure_is_drawn_within_the_page_and_nothing_is_fetched(
    running: Browser, report: Path, tmp_path: Path, width: int, phone: bool, dark: bool
) -> None:
    with running.tab() as page:
        opened(page, report, width, phone=phone, dark=dark)
        drawn: list[dict[str, Any]] = page.evaluate(DRAWN)
        assert [figure["name"] for figure in drawn] == list(FIGURES)
        for figure in drawn:
            assert figure["left"] >= 0, figure
            assert figure["right"] <= width, figure
            assert figure["height"] > 60, figure
            assert figure["marks"] > 3, figure
            assert figure["title"], figure
            assert not figure["outside"], figure
            assert figure["least"] >= 8.5, figure  # pixels
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # only tables scroll sideways
        assert page.evaluate("document.title") == "made: report of the run"
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 244, 240)"
        assert light != dark
        time.sleep(0.3)  # whatever the page might still ask for
        page.text()
        methods = {event["method"] for event in page.events}
        assert not methods & {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}, page.events
        requested = {e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"}
        assert requested == {report.as_uri()}
        page.screenshot(tmp_path / "page.png")


#: Fonts that readers may have: bold and wide, letters far apart, of equal widths, of 1.6 times the size.
FONTS = (
    ".chart text {font-family: 'DejaVu Sans' !important; font-weight: bold !important}",
    ".chart text {letter-spacing: 0.4em !important}",
    ".chart text {font-family: monospace !important}",
    "@font-face {font-family: Giant; src: local('DejaVu Sans'), local('Liberation Sans'); size-adjust: 160%}"
    " .chart text {font-family: Giant !important}",
)
#: Of a copy of a label that is not fitted to a length: what the font itself makes of it.
NATURAL_WIDTH = """
(() => { const copy = document.querySelector('#figure-gap text.unit').cloneNode(true)
  copy.removeAttribute('textLength')
  document.querySelector('#figure-gap svg').append(copy)
  const width = copy.getComputedTextLength()
  copy.remove()
  return width })()
"""


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_figures_hold_with_any_font(running: Browser, report: Path, width: int) -> None:
    with running.tab() as page:
        opened(page, report, width)
        usual = page.evaluate(NATURAL_WIDTH)
        for style in FONTS:
            element = json.dumps(f"<style id=font>{style}</style>")
            page.evaluate(f"document.head.insertAdjacentHTML('beforeend', {element})")
            wait_until(lambda: page.evaluate(NATURAL_WIDTH) > 1.02 * usual, 10, lambda: "the font is not used")
            drawn = page.evaluate(DRAWN)
            assert {figure["name"]: figure["outside"] for figure in drawn if figure["outside"]} == {}, style
            page.evaluate("document.getElementById('font').remove()")


@needs_browser
def test_it_prints_on_white(running: Browser, report: Path, tmp_path: Path) -> None:
    with running.tab() as page:
        opened(page, report, 1280, dark=True)
        page._call("Emulation.setEmulatedMedia", media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        printed = base64.b64decode(page._call("Page.printToPDF", printBackground=True)["data"])
        assert printed.startswith(b"%PDF")
        (tmp_path / "report.pdf").write_bytes(printed)


def plan_of(run: MadeUpRun, *words: str) -> Plan:
    given = ["run=demo", f"runs={run.root.parent}", f"name={run.root.name}", *words]
    return Plan(compose_config(given), Artifact(path=run.root / "initial", digest="initial"))


def record(number: int, base: int, figures: dict[str, Any], decision: Action | None = None) -> RoundRecord:
    return round_record(number, base=base, decision=decision, **figures)


def test_a_report_that_cannot_be_written_is_a_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    links: list[str] = []
    monkeypatch.setattr("flows.show.artifacts.create_table_artifact", lambda *_: None)
    monkeypatch.setattr("flows.show.artifacts.create_link_artifact", lambda link, *_: links.append(link))
    run = MadeUpRun(tmp_path / "made")
    rounds = [record(0, 0, run.evaluate(0), "promote")]
    publish_rounds(plan_of(run), rounds)
    assert links == [(run.root / "report.html").resolve().as_uri()]
    assert not (run.root / "figures").exists()  # which are drawn when the run ends
    draw_figures(plan_of(run))
    assert list((run.root / "figures").glob("*.svg"))
    run.round(1, base=0)
    (run.root / "round-01" / "label" / "preferences.parquet").write_bytes(b"cut")
    with caplog.at_level(logging.WARNING):
        publish_rounds(plan_of(run), rounds)
    assert "the report was not written" in caplog.text
    assert "preferences.parquet" in caplog.text
    assert len(links) == 1


def test_rules_decide_from_the_files_of_the_run_and_their_decision_stands(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "made", judges=("truth", "held-out"))
    plan = plan_of(run, "gate=policy", "gate.patience=2", "gate.rules.near.most=3")
    run.evaluate(0)
    for number in (1, 2, 3):
        run.train(number)

    first = run.evaluate(1, win_rate={"initial": {judge: interval(0.7) for judge in ("truth", "held-out")}})
    assert settle(plan, record(1, 0, first)) == "promote"
    assert not ends(plan, record(1, 0, first))
    even = {"previous": {"truth": interval(0.6), "held-out": interval(0.5)}}
    second = run.evaluate(2, base=1, win_rate=even)
    assert settle(plan, record(2, 1, second)) == "roll back"
    assert not ends(plan, record(2, 1, second))
    assert settle(plan_of(run), record(2, 1, second)) == "roll back"  # another gate does not decide anew
    third = run.evaluate(3, base=1, win_rate=even)
    assert settle(plan, record(3, 1, third)) == "roll back"
    assert ends(plan, record(3, 1, third))  # two rounds without promotion
    html = write_report(run.root, figures=False).read_text()
    assert "better is broken: win rate against previous 0.600 [0.550, 0.650] by truth, 0.500 [0.450, 0.550]" in html
    assert "patience is broken: 2 in a row without promotion; the run ends at 2" in html
