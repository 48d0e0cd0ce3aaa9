"""Reasoning replies: annotators see the final answer, all of the reply stays in the data."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.schemas import PREFERENCES, PROMPTS, read_parquet
from tasks.labeling.settings import LabelSettings
from tasks.labeling.stage import run
from tasks.modeling.reasoning import split_reasoning
from tasks.panel.responses import for_annotators, read_responses
from tests.panel.conftest import World

RIGHT, WRONG = "<think>\nIs it 4 or 5?\n</think>\n\nIt is 4", "<think>\nIs it 4?\n</think>\n\nIt is 5"


@pytest.mark.parametrize(
    ("reply", "thought", "answer"),
    [
        ("It is 4", "", "It is 4"),
        (RIGHT, "<think>\nIs it 4 or 5?\n</think>\n\n", "It is 4"),
        ("The prompt opened it.</think>4", "The prompt opened it.</think>", "4"),
        ("<think>a</think>b</think> 4 ", "<think>a</think>b</think> ", "4 "),
        ("<think>\nstill thinking", "<think>\nstill thinking", ""),
        ("a <think> in the text", "", "a <think> in the text"),
        ("", "", ""),
    ],
)
def test_thought_and_answer(reply: str, thought: str, answer: str) -> None:
    assert split_reasoning(reply, "</think>") == (thought, answer)
    assert split_reasoning(reply, None) == ("", reply)


def test_another_mark() -> None:
    assert split_reasoning("[THINK]a[/THINK]b", "[/THINK]") == ("[THINK]a[/THINK]", "b")
    assert split_reasoning("[THINK]a", "[/THINK]") == ("[THINK]a", "")


def test_annotators_see_the_answer(world: World) -> None:
    folder, prompts = world.responses({"p": [RIGHT, "It is 5"]}), world.prompts(["p"])
    seen = for_annotators([read_responses("policy", folder, prompts, reasoning_end="</think>")])
    assert [(each.text, each.reply) for each in seen] == [("It is 4", RIGHT), ("It is 5", "It is 5")]
    whole = for_annotators([read_responses("policy", folder, prompts)])
    assert [each.text for each in whole] == [RIGHT, "It is 5"]


@pytest.mark.parametrize("shown", ["answer", "reply"])
def test_a_rule_reads_what_is_configured_and_all_is_trained(world: World, shown: str) -> None:
    rule = {"it": {"kind": "rule", "forbid": ["5"]}}
    spec = world.spec({"p": [WRONG, RIGHT]}, rule)
    if shown == "reply":
        settings = LabelSettings(annotators=spec.settings.annotators, reasoning_end=None)
        spec = type(spec)(**(dict(spec) | {"settings": settings}))
    run(spec)
    votes = pq.read_table(spec.folder / "votes.parquet")["outcome"].to_pylist()
    assert votes == (["b"] if shown == "answer" else ["tie"])
    if shown == "answer":
        (pair,) = read_parquet(spec.folder / "preferences.parquet", PREFERENCES).to_pylist()
        assert pair["chosen"][0]["content"] == RIGHT
        assert pair["chosen_ids"] == [*RIGHT.encode(), 0]
    assert read_parquet(Path(spec.prompts.path), PROMPTS).num_rows == 1
