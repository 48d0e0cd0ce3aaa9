"""The report's files: what they say of made-up runs, whole or in parts; escaped, equal for equal files, and quick."""

import itertools
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UserError
from tasks.evaluation.gate import Decision, Reason
from tasks.reporting.duration import duration
from tasks.reporting.report.drawing import Scale, apart, ticks
from tasks.reporting.report.files import heldout_pairs, labelled_pairs, read_run
from tasks.reporting.report.write import write_report
from tests.commands import run_module
from tests.reporting.made_up_run import HOSTILE, MadeUpRun

PROMOTE = Decision(action="promote", by="none")
BROKEN = Reason(rule="near", holds=False, says="KL to the initial policy 9 ±1 nats; at most 3", broken="stop")
BACK = Decision(action="roll back", by="policy", note="broken: near", last=True, reasons=(BROKEN,))


@pytest.fixture
def made(tmp_path: Path) -> MadeUpRun:
    """Two rounds, the second one rolled back by rules."""
    run = MadeUpRun(tmp_path / "made", priced=True)
    run.evaluate(0)
    run.round(1, base=0, decision=PROMOTE)
    run.round(2, base=1, decision=BACK)
    return run


def on_page(html: str) -> set[str]:
    """Names of the figures of a report."""
    return set(re.findall(r'<figure id="figure-([^"]+)"', html))


EVERY = {
    "win-rate-initial", "win-rate-previous", "kl", "win-rate-over-kl", "rate-1", "rate-2", "votes", "leanings",
    "agreement", "p-hat", "target", "training-loss", "training-margin", "training-ratios", "training-accuracy", "time",
    "money", "length", "displacement", "calibration", "categories",
    "reply-tokens", "reply-finished", "reply-unique", "reply-distinct-1", "reply-distinct-2",
}  # fmt: skip


def test_a_whole_run_has_every_figure_and_says_why_a_round_was_rolled_back(made: MadeUpRun) -> None:
    html = write_report(made.root).read_text()
    assert {path.stem for path in (made.root / "figures").iterdir()} == EVERY == on_page(html)
    for path in (made.root / "figures").glob("*.svg"):
        image = ElementTree.parse(path).getroot()
        assert image.tag == "{http://www.w3.org/2000/svg}svg"
        assert image[0].tag.endswith("title")
        assert image[0].text
        assert not re.search(r"\b(nan|inf|None)\b", path.read_text())
    assert "near is broken: KL to the initial policy 9 ±1 nats; at most 3" in html
    assert "roll back, run ends" in html
    assert "Hollow markers are rounds that were rolled back." in html


def test_the_numbers_are_those_of_the_files(made: MadeUpRun) -> None:
    html = write_report(made.root, figures=False).read_text()
    rate = read_run(made.root).rounds[1].win_rates("initial")["truth"]
    assert f"{rate['mean']:.3f}<small>{rate['low']:.3f}–{rate['high']:.3f}</small>" in html
    assert f"round 1, truth: {rate['mean']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]" in html
    spent = [each for one in read_run(made.root).rounds for each in one.spent]
    money = sum(each.cost or 0 for each in spent)
    assert money == pytest.approx(2 * 0.25 + 6 * 0.002 + 12 * 0.002)  # annotators of two rounds, judges' votes
    assert f"{money:.2f} for judges" in html
    seconds = sum(sum(each.seconds.values()) for each in read_run(made.root).rounds)
    assert seconds == 7.25 * (3 * 1 + 6 * 2 + 6 * 3)  # an evaluation has three parts
    assert f"<b>Cost:</b> {duration(seconds)}, " in html


def test_equal_files_give_equal_bytes_wherever_they_lie(made: MadeUpRun, tmp_path: Path) -> None:
    first = write_report(made.root).read_bytes()
    drawn = {path.name: path.read_bytes() for path in (made.root / "figures").iterdir()}
    other = tmp_path / "elsewhere" / "made"
    shutil.copytree(made.root, other, ignore=shutil.ignore_patterns("report.html", "figures"))
    assert write_report(other).read_bytes() == first == write_report(made.root, figures=False).read_bytes()
    assert {path.name: path.read_bytes() for path in (other / "figures").iterdir()} == drawn


def test_what_models_and_people_wrote_is_escaped(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "made", annotators=(HOSTILE, "two"), judges=(HOSTILE,), text=HOSTILE)
    run.evaluate(0)
    run.round(1, base=0, decision=Decision(action="promote", by="human", note=HOSTILE))
    html = write_report(run.root).read_text()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    for path in (run.root / "figures").glob("*.svg"):
        ElementTree.parse(path)  # control characters too would not be XML


@pytest.mark.parametrize("parts", ["nothing", "initial", "unjudged", "unlabelled", "begun", "lost files"])
def test_parts_that_are_missing_are_left_out(tmp_path: Path, parts: str) -> None:
    run = MadeUpRun(tmp_path / "made", judges=() if parts == "unjudged" else ("truth",))
    if parts != "nothing":
        run.evaluate(0)
    if parts in ("unjudged", "lost files"):
        run.round(1, base=0)
    if parts == "unlabelled":
        run.evaluate(1)
    if parts == "begun":
        run.label(1)
    if parts == "lost files":
        for path in [*run.root.rglob("*.parquet"), *run.root.rglob("*.jsonl"), *run.root.rglob("samples.json")]:
            path.unlink()
    html = write_report(run.root, figures=False).read_text()
    panel = {"votes", "leanings", "agreement"}
    drawn = {
        "nothing": set(),
        "initial": {"time"},
        "unjudged": EVERY
        - {"win-rate-initial", "win-rate-previous", "win-rate-over-kl", "money", "length", "categories"},
        "unlabelled": EVERY - panel - {"p-hat", "target", "money"} - {name for name in EVERY if "training" in name},
        "begun": panel | {"p-hat", "target", "time"},
        "lost files": EVERY - {"p-hat", "target", "money"} - {name for name in EVERY if "training" in name},
    }[parts]
    assert on_page(html) == drawn
    assert ("No round has been evaluated yet" in html) == (parts == "nothing")


def test_samples_are_spread_and_carry_their_votes(made: MadeUpRun) -> None:
    files = read_run(made.root)
    pairs = labelled_pairs(files.rounds[2])
    assert [pair.prompt.partition("?")[0] for pair in pairs] == [str(i) for i in range(0, 40, 2)]
    # Pair 0: the reply 0 is chosen; the first annotator says a (reply 0), the second b.
    assert pairs[0].votes == {"left": ["first"], "right": ["second"]}
    assert pairs[2].votes == {"error": ["first"], "left": ["second"]}
    assert [pair.disagreement for pair in pairs[:3]] == [1.0, 1.0, 0.0]
    assert [pair.outcome for pair in pairs[:3]] == ["even", "even", "left"]
    held_out = heldout_pairs(files.rounds[0], files.rounds[2])
    assert [pair.votes for pair in held_out[:3]] == [{"right": ["truth"]}, {"left": ["truth"]}, {"tie": ["truth"]}]


def test_long_runs_and_large_panels_stay_small_and_quick(tmp_path: Path) -> None:
    run = MadeUpRun(
        tmp_path / "made", annotators=[f"annotator with a long name {i}" for i in range(16)],
        judges=[f"judge-{i}" for i in range(7)], text="word " * 2000,
    )  # fmt: skip
    run.evaluate(0)
    for number in range(1, 31):
        run.round(number, base=number - 1, decision=BACK if number % 7 == 0 else PROMOTE)
    start = time.process_time()
    page = write_report(run.root)
    assert time.process_time() - start < 5  # about 1 s
    assert page.stat().st_size < 2_000_000


def test_the_command_writes_the_report_and_refuses_other_folders(made: MadeUpRun, tmp_path: Path) -> None:
    done = run_module("tasks.reporting.report", made.root)
    assert done.code == 0, done.err
    assert Path(done.out.strip()) == made.root / "report.html"
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path / "absent")
    (made.root / "round-02" / "label" / "preferences.parquet").write_bytes(b"cut")
    done = run_module("tasks.reporting.report", made.root)
    assert done.code == 2
    assert "preferences.parquet" in done.err
    assert "storage.explain" in done.err


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_span_their_range_with_few_round_numbers(low: float, width: float) -> None:
    marks = ticks(low, low + width)
    assert 2 <= len(marks) <= 12
    assert marks[0] <= low + 1e-6 * width
    assert marks[-1] >= low + width - 1e-6 * width


@given(st.lists(st.floats(50, 200), max_size=10))
def test_labels_never_lie_over_one_another(places: list[float]) -> None:
    moved = sorted(apart(places, 50, 200))
    assert all(b - a >= 13 - 1e-6 for a, b in itertools.pairwise(moved))
    assert all(50 - 1e-6 <= place <= 200 + 1e-6 for place in moved)


def test_one_value_stands_in_the_middle() -> None:
    assert Scale(2, 2, 10, 30).at(2) == 20
    assert Scale(0, 4, 10, 30).at(1) == 15
    assert [duration(seconds) for seconds in (0.44, 59.4, 61, 7300)] == ["0.4 s", "59 s", "1 min 1 s", "2 h 1 min"]
