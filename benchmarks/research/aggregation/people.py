"""(c) Votes of people: how well do the votes of all other annotators predict those of one?

Leave one annotator out at a time, fit on the votes of the others, and score each vote left out by its log-likelihood
under p_hat; a tie counts half for each side. Hyperparameters are chosen on the training votes alone, in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.research.aggregation.libraries import crowdkit
from storage.arrays import Floats
from tasks.labeling.aggregation import Votes, bradley_terry, empirical_logit, sigmoid

FILES = ("tulu1_human.parquet", "rankgen_ab.parquet")
_VARIANCES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_PSEUDO = (0.5, 1.0, 2.0, 4.0)
_BOUND = 1e-3  # p_hat is kept this far from 0 and 1
_ROUNDS = 20  # of alternating between the sources' means and the strengths

Predict = Callable[[Votes, Votes], Floats]  # training votes, test votes -> P(first is preferred)


@dataclass(frozen=True)
class People:
    """One file: prompts, and as responses the texts of its systems."""

    name: str
    votes: Votes
    systems: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts and systems."""
        return int(self.votes.prompt.max()) + 1, len(self.systems)


@dataclass(frozen=True)
class Score:
    """Of the votes left out: mean log-likelihood, the same on pairs that others voted on, and calibration error."""

    likelihood: float
    shared: float
    calibration: float


def read_people(path: Path) -> People:
    """Read one file of votes: item_id, source_a, source_b, annotator, label."""
    import pandas

    rows = pandas.read_parquet(path)
    source = [rows[side].str.split(":").str[-1] for side in ("source_a", "source_b")]
    systems = tuple(sorted(set(source[0]) | set(source[1])))
    a, b = (side.map(systems.index).to_numpy() for side in source)
    share = rows["label"].map({"a": 1.0, "b": 0.0, "tie": 0.5}).to_numpy()
    prompt = pandas.factorize(rows["item_id"].str.split("|").str[0])[0]
    votes = Votes(
        prompt,
        np.minimum(a, b),
        np.maximum(a, b),
        pandas.factorize(rows["annotator"])[0],
        np.where(a < b, share, 1 - share),
        np.ones(len(rows)),
        np.zeros(len(rows), dtype=bool),
    )
    return People(path.stem, votes.take(np.argsort(votes.prompt, kind="stable")), systems)


def compare(people: People) -> dict[str, Score]:
    """Score of every method on `people`. Names of our methods begin with 'irepo'."""
    shape = people.shape
    methods: dict[str, Predict] = {
        "nothing (one half)": lambda train, test: np.full(len(test), 0.5),
        "counting, a = 0.5": lambda train, test: _count(train, test, shape, 0.5),
        "counting, a chosen": _chosen(_PSEUDO, lambda train, test, a: _count(train, test, shape, a)),
        "crowd-kit Dawid-Skene": lambda train, test: _dawid_skene(train, test, shape),
        "choix Bradley-Terry, responses, ridge 1": lambda train, test: _choix(train, test, shape, 1.0),
        "choix Bradley-Terry, responses, ridge 2": lambda train, test: _choix(train, test, shape, 2.0),
        "choix Bradley-Terry, systems": lambda train, test: _choix_systems(train, test, shape[1]),
        "irepo, default": lambda train, test: _strengths(train, test, shape, 2.0),
        "irepo, variance chosen": _chosen(_VARIANCES, lambda train, test, v: _strengths(train, test, shape, v)),
        "irepo, variance chosen, systems as prior": _chosen(
            _VARIANCES, lambda train, test, v: _with_systems(train, test, shape, v)
        ),
    }
    return {name: _score(people, predict) for name, predict in methods.items()}


def _score(people: People, predict: Predict) -> Score:
    votes = people.votes
    p = np.empty(len(votes))
    shared = np.zeros(len(votes), dtype=bool)
    keys = votes.pair_keys(people.shape[1])
    for k in np.unique(votes.annotator):
        out = votes.annotator == k
        p[out] = predict(votes.take(~out), votes.take(out))
        shared[out] = np.isin(keys[out], keys[~out])
    each = _likelihood(p, votes.share)
    return Score(float(each.mean()), float(each[shared].mean()), calibration_error(p, votes.share))


def calibration_error(p: Floats, share: Floats, bins: int = 10) -> float:
    """Mean distance between p_hat and the share of votes, in bins of p_hat weighted by votes; both sides of a pair."""
    p, share = np.concatenate([p, 1 - p]), np.concatenate([share, 1 - share])
    place = np.minimum((p * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(place, p - share, bins)).sum() / len(p))


def _likelihood(p: Floats, share: Floats) -> Floats:
    q = np.clip(p, _BOUND, 1 - _BOUND)
    result: Floats = share * np.log(q) + (1 - share) * np.log1p(-q)
    return result


def _chosen(values: tuple[float, ...], method: Callable[[Votes, Votes, float], Floats]) -> Predict:
    """`method` with the value that predicts each training annotator best from the others."""

    def predict(train: Votes, test: Votes) -> Floats:
        totals = np.zeros(len(values))
        for k in np.unique(train.annotator):
            out = train.annotator == k
            part, rest = train.take(out), train.take(~out)
            totals += [_likelihood(method(rest, part, value), part.share).sum() for value in values]
        return method(train, test, values[int(totals.argmax())])

    return predict


def _count(train: Votes, test: Votes, shape: tuple[int, int], a: float) -> Floats:
    wins = train.wins(shape)
    won, lost = wins[test.prompt, test.first, test.second], wins[test.prompt, test.second, test.first]
    return sigmoid(empirical_logit(won, won + lost, a)[0])


def _strengths(train: Votes, test: Votes, shape: tuple[int, int], variance: float) -> Floats:
    fit = bradley_terry(train.wins(shape), prior_variance=variance)
    return sigmoid(fit.gaps(test.prompt, test.first, test.second)[0])


def _with_systems(train: Votes, test: Votes, shape: tuple[int, int], variance: float) -> Floats:
    """Strengths around each system's mean strength, which is estimated from the same votes (empirical Bayes)."""
    mean = np.zeros(shape[1])
    for _ in range(_ROUNDS):
        fit = bradley_terry(train.wins(shape), prior_variance=variance, prior_mean=mean)
        mean = fit.theta.mean(axis=0) - fit.theta.mean()
    return sigmoid(fit.gaps(test.prompt, test.first, test.second)[0])


def _choix(train: Votes, test: Votes, shape: tuple[int, int], variance: float) -> Floats:
    import choix

    theta = np.zeros(shape)
    for x in np.unique(train.prompt):
        rows = train.take(train.prompt == x)
        theta[x] = choix.opt_pairwise(shape[1], _pairs(rows), alpha=1 / variance, method="Newton-CG")
    return sigmoid(theta[test.prompt, test.first] - theta[test.prompt, test.second])


def _choix_systems(train: Votes, test: Votes, systems: int) -> Floats:
    import choix

    theta = choix.opt_pairwise(systems, _pairs(train), alpha=1e-3, method="Newton-CG")
    return sigmoid(theta[test.first] - theta[test.second])


def _pairs(votes: Votes) -> list[tuple[int, int]]:
    """(winner, loser) twice for each vote; a tie is one for each side. So the ridge is 1 / v."""
    rows = zip(votes.first.tolist(), votes.second.tolist(), votes.share.tolist(), strict=True)
    return [pair for i, j, s in rows for pair in [(i, j)] * round(2 * s) + [(j, i)] * round(2 - 2 * s)]


def _dawid_skene(train: Votes, test: Votes, shape: tuple[int, int]) -> Floats:
    """Posterior of each pair: ties are a class that counts half. An unseen pair gets the class shares."""
    import pandas

    key = train.pair_keys(shape[1])
    rows = pandas.DataFrame({"task": key, "worker": train.annotator, "label": (2 * train.share).astype(int)})
    model = crowdkit("classification.dawid_skene").DawidSkene(n_iter=100)
    found = model.fit_predict_proba(rows).reindex(columns=[0, 1, 2], fill_value=0.0)
    p = found[2] + found[1] / 2
    cast = pandas.Series(1, index=key).groupby(level=0).sum()
    bound = 0.5 / (cast.reindex(p.index) + 1)
    p = p.clip(bound, 1 - bound)
    prior = model.priors_.reindex([0, 1, 2]).fillna(0.0)
    predicted: Floats = p.reindex(test.pair_keys(shape[1]), fill_value=prior[2] + prior[1] / 2).to_numpy()
    return predicted
