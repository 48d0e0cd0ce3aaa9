"""The second showcase's prompts: instructions that a program can check, and nothing in common with held-out ones."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from conf.compose import compose_config
from storage.errors import UserError
from tasks.panel.annotators.checks import holds, problem_with
from tasks.smollm2.instructions import KINDS
from tasks.smollm2.prompts import HELD_OUT_THINGS, REQUESTS, THINGS, PromptRow, made_prompts, real_prompts


def test_every_prompt_has_one_check_that_exists() -> None:
    training, held_out = made_prompts()
    for row in [*training, *held_out]:
        [check] = json.loads(row["answer"])
        assert problem_with(check.pop("check"), check) is None
    assert Counter(row["category"] for row in training) == dict.fromkeys(KINDS, 57)
    assert {row["category"] for row in held_out} == set(KINDS)


def test_they_are_the_same_at_every_call() -> None:
    assert made_prompts() == made_prompts()


def test_held_out_prompts_are_about_other_things() -> None:
    def things(rows: Sequence[PromptRow]) -> set[str]:
        requests = {row["prompt"].split("\n\n")[0] for row in rows}
        return {thing for thing in THINGS if any(frame.format(thing) in requests for frame in REQUESTS)}

    training, held_out = map(things, made_prompts())
    assert len(held_out) == HELD_OUT_THINGS
    assert training | held_out == set(THINGS)
    assert not training & held_out


@pytest.mark.parametrize(
    ("kind", "follows", "does_not"),
    [
        ("short", "The sea is deep.", "word " * 40),
        ("long", "word " * 60, "The sea is deep."),
        ("one-sentence", "The sea is deep.", "The sea is deep. It is blue."),
        ("no-commas", "The sea is deep.", "The sea is deep, and blue."),
        ("title", "<<The sea>> It is deep.", "The sea: it is deep."),
        ("lower-case", "the sea is deep.", "The sea is deep."),
    ],
)
def test_checks_tell_replies_apart(kind: str, follows: str, does_not: str) -> None:
    rows = [row for row in made_prompts()[0] if row["category"] == kind]
    for row in rows:
        [check] = json.loads(row["answer"])
        name = check.pop("check")
        assert holds(follows, name, check)
        assert not holds(does_not, name, check)


def test_real_questions_get_an_instruction_each(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl.gz"
    rows: list[dict[str, object]] = [{"instruction": f"Do {i}", "instances": [{"input": ""}]} for i in range(9)]
    rows.append({"instruction": "Translate it", "instances": [{"input": "a text"}]})  # needs its input: left out
    with gzip.open(tasks, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    turns = tmp_path / "turns.jsonl"
    turns.write_text(json.dumps({"turns": ["First?", "Second?"]}) + "\n")
    drawn = real_prompts([tasks, turns], each=20)
    assert len(drawn) == 10
    assert [row["prompt"].split("\n\n")[0] for row in drawn][-1] == "First?"
    assert not any(row["prompt"].startswith("Translate") for row in drawn)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text('{"text": "no question"}\n')
    with pytest.raises(UserError, match="no question"):
        real_prompts([file], each=2)


def test_the_preset_is_whole() -> None:
    config = compose_config(["run=smollm2", "seed=1"])
    assert config.name == "smollm2-1"
    assert not set(config.evaluation.rates) <= set(config.panel.annotators)  # some figures are held out
