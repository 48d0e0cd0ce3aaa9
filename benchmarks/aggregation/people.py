"""(c) Votes of people: how well do the votes of all other annotators predict those of one?

Leave one annotator out at a time, fit on the votes of the others, and score each vote left out by its log-likelihood
under p_hat; a tie counts half for each side. Hyperparameters are chosen on the training votes alone, in the same way.
One row, OURS, stands for irepo in the verdict: it is not chosen by what the left-out votes say.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.aggregation.libraries import crowdkit
from storage.arrays import Floats
from storage.errors import UserError
from tasks.labeling.aggregation import Votes, bradley_terry, empirical_logit, sigmoid
from tasks.labeling.aggregation.prior_variance import PriorMean, best_variance, held_out_likelihoods, no_prior_mean

if TYPE_CHECKING:
    import pandas

FILES = ("tulu1_human.parquet", "rankgen_ab.parquet")
_COLUMNS = ("item_id", "source_a", "source_b", "annotator", "label")
_SHARES = {"a": 1.0, "b": 0.0, "tie": 0.5}
_PSEUDO = (0.5, 1.0, 2.0, 4.0)
_BOUND = 1e-3  # p_hat is kept this far from 0 and 1
_SYSTEMS = 10.0  # prior variance of the systems' strengths, which have many votes
OURS = "irepo, prior_variance=auto, systems as prior"
LIBRARIES = ("choix", "crowd-kit")

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
    each: Floats  # log-likelihood of each vote, in the order of People.votes


@dataclass(frozen=True)
class Advantage:
    """Difference of two mean log-likelihoods, nats a vote, and its 95 % interval."""

    mean: float
    low: float
    high: float


def read_people(path: Path) -> People:
    """Read one file of votes, Parquet or JSONL: item_id, source_a, source_b, annotator, label (a, b or tie).

    item_id names the prompt, up to its first "|"; a source is the system that wrote the response. Raises UserError for
    columns and labels that are missing, with the row.
    """
    import pandas

    rows = pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_json(path, lines=True)
    _check(rows, path)
    source = [rows[side].str.split(":").str[-1] for side in ("source_a", "source_b")]
    systems = tuple(sorted(set(source[0]) | set(source[1])))
    a, b = (side.map(systems.index).to_numpy() for side in source)
    share = rows["label"].map(_SHARES).to_numpy()
    prompt = pandas.factorize(rows["item_id"].astype(str).str.split("|").str[0])[0]
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


def _check(rows: "pandas.DataFrame", path: Path) -> None:
    remedy = f"a vote is a row with {', '.join(_COLUMNS)}; label is one of {', '.join(_SHARES)}"
    if missing := [name for name in _COLUMNS if name not in rows.columns]:
        raise UserError(f"columns are missing: {', '.join(missing)}", where=str(path), remedy=remedy)
    for number, (label, a, b) in enumerate(zip(rows["label"], rows["source_a"], rows["source_b"], strict=True), 1):
        if label not in _SHARES or a == b:
            what = f"the label is {label!r}" if label not in _SHARES else f"both responses are by {a!r}"
            raise UserError(what, where=f"{path}, row {number}", remedy=remedy)
    if rows["annotator"].nunique() < 3:
        raise UserError(
            "the votes are of fewer than three annotators, and one of those that are left is left out in turn",
            where=str(path),
            remedy="give votes of at least three annotators",
        )


def compare(people: People) -> dict[str, Score]:
    """Score of every method on `people`. OURS represents irepo, whatever the votes say."""
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
        "irepo, prior_variance=auto": lambda train, test: _auto(train, test, shape, no_prior_mean),
        OURS: lambda train, test: _auto(train, test, shape, lambda votes, variance: _systems(votes, shape)),
    }
    return {name: _score(people, predict) for name, predict in methods.items()}


def best_library(scores: Mapping[str, Score]) -> str:
    """The name of the library's method with the highest likelihood."""
    return max((name for name in scores if name.startswith(LIBRARIES)), key=lambda name: scores[name].likelihood)


def advantage(people: People, ours: Score, theirs: Score, *, resamples: int = 2000, seed: int = 0) -> Advantage:
    """Ours less theirs in nats a vote, with a 95 % bootstrap interval over prompts."""
    difference = ours.each - theirs.each
    prompts, place = np.unique(people.votes.prompt, return_inverse=True)
    sums, counts = np.bincount(place, difference), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(len(prompts), size=(resamples, len(prompts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Advantage(float(difference.mean()), float(low), float(high))


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
    on_shared = float(each[shared].mean()) if shared.any() else float("nan")
    return Score(float(each.mean()), on_shared, calibration_error(p, votes.share), each)


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


def _auto(train: Votes, test: Votes, shape: tuple[int, int], prior_mean: PriorMean) -> Floats:
    """The variance by leaving out one of the training annotators at a time, as preferences.prior_variance=auto."""
    variance = best_variance(held_out_likelihoods(train, shape, prior_mean=prior_mean))
    mean = prior_mean(train, variance)
    fit = bradley_terry(train.wins(shape), prior_variance=variance, prior_mean=mean)
    return sigmoid(fit.gaps(test.prompt, test.first, test.second)[0])


def _systems(votes: Votes, shape: tuple[int, int]) -> Floats:
    """Strength of each system [K] over all prompts, by the same votes."""
    strengths: Floats = bradley_terry(votes.wins(shape).sum(axis=0)[None], prior_variance=_SYSTEMS).theta[0]
    return strengths


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
