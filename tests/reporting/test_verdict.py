"""The verdict on a run: better, worse, not moved, not measured, rolled back; the same on the page and the terminal."""

from pathlib import Path
from typing import Any

import pytest

from flows.show.terminal import cells, print_verdict
from tasks.evaluation.divergence import Divergence
from tasks.evaluation.gate import Decision
from tasks.evaluation.intervals import Interval
from tasks.reporting.report.answer import run_verdict
from tasks.reporting.report.files import read_run
from tasks.reporting.report.write import write_report
from tasks.reporting.verdict import Aims, Change, Measured, State, changes, nats, verdict
from tests.reporting.made_up_run import MadeUpRun
from tests.reporting.records import round_record

MOVED = {"mean": 1.0, "se": 0.1, "per_token": 0.1}
AIMS = Aims(("truth", "other"), "truth", {"correct": "higher", "rude": "lower"})


def rate(mean: float, half: float = 0.04) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 100}


def measured(number: int, *, state: State = "standing", **figures: Any) -> Measured:
    metrics = round_record(number, **({"kl": MOVED} | figures)).figures
    return Measured(number, metrics, seconds=25.5, cost=None, state=state)


def said(*rounds: Measured) -> str:
    found = verdict([measured(0), *rounds], AIMS)
    assert found is not None
    return str(found)


def test_better_by_the_ground_truth() -> None:
    text = said(measured(1, win_rate={"initial": {"other": rate(0.9), "truth": rate(0.82)}}))
    assert text == (
        "Better than the initial policy: 82 % of comparisons won [78, 86] by the ground truth (truth). "
        "Cost: 51 s. Next: one more round (rounds=2)."
    )


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"win_rate": {"initial": {"truth": rate(0.4)}}}, ["Worse than the initial policy: 40 %", "lower training"]),
        ({"win_rate": {"initial": {"truth": rate(0.51)}}}, ["No clear difference", "51 % of comparisons won [47, 55]"]),
        ({"win_rate": {}}, ["No win rate: the evaluation has no judges", "evaluation=judge"]),
        (
            {
                "win_rate": {"initial": {}},
                "excluded": {"votes": {"initial": {"truth": {"abstain": 66, "error": 0}}}, "scores": {}},
            },
            ["No win rate: all 66 comparisons by truth are abstentions", "evaluation=judge"],
        ),
        (
            {"kl": {"mean": -0.003, "se": 0.0025, "per_token": 0.0}, "win_rate": {"initial": {"truth": rate(0.6)}}},
            ["Not moved", "KL -0.003 ± 0.005 nats a reply", "Next: raise training.learning_rate"],
        ),
        (
            {"win_rate": {"initial": {"truth": rate(0.7)}, "previous": {"truth": rate(0.5)}}},
            ["Better", "Next: stop here or change settings: round 1 is not clearly better than the round before"],
        ),
    ],
)
def test_what_else_can_happen(figures: dict[str, Any], words: list[str]) -> None:
    text = said(measured(1, **figures))
    for each in words:
        assert each in text


def test_the_sentence_is_about_the_last_round_that_stands() -> None:
    one = measured(1, win_rate={"initial": {"truth": rate(0.7)}})
    two = measured(2, state="rolled back", win_rate={"initial": {"truth": rate(0.2)}})
    assert "70 % of comparisons won" in said(one, two)
    assert "No better policy: the round was rolled back" in said(measured(1, state="rolled back"))
    assert "Next: decide on round 1" in said(measured(1, state="waits", win_rate={"initial": {"truth": rate(0.7)}}))
    assert verdict([measured(0)], AIMS) is None


def test_what_got_worse_follows_the_direction_of_each_rate() -> None:
    def rates(correct: float, rude: float, words: float) -> dict[str, Any]:
        return {"correct": rate(correct), "rude": rate(rude), "words": rate(words)}

    before = measured(0, rates=rates(0.5, 0.1, 0.5))
    after = measured(1, rates=rates(0.3, 0.3, 0.1), win_rate={"initial": {"truth": rate(0.6)}})
    assert {change.name: change.verdict for change in changes(before, after, AIMS)} == {
        "correct": "worse",
        "rude": "worse",
        "words": "changed",
    }
    found = verdict([before, after], AIMS)
    assert found is not None
    assert found.worse == ["correct", "rude"]
    lists = {"lists": {"prompts": 9, "win_rate": {"initial": {"truth": rate(0.3)}}, "rates": {}}}
    assert "Worse: lists (30 % of comparisons won [26, 34])." in said(
        measured(1, win_rate={"initial": {"truth": rate(0.6)}}, categories=lists)
    )


def test_a_difference_within_its_interval_is_unclear() -> None:
    one, other = Interval(0.5, 0.45, 0.55, 9), Interval(0.56, 0.5, 0.62, 9)
    assert Change("correct", one, other, "higher").verdict == "unclear"  # 0.06 within 0.078
    assert Change("correct", one, one, "higher").verdict == "same"


@pytest.mark.parametrize(
    ("mean", "se", "text"),
    [(-0.0001, 0.002, "0.000 ± 0.004"), (0.003, 0.0025, "0.003 ± 0.005"), (1.9, 0.1, "1.90 ± 0.20"), (0, 0, "0.000")],
)
def test_a_small_divergence_is_never_minus_zero(mean: float, se: float, text: str) -> None:
    assert nats(Divergence(mean, se, 0.0)) == text


def test_the_terminal_says_why_there_is_no_win_rate() -> None:
    votes = {"initial": {"truth": {"abstain": 66, "error": 0}}}
    rounds = [
        round_record(0),
        round_record(1, win_rate={"initial": {}}, excluded={"votes": votes, "scores": {}}),
    ]
    assert ("win vs initial (truth)", ["-", "none: 66 abstain"]) in cells(rounds)
    assert ("win vs initial", ["-", "no judges"]) in cells([round_record(0), round_record(1)])


def test_page_and_terminal_begin_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeUpRun(tmp_path / "made", judges=("truth",))
    run.evaluate(0)
    run.round(1, base=0, decision=Decision(action="promote", by="none"))
    found = run_verdict(read_run(run.root))
    assert found is not None
    print_verdict(run.root)
    printed = capsys.readouterr().out
    assert printed.startswith(found.headline)
    html = write_report(run.root, figures=False).read_text()
    assert f'<p class="headline">{found.headline}</p>'.replace(" %", "&nbsp;%") in html
    assert html.index("headline") < html.index("<nav>")
    assert "waits for your decision" not in html
    (run.root / "config.yaml").write_text((run.root / "config.yaml").read_text() + "gate: {kind: human}\n")
    run.round(2, base=1)
    html = write_report(run.root, figures=False).read_text()
    assert "Round 2 waits for your decision" in html
    assert "python -m flows.gate runs/made promote" in html
