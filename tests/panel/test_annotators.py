"""Verifier, rule, function and simulated annotators, one response or comparison at a time."""

import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal

import pytest

from storage.errors import UserError
from tasks.labeling.settings import LabelSettings
from tasks.panel.annotators.protocol import Comparison, LocalAnnotator, Response, Score, Vote, is_remote
from tasks.panel.annotators.registry import open_annotators
from tasks.panel.annotators.verifier import final_number


def response(
    text: str,
    *,
    prompt_id: str = "p",
    index: int = 0,
    source: str = "policy",
    answer: str | None = None,
    category: str | None = None,
    ended: bool = True,
) -> Response:
    return Response(prompt_id, source, index, [{"role": "user", "content": "p?"}], answer, category, text, ended)


def annotator(seed: int = 1, name: str = "it", **settings: object) -> LocalAnnotator:
    (opened,) = open_annotators(LabelSettings.model_validate({"annotators": {name: settings}}).annotators, seed)
    assert not is_remote(opened)
    return opened


def scores(scorer: LocalAnnotator, batch: Sequence[Response]) -> list[Score]:
    answers = scorer.vote(batch)
    assert all(isinstance(answer, Score) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Score)]


def votes(voter: LocalAnnotator, batch: Sequence[Comparison]) -> list[Vote]:
    answers = voter.vote(batch)
    assert all(isinstance(answer, Vote) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Vote)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 apples.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### 12 dollars, or 3 a head", "12"),
        ("#### 5\nNo: #### 6", "6"),
        ("12 first, then ####", None),
        ("The answer is 42.", "42"),
        ("It costs $1,234.50 in 3 shops, so $2,469.00.", "2469"),
        ("from 10 down to -5", "-5"),
        ("it is \u22125", "-5"),
        ("minus dollars: -$7", "-7"),
        ("10-5", "5"),
        ("(2)-3", "3"),
        ("about .5", "0.5"),
        ("3.14.", "3.14"),
        ("1,2,3", "3"),
        ("12,34", "34"),
        ("1,2345", "2345"),
        ("007", "7"),
        ("none at all", None),
        ("", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("method", "answer", "text", "wanted"),
    [
        ("number", "18", "#### 18.0", Score("score", 1.0, "18.0")),
        ("number", "work\n#### 1,000", "1000", Score("score", 1.0, "1000")),
        ("number", "18", "18 or 19", Score("score", 0.0, "19")),
        ("number", "18", "no idea", Score("score", 0.0)),
        ("number", None, "18", Score("abstain")),
        ("number", "eighteen", "18", Score("error", None, "the prompt's answer has no number: 'eighteen'")),
        ("exact", "Paris", " Paris\n", Score("score", 1.0)),
        ("exact", "Paris", "Paris.", Score("score", 0.0)),
        ("contains", "Paris", "It is Paris.", Score("score", 1.0)),
        ("contains", "Paris", "It is Rome.", Score("score", 0.0)),
        ("contains", " ", "anything", Score("abstain")),
    ],
)
def test_verifier(method: str, answer: str | None, text: str, wanted: Score) -> None:
    assert scores(annotator(kind="verifier", method=method), [response(text, answer=answer)]) == [wanted]


def test_rule_points() -> None:
    rule = annotator(kind="rule", require=["yes", r"\d"], forbid=["as an AI"], max_words=4)
    texts = ["yes 1", "yes", "", "as an AI", "yes 1 as an AI model"]
    points = [score.value for score in scores(rule, [response(text) for text in texts])]
    assert points == [2.0, 1.0, 0.0, -1.0, 0.0]
    assert [score.value for score in scores(annotator(kind="rule", shorter=True), [response("a b c")])] == [-3.0]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"kind": "rule"}, "no rule is set"),
        ({"kind": "rule", "require": ["("]}, "not a regular expression"),
        ({"kind": "function", "function": "voters"}, "not of the form package.module:name"),
        ({"kind": "function", "function": "voters:absent"}, "AttributeError"),
        ({"kind": "function", "function": "no.such.module:f"}, "ModuleNotFoundError"),
        ({"kind": "function", "function": "voters:not_a_function"}, "is a int, not a function"),
        ({"kind": "simulated", "utility": "voters:absent"}, "annotators.it.utility"),
        ({"kind": "judge", "model": "m", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ({"kind": "judge", "model": "m", "template": "/no/such/file"}, "cannot be read"),
    ],
)
def test_what_cannot_be_opened_is_the_users_error(settings: dict[str, object], wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        open_annotators(LabelSettings.model_validate({"annotators": {"it": settings}}).annotators, 1)


def test_function_outcomes() -> None:
    function = annotator(kind="function", function="voters:fails_on_bad")
    given = scores(function, [response(text) for text in ("four", "bad", "unknown", "odd")])
    assert [(score.outcome, score.value) for score in given] == [
        ("score", 4.0),
        ("error", None),
        ("abstain", None),
        ("error", None),
    ]
    assert given[1].raw == "ZeroDivisionError: bad"
    hears = annotator(kind="function", function="voters:hears_all")
    assert scores(hears, [response("x", answer="42", category="sums")])[0].value == 15.0
    assert scores(hears, [response("x", answer="42", ended=False)])[0].value == 3.0


def comparisons(n: int, gap: int = 1) -> list[Comparison]:
    return [
        Comparison(response(f"q{gap}", prompt_id=f"p{i}"), response("q0", prompt_id=f"p{i}", index=1)) for i in range(n)
    ]


def share(cast: Sequence[Vote]) -> float:
    """The share of votes for a."""
    return sum(vote.outcome == "a" for vote in cast) / len(cast)


@pytest.mark.parametrize(
    ("noise", "scale", "probability"),
    [(0.0, 1.0, 0.7310585786), (0.25, 1.0, 0.6732939340), (1.0, 1.0, 0.5), (0.0, 0.5, 0.8807970780)],
)
def test_simulated_votes_have_the_stated_probability(noise: float, scale: float, probability: float) -> None:
    person = annotator(kind="simulated", utility="voters:quality", noise=noise, scale=scale)
    deviation = (probability * (1 - probability) / 4000) ** 0.5
    assert abs(share(votes(person, comparisons(4000))) - probability) < 4 * deviation


def near(measured: float, probability: float, n: int = 4000) -> bool:
    return abs(measured - probability) < 4 * math.sqrt(probability * (1 - probability) / n)


def test_an_adversary_votes_against_the_truth() -> None:
    """P = accuracy * sigmoid(1) + (1 - accuracy) * (1 - sigmoid(1))."""
    for accuracy, probability in ((0.0, 0.2689414214), (0.3, 0.4075765685), (0.5, 0.5)):
        person = annotator(kind="simulated", utility="voters:quality", noise=0.0, accuracy=accuracy)
        assert near(share(votes(person, comparisons(4000))), probability)


def test_a_simulated_length_bias_is_a_logit_a_doubling() -> None:
    """Equal utilities, 7 and 3 characters: (7 + 1) / (3 + 1) is one doubling."""
    person = annotator(kind="simulated", utility="voters:quality", noise=0.0, length_bias=1.5)
    batch = [
        Comparison(response("q1     ", prompt_id=f"p{i}"), response("q1 ", prompt_id=f"p{i}", index=1))
        for i in range(4000)
    ]
    assert near(share(votes(person, batch)), 0.8175744762)


def test_a_simulated_position_bias_is_for_the_first_shown() -> None:
    person = annotator(kind="simulated", utility="voters:quality", noise=0.0, position_bias=1.0)
    cast = votes(person, comparisons(4000, gap=0))
    first = [vote for vote in cast if vote.order == "ab"]
    assert near(len(first) / 4000, 0.5)
    assert near(share(first), 0.7310585786, len(first))
    assert near(share([vote for vote in cast if vote.order == "ba"]), 0.2689414214, 4000 - len(first))


def test_simulated_ties_and_abstentions() -> None:
    person = annotator(kind="simulated", utility="voters:quality", ties=0.2, abstentions=0.1)
    outcomes = [vote.outcome for vote in votes(person, comparisons(4000))]
    assert near(outcomes.count("abstain") / 4000, 0.1)
    assert near(outcomes.count("tie") / 4000, 0.9 * 0.2)


def test_simulated_votes_depend_on_the_pair_only() -> None:
    batch = comparisons(300)
    person = annotator(kind="simulated", utility="voters:quality", noise=0.25)
    cast = votes(person, batch)
    assert votes(person, batch[::-1]) == cast[::-1]
    assert [votes(person, [each])[0] for each in batch[:20]] == cast[:20]
    mirrored = votes(person, [Comparison(each.b, each.a) for each in batch])
    assert [(v.outcome, m.outcome) for v, m in zip(cast, mirrored, strict=True)] == [
        (v.outcome, {"a": "b", "b": "a"}[v.outcome]) for v in cast
    ]
    # Another seed or name draws anew: about 2 p (1 - p) = 0.44 of the votes differ.
    for other in (
        annotator(seed=2, kind="simulated", utility="voters:quality", noise=0.25),
        annotator(name="you", kind="simulated", utility="voters:quality", noise=0.25),
    ):
        differing = sum(v != w for v, w in zip(cast, votes(other, batch), strict=True)) / 300
        assert 0.3 < differing < 0.6


def test_simulated_cycles_between_sources_swap_too() -> None:
    """In evaluation a and b have the same index and differ by source."""
    person = annotator(kind="simulated", utility="voters:quality", noise=0.5)
    outcomes = []
    for i in range(200):
        a, b = (response("q1", prompt_id=f"p{i}", source=source) for source in ("policy", "initial"))
        outcomes.append(tuple(votes(person, [pair])[0].outcome for pair in (Comparison(a, b), Comparison(b, a))))
    assert set(outcomes) == {("a", "b"), ("b", "a")}


def test_simulated_failures() -> None:
    person = annotator(kind="simulated", utility="voters:fails_on_bad", noise=0.0)
    texts = ("fine", "bad", "unknown")
    outcomes = {
        (a, b): votes(person, [Comparison(response(a), response(b, index=1))])[0].outcome
        for a, b in itertools.combinations(texts, 2)
    }
    assert outcomes == {("fine", "bad"): "error", ("fine", "unknown"): "abstain", ("bad", "unknown"): "error"}


def test_what_annotators_need_is_imported_when_they_are_opened() -> None:
    code = (
        "import sys, tasks.labeling.settings, tasks.panel.annotators.registry;"
        "print([m for m in ('torch', 'transformers', 'vllm', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
