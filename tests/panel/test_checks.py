"""Instructions that a program can check: one text that follows each, and one that does not."""

import json

import pytest

from storage.errors import UserError
from tasks.panel.annotators.checks import CHECKS, count_sentences, holds
from tests.panel.chat_server import opened, response

#: check, its arguments, a text that follows the instruction, and one that does not
CASES: list[tuple[str, dict[str, object], str, str]] = [
    ("change_case:capital_word_frequency", {"capital_frequency": 2}, "NO, WAY.", "No WAY"),
    ("change_case:english_capital", {}, "YES 1!", "YES i"),
    ("change_case:english_lowercase", {}, "yes 1!", "Yes"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say a."}, " say A. Then a.", "a. Say a."),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [age]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. Hi", "Bye. PS Hi"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S one", "P.S. one"),
    ("detectable_format:constrained_response", {}, "Well: My answer is no.", "no"),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', '{"a": 1'),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 Part 2", "Part 1"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b\n** c **", "* a"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    ("detectable_format:title", {}, "<<Title>>\ntext", "<< >>"),
    ("keywords:existence", {"keywords": ["a.b", "Cat"]}, "cats a.b", "cats axb"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "cats", "A CAT."),
    ("keywords:frequency", {"keyword": "ha", "frequency": 3, "relation": "less than"}, "haha", "hahaha"),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "eE", "e"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "One.\n\n'Then, two.",
        "Then.\n\nTwo then.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***", "a\n***\n***\nb"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "Mr. X left.", "I do. So?"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two, three", "one two."),
    ("punctuation:no_comma", {}, "a b", "a, b"),
    ("startend:end_checker", {"end_phrase": "Any more? "}, 'So: "any MORE?"', "Any more? No."),
    ("startend:quotation", {}, ' "all of it" ', '"part" of it'),
]  # fmt: skip


@pytest.mark.parametrize(("check", "arguments", "follows", "does_not"), CASES)
def test_checks(check: str, arguments: dict[str, object], follows: str, does_not: str) -> None:
    assert holds(follows, check, arguments)
    assert not holds(does_not, check, arguments)
    assert not holds("  ", check, arguments)


def test_every_check_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(CHECKS)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [("", 0), ("one", 1), ("One. Two! Three?", 3), ("It is 3.5 m.", 1), ("e.g. this, i.e. that.", 1), ("Hm... so?", 2)],
)  # fmt: skip
def test_sentences(text: str, sentences: int) -> None:
    assert count_sentences(text) == sentences


def test_rules_count_checks() -> None:
    comma = {"check": "punctuation:no_comma"}
    words = {"check": "length_constraints:number_words", "num_words": 2, "relation": None}
    rule = opened(None, kind="rule", checks=[comma, words], require=["yes"], min_words=2)
    scores = rule.vote([response(text) for text in ("yes yes", "yes, yes", "no")])
    assert [score.value for score in scores] == [3.0, 2.0, 0.0]


def test_checks_of_the_prompt() -> None:
    checks = [
        {"check": "punctuation:no_comma"},
        {"check": "keywords:existence", "keywords": ["cat"], "num_words": None},
        {"check": "language:response_language", "language": "de"},
    ]
    rule = opened(None, kind="rule", prompt_checks=True)
    texts = {
        json.dumps(checks): ("score", 1.0),
        json.dumps(checks[2:]): ("abstain", None),
        "": ("abstain", None),
        "no json": ("error", None),
        '{"check": "punctuation:no_comma"}': ("error", None),
        '["punctuation:no_comma"]': ("error", None),
        '[{"check": "no:such"}]': ("error", None),
        '[{"check": "punctuation:no_comma", "letter": "a"}]': ("error", None),
        '[{"check": "keywords:existence", "keywords": 3}]': ("error", None),
        '[{"check": "length_constraints:number_words", "num_words": 3, "relation": "at most"}]': ("error", None),
    }
    scores = rule.vote([response("a dog", answer=answer) for answer in texts])
    assert [(score.outcome, score.value) for score in scores] == list(texts.values())
    assert json.loads(scores[0].raw) == {
        "followed": ["punctuation:no_comma"],
        "not": ["keywords:existence"],
        "skipped": ["language:response_language"],
    }


@pytest.mark.parametrize(
    ("check", "wanted"),
    [
        ({"check": "no:such"}, "there is no check"),
        ({"check": "language:response_language", "language": "de"}, "there is no check"),
        ({"check": "keywords:existence"}, "missing a required argument: 'keywords'"),
        ({"check": "punctuation:no_comma", "letter": "a"}, "unexpected keyword argument 'letter'"),
    ],
)
def test_checks_that_cannot_be_done_are_the_users_error(check: dict[str, str], wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        opened(None, kind="rule", checks=[check])
