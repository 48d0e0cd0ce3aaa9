"""Every annotator of pairs and rankings: swapping its inputs swaps its answer, and changes nothing else."""

import hashlib
import itertools
import json
import random
from typing import Any

import pytest

from tasks.panel.annotators.protocol import Slate, Vote
from tasks.panel.annotators.registry import ANNOTATORS
from tests.panel.chat_server import ChatServer, Spelt, ask, comparison, fenced, opened, response

#: Kinds that score single responses: order cannot matter to them.
SCORES = {"verifier", "rule", "function", "text_metric", "reward_model", "implicit_reward", "rubric", "order"}
BIASED = {"noise": 0.3, "accuracy": 0.4, "length_bias": 1.0, "position_bias": 2.0, "ties": 0.2, "abstentions": 0.1}
PAIRS: list[dict[str, Any]] = [
    {"kind": "judge"},
    {"kind": "judge", "soft": True},
    {"kind": "judge", "template": "mt-bench", "soft": True},
    {"kind": "judge", "template": "reference", "soft": True},
    {"kind": "judge", "template": "short", "soft": True},
    {"kind": "self_reference", "soft": True},
    {"kind": "simulated", "utility": "voters:length"},
    {"kind": "simulated", "utility": "voters:length", **BIASED},
]
RANKINGS: list[dict[str, Any]] = [{"kind": "ranking_judge"}]
MIRRORED = {"a": "b", "b": "a"}
REVERSED = {"ab": "ba", "ba": "ab"}


def mirror(outcome: str | None) -> str | None:
    return outcome and MIRRORED.get(outcome, outcome)


def whimsical(instruction: str) -> Spelt | str:
    """Verdicts and probabilities that depend only on the texts in the order shown."""
    texts = fenced(instruction)
    draw = random.Random(hashlib.sha256(json.dumps(texts).encode()).hexdigest())
    if len(texts) == 1 or not texts:  # its own answer
        return "an answer"
    shares = {letter: draw.random() for letter in "ABC"} | {"[[A": draw.random(), "": draw.random()}
    verdict = max("ABC", key=lambda letter: shares[letter])
    total = sum(shares.values())
    shares = {token: share / total for token, share in shares.items()}
    if "one letter and nothing else" in instruction:
        return Spelt([(verdict, shares)])
    end = "]]" if draw.random() < 0.9 else "] ]"
    return Spelt([("Because.\n[[", {"Because.\n[[": 1.0}), (verdict, shares), (end, {end: 1.0})])


def test_every_kind_is_here_or_scores() -> None:
    # People (kind human) vote on a page: tests/panel/test_humans.py swaps their comparisons.
    assert ANNOTATORS.ours().keys() - {"human"} == SCORES | {each["kind"] for each in [*PAIRS, *RANKINGS]}


@pytest.mark.parametrize("settings", PAIRS, ids=lambda each: "-".join(map(str, each.values()))[:60])
def test_pairs_swap(server: ChatServer, settings: dict[str, Any]) -> None:
    server.script = whimsical
    texts = ["x" * i + str(i) for i in range(9)]
    pairs = [comparison(a, b, reference="the truth") for a, b in itertools.combinations(texts, 2)]
    swapped = [type(pair)(pair.b, pair.a) for pair in pairs]
    remote = settings["kind"] != "simulated"
    annotator = opened(server if remote else None, **settings)
    votes: list[Vote] = ask(annotator, *pairs, *swapped) if remote else annotator.vote([*pairs, *swapped])
    seen: set[str] = set()
    for one, other in zip(votes[: len(pairs)], votes[len(pairs) :], strict=True):
        assert other.outcome == mirror(one.outcome)
        assert (other.ab, other.ba) == (mirror(one.ba), mirror(one.ab))
        assert other.order == REVERSED.get(one.order, one.order)
        assert (one.probability is None) == (other.probability is None)
        if one.probability is not None:
            assert other.probability == 1 - one.probability
            assert 0 <= one.probability <= 1
        seen |= {one.outcome, "soft" if one.probability not in (None, 0.5) else "hard"}
    assert {"a", "b"} & seen
    assert ("soft" in seen) == bool(settings.get("soft"))


def ranks_by_whim(instruction: str) -> str:
    texts = fenced(instruction)[1:]
    draw = random.Random(hashlib.sha256(json.dumps(texts).encode()).hexdigest())
    numbers = list(range(1, len(texts) + 1))
    # Mostly by length, so that the two orders agree here and there.
    numbers.sort(key=lambda i: -len(texts[i - 1]) + 3 * draw.random())
    return "Because.\n[[" + "".join(f"{i}{draw.choice('>>=')}" for i in numbers)[:-1] + "]]"


@pytest.mark.parametrize("settings", RANKINGS, ids=lambda each: each["kind"])
def test_rankings_permute(server: ChatServer, settings: dict[str, Any]) -> None:
    server.script = ranks_by_whim
    annotator = opened(server, **settings)
    draw = random.Random(3)
    sizes = set()
    for case in range(25):
        texts = ["x" * i for i in range(6)] + (["xx"] if case % 2 else [])
        order = list(range(len(texts)))
        draw.shuffle(order)
        slates = [
            Slate(tuple(response(texts[i], index=i, prompt=f"ask {case}") for i in each))
            for each in (range(len(texts)), order)
        ]
        plain, shuffled = ask(annotator, *slates)
        assert {frozenset(order[i] for i in tier) for tier in shuffled.tiers} == set(map(frozenset, plain.tiers))
        assert [frozenset(order[i] for i in tier) for tier in shuffled.tiers] == list(map(frozenset, plain.tiers))
        if case % 2:
            assert any({2, 6} <= set(tier) for tier in plain.tiers)
        sizes.add(len(plain.tiers))
    assert len(sizes) > 2
