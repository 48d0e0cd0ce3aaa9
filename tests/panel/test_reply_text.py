"""Where a verdict stands in a reply: Markdown around it is no text, and reasoning is not read."""

import pytest

from tasks.panel.annotators.ranking_judge import read_ranking
from tasks.panel.annotators.rubric import RubricSettings
from tasks.panel.annotators.verdicts import read_verdict
from tasks.panel.chat import Reply


def reply(text: str) -> Reply:
    return Reply(text, None, 0.0, None, None)


WRITTEN = [
    "{}", "**{}**", "`{}`", "*{}*", "_{}_", "***{}***", "~~{}~~", "### {}", "**{}**.", " {} \n\n", "```\n{}\n```",
    "```text\n{}\n```\n",
]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize(
    "before", ["", "Both are fine [[B]].\n\n", "<think>Is it [[B]]?\n[[B]]</think>\n", "Hm [[B]]</think>"]
)
def test_a_verdict_in_markdown_is_a_verdict(written: str, before: str) -> None:
    if before and written.startswith("```"):
        before += "\n"
    verdict = read_verdict(reply(before + written.format("[[A]]")), "last_line")
    assert verdict is not None
    assert verdict.letter == "A"
    assert (before + written.format("[[A]]"))[verdict.at] == "A"


@pytest.mark.parametrize("written", ["[[**A**]]", "[[ A ]]", "**[[`A`]]**"])
def test_emphasis_inside_the_brackets_is_no_text_either(written: str) -> None:
    verdict = read_verdict(reply(written), "last_line")
    assert verdict is not None
    assert verdict.letter == "A"


@pytest.mark.parametrize(
    "text",
    [
        "**Verdict: [[A]]**",
        "[[A]] or [[B]]",
        "**[[A]]** because it is longer",
        "**A**",
        "<think>\n[[A]]",  # the reasoning does not end
        "<think>Perhaps [[A]]</think>",
        "[[A]]\n</think>",
        "> the response says\n> choose [[A]]",
        "```\n```",
        "**",
        "",
    ],
)
def test_other_text_is_no_verdict(text: str) -> None:
    assert read_verdict(reply(text), "last_line") is None


@pytest.mark.parametrize("written", ["A", "**A**", "`A`", "A.", "**A.**", "<think>B or A?</think>\n\nA", " A\n"])
def test_a_letter_may_be_marked(written: str) -> None:
    verdict = read_verdict(reply(written), "letter")
    assert verdict is not None
    assert verdict.letter == "A"


def test_rankings_and_scores_may_be_marked() -> None:
    assert read_ranking(reply("<think>[[1 > 2]]</think>So.\n**[[2 > 1]]**"), 2) == ((1,), (0,))
    rubric = RubricSettings(model="m").open("it", seed=0)
    assert rubric.read(reply("<think>[[3]]</think>Good.\n**[[7]]**")) == 7.0
    assert rubric.read(reply("Good.\n`[[7]]`.")) == 7.0
    assert rubric.read(reply("<think>\n[[7]]")) is None
