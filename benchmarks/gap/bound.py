"""One round of iREPO in the tabular world, its distance to the optimum, and a bound on that distance.

With r the reward, f the fitted one (pi ~ pi_0 exp(f / beta)) and D = r - f,

    4 TV(pi, pi*)^2 <= KL(pi* || pi) + KL(pi || pi*) = (E_pi* D - E_pi D) / beta
                    <= sqrt(E_{y ~ pi*, y' ~ pi} (D(y) - D(y'))^2) / beta <= sqrt(C e) / beta

The first step is Pinsker's inequality on both sides; e = E_{y, y' ~ mu} (D(y) - D(y'))^2 is the error of the regression
under the policy mu that samples, and C the largest pi*(y) pi(y') / (mu(y) mu(y')), how badly mu covers what is needed.
This bound is ours, in the form of the paper's (an error of estimation times a coefficient of coverage); the text of its
Theorem 4.5 was not at hand.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.tabular.regression import regress
from benchmarks.tabular.world import World, compared_pairs, count_votes, sample_groups, softmax
from storage.arrays import Floats
from tasks.labeling.aggregation import Votes
from tasks.labeling.aggregation.estimate import estimate, fit_annotators
from tasks.labeling.settings import PreferenceSettings
from tasks.training.objectives.irepo import Weights

SIZE = 4  # responses of a group that are compared with each other


@dataclass(frozen=True)
class Setting:
    """groups: of SIZE sampled responses a prompt. voters: votes a pair. sharpness: mu ~ pi_0^sharpness."""

    groups: int = 8
    voters: int = 5
    sharpness: float = 1.0
    weights: Weights = "equal"
    share: float = 1.0  # of the pairs, those with the smallest standard errors
    alone: bool = False  # the target of a pair is that of its own votes (empirical_logit), not of all votes pooled


@dataclass(frozen=True)
class Gap:
    """Means over prompts. bound: of the last step above, with C; met: the same with the error where it is needed."""

    distance: float
    met: float
    bound: float
    error: float  # e, rewards squared
    coverage: float  # C, median over prompts
    asked: float  # mean squared error of the targets of the pairs that were compared
    pairs: float  # trained on, a prompt


def one_round(world: World, setting: Setting, rng: np.random.Generator) -> Gap:
    """Sample, vote, fit targets, solve the regression exactly, and measure."""
    sampler = softmax(setting.sharpness * world.initial)
    votes = count_votes(world, compared_pairs(sample_groups(sampler, rng, setting.groups, SIZE)), setting.voters, rng)
    target, se, weight = targets(world, votes, alone=setting.alone)
    weight = weighted(weight, se, setting)
    log_ratio = regress(weight, target, np.zeros_like(world.reward), world.beta)
    policy = softmax(world.initial + log_ratio)
    error = world.reward - world.beta * log_ratio
    apart = np.square(error[:, :, None] - error[:, None, :])
    needed = world.optimum[:, :, None] * policy[:, None, :]
    sampled = sampler[:, :, None] * sampler[:, None, :]
    coverage = (needed / sampled).max(axis=(1, 2))
    population = (sampled * apart).sum(axis=(1, 2))
    where_needed = (needed * apart).sum(axis=(1, 2))
    compared = weight > 0
    return Gap(
        distance=float(world.distance(policy).mean()),
        met=float(_bound(where_needed, world.beta).mean()),
        bound=float(np.minimum(_bound(coverage * population, world.beta), 1.0).mean()),
        error=float(population.mean()),
        coverage=float(np.median(coverage)),
        asked=float(np.square(target - world.gaps())[compared].mean()),
        pairs=float(compared.sum() / 2 / len(world.reward)),
    )


def _bound(squared: Floats, beta: float) -> Floats:
    """TV from the mean squared error where it is needed, of each prompt."""
    result: Floats = np.sqrt(np.sqrt(squared) / beta) / 2
    return result


def targets(world: World, votes: Votes, *, alone: bool = False) -> tuple[Floats, Floats, Floats]:
    """Targets, their standard errors, and how often each pair was compared, [X, K, K] each."""
    votes = votes.take(np.argsort(votes.prompt, kind="stable"))
    shape = world.reward.shape
    settings = PreferenceSettings(estimator="empirical_logit" if alone else "bradley_terry")
    fit = fit_annotators(lambda: iter([(0, votes)]), ("annotators",), shape[1], settings)
    fitted = estimate(votes, np.ones(shape, dtype=bool), settings, fit)
    weight = votes.wins((shape[0], shape[1]), weight=np.ones(len(votes)))
    weight = weight + weight.transpose(0, 2, 1)
    x, i, j = np.nonzero(weight)
    target, se = np.zeros_like(weight), np.ones_like(weight)
    target[x, i, j], se[x, i, j] = fitted.gaps.gaps(x, i, j)
    return target, se, weight


def weighted(weight: Floats, se: Floats, setting: Setting) -> Floats:
    """The weights of pairs in the regression: as often as compared, times the precision of the target if asked for."""
    if setting.weights == "precision":
        weight = weight / (np.square(se) + 1)
    if setting.share < 1:
        known = weight > 0
        weight = np.where(known & (se <= np.quantile(se[known], setting.share)), weight, 0.0)
    return weight
