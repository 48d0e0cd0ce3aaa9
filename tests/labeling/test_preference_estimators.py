"""make_preferences with every estimator on one panel: labels, estimates about annotators, blocks, refusals."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.arrays import Floats
from storage.errors import UserError
from storage.schemas import SCORES, VOTES, table
from tasks.labeling import preferences as module
from tasks.labeling.preferences import LabelledPairs, make_preferences
from tasks.labeling.settings import PreferenceSettings
from tasks.panel.responses import Responses, read_responses
from tests.panel.conftest import World

#: responses, votes, scores and the true utilities
Panel = tuple[Responses, pa.Table, pa.Table, Floats]

PROMPTS_, SLOTS = 60, 4
ESTIMATORS = ("empirical_logit", "plackett_luce", "davidson", "dawid_skene", "general", "maxmin")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    """Four honest annotators (of which one ranks and one scores), one name reverses; and the true utilities."""
    rng = np.random.default_rng(0)
    utility = 1.5 * rng.normal(size=(PROMPTS_, SLOTS))
    votes, scores = [], []
    for i in range(PROMPTS_):
        for k in range(SLOTS):
            score = {"prompt_id": f"p{i:03}", "source": "policy", "response_index": k, "outcome": "score"}
            scores += [score | {"annotator": f"rm{n}", "score": utility[i, k] + rng.normal(0, 0.3)} for n in range(3)]
        for name in ("a", "b", "c", "ranker", "liar"):
            worth = utility[i] + rng.gumbel(size=SLOTS)
            for a in range(SLOTS):
                for b in range(a + 1, SLOTS):
                    gap = utility[i, a] - utility[i, b] + rng.logistic()
                    better = worth[a] > worth[b] if name == "ranker" else (gap > 0) != (name == "liar")
                    row = ["policy", a, "policy", b, name, "ranking" if name == "ranker" else "pairs", "ab"[not better]]
                    names = ("source_a", "index_a", "source_b", "index_b", "annotator", "kind", "outcome")
                    votes.append({"prompt_id": f"p{i:03}", "order": "ab"} | dict(zip(names, row, strict=True)))
    texts = {f"p{i:03}": [f"text {k}" for k in range(SLOTS)] for i in range(PROMPTS_)}
    world = World(tmp_path_factory.mktemp("labelled"))
    responses = read_responses("policy", world.responses(texts), world.prompts(list(texts)))
    return responses, table(votes, VOTES), table(scores, SCORES), utility


def label(labelled: Panel, **words: object) -> LabelledPairs:
    responses, votes, scores, _ = labelled
    return make_preferences(responses, votes, PreferenceSettings.model_validate(words), 1, scores)


def written(pairs: LabelledPairs) -> dict[str, Any]:
    """The estimates as in the manifest."""
    return pairs.estimates.model_dump(mode="json", exclude_unset=True)


def accuracy(labelled: Panel, result: LabelledPairs) -> float:
    rows = result.table
    prompt = np.array([int(name[1:]) for name in rows["prompt_id"].to_pylist()])
    chosen, rejected = rows["chosen_index"].to_numpy(), rows["rejected_index"].to_numpy()
    utility = labelled[3]
    return float((utility[prompt, chosen] > utility[prompt, rejected]).mean())


@pytest.mark.parametrize(
    "estimator", ["bradley_terry", *ESTIMATORS, "ensemble_mean", "ensemble_worst", "ensemble_uncertainty"]
)
@pytest.mark.parametrize("pairs", ["all", "best_worst"])
def test_every_estimator_labels_every_pair(labelled: Panel, estimator: str, pairs: str) -> None:
    words: dict[str, Any] = {"estimator": estimator, "pairs": pairs, "min_votes": 100}
    if estimator == "maxmin":
        words["weights"] = {"liar": 0.0}
    result = label(labelled, **words)
    assert len(result.table) == PROMPTS_ * (6 if pairs == "all" else 1)
    assert result.dropped == {}
    target, se = result.table["target"].to_numpy(), result.table["target_se"].to_numpy()
    assert (target >= 0).all()
    assert (se > 0).all()
    assert np.isfinite(se).all()
    assert accuracy(labelled, result) > (0.75 if pairs == "all" else 0.85)


def test_reliability_reverses_the_liar(labelled: Panel) -> None:
    plain, result = label(labelled), label(labelled, reliability="em", min_votes=100)
    annotators = result.estimates.annotators
    assert annotators["liar"].used == 0
    assert annotators["liar"].votes == 360
    assert [annotators[name].used for name in ("a", "b", "c")] == [1, 1, 1]
    assert result.estimates.not_identified == {}
    assert accuracy(labelled, result) > accuracy(labelled, plain)
    assert written(plain) == {}


def test_annotators_that_are_not_identified_count_in_full(labelled: Panel) -> None:
    plain, result = label(labelled), label(labelled, reliability="em")
    assert sorted(result.estimates.not_identified) == ["a", "b", "c", "liar", "ranker"]
    assert "360 of its 360 decided votes" in result.estimates.not_identified["a"]
    assert "500 are needed" in result.estimates.not_identified["a"]
    assert result.table.equals(plain.table)


def test_weights_count(labelled: Panel) -> None:
    without = label(labelled, weights={"liar": 0})
    responses, votes, _, _ = labelled
    kept = votes.filter(pa.compute.not_equal(votes["annotator"], "liar"))
    alone = make_preferences(responses, kept, PreferenceSettings(), 1)
    for name in ("target", "target_se", "chosen_index"):
        assert without.table[name].to_pylist() == alone.table[name].to_pylist()


@pytest.mark.parametrize("estimator", ["bradley_terry", *ESTIMATORS])
def test_blocks_change_nothing(labelled: Panel, estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words: dict[str, Any] = {"estimator": estimator, "min_votes": 100} | (
        {"reliability": "em"} if estimator == "bradley_terry" else {}
    )
    whole = label(labelled, **words)
    monkeypatch.setattr(module, "_BLOCK", 7)
    parts = label(labelled, **words)
    for name in ("target", "target_se"):
        np.testing.assert_allclose(parts.table[name].to_numpy(), whole.table[name].to_numpy(), atol=1e-9)
    assert parts.table.drop_columns(["p_hat", "target", "target_se"]).equals(
        whole.table.drop_columns(["p_hat", "target", "target_se"])
    )


@pytest.mark.parametrize("key", ["pinned", "weights"])
def test_names_that_are_not_on_the_panel_are_refused(labelled: Panel, key: str) -> None:
    with pytest.raises(UserError, match=f"no votes of nobody(.|\n)*preferences.{key}"):
        label(labelled, reliability="em", **{key: {"nobody": 1.0}})


def test_an_ensemble_needs_scores(labelled: Panel) -> None:
    responses, votes, _, _ = labelled
    with pytest.raises(UserError, match="needs scores"):
        make_preferences(responses, votes, PreferenceSettings(estimator="ensemble_mean"), 1)


def test_responses_that_a_member_did_not_score_are_left_out(labelled: Panel) -> None:
    responses, votes, scores, _ = labelled
    settings = PreferenceSettings(estimator="ensemble_worst")
    result = make_preferences(responses, votes, settings, 1, scores.slice(1))  # rm0 did not score p000's first
    assert result.dropped == {"unscored": 3}


def test_rankings_with_ties_are_counted(labelled: Panel) -> None:
    responses, votes, _, _ = labelled
    rows = votes.to_pylist()
    tied = next(row for row in rows if row["kind"] == "ranking")
    tied["outcome"] = "tie"
    result = make_preferences(responses, table(rows, VOTES), PreferenceSettings(estimator="plackett_luce"), 1)
    assert written(result) == {"notes": {"votes of rankings with ties or gaps, counted singly": 6}}


@pytest.mark.parametrize("words", [{"reliability": "em", "estimator": "davidson"}, {"pinned": {"a": 1.0}}])
def test_settings_that_mean_nothing_together_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reliability"):
        PreferenceSettings.model_validate(words)
