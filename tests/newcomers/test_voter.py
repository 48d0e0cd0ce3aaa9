"""A person who votes: opens the page on a phone, reads, votes with what is at hand, and is told when it is done."""

import json
from pathlib import Path

import pytest

from tests.flows.axe import violations
from tests.flows.browser import browser, needs_browser
from tests.flows.vote_page import vote_page
from tests.newcomers.shell import run
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

PEOPLE = "+panel.annotators.people={kind: human, sample: 4, strength: true, checks: 1, second: 'Which one is kinder?'}"


@needs_browser
def test_from_a_run_that_waits_to_votes_that_count(tiny_policy: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(30)))
    folder = tmp_path / "runs" / "mine"
    words = [
        "flows.iterate", "name=mine", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}",
        "panel=rules", "evaluation=plain", "engine=transformers", "training=small", "training.device=cpu", "rounds=1",
        "sampling.max_tokens=8", "prompts.per_round=8", "prompts.heldout=0.2", "preferences.drop_truncated=false",
    ]  # fmt: skip

    # The run says what it waits for, and the command that it prints is the one to give.
    said = run(*words, PEOPLE, code=3)
    assert "waiting for people: 0 of 4 comparisons have their votes" in said
    assert "nobody has voted yet" in run("flows.vote", str(folder), "--agreement")

    with vote_page(folder) as address, browser() as page:
        page.look(390, 844, phone=True)
        page.open(address)
        page.until_it_says("Who votes?", "You do not see which model wrote them")
        page.evaluate("document.getElementById('name').value = 'Ann'")
        page.click("Begin")
        page.until_it_says("mine, round 1", "Which one is kinder?", "How much better?")
        assert violations(page) == []
        while not page.evaluate("document.getElementById('voting').hidden"):
            wait_until(lambda: page.evaluate("performance.now() - shownAt > 250"), 15, pause=0.05)
            page.evaluate("document.querySelector('[data-choice=tie]').click()")
            wait_until(lambda: "Saving" not in page.text(), 15, pause=0.05)
        page.until_it_says("All done", "the round can go on", "All your votes are saved.")

    # The operator sees how people voted, and the same command goes on.
    assert "ann" in run("flows.vote", str(folder), "--agreement")
    assert "done:" in run(*words, PEOPLE)
    record = json.loads((folder / "rounds.json").read_text())[-1]
    assert record["labels"]["votes"]["people/ann"] == {"tie": 4}


def test_a_run_without_people_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "there is no run in this folder" in run("flows.vote", str(tmp_path / "mine"), code=2)
