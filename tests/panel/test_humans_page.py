"""The voting page in a real browser: vote, tie, skip, undo, reload, outages, two people at once."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from conf.compose import PROJECT
from tasks.panel.humans.batch import Batch, export, read_batch
from tasks.panel.humans.votes import read_votes
from tests.flows.browser import Browser, Page, chromium, needs_browser
from tests.panel.people import comparison, exported, serving, settings
from tests.waiting import wait_until

pytestmark = needs_browser

#: Vote choices are taken for slips this soon after a comparison appears (page.js, QUICK), ms.
QUICK = 250


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def votes_of(batch: Batch) -> dict[str, dict[str, str]]:
    """{comparison: {person: the text that was preferred, or tie, or skip}}, as it is on the disk."""
    arrived = read_votes(batch.folder, batch.items)
    assert arrived.faults == arrived.unknown == []
    return {
        name: {
            person: {"a": batch.items[name].a, "b": batch.items[name].b}.get(vote.outcome, vote.outcome)
            for person, vote in people.items()
        }
        for name, people in arrived.votes.items()
    }


def until(holds: Callable[[], object]) -> None:
    wait_until(holds, 15, pause=0.05)


def enter(page: Page, address: str, person: str) -> None:
    page.listen("Runtime", "Log", "Network", "Page")
    page.open(address)
    page.until_it_says("Who votes?")
    page.type(person)
    page.key("\r")
    page.until_it_says("A is better")


def shown(page: Page, side: str) -> str:
    return str(page.evaluate(f"document.getElementById('{side}').innerText"))


def changed(page: Page, first: str) -> bool:
    """Whether another comparison than the one whose side a is `first` is shown."""
    return shown(page, "a") != first


def press(page: Page, key: str) -> None:
    """Press a key once the comparison is on the screen long enough not to be ignored."""
    until(lambda: page.evaluate(f"!document.getElementById('voting').hidden && performance.now() - shownAt > {QUICK}"))
    page.key(key)


def saved(page: Page) -> None:
    page.until_it_says("All your votes are saved.")


def console_errors(page: Page) -> list[str]:
    page.evaluate("0")
    return [
        json.dumps(event)
        for event in page.events
        if event["method"] == "Runtime.exceptionThrown"
        or (event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"))
        or (event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"))
    ]


def addresses(page: Page) -> set[str]:
    """The hosts of requests, without data: URLs."""
    urls = {e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"}
    return {"/".join(url.split("/")[:3]) for url in urls if not url.startswith("data:")}


def test_vote_tie_skip_and_undo(running: Browser, tmp_path: Path) -> None:
    batch = exported(tmp_path, 5, instructions="Be kind.")
    with serving(tmp_path) as server:
        page = running.page()
        enter(page, server.address, "Ann B")
        page.until_it_says("Which response is better?", "0 of 5 done", "ann-b", "Be kind.", "ask p")
        expected = []
        for key, choice in (("a", "a"), ("b", "b"), ("t", "tie"), ("s", "skip")):
            first = shown(page, "a")
            expected.append(shown(page, choice) if choice in "ab" else choice)
            press(page, key)
            until(partial(changed, page, first))
        page.until_it_says("4 of 5 done · 4 by you")
        saved(page)
        values = [vote["ann-b"] for vote in votes_of(batch).values()]
        assert sorted(values) == sorted(expected)

        last = shown(page, "a")
        press(page, "u")  # the skip is taken back
        page.until_it_says("3 of 5 done · 3 by you")
        assert shown(page, "a") != last
        assert page.evaluate("document.querySelector('button.chosen').dataset.choice") == "skip"
        assert len(votes_of(batch)) == 3
        chosen = shown(page, "b")
        until(lambda: page.evaluate(f"performance.now() - shownAt > {QUICK}"))
        page.evaluate("document.querySelector('#note').focus()")
        page.type("because t and s")  # letters in a note are no votes
        page.click("B is better B")
        until(lambda: shown(page, "a") == last)
        press(page, "a")
        page.until_it_says("All done", "5 of 5 done · 5 by you")
        saved(page)
        standing = read_votes(batch.folder, batch.items).votes
        (noted,) = [vote for people in standing.values() for vote in people.values() if vote.note]
        assert noted.note == "because t and s"
        question = batch.items[noted.id]
        assert {"a": question.a, "b": question.b}[noted.outcome] == chosen
        assert all(vote.seconds is not None and vote.seconds < 30 for p in standing.values() for vote in p.values())

        page.click("Undo my last vote U")  # also when there is nothing more to see
        page.until_it_says("A is better", "4 of 5 done")
        until(lambda: len(votes_of(batch)) == 4)
        assert console_errors(page) == []
        assert addresses(page) == {server.address}


def test_a_reload_loses_nothing(running: Browser, tmp_path: Path) -> None:
    batch = exported(tmp_path, 6)
    with serving(tmp_path) as server:
        page = running.page()
        enter(page, server.address, "ann")
        for _ in range(3):
            press(page, "a")
            page.open(server.address)  # at once: the vote may still be on its way
            page.until_it_says("A is better", "ann")
        page.until_it_says("3 of 6 done · 3 by you")
        assert len(votes_of(batch)) == 3
        press(page, "u")  # undoes a vote from before the reload
        page.until_it_says("2 of 6 done · 2 by you")
        for _ in range(4):
            press(page, "t")
        page.until_it_says("All done")
        saved(page)
        assert sorted(vote["ann"] for vote in votes_of(batch).values())[2:] == ["tie"] * 4


@contextmanager
def killed(root: Path, port: int) -> Iterator[str]:
    """Run the command, yield its address, and end it by SIGKILL."""
    words = [sys.executable, "-m", "tasks.panel.humans", str(root), "--port", str(port)]
    process = subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = next(line.split()[2] for line in process.stdout if line.startswith("vote at"))
        yield address
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_votes_wait_in_the_browser_while_the_server_is_dead(running: Browser, tmp_path: Path) -> None:
    batch = exported(tmp_path, 6)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = running.page()
    with killed(tmp_path, port) as address:
        enter(page, address, "ann")
        press(page, "a")
        saved(page)
    for _ in range(3):
        press(page, "b")
    page.until_it_says("The server does not answer. 3 votes are kept in this browser")
    assert len(votes_of(batch)) == 1
    with killed(tmp_path, port):
        saved(page)
        assert len(votes_of(batch)) == 4
        page.until_it_says("4 of 6 done · 4 by you")
    # Dead again, and this time the tab is closed before the server is back.
    press(page, "t")
    page.until_it_says("1 vote is kept in this browser")
    other = running.beside(page)
    page.close()
    with killed(tmp_path, port):
        other.open(address)
        other.until_it_says("5 of 6 done · 5 by you")
        assert len(votes_of(batch)) == 5
        press(other, "a")
        other.until_it_says("All done")
        saved(other)
    assert len(votes_of(batch)) == 6


def test_two_people_at_once(running: Browser, tmp_path: Path) -> None:
    """One vote per comparison: they share the work and finish together."""
    batch = exported(tmp_path, 20)
    with serving(tmp_path) as server:
        ann, ben = running.page(), running.page()
        enter(ann, server.address, "ann")
        enter(ben, server.address, "ben")
        done = False
        while not done:
            for page in (ann, ben):
                if page.evaluate("document.getElementById('voting').hidden"):
                    done = page.evaluate("document.getElementById('emptytitle').innerText") == "All done"
                    continue
                press(page, "a")
                saved(page)  # a vote that is still on its way would be offered to the other person too
        for page in (ann, ben):
            page.until_it_says("All done", "20 of 20 done")
            saved(page)
            assert console_errors(page) == []
    votes = votes_of(batch)
    assert len(votes) == 20
    shares = [sum(person in people for people in votes.values()) for person in ("ann", "ben")]
    assert min(shares) >= 8
    assert sum(shares) <= 24, "twice, at most, what both had on their screens or fetched ahead at the end"


def test_one_person_in_two_tabs_does_no_harm(running: Browser, tmp_path: Path) -> None:
    batch = exported(tmp_path, 4)
    with serving(tmp_path) as server:
        one = running.page()
        enter(one, server.address, "ann")
        two = running.beside(one)
        two.open(server.address)
        two.until_it_says("A is better")
        assert shown(one, "a") == shown(two, "a")
        for _ in range(4):
            press(one, "a")
        one.until_it_says("All done")
        last = shown(two, "b")
        press(two, "b")  # already voted on in the other tab
        press(two, "b")  # so is the next one, which the tab had loaded; later ones are not offered again
        two.until_it_says("All done", "4 of 4 done · 4 by you")
        saved(two)
    votes = votes_of(batch)
    assert len(votes) == 4
    assert last in {people["ann"] for people in votes.values()}, "the last word holds"


HOSTILE = [
    "<script>document.title = 'PWNED'</script>",
    "<img src=x onerror=\"document.title='PWNED'\">",
    "</div></article><h1 id=title>PWNED</h1>",
    "javascript:alert(1) [x](javascript:alert(1)) ![](http://evil.example/)",
    "<svg onload=\"document.title='PWNED'\"><style>*{display:none}</style>",
    "\u202eevil\u202c\u0000 text \u2028 \U0001f600",
]


def test_what_a_model_wrote_is_text(running: Browser, tmp_path: Path) -> None:
    questions = [comparison(f"<b>{i}</b>", text, "") for i, text in enumerate(HOSTILE)]
    batch = export(settings(title="<i>Which?</i>", instructions="<script>0</script>"), "people", tmp_path, questions)[0]
    assert len(read_batch(tmp_path).items) == len(HOSTILE)
    with serving(tmp_path) as server:
        page = running.page()
        enter(page, server.address, "ann")
        page.evaluate("document.getElementById('formatted').click()")
        elements = page.evaluate("document.querySelectorAll('#voting *').length")
        seen = set()
        for _ in HOSTILE:
            texts = [page.evaluate(f"document.getElementById('{side}').textContent") for side in "ab"]
            assert "(empty)" in texts
            seen |= set(texts)
            page.until_it_says("ask <b>", "<i>Which?</i>", "<script>0</script>")
            assert page.evaluate("document.querySelectorAll('#voting *').length") == elements
            assert page.evaluate("document.querySelectorAll('script, img, svg, h1').length") == 4  # 3 scripts
            assert "PWNED" not in page.evaluate("document.title")
            press(page, "t")
        page.until_it_says("All done")
        saved(page)
        assert set(HOSTILE) <= seen
        assert console_errors(page) == []
        assert addresses(page) == {server.address}
    assert len(votes_of(batch)) == len(HOSTILE)


def test_it_fits_a_phone_and_both_panes_are_equal_on_a_desk(running: Browser, tmp_path: Path) -> None:
    long = "A long word: " + "x" * 300 + "\n" + "and many lines\n" * 80
    export(settings(), "people", tmp_path, [comparison("p", long, "short")])
    box = "(({left, top, width, height}) => [left, top, width, height])(%s.getBoundingClientRect())"
    with serving(tmp_path) as server:
        page = running.page()
        page.look(1280, 800)
        enter(page, server.address, "ann")
        left, right = (page.evaluate(box % pane) for pane in ("paneA", "paneB"))
        assert left[1:] == right[1:], "side by side, of one size"
        assert left[0] + left[2] < right[0]
        page.look(360, 640, phone=True, dark=True)
        top, bottom = (page.evaluate(box % pane) for pane in ("paneA", "paneB"))
        assert top[1] + top[3] < bottom[1], "one above the other"
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        bottoms = "[...document.querySelectorAll('.choices [data-choice]')].map(b => b.getBoundingClientRect().bottom)"
        assert page.evaluate(f"Math.max(...{bottoms})") <= 640, "on the screen, however long the responses"
