"""Problems whose optimum is known: K responses a prompt, their reward, an initial policy, and votes by Bradley-Terry.

The optimum of expected reward less beta times the KL divergence to pi_0, the initial policy, is pi_0 exp(r / beta),
normalised.
"""

from dataclasses import dataclass

import numpy as np

from storage.arrays import Floats, Ints
from tasks.labeling.aggregation import Votes, sigmoid


@dataclass(frozen=True)
class World:
    """`reward` and `initial` (logits of pi_0), both [X, K]."""

    reward: Floats
    initial: Floats
    beta: float = 1.0

    @property
    def optimum(self) -> Floats:
        """pi* [X, K]."""
        return softmax(self.initial + self.reward / self.beta)

    def distance(self, policy: Floats) -> Floats:
        """Total variation [X] between `policy` (probabilities) and the optimum."""
        result: Floats = np.abs(policy - self.optimum).sum(axis=1) / 2
        return result

    def gaps(self) -> Floats:
        """True logits [X, K, K] that i is preferred to j."""
        return self.reward[:, :, None] - self.reward[:, None, :]


def make_world(rng: np.random.Generator, prompts: int, responses: int = 20, beta: float = 1.0) -> World:
    """Rewards and logits of the initial policy, both standard normal."""
    return World(rng.normal(size=(prompts, responses)), rng.normal(size=(prompts, responses)), beta)


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = e / e.sum(axis=-1, keepdims=True)
    return result


def sample_groups(policy: Floats, rng: np.random.Generator, groups: int, size: int) -> Ints:
    """Responses [X, groups, size] drawn from `policy` [X, K], with repetition."""
    threshold = policy.cumsum(axis=1)[:, None, :]
    drawn = (rng.random((len(policy), groups * size, 1)) > threshold).sum(axis=2)
    result: Ints = np.minimum(drawn, policy.shape[1] - 1).reshape(len(policy), groups, size)
    return result


def compared_pairs(groups: Ints) -> tuple[Ints, Ints, Ints]:
    """Every pair of each group whose responses differ, all [n]: prompt, first and second response, first < second."""
    i, j = np.triu_indices(groups.shape[2], 1)
    first, second = groups[:, :, i], groups[:, :, j]
    prompt = np.broadcast_to(np.arange(len(groups))[:, None, None], first.shape)
    apart = first != second
    low, high = np.minimum(first, second), np.maximum(first, second)
    return prompt[apart], low[apart], high[apart]


def count_votes(world: World, pairs: tuple[Ints, Ints, Ints], voters: int, rng: np.random.Generator) -> Votes:
    """`voters` honest votes on each pair, as one row a pair: weight = votes, share = those for the first."""
    prompt, first, second = pairs
    p = sigmoid(world.reward[prompt, first] - world.reward[prompt, second])
    won = rng.binomial(voters, p)
    nobody = np.zeros(len(prompt), dtype=np.int64)
    weight = np.full(len(prompt), float(voters))
    return Votes(prompt, first, second, nobody, won / voters, weight, np.zeros(len(prompt), dtype=bool))


def cast_votes(world: World, pairs: tuple[Ints, Ints, Ints], honesty: Floats, rng: np.random.Generator) -> Votes:
    """A vote of each annotator on each pair; annotator k is honest with probability honesty[k], else votes reversed."""
    prompt, first, second = (np.repeat(x, len(honesty)) for x in pairs)
    who = np.tile(np.arange(len(honesty)), len(pairs[0]))
    p = sigmoid(world.reward[prompt, first] - world.reward[prompt, second])
    for_first = rng.random(len(p)) < p
    honest = rng.random(len(p)) < honesty[who]
    share = (for_first == honest).astype(np.float64)
    return Votes(prompt, first, second, who, share, np.ones(len(p)), np.zeros(len(p), dtype=bool))
