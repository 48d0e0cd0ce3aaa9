"""Soft votes of scores, their temperature, the prior from scores and votes: against searches and hand-made worlds."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from storage.arrays import Floats
from storage.errors import UserError
from storage.schemas import SCORES, VOTES, table
from tasks.labeling.aggregation import Votes, bradley_terry
from tasks.labeling.aggregation.prior_variance import VARIANCES, best_variance, held_out_likelihoods
from tasks.labeling.preferences import make_preferences
from tasks.labeling.settings import PreferenceSettings
from tasks.labeling.soft_votes import soft_votes
from tasks.labeling.stage import run
from tasks.labeling.summary import LabelSummary
from tasks.panel.questions import PanelVotes
from tasks.panel.responses import read_responses
from tasks.panel.settings import PanelSettings
from tests.panel.conftest import World

PROMPTS = 300
PAIRS = np.stack([2 * np.arange(PROMPTS), 2 * np.arange(PROMPTS) + 1], axis=1)
FULL: dict[str, float] = {}


def panel_votes(scores: Floats, others: dict[str, list[str]]) -> PanelVotes:
    """A scorer `rm` with scores [2 n] of two responses a prompt, and the outcomes of other annotators."""
    rows = [
        {"prompt_id": f"p{i // 2}", "source": "policy", "response_index": i % 2, "annotator": "rm", "score": score}
        | {"outcome": "score" if score == score else "error"}
        for i, score in enumerate(scores.tolist())
    ]
    gap = scores[::2] - scores[1::2]
    own = ["error" if g != g else "a" if g > 0 else "b" if g < 0 else "tie" for g in gap.tolist()]
    votes = [
        {"prompt_id": f"p{i}", "source_a": "policy", "index_a": 0, "source_b": "policy", "index_b": 1}
        | {"annotator": name, "kind": "scores", "outcome": outcome, "order": "none"}
        for name, outcomes in ({"rm": own} | others).items()
        for i, outcome in enumerate(outcomes)
        if outcome != "unasked"
    ]
    return PanelVotes(table(rows, SCORES), table(votes, VOTES))


def world(scale: float, seed: int = 0) -> tuple[Floats, dict[str, list[str]]]:
    """Scores whose difference over `scale` is the logit of two other annotators' votes."""
    rng = np.random.default_rng(seed)
    logit = 2 * rng.normal(size=PROMPTS)
    scores = np.zeros(2 * PROMPTS)
    scores[::2] = scale * logit
    drawn = rng.random((2, PROMPTS)) < 1 / (1 + np.exp(-logit))
    return scores, {name: ["a" if won else "b" for won in row] for name, row in zip("xy", drawn, strict=True)}


def test_a_temperature_makes_probabilities() -> None:
    scores = np.zeros(2 * PROMPTS)
    scores[:6] = [1.0, 0.0, 3.0, 3.0, np.nan, 1.0]
    result = soft_votes(panel_votes(scores, {"x": ["a"] * PROMPTS}), PAIRS, {"rm": 0.5}, FULL, 500)
    assert result.votes["probability"][:3].to_pylist() == [pytest.approx(1 / (1 + np.exp(-2.0))), 0.5, None]
    assert result.votes.filter(pa.compute.equal(result.votes["annotator"], "x"))["probability"].null_count == PROMPTS
    assert result.temperatures["rm"].model_dump() == {"temperature": 0.5, "votes": None, "not_identified": None}


@pytest.mark.parametrize("scale", [0.2, 1.0, 30.0])
def test_the_temperature_is_what_a_search_finds(scale: float) -> None:
    scores, others = world(scale)
    others["y"][:50] = ["tie"] * 50
    others["x"][250:] = ["unasked"] * 50  # people may vote on a part
    found = soft_votes(panel_votes(scores, others), PAIRS, {"rm": "auto"}, {"y": 2.0}, 500).temperatures["rm"]
    assert found.not_identified is None
    assert found.votes == 500
    share = {"a": 1.0, "b": 0.0, "tie": 0.5}
    gap = scores[::2]

    def height(temperature: float) -> float:
        total = 0.0
        for name, weight in (("x", 1.0), ("y", 2.0)):
            v = np.array([share.get(outcome, np.nan) for outcome in others[name]])
            z = gap / temperature
            total -= weight * float(np.nansum(v * np.logaddexp(0, -z) + (1 - v) * np.logaddexp(0, z)))
        return total

    grid = scale * np.exp(np.linspace(-1, 1, 4001))
    assert found.temperature == pytest.approx(grid[int(np.argmax([height(t) for t in grid]))], rel=1e-3)
    assert scale < found.temperature < 1.5 * scale  # ties pull it up


def test_what_does_not_identify_a_temperature_is_said_and_counts_as_one() -> None:
    scores, others = world(3.0)

    def why(given: dict[str, list[str]], weights: dict[str, float], needed: int = 500) -> str:
        found = soft_votes(panel_votes(scores, given), PAIRS, {"rm": "auto"}, weights, needed).temperatures["rm"]
        assert found.temperature == 1.0
        assert found.not_identified is not None
        return found.not_identified

    assert why(others, {}, 601) == "other annotators decided 600 times on pairs whose scores differ; 601 are needed"
    assert "decided 300 times" in why(others, {"y": 0.0})
    against = {name: ["b" if outcome == "a" else "a" for outcome in row] for name, row in others.items()}
    assert "do not follow these scores" in why(against, {})
    agreed = {name: ["a" if s > 0 else "b" for s in scores[::2]] for name in others}
    assert "ever votes against" in why(agreed, {})


def test_a_stage_hears_soft_votes_and_says_its_temperatures(world: World) -> None:
    quality = {"kind": "function", "function": "voters:quality"}
    texts = {"p": ["q1 a", "q2 b", "q4 c"]}
    soft = quality | {"soft": True, "temperature": 2.0}
    spec = world.spec(texts, {"rm": soft, "auto": quality | {"soft": True}, "check": quality})
    manifest = run(spec)
    votes = pq.read_table(spec.folder / "votes.parquet").to_pylist()
    by_name = {name: [row["probability"] for row in votes if row["annotator"] == name] for name in ("rm", "check")}
    assert by_name["rm"] == [pytest.approx(1 / (1 + np.exp(gap / 2))) for gap in (1, 3, 2)]
    assert by_name["check"] == [None] * 3
    learnt = LabelSummary.model_validate(manifest.summary).learnt
    assert learnt.temperatures["rm"].temperature == 2.0
    assert learnt.temperatures["auto"].temperature == 1.0
    assert learnt.temperatures["auto"].not_identified is not None
    counted = pq.read_table(spec.folder / "counted_votes.parquet").to_pylist()
    assert [row["share"] for row in counted if row["annotator"] == "rm"] == by_name["rm"]
    assert len(counted) == 9


def test_counted_votes_have_weights_and_reversals(labelled_pairs: tuple[World, pa.Table]) -> None:
    world, votes = labelled_pairs
    responses = read_responses("policy", world.responses({f"p{i}": ["a", "b"] for i in range(40)}),
                               world.prompts([f"p{i}" for i in range(40)]))  # fmt: skip
    settings = PreferenceSettings(weights={"x": 2.0, "z": 0.0}, reliability="em", min_votes=1, pinned={"liar": 0.0})
    counted = make_preferences(responses, votes, settings, 1).counted.to_pylist()
    by_name = {name: {(row["share"], row["weight"]) for row in counted if row["annotator"] == name} for name in "xz"}
    assert by_name == {"x": {(1.0, 2.0)}, "z": set()}
    assert {(row["share"], row["weight"]) for row in counted if row["annotator"] == "liar"} == {(1.0, 1.0)}


@pytest.fixture
def labelled_pairs(world: World) -> tuple[World, pa.Table]:
    """x and y say that the first of 40 pairs is better, z and the liar that the second is."""
    rows = [
        {"prompt_id": f"p{i}", "source_a": "policy", "index_a": 0, "source_b": "policy", "index_b": 1}
        | {"annotator": name, "kind": "pairs", "outcome": outcome, "order": "both"}
        for name, outcome in (("x", "a"), ("y", "a"), ("z", "b"), ("liar", "b"))
        for i in range(40)
    ]
    return world, table(rows, VOTES)


def test_prior_scores_are_the_mean_of_the_prior_and_no_votes(world: World) -> None:
    """Target of a prompt without other votes: the prior's gap; with votes: Bradley-Terry around it."""
    texts = {"p": ["q1 a", "q2 b", "q4 c"]}
    quality = {"kind": "function", "function": "voters:quality"}
    scorer = quality | {"soft": True, "temperature": 2.0}
    spec = world.spec(texts, {"rm": scorer, "check": quality}, preferences={"prior_scores": ["rm"]})
    run(spec)
    wins = np.tril(np.ones((3, 3)), -1)[None]
    fit = bradley_terry(wins, prior_variance=2.0, prior_mean=np.array([[0.5, 1.0, 2.0]]))
    rows = pq.read_table(spec.folder / "preferences.parquet").to_pylist()
    expected = [fit.theta[0, row["chosen_index"]] - fit.theta[0, row["rejected_index"]] for row in rows]
    assert [row["target"] for row in rows] == pytest.approx(expected)
    silent = world.spec(texts, {"rm": scorer, "check": quality}, out="silent",
                        preferences={"prior_scores": ["rm"], "weights": {"check": 0.0}})  # fmt: skip
    run(silent)
    rows = pq.read_table(silent.folder / "preferences.parquet").to_pylist()
    assert [row["target"] for row in rows] == pytest.approx([0.5, 1.5, 1.0])


def votes_of(strength: float, prompts: int = 400, seed: int = 2) -> Votes:
    """Three annotators' votes on one pair a prompt, whose gap has the standard deviation `strength`."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-strength * rng.normal(size=prompts)))
    prompt, annotator = (each.ravel() for each in np.indices((prompts, 3)))
    share = (rng.random(len(prompt)) < p[prompt]).astype(np.float64)
    zero = np.zeros(len(prompt), dtype=np.int64)
    return Votes(prompt, zero, zero + 1, annotator, share, np.ones(len(prompt)), np.zeros(len(prompt), bool))


def test_the_prior_variance_follows_agreement() -> None:
    chosen = [best_variance(held_out_likelihoods(votes_of(s), (400, 2))) for s in (0.3, 1.5, 6.0)]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[2]


def test_held_out_likelihood_is_that_of_fits_one_by_one() -> None:
    votes = votes_of(1.5, prompts=20)
    votes = replace(votes, weight=np.where(votes.annotator == 1, 0.5, 1.0))
    expected = 0.0
    for k in range(3):
        own, others = votes.take(votes.annotator == k), votes.take(votes.annotator != k)
        fit = bradley_terry(others.wins((20, 2)), prior_variance=2.0)
        p = 1 / (1 + np.exp(-(fit.theta[own.prompt, 0] - fit.theta[own.prompt, 1])))
        expected += float((own.weight * np.log(np.where(own.share == 1, p, 1 - p))).sum())
    at = VARIANCES.tolist().index(2.0)
    assert held_out_likelihoods(votes, (20, 2))[at] == pytest.approx(expected)


def test_auto_is_chosen_written_down_and_the_same_as_the_number(labelled_pairs: tuple[World, pa.Table]) -> None:
    world, votes = labelled_pairs
    names = [f"p{i}" for i in range(40)]
    responses = read_responses("policy", world.responses({n: ["a", "b"] for n in names}), world.prompts(names))
    auto = make_preferences(responses, votes, PreferenceSettings(prior_variance="auto"), 1)
    chosen = auto.estimates.prior_variance
    assert chosen == VARIANCES[0]  # two against two, always: nobody predicts anybody
    same = make_preferences(responses, votes, PreferenceSettings(prior_variance=chosen), 1)
    assert auto.labels.equals(same.labels)
    alone = votes.filter(pa.compute.equal(votes["annotator"], "x"))
    with pytest.raises(UserError, match="votes of 1 count"):
        make_preferences(responses, alone, PreferenceSettings(prior_variance="auto"), 1)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"prior_scores": ["judge"]}, "judge gives no scores"),
        ({"prior_scores": ["check"]}, "have no temperature"),
        ({"prior_scores": ["rm"], "weights": {"check": 0, "judge": 0}}, "nobody is left to vote"),
        ({"prior_variance": "auto", "weights": {"rm": 0, "judge": 0}}, "fewer than two vote"),
    ],
)
def test_what_a_panel_cannot_do_is_refused(words: dict[str, object], why: str) -> None:
    panel = PanelSettings.model_validate(
        {
            "annotators": {
                "rm": {"kind": "reward_model", "path": "somewhere"},
                "check": {"kind": "verifier"},
                "judge": {"kind": "simulated", "utility": "voters:quality"},
            }
        }
    )
    with pytest.raises(ValueError, match=why):
        PreferenceSettings.model_validate(words).check_panel(panel)


@pytest.mark.parametrize("words", [{"prior_variance": "auto", "estimator": "dawid_skene"},
                                   {"prior_scores": ["rm"], "reliability": "em"}])  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="prior_"):
        PreferenceSettings.model_validate(words)
