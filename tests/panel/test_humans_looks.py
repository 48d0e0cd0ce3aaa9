"""The voting page as people use it: formatted texts, keys by place, focus, scrolling, a phone, accessibility."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.panel.humans.batch import Batch, export
from tasks.panel.humans.votes import read_votes
from tests.flows.axe import violations
from tests.flows.browser import Browser, Page, chromium, needs_browser
from tests.panel.people import comparison, serving, settings
from tests.waiting import wait_until

pytestmark = needs_browser

FORMATTED = (
    "# Sum\n\nIt is $n^2$:\n\n```python\nprint(1)\n```\n\n|n|s|\n|-|-|\n|1|1|\n\n" + "A **long** text. \n\n" * 60
)
HOSTILE = "<img src=x onerror=\"document.title='PWNED'\"> [x](javascript:alert(1)) $\\text{<script>1</script>}$"
QUICK = 250


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def batch_in(folder: Path, count: int = 4) -> Batch:
    """Comparisons with a formatted and a hostile response."""
    texts = [comparison(f"p{i}", f"{FORMATTED}{i}", f"{HOSTILE} {i}\n\n" + "more\n\n" * 90) for i in range(count)]
    asked = settings(strength=True, second="Which one is kinder?")
    return export(asked, "people", folder / "mine/round-01/label/humans-people", texts)[0]


def begin(page: Page, address: str) -> None:
    page.open(address)
    page.until_it_says("Who votes?")
    page.evaluate("document.getElementById('name').value = 'ann'")
    page.click("Begin")
    page.until_it_says("A is better")
    ready(page)


def ready(page: Page) -> None:
    wait_until(lambda: page.evaluate(f"performance.now() - shownAt > {QUICK}"), 15, pause=0.05)


def press(page: Page, code: str, key: str) -> None:
    """A key by its place, with the letter that is printed on it."""
    ready(page)
    page._call("Input.dispatchKeyEvent", type="keyDown", code=code, key=key)
    page._call("Input.dispatchKeyEvent", type="keyUp", code=code, key=key)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.dataset.choice || document.activeElement.id"))


def test_texts_are_formatted_and_plain_by_a_switch(running: Browser, tmp_path: Path) -> None:
    batch_in(tmp_path)
    with serving(tmp_path) as server:
        page = running.page()
        begin(page, server.address)
        page.until_it_says("mine, round 1", "Which one is kinder?", "How much better?")
        for element in ("h1", "math msup", "pre code", "td", "strong"):
            assert page.evaluate(f"document.querySelectorAll('.pair .formatted {element}').length"), element
        assert page.evaluate("document.querySelectorAll('.pair :is(script, img, a, [onerror])').length") == 0
        assert "PWNED" not in page.evaluate("document.title")
        page.evaluate("document.getElementById('formatted').click()")
        page.until_it_says("# Sum", "It is $n^2$:")
        page.open(server.address)
        page.until_it_says("# Sum")  # the switch is kept


def test_keys_are_places_and_the_focus_stays(running: Browser, tmp_path: Path) -> None:
    batch = batch_in(tmp_path)
    with serving(tmp_path) as server:
        page = running.page()
        begin(page, server.address)
        page.evaluate("document.querySelector('[data-choice=b]').focus()")
        page.evaluate("document.querySelector('input[value=clear]').click()")
        page.evaluate("document.querySelector('input[name=second][value=tie]').click()")
        press(page, "KeyA", "ф")  # a Russian keyboard
        page.until_it_says("1 by you")
        assert focused(page) == "b", "where it was"
        press(page, "KeyQ", "a")  # AZERTY: the key with the letter A
        page.until_it_says("2 by you")
        page.evaluate("document.querySelector('[data-choice=tie]').focus()")
        ready(page)
        page.evaluate("document.activeElement.click()")
        page.until_it_says("3 by you")
        assert focused(page) == "tie"
        press(page, "KeyS", "ы")
        page.until_it_says("All done")
        assert focused(page) == "emptytitle", "what had the focus is gone"
    votes = [vote for people in read_votes(batch.folder, batch.items).votes.values() for vote in people.values()]
    assert sorted(vote.outcome if vote.outcome in ("tie", "skip") else "side" for vote in votes) == [
        "side", "side", "skip", "tie",
    ]  # fmt: skip
    assert [(vote.strength, vote.second) for vote in votes if vote.strength] == [("clear", "tie")]


def test_both_texts_scroll_together_unless_told_not_to(running: Browser, tmp_path: Path) -> None:
    batch_in(tmp_path)
    share = "document.getElementById('%s').scrollTop / (%s.scrollHeight - %s.clientHeight)"
    with serving(tmp_path) as server:
        page = running.page()
        page.look(1280, 800)
        begin(page, server.address)
        page.evaluate("a.scrollTop = (a.scrollHeight - a.clientHeight) / 2")
        wait_until(lambda: abs(page.evaluate(share % ("b", "b", "b")) - 0.5) < 0.02, 15)
        page.evaluate("document.getElementById('linked').click()")
        page.evaluate("a.scrollTop = 0")
        page.evaluate("new Promise(resolve => setTimeout(resolve, 300))")
        assert page.evaluate(share % ("b", "b", "b")) > 0.4


@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 800, False), (390, 844, True)])
def test_axe_finds_nothing_and_everything_fits(
    running: Browser, tmp_path: Path, width: int, height: int, phone: bool
) -> None:
    batch_in(tmp_path)
    with serving(tmp_path) as server:
        page = running.page()
        for dark in (False, True):
            page.look(width, height, phone=phone, dark=dark)
            if not dark:
                page.open(server.address)
                page.until_it_says("Who votes?")
                assert violations(page) == []
                begin(page, server.address)
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width
            bottoms = (
                "[...document.querySelectorAll('.choices [data-choice]')].map(b => b.getBoundingClientRect().bottom)"
            )
            lowest = page.evaluate(f"Math.max(...{bottoms})")
            assert lowest <= height, "the choices are on the screen; Skip is at the end of the texts on a phone"
