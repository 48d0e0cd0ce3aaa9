"""MT-Bench against a scripted judge: what it is shown, what counts, and figures against counts by hand."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from conf.compose import compose_config
from storage.errors import UserError
from storage.schemas import DIALOGUES, GRADES, read_parquet, table, write_parquet
from tasks.evaluation.intervals import Bootstrap
from tasks.evaluation.mt_bench.dialogue import FILE, DialogueSettings, DialogueSpec
from tasks.evaluation.mt_bench.dialogue import run as run_dialogue
from tasks.evaluation.mt_bench.figures import mt_bench
from tasks.evaluation.mt_bench.grading import GradeSettings, GradeSpec, run_grading
from tasks.evaluation.mt_bench.questions import read_questions
from tasks.evaluation.mt_bench.reading import read_grade
from tasks.evaluation.mt_bench.settings import GraderSettings
from tasks.generation.engines import Request, Sample
from tasks.generation.engines.transformers import TransformersSettings
from tasks.generation.settings import SamplingSettings
from tasks.reporting.report.files import read_run
from tasks.reporting.report.mt_bench import table as html_table
from tests.panel.chat_server import ChatServer
from tests.reporting.made_up_run import MadeUpRun

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write.", "Again."]},
    {"question_id": 2, "category": "math", "turns": ["1+1?", "Twice that?"], "reference": ["2", "4"]},
    {"question_id": 3, "category": "gossip", "turns": ["Who?", "Why?"]},
]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    fake = ChatServer()
    yield fake
    fake.close()


def questions(folder: Path, rows: Sequence[dict[str, Any]] = tuple(QUESTIONS)) -> Path:
    path = folder / "question.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Parrot:
    """An engine that writes one word, or nothing; remembers what it was asked at which temperature."""

    def __init__(self, policy: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(policy)
        self.requests: list[tuple[float, int, str]] = []

    def check(self, policy: Path) -> None:
        pass

    def prepare(self, policy: Path) -> None:
        pass

    def load(self, policy: Path) -> None:
        pass

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        for request in requests:
            self.requests.append(
                (sampling.temperature, sampling.max_tokens, str(self.tokenizer.decode(request.prompt_ids)))
            )
        ids = self.tokenizer("reply<|im_end|>")["input_ids"]
        return [[Sample(ids, [0.0] * len(ids), finish_reason="stop")] for _ in requests]

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass


def dialogue(folder: Path, policy: Path, path: Path, **settings: Any) -> DialogueSpec:
    chosen = DialogueSettings(engine=TransformersSettings(), **settings)
    return DialogueSpec(folder=folder, round=0, seed=1, settings=chosen, policy=policy, questions=path)


def test_two_turns_at_the_temperature_of_their_category(tmp_path: Path, tiny_policy: Path) -> None:
    parrot = Parrot(tiny_policy)
    manifest = run_dialogue(dialogue(tmp_path / "d", tiny_policy, questions(tmp_path), max_tokens=40), engine=parrot)
    rows = read_parquet(tmp_path / "d" / FILE, DIALOGUES).to_pylist()
    assert [row["replies"] for row in rows] == [["reply", "reply"]] * 3
    assert rows[1]["references"] == ["2", "4"]
    assert manifest.summary == {"cut": 0}
    assert [(temperature, room) for temperature, room, _ in parrot.requests[:3]] == [(0.0, 40), (0.7, 40), (0.7, 40)]
    assert parrot.requests[3][2] == (
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nreply<|im_end|>\n"
        "<|im_start|>user\nTwice that?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_answers_end_where_the_context_does(tmp_path: Path, tiny_policy: Path) -> None:
    parrot = Parrot(tiny_policy)
    run_dialogue(dialogue(tmp_path / "d", tiny_policy, questions(tmp_path)), engine=parrot)
    prompts = [len(parrot.tokenizer(prompt)["input_ids"]) for *_, prompt in parrot.requests]
    assert [room for _, room, _ in parrot.requests] == [256 - length for length in prompts]
    long = [{"question_id": 9, "category": "stem", "turns": ["x " * 300, "y"]}]
    with pytest.raises(UserError, match="question 9 has"):
        run_dialogue(dialogue(tmp_path / "e", tiny_policy, questions(tmp_path, long)), engine=parrot)


def dialogues(folder: Path) -> Path:
    rows = [
        {"question_id": str(row["question_id"]), "category": row["category"], "turns": row["turns"],
         "replies": [f"first {i}", f"second {i}"], "finish_reasons": ["stop", "stop"],
         "references": row.get("reference")}
        for i, row in enumerate(QUESTIONS)
    ]  # fmt: skip
    write_parquet(folder / FILE, table(rows, DIALOGUES))
    return folder / FILE


def grade(folder: Path, server: ChatServer, **judge: Any) -> GradeSpec:
    settings = GraderSettings(model="judge-7", base_url=server.url, **judge)
    return GradeSpec(
        folder=folder / "grades",
        round=0,
        seed=0,
        settings=GradeSettings(judge=settings),
        dialogues=dialogues(folder),
    )


def test_what_the_judge_is_shown(tmp_path: Path, server: ChatServer) -> None:
    server.script = lambda instruction: "Rating: [[5]]"
    run_grading(grade(tmp_path, server))
    prompts = {request["messages"][1]["content"]: request for request in server.requests}
    assert len(prompts) == 6
    (first,) = [text for text in prompts if "first 1" in text and "second 1" not in text]
    assert "1+1?" in first
    assert "reference answer ---\n2\n" in first
    assert "4" not in first
    (second,) = [text for text in prompts if "second 1" in text]
    order = ["1+1?", "\n2\n", "Twice that?", "\n4\n", "1+1?", "first 1", "Twice that?", "second 1"]
    places = [second.index(order[0])]
    for part in order[1:]:
        places.append(second.index(part, places[-1] + 1))
    assert places == sorted(places)
    (plain,) = [text for text in prompts if "second 0" in text]
    assert "reference" not in plain
    assert prompts[second]["temperature"] == 0
    assert prompts[second]["max_tokens"] == 2048
    assert "second question" in prompts[second]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("text", "grade_"),
    [
        ("Rating: [[7]]", 7.0),
        ("[[6.5]] then [[2]]", 2.0),
        ("Rating: [8]", 8.0),
        ("**Rating:** **[[8]]**", 8.0),
        ("[1] see [[9]]", 9.0),
        ("[[9]] is my grade.", 9.0),
        ("Grade: [[4]]. On second thought: [[9]]", 9.0),
        ("Grade: [[9]]\n\n[[1]]: https://example.org", 9.0),
        ("Grade: [[9]]\n[[1]] the first source", 9.0),
        ("Grade: [[9]]. See [[1]].", 9.0),
        ("As [[1]](https://example.org) says. [[9]]", 9.0),
        ("Grade: [[5]]\n[^1]: [[2]]", 5.0),
        ("<think>Perhaps [[4]].</think>\nGrade: [[9]]", 9.0),
        ("Perhaps [[4]].</think>\nNo grade.", None),
        ("<think>Perhaps Rating: [[4]]", None),
        ("It cites [8].", None),
        ("seven", None),
        ("[[ten]]", None),
        ("[[85]]", None),
        ("[[0]]", None),
        ("", None),
    ],
)
def test_grades_are_read_as_the_protocol_says(text: str, grade_: float | None) -> None:
    assert read_grade(text) == grade_


def test_failed_parses_are_left_out_and_counted(tmp_path: Path, server: ChatServer) -> None:
    answers = {"first 0": "[[4]]", "second 0": "no idea", "first 1": "[[9]]", "second 1": "[[10]]", "first 2": "[[2]]",
            "second 2": "[[11]]"}  # fmt: skip

    def script(instruction: str) -> str:
        return answers[max((name for name in answers if name in instruction), key=instruction.rindex)]

    server.script = script
    spec = grade(tmp_path, server)
    manifest = run_grading(spec)
    scores = mt_bench(spec.folder, manifest, Bootstrap(resamples=200, seed=0))
    assert scores.judge == "judge-7"
    assert scores.turns["1"].mean == 5.0
    assert scores.turns["2"].mean == 10.0
    assert scores.overall is not None
    assert (scores.overall.mean, scores.overall.n) == (25 / 4, 4)  # not 7.5, the mean of the turns' means
    assert {name: value.mean for name, value in scores.categories.items()} == {"writing": 4, "math": 9.5, "gossip": 2}
    assert scores.failed == {"1": 0, "2": 2}
    assert scores.overall.low < scores.overall.mean < scores.overall.high
    raw = {(row["question_id"], row["turn"]): row["raw"]
           for row in read_parquet(spec.folder / "grades.parquet", GRADES).to_pylist()}  # fmt: skip
    assert raw["1", 2] == "no idea"
    requests = len(server.requests)
    assert run_grading(spec).content == manifest.content
    (spec.folder / "manifest.json").unlink()
    assert run_grading(spec).content == manifest.content
    assert len(server.requests) == requests  # no question is asked twice


def test_a_judge_that_never_grades_ends_the_stage(tmp_path: Path, server: ChatServer) -> None:
    server.script = lambda instruction: "very good"
    with pytest.raises(UserError, match="none of 6 answers"):
        run_grading(grade(tmp_path, server))


def test_the_very_words_of_the_published_prompts(tmp_path: Path, server: ChatServer) -> None:
    names = ["single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"]
    templates = ["{question}|{answer}", "{question}|{ref_answer_1}|{answer}", "{answer_2}", "{ref_answer_2}{answer_2}"]
    needed = dict(zip(names, templates, strict=True))
    path = tmp_path / "judge_prompts.jsonl"
    rows = [{"name": name, "system_prompt": f"be {name}", "prompt_template": needed[name]} for name in names]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.script = lambda instruction: "[[5]]"
    run_grading(grade(tmp_path, server, prompts=path))
    shown = {(r["messages"][0]["content"], r["messages"][1]["content"]) for r in server.requests}
    assert ("be single-v1", "Write.|first 0") in shown
    assert ("be single-math-v1", "1+1?|2|first 1") in shown
    assert ("be single-math-v1-multi-turn", "4second 1") in shown
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UserError, match="lacks the prompts single-math-v1"):
        run_grading(grade(tmp_path, server, prompts=path, max_tokens=9))


def test_references_of_their_own_file_and_refusals(tmp_path: Path) -> None:
    references = tmp_path / "gpt-4.jsonl"
    references.write_text(json.dumps({"question_id": 2, "choices": [{"turns": ["two", "four"]}]}) + "\n")
    rows = read_questions(questions(tmp_path), references)
    assert [question.references for question in rows] == [None, ["two", "four"], None]
    with pytest.raises(UserError, match="not a question of 2 turns"):
        read_questions(questions(tmp_path, [{"question_id": 1, "turns": ["one"]}]))


def test_a_judge_of_the_panel_is_refused(tmp_path: Path) -> None:
    words = ["run=demo", "mt_bench=judge", f"mt_bench.questions={questions(tmp_path)}", "mt_bench.judge.model=m"]
    assert compose_config(words).mt_bench.judge is not None
    with pytest.raises(UserError, match=r"mt_bench.judge: its model m also votes on the panel"):
        compose_config([*words, "+panel.annotators.j={kind: judge, model: m}"])


def test_the_table(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    grade_ = {"mean": 6.25, "low": 5.0, "high": 7.5, "n": 9}
    scores = {"judge": "judge <7>", "overall": grade_, "turns": {"1": grade_}, "categories": {"math": grade_},
             "failed": {"1": 1, "2": 2}}  # fmt: skip
    run.evaluate(0, mt_bench=scores)
    run.evaluate(1)
    html = html_table(read_run(run.root).evaluated)
    assert "6.25<small>5.00–7.50</small>" in html
    assert "judge &lt;7&gt;" in html
    assert "<td>3</td>" in html
    assert "round 1" not in html
