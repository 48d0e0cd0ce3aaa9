"""What the form of a gate asks: sentences and lists that wrap on a phone, with texts of models shown as they are."""

import json
from pathlib import Path
from typing import Any

from conf.compose import compose_config
from flows.plan import Plan
from flows.show.question import question
from storage.artifact import Artifact
from tasks.evaluation.record import RoundRecord
from tests.reporting.made_up_run import MadeUpRun
from tests.reporting.records import round_record

PROMPT = "Write | a table\nof *two* rows"
REPLY = "<b>no</b> | yes\n- `done`"


def asked(tmp_path: Path) -> str:
    run = MadeUpRun(tmp_path / "made")
    figures: list[dict[str, Any]] = [run.evaluate(0)]
    run.round(1, base=0)
    figures.append(run.evaluate(1))
    for number in (0, 1):
        samples = run.root / f"round-{number:02d}" / "evaluate" / "samples.json"
        samples.write_text(json.dumps([{"prompt": PROMPT, "reply": REPLY}] * 7))
    words = ["run=demo", f"runs={run.root.parent}", f"name={run.root.name}"]
    plan = Plan(compose_config(words), Artifact(path=run.root / "initial", digest="initial"))
    rounds: list[RoundRecord] = [
        round_record(0, base=0, decision="promote", **figures[0]),
        round_record(1, base=0, decision=None, **figures[1]),
    ]
    return question(plan, rounds)


def test_nothing_in_it_is_wider_than_a_phone(tmp_path: Path) -> None:
    text = asked(tmp_path)
    assert not [line for line in text.splitlines() if line.startswith("|")], "cells of Prefect's tables do not wrap"
    shown = text.replace("](file://", "](").split("](")[0]  # an address behind a link is not shown
    assert str(tmp_path) not in shown, "a path does not wrap"


def test_it_asks_first_then_says_whether_the_round_helped_then_shows_replies(tmp_path: Path) -> None:
    text = asked(tmp_path)
    parts = ["Shall the policy of round 1 be promoted?", "- **roll back**: the next round starts from the initial",
             "comparisons won", "### initial → round 1", "KL to initial (nats): 0.000 →", "### Held-out samples",
             "- before:", "- after:", "the report]"]  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("- after: ") == 4  # every second of seven prompts
    assert "**Write \\| a table<br>of \\*two\\* rows**" in text
    assert "- after: &lt;b&gt;no&lt;/b&gt; \\| yes<br>- \\`done\\`" in text
