"""The paper's figures: arithmetic and drawing by hand; and, slow, each of them in miniature on the demo's policy."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.compose import PROJECT
from flows.judge_accuracy import read_pairs
from flows.panel_accuracy import correct, growing, shares
from flows.paper import main
from flows.paper_words import Words
from storage.errors import UserError
from tasks.reporting.comparison import Value, by_round, worth
from tasks.reporting.paper_figures import accuracy, over, radar
from tests.flows.demo_grader import by_truth, serve, write_pairs, write_questions
from tests.flows.test_iterate import command_of
from tests.reporting.records import INTERVAL, round_record

DEMO = PROJECT / "artifacts/demo-0"
GRADES = {"judge": "m", "overall": INTERVAL, "turns": {"1": INTERVAL}, "categories": {"sum": INTERVAL},
          "failed": {"1": 0, "2": 0}}  # fmt: skip
SCORES = {"scores": {"gsm8k": {"acc,none": {"value": 0.25, "stderr": 0.1, "higher_is_better": True}}}, "average": 0.25}


def test_benchmarks_and_gains_are_compared() -> None:
    wins = {"initial": {"truth": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 9}}}
    first = round_record(0, rates={"truth": INTERVAL})
    second = round_record(1, win_rate=wins, mt_bench=GRADES, harness=SCORES, rates={"truth": INTERVAL | {"mean": 1.0}})
    (found,) = by_round([[first, second]])
    assert found["MT-Bench"] == found["MT-Bench turn 1"] == found["MT-Bench: sum"]
    assert astuple(found["MT-Bench"]) == pytest.approx((0.6, 0.1))
    assert astuple(found["lm-eval: gsm8k acc"]) == pytest.approx((0.25, 0.196))
    assert found["lm-eval average"].mean == 0.25
    assert found["gain a training second, win vs initial (truth)"].mean == pytest.approx(0.2 / 2)  # two seconds
    assert found["gain a training second, mean score (truth)"].mean == pytest.approx(0.4 / 2)
    assert worth(list(found)) == ["win vs initial (truth)", "mean score (truth)", "MT-Bench"]


def words_of(svg: Path | str) -> str:
    return " ".join(ElementTree.fromstring(str(svg)).itertext())


def test_a_radar_has_every_grade_at_its_place() -> None:
    grades = {f"MT-Bench: {name}": Value(grade, 0.5) for name, grade in (("sum", 10.0), ("fact", 5.0), ("list", 2.5))}
    figure = radar({"irepo": grades, "dpo": dict(list(grades.items())[:2])}, "m")
    assert "irepo, fact: 5.000 ±0.500" in figure.says
    # Up by the radius; then 120 and 240 degrees clockwise, half and a quarter of it (104).
    assert "M180 68L225.03 198L157.48 185z" in figure.body
    assert words_of(figure.svg("")).count("dpo") >= 3
    names = [f"irepo objective.beta=0.{i}" for i in (4, 5)]
    for name in names:  # whole in the legend, though longer than other labels may be
        assert f">{name}</text>" in radar(dict.fromkeys(names, grades), "m").body
    with pytest.raises(ValueError, match="three categories"):
        radar({"irepo": dict(list(grades.items())[:2])}, "m")


def test_lines_over_annotators_have_their_intervals() -> None:
    figure = over({"irepo": {1.0: Value(0.5, 0.1), 3.0: Value(0.7, None)}}, title="t", unit="u", x_title="h",
                  name="annotators", caption="c")  # fmt: skip
    assert "irepo at 1: 0.500 ±0.100; irepo at 3: 0.700" in figure.says
    assert figure.body.count("whisker") == 2


def test_a_panel_together_by_hand() -> None:
    votes = [
        {"outcome": outcome, "probability": probability, "label": label}
        for outcome, probability, label in (("a", 0.9, "a"), ("b", None, "a"), ("tie", None, "b"), ("error", None, "a"))
    ]
    one = shares(votes)
    assert one.tolist()[:3] == pytest.approx([0.9, 0.0, 0.5])
    assert np.isnan(one[3])
    two, three = np.array([0.0, 1.0, 1.0, np.nan]), np.array([0.0, 1.0, np.nan, np.nan])
    # Pair by pair: .9 of 3; 2 of 3; 1.5 of 2; nobody.
    assert correct([one, two, three]).tolist()[:3] == [0.0, 1.0, 1.0]
    assert np.isnan(correct([one, two, three])[3])
    panels = growing({"one": one, "two": two, "three": three})
    assert [each.size for each in panels] == [1, 2, 3]
    assert panels[0].mean.n == 3
    # Alone: (1 + 0 + .5) / 3, then (0 + 1 + 1) / 3, then (0 + 1) / 2.
    assert [panels[0].worst, panels[0].best] == pytest.approx([1.5 / 3, 2 / 3])
    assert panels[2].mean.mean == pytest.approx(2 / 3)


def test_an_even_split_is_half_right() -> None:
    assert correct([np.array([1.0, 0.3]), np.array([0.0, 0.7])]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("prompt", ["What is it?", [{"role": "user", "content": "What is it?"}]])
def test_pairs_of_chosen_and_rejected_are_read_with_their_answers(prompt: object, tmp_path: Path) -> None:
    def reply(text: str) -> object:
        return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]

    rows = [{"prompt": prompt, "chosen": reply("7."), "rejected": reply("8."), "answer": "7"} for _ in range(3)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_pairs(path, limit=2)
    assert pairs.labels == ["a", "b"]
    assert [response.text for response in pairs.responses] == ["7.", "8.", "8.", "7."]
    assert {response.answer for response in pairs.responses} == {"7"}
    assert pairs.responses[0].messages == [{"role": "user", "content": "What is it?"}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no figure is named"),
        (["fig9"], "there is no figure 'fig9'"),
        (["fig1", "run=demo"], "no methods are named"),
        (["fig2b", "run=demo", "objective=irepo-small", "h=[0]"], "the panel has 7 annotators"),
        (["fig2b", "run=demo", "h=[a]"], "no list of whole numbers"),
        (["fig3", "run=demo"], "no pairs are named"),
    ],
)
def test_mistakes_are_told_at_once(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(given)


def test_words_of_the_command_and_of_the_configuration() -> None:
    words = Words.of("fig2b", ["run=demo", "objective=dpo", "seeds=[0,1]", "h=[1, 3]"])
    assert (words.name, words.objective(), words.rest) == ("fig2b", "dpo", ["run=demo", "objective=dpo"])
    assert words.without_objective() == ["run=demo"]
    assert (words.numbers("seeds", "[0]"), words.numbers("h", "[]")) == ([0, 1], [1, 3])


def test_the_grader_of_the_demo_grades_the_last_answer(tmp_path: Path) -> None:
    rows = [{"prompt": f"Add {i} and 1.", "answer": str(i + 1), "task": "sum"} for i in range(4)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade = by_truth(write_questions(path, tmp_path / "questions.jsonl", of_each=2))
    questions = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert questions[1] == {"question_id": 1, "category": "sum", "turns": ["Add 2 and 1.", "Add 3 and 1."]}
    first = "--- user ---\nAdd 0 and 1.\n--- assistant ---\n{}\n--- user ---\n"
    talk = first + "Add 1 and 1.\n--- assistant ---\n{}\n--- end ---"
    assert grade(talk.format("1.", "The answer is 2.")) == "Grade: [[9]]"
    assert grade(talk.format("1.", "nonsense")) == "Grade: [[3]]"


SMALL = ["run=demo", "seeds=[0]", "rounds=1", "engine=transformers", "prompts.per_round=24", "evaluation.responses=1",
         "evaluation.pairs=false", "evaluation.bootstrap=100"]  # fmt: skip


def pictures(folder: Path) -> list[str]:
    """The names of the pictures. Fails when one is blank."""
    found = sorted(folder.glob("*.png"))
    for path in found:
        colours = Image.open(path).convert("RGB").getcolors(1 << 20)
        assert colours is not None, path
        assert len(colours) > 10, path
    return [path.stem for path in found]


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO / "policy/config.json").is_file(), reason="make run has not made the demo's policy")
def test_every_figure_in_miniature(tmp_path: Path) -> None:
    """A few held-out prompts; a judge that grades by the demo's truth."""
    rows = write_questions(DEMO / "heldout.jsonl", tmp_path / "questions.jsonl", of_each=3)
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(json.dumps(row) + "\n" for row in rows[::8]))
    server = serve(rows)
    small = [*SMALL, f"runs={tmp_path}", f"prompts.heldout={heldout}"]
    judge = ["mt_bench=judge", f"mt_bench.questions={tmp_path / 'questions.jsonl'}", "mt_bench.max_tokens=64",
             "mt_bench.judge.model=truth", f"mt_bench.judge.base_url={server.url}"]  # fmt: skip
    methods = "methods=[irepo-small, dpo objective.beta=0.5]"
    pairs = tmp_path / "pairs.jsonl"
    write_pairs(rows[::6], pairs)
    for words in (
        ["fig1", methods, *small, *judge],
        ["tables", "name=fig1", methods, *small, *judge],
        ["fig2a", "objective=irepo-small", *small],
        ["fig2b", "objective=irepo-small", "h=[1,7]", *small],
        ["fig3", f"data={pairs}", "run=demo", f"runs={tmp_path}"],
    ):
        done = command_of("flows.paper", words)
        assert done.returncode == 0, done.stdout + done.stderr
    server.close()
    assert pictures(tmp_path / "fig1") == ["radar"]
    assert "MT-Bench" in (tmp_path / "fig1" / "tables.md").read_text()
    assert "logit-win-vs-initial-truth" in pictures(tmp_path / "fig2a")
    assert "annotators-win-vs-initial-truth" in pictures(tmp_path / "fig2b")
    assert pictures(tmp_path / "fig3") == ["accuracy"]
    told = json.loads((tmp_path / "fig3" / "accuracy.json").read_text())
    assert told["panels"]["7"] > told["panels"]["1"]


def test_accuracy_draws_single_annotators_and_panels() -> None:
    figure = accuracy({"one": 0.6, "two": 0.8}, {1: (Value(0.7, 0.1), 0.6, 0.8), 2: (Value(0.9, 0.05), 0.9, 0.9)})
    assert "panels of 2: 0.900 ±0.050" in figure.says
    assert "two alone: 0.800" in figure.says
    assert "band c0" in figure.body
