"""make_preferences by one word: every estimator on one panel, what is learnt beside the table, blocks, refusals."""

import numpy as np
import pyarrow as pa
import pytest

from storage.errors import UserError
from storage.schemas import SCORES, VOTES, table
from tasks.labeling import preferences as module
from tasks.labeling.preferences import Preferences, make_preferences
from tasks.labeling.settings import PreferenceSettings
from tasks.panel.responses import Responses, read_responses
from tests.panel.conftest import World

PROMPTS_, SLOTS = 60, 4
ESTIMATORS = ("empirical_logit", "plackett_luce", "davidson", "dawid_skene", "general", "maxmin")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Responses, pa.Table, pa.Table, np.ndarray]:
    """Four honest annotators (of which one ranks and one scores), one who reverses; and the true utilities."""
    rng = np.random.default_rng(0)
    utility = 1.5 * rng.normal(size=(PROMPTS_, SLOTS))
    votes, scores = [], []
    for i in range(PROMPTS_):
        for k in range(SLOTS):
            score = {"prompt_id": f"p{i:03}", "source": "policy", "response_index": k, "outcome": "score"}
            scores += [score | {"annotator": f"rm{n}", "score": utility[i, k] + rng.normal(0, 0.3)} for n in range(3)]
        for who in ("a", "b", "c", "ranker", "liar"):
            worth = utility[i] + rng.gumbel(size=SLOTS)
            for a in range(SLOTS):
                for b in range(a + 1, SLOTS):
                    gap = utility[i, a] - utility[i, b] + rng.logistic()
                    better = worth[a] > worth[b] if who == "ranker" else (gap > 0) != (who == "liar")
                    row = ["policy", a, "policy", b, who, "ranking" if who == "ranker" else "pairs", "ab"[not better]]
                    names = ("source_a", "index_a", "source_b", "index_b", "annotator", "kind", "outcome")
                    votes.append({"prompt_id": f"p{i:03}", "order": "ab"} | dict(zip(names, row, strict=True)))
    texts = {f"p{i:03}": [f"text {k}" for k in range(SLOTS)] for i in range(PROMPTS_)}
    world = World(tmp_path_factory.mktemp("labelled"))
    candidates = read_responses("policy", world.responses(texts), world.prompts(list(texts)))
    return candidates, table(votes, VOTES), table(scores, SCORES), utility


def made(labelled, **words: object) -> Preferences:
    candidates, votes, scores, _ = labelled
    return make_preferences(candidates, votes, PreferenceSettings.model_validate(words), 1, scores)


def accuracy(labelled, found: Preferences) -> float:
    rows = found.table
    prompt = np.array([int(name[1:]) for name in rows["prompt_id"].to_pylist()])
    chosen, rejected = rows["chosen_index"].to_numpy(), rows["rejected_index"].to_numpy()
    utility = labelled[3]
    return float((utility[prompt, chosen] > utility[prompt, rejected]).mean())


@pytest.mark.parametrize(
    "estimator", ["bradley_terry", *ESTIMATORS, "ensemble_mean", "ensemble_worst", "ensemble_uncertainty"]
)
@pytest.mark.parametrize("pairs", ["all", "best_worst"])
def test_every_estimator_labels_every_pair(labelled, estimator, pairs):
    words = {"estimator": estimator, "pairs": pairs, "min_votes": 100}
    if estimator == "maxmin":
        words["weights"] = {"liar": 0.0}
    found = made(labelled, **words)
    assert len(found.table) == PROMPTS_ * (6 if pairs == "all" else 1)
    assert found.dropped == {}
    target, se = found.table["target"].to_numpy(), found.table["target_se"].to_numpy()
    assert (target >= 0).all()
    assert (se > 0).all()
    assert np.isfinite(se).all()
    assert accuracy(labelled, found) > (0.75 if pairs == "all" else 0.85)


def test_reliability_reverses_the_liar_and_says_so(labelled):
    plain, found = made(labelled), made(labelled, reliability="em", min_votes=100)
    learnt = found.learnt["annotators"]
    assert learnt["liar"]["used"] == 0
    assert learnt["liar"]["votes"] == 360
    assert [learnt[name]["used"] for name in ("a", "b", "c")] == [1, 1, 1]
    assert found.learnt["not_identified"] == {}
    assert accuracy(labelled, found) > accuracy(labelled, plain)
    assert plain.learnt == {}


def test_what_cannot_be_told_is_said_and_counts_in_full(labelled):
    plain, found = made(labelled), made(labelled, reliability="em")
    assert sorted(found.learnt["not_identified"]) == ["a", "b", "c", "liar", "ranker"]
    assert "360 of its 360 decided votes" in found.learnt["not_identified"]["a"]
    assert "500 are needed" in found.learnt["not_identified"]["a"]
    assert found.table.equals(plain.table)


def test_weights_count(labelled):
    without = made(labelled, weights={"liar": 0})
    candidates, votes, _, _ = labelled
    kept = votes.filter(pa.compute.not_equal(votes["annotator"], "liar"))
    alone = make_preferences(candidates, kept, PreferenceSettings(), 1)
    for name in ("target", "target_se", "chosen_index"):
        assert without.table[name].to_pylist() == alone.table[name].to_pylist()


@pytest.mark.parametrize("estimator", ["bradley_terry", *ESTIMATORS])
def test_blocks_change_nothing(labelled, estimator, monkeypatch):
    words = {"estimator": estimator, "min_votes": 100} | ({"reliability": "em"} if estimator == "bradley_terry" else {})
    whole = made(labelled, **words)
    monkeypatch.setattr(module, "_BLOCK", 7)
    parts = made(labelled, **words)
    for name in ("target", "target_se"):
        np.testing.assert_allclose(parts.table[name].to_numpy(), whole.table[name].to_numpy(), atol=1e-9)
    assert parts.table.drop_columns(["p_hat", "target", "target_se"]).equals(
        whole.table.drop_columns(["p_hat", "target", "target_se"])
    )


@pytest.mark.parametrize("key", ["pinned", "weights"])
def test_names_that_are_not_on_the_panel_are_refused(labelled, key):
    with pytest.raises(UserError, match=f"no votes of nobody(.|\n)*preferences.{key}"):
        made(labelled, reliability="em", **{key: {"nobody": 1.0}})


def test_an_ensemble_needs_scores(labelled):
    candidates, votes, _, _ = labelled
    with pytest.raises(UserError, match="made of scores"):
        make_preferences(candidates, votes, PreferenceSettings(estimator="ensemble_mean"), 1)


def test_responses_that_a_member_did_not_score_are_left_out(labelled):
    candidates, votes, scores, _ = labelled
    settings = PreferenceSettings(estimator="ensemble_worst")
    found = make_preferences(candidates, votes, settings, 1, scores.slice(1))  # rm0 did not score p000's first
    assert found.dropped == {"unscored": 3}


def test_rankings_with_ties_are_counted_and_told(labelled):
    candidates, votes, _, _ = labelled
    rows = votes.to_pylist()
    tied = next(row for row in rows if row["kind"] == "ranking")
    tied["outcome"] = "tie"
    found = make_preferences(candidates, table(rows, VOTES), PreferenceSettings(estimator="plackett_luce"), 1)
    assert found.learnt == {"notes": {"votes of rankings with ties or gaps, counted singly": 6}}


@pytest.mark.parametrize("words", [{"reliability": "em", "estimator": "davidson"}, {"pinned": {"a": 1.0}}])
def test_settings_that_mean_nothing_together_are_refused(words):
    with pytest.raises(ValueError, match="reliability"):
        PreferenceSettings.model_validate(words)
