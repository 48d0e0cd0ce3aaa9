"""Every method on all pairs, weighted by how often its policy samples them, with infinitely many votes: no noise.

What remains is the solution of the loss itself. One world of 50 prompts and 20 responses, beta = 1. For a method with
hard labels every pair appears in both directions, each weighted by its share of the votes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.tabular.solve import Labelled, Policies, descend, from_tables, hard, minimise
from benchmarks.tabular.world import World, make_world, softmax
from benchmarks.theory import goals
from benchmarks.theory.against_mixture import nash_md
from storage.arrays import Floats
from tasks.labeling.aggregation import sigmoid
from tasks.training.objectives.adpo import Adpo
from tasks.training.objectives.base import BatchObjective
from tasks.training.objectives.beta_dpo import BetaDpo
from tasks.training.objectives.dno import Dno
from tasks.training.objectives.dpo import Dpo
from tasks.training.objectives.f_dpo import FDpo
from tasks.training.objectives.gpo import Gpo
from tasks.training.objectives.inpo import Inpo
from tasks.training.objectives.ipo import Ipo
from tasks.training.objectives.ipo_md import IpoMd
from tasks.training.objectives.irepo import Irepo
from tasks.training.objectives.lcpo import Lcpo
from tasks.training.objectives.madpo import Madpo
from tasks.training.objectives.odpo import Odpo
from tasks.training.objectives.rdpo import Rdpo
from tasks.training.objectives.rebel import Rebel
from tasks.training.objectives.selm import Selm
from tasks.training.objectives.slic import Slic
from tasks.training.objectives.sppo import Sppo
from tasks.training.objectives.sr_dpo import SrDpo
from tasks.training.objectives.step_apo import StepApo
from tasks.training.objectives.xpo import Xpo

NEAR = 0.005  # distance of a method to its own goal, where the goal is exact
_FLIPS = 0.1  # share of flipped votes, for methods that model them


@dataclass(frozen=True)
class Row:
    """One method: its distances to its own goal (None without a closed form) and to pi*."""

    method: str
    goal: str
    own: float | None
    exact: bool  # the loss has this goal exactly, so that `own` must be small
    optimum: float
    reward: float
    shows: str


@dataclass(frozen=True)
class Case:
    """`solve` returns the logits that the method ends with, `goal` those that it aims at."""

    method: str
    goal_text: str
    solve: Callable[[World], Floats]
    goal: Callable[[World], Floats] | None
    shows: str
    exact: bool = True


def preference(world: World) -> Floats:
    """True P of the first over the second, [X, K, K]."""
    return sigmoid(world.gaps())


def lengths(world: World) -> Floats:
    """Tokens of responses, 1 to 3."""
    result: Floats = np.random.default_rng(1).integers(1, 4, world.reward.shape).astype(np.float64)
    return result


def quality(world: World) -> Floats:
    """Another score of the responses, [X, K], independent of the reward."""
    return np.random.default_rng(2).normal(size=world.reward.shape)


def _pairs(policy: Floats) -> Floats:
    """Probability that two responses sampled from `policy` are a given pair, [X, K, K]."""
    weight = policy[:, :, None] * policy[:, None, :]
    weight[:, np.arange(policy.shape[1]), np.arange(policy.shape[1])] = 0
    return weight


def single_votes(policy: Floats, p: Floats) -> Labelled:
    """One vote on each sampled pair, hard labels."""
    return hard(_pairs(policy) * p)


def soft(policy: Floats, target: Floats, responses: Mapping[str, Floats] | None = None) -> Labelled:
    """Logits `target` [X, K, K] on each sampled pair; `responses` are columns [X, K]."""
    return from_tables(target, _pairs(policy), responses)


#: (world, policy that samples) -> labelled pairs
Labels = Callable[[World, Floats], Labelled]


def votes(world: World, policy: Floats) -> Labelled:
    return single_votes(policy, preference(world))


def flipped(world: World, policy: Floats) -> Labelled:
    """Single votes. One vote in ten is flipped."""
    p = preference(world)
    return single_votes(policy, (1 - _FLIPS) * p + _FLIPS * (1 - p))


def targets(world: World, policy: Floats) -> Labelled:
    return soft(policy, world.gaps())


def scores(world: World, policy: Floats) -> Labelled:
    """Single votes beside the rewards of both responses."""
    data = votes(world, policy)
    gap = world.gaps()[data.prompt, data.chosen, data.rejected]
    return Labelled(data.prompt, data.chosen, data.rejected, gap, data.weight, pairs={"reward": gap})


def rates(world: World, policy: Floats) -> Labelled:
    """Win rates and mean logits of responses against samples of the policy."""
    mean = np.einsum("xij,xj->xi", world.gaps(), policy)
    columns = {"win_rate": goals.against(preference(world), policy), "mean_logit": mean}
    return soft(policy, world.gaps(), responses=columns)


def run(
    settings: BatchObjective,
    label: Labels,
    world: World,
    *,
    rounds: int = 1,
    reference: str = "initial",
    mixture: float = 0.0,
    **more: Any,
) -> Floats:
    """Logits after `rounds` rounds. Each samples from the last policy, mixed with the initial one."""
    logits = world.initial
    for _ in range(rounds):
        sampler = softmax((1 - mixture) * logits + mixture * world.initial)
        start = Policies(logits if reference == "previous" else world.initial, logits)
        logits = minimise(settings, label(world, sampler), start, **more)
    return logits


def _once(settings: BatchObjective, label: Labels = votes, **more: Any) -> Callable[[World], Floats]:
    return lambda world: run(settings, label, world, **more)


def _star(world: World) -> Floats:
    return world.initial + world.reward / world.beta


def _sharpened(power: float) -> Callable[[World], Floats]:
    return lambda world: world.initial + power * world.reward / world.beta


def _madpo_goal(world: World) -> Floats:
    """DPO on soft labels whose logit is the amplified margin c(m) m."""
    m, high, tau = world.gaps(), 2.0, Madpo(beta=1).threshold
    low = 1 / high
    c = low + (high - low) / (1 + (high - 1) / (1 - low) * np.exp(np.abs(m) - tau))
    start = Policies(world.initial, world.initial)
    return minimise(Dpo(beta=1, labels="soft"), soft(softmax(world.initial), c * m), start)


def _cdpo_goal(world: World) -> Floats:
    """DPO on single votes with one in ten flipped. Label smoothing has the same effect."""
    return run(Dpo(beta=1), flipped, world)


def _lcpo(world: World) -> Floats:
    """Nine annotators, three of whom reverse their votes; all pairs alike, as the step loss has no weights."""
    p = preference(world)
    x, i, j = np.nonzero(np.triu(np.ones(p.shape[1:]), 1)[None].repeat(len(p), 0))
    share = np.stack([p[x, i, j]] * 6 + [1 - p[x, i, j]] * 3, axis=1)
    names = tuple(f"annotator {k}" for k in range(share.shape[1]))
    data = Labelled(
        x,
        i,
        j,
        np.zeros(len(x)),
        np.ones(len(x)),
        pairs={"votes": share, "vote_weights": np.ones_like(share)},
        annotators=names,
    )
    return descend(Lcpo(beta=1), data, Policies(world.initial, world.initial))[0]


def _beta_dpo(world: World) -> Floats:
    """Four single votes a pair, drawn: the step loss has no weights."""
    p, rng = preference(world), np.random.default_rng(3)
    x, i, j = np.nonzero(np.triu(np.ones(p.shape[1:]), 1)[None].repeat(len(p), 0))
    won = rng.random((4, len(x))) < p[x, i, j]
    chosen, rejected = np.where(won, i, j).ravel(), np.where(won, j, i).ravel()
    data = Labelled(np.tile(x, 4), chosen, rejected, np.ones(4 * len(x)), np.ones(4 * len(x)))
    return descend(BetaDpo(beta=1), data, Policies(world.initial, world.initial), steps=200)[0]


def _adversarial_dpo(world: World) -> Floats:
    """DPO on the votes that `_lcpo` has."""
    p = preference(world)
    mixed = (6 * p + 3 * (1 - p)) / 9
    ones = np.ones(p.shape) - np.eye(p.shape[1])
    return minimise(Dpo(beta=1), hard(ones * mixed), Policies(world.initial, world.initial))


def _nash(tau: float, mixture: float = 0.0) -> Callable[[World], Floats]:
    return lambda world: goals.regularised_nash(world.initial, preference(world), tau, mixture)


def _shares(world: World, policy: Floats) -> Labelled:
    return soft(policy, world.gaps(), responses={"share": softmax(world.reward / world.beta)})


def _own_quality(world: World, policy: Floats) -> Labelled:
    data = votes(world, policy)
    return Labelled(
        data.prompt, data.chosen, data.rejected, data.label, data.weight, responses={"quality": quality(world)}
    )


def _with_lengths(settings: BatchObjective) -> Callable[[World], Floats]:
    return lambda world: run(settings, votes, world, lengths=lengths(world))


def _exploring(settings: BatchObjective) -> Callable[[World], Floats]:
    """The extra response is the likeliest of the initial policy."""
    return lambda world: run(settings, votes, world, extra=world.initial.argmax(axis=1))


_PREVIOUS: dict[str, Any] = {"reference": "previous"}

CASES = [
    Case("irepo, reference=initial, 4 rounds", "pi*", _once(Irepo(beta=1), targets, rounds=4), _star,
         "rounds change nothing any more"),
    Case("irepo, 4 rounds", "pi_0 exp(4 r/b)", _once(Irepo(beta=1), targets, rounds=4, **_PREVIOUS),
         _sharpened(4), "the previous reference sharpens"),
    Case("irepo objective.beta=4, 4 rounds", "pi*", _once(Irepo(beta=4), targets, rounds=4, **_PREVIOUS),
         _star, "b times the rounds undoes it"),
    Case("irepo objective.logit=false", "pi_0 exp(P(y > pi_0)/b)", _once(Irepo(beta=1, logit=False), targets),
         lambda w: goals.multiplicative(w.initial, preference(w), 1, 1), "without the logit it is IPO's goal"),
    Case("rebel", "pi*", _once(Rebel(eta=1), scores), _star, "the same from rewards on the right scale"),
    Case("adpo", "pi*", _once(Adpo(temperature=1), _shares), _star, "the same, all responses at once"),
    Case("dpo-soft", "pi*", _once(Dpo(beta=1, labels="soft"), targets), _star, "the same, logistic"),
    Case("dpo, one vote a pair", "pi*", _once(Dpo(beta=1)), _star, "noise is its only regulariser"),
    Case("dpo, a tenth of the votes flipped", "", _once(Dpo(beta=1), flipped), None, "flips shrink it"),
    Case("rdpo, a tenth flipped", "pi*", _once(Rdpo(beta=1, flip_rate=_FLIPS), flipped), _star,
         "undoes flips at a known rate"),
    Case("cdpo, none flipped", "dpo, a tenth flipped", _once(Dpo(beta=1, label_smoothing=_FLIPS)),
         _cdpo_goal, "shrinks: a guard, no correction"),
    Case("dpo, 3 of 9 reverse votes", "", _adversarial_dpo, None, "adversaries shrink it"),
    Case("lcpo, 3 of 9 reverse votes", "", _lcpo, None, "finds out who reverses, and then overshoots"),
    Case("madpo", "dpo-soft on c(m) m", _once(Madpo(beta=1), scores), _madpo_goal, "amplifies margins"),
    Case("odpo", "", _once(Odpo(beta=1), scores), None, "chosen must win by log of the gap"),
    Case("step-apo, advantages = rewards", "pi_0 exp(2 r/b)", _once(StepApo(beta=1), scores), _sharpened(2),
         "advantages add to what the votes say"),
    Case("sr-dpo, some quality q", "pi_0 exp(r/b + q)", _once(SrDpo(beta=1), _own_quality),
         lambda w: _star(w) + quality(w), "the policy's own view adds to what the votes say"),
    Case("beta-dpo", "", _beta_dpo, None, "beta grows with the gaps"),
    Case("f-dpo, jsd", "f'(pi/pi_0) = (r-l)/b", _once(FDpo(beta=1, divergence="jsd")),
         lambda w: goals.other_divergence(w.initial, w.reward, 1, lambda u: u - np.log(-np.expm1(u))),
         "another divergence, another optimum"),
    Case("f-dpo, forward_kl", "f'(pi/pi_0) = (r-l)/b", _once(FDpo(beta=1, divergence="forward_kl")),
         lambda w: goals.other_divergence(w.initial, w.reward, 1, lambda u: -np.log(-u)), "keeps every response"),
    Case("f-dpo, alpha=.5", "f'(pi/pi_0) = (r-l)/b", _once(FDpo(beta=1, divergence="alpha")),
         lambda w: goals.other_divergence(w.initial, w.reward, 1, lambda u: -2 * np.log(-u / 2)), "between the two"),
    Case("dpo-length", "pi_0 exp((r - a|y|)/b)", _with_lengths(Dpo(beta=1, length_penalty=0.3)),
         lambda w: _star(w) - 0.3 * lengths(w), "a token costs a"),
    Case("ln-dpo", "h/|y| = (r+l)/b", _with_lengths(Dpo(beta=2, length="mean")),
         lambda w: goals.per_token(w.initial, w.reward, 2, lengths(w)), "reward counts once a token"),
    Case("dpo-nll, weight .1", "", _once(Dpo(beta=1, nll=0.1)), None, "pulls towards what is sampled"),
    Case("selm, alpha=.001", "pi* (alpha to 0)", _exploring(Selm(beta=1)), _star,
         "optimism is small", exact=False),
    Case("xpo, alpha=.001", "pi* (alpha to 0)", _exploring(Xpo(beta=1, alpha=0.001)), _star,
         "optimism is small", exact=False),
    Case("slic", "", _once(Slic(beta=1)), None, "knows the sign of a gap, not its size"),
    Case("ipo, tau=1", "pi_0 exp(P(y > pi_0)/tau)", _once(Ipo(beta=1)),
         lambda w: goals.multiplicative(w.initial, preference(w), 1, 1), "(2P-1)/2 is a quarter of the logit"),
    Case("ipo, tau=.25", "pi_0 exp(P(y > pi_0)/tau)", _once(Ipo(beta=0.25)),
         lambda w: goals.multiplicative(w.initial, preference(w), 0.25, 1), "tuned: its bias stays"),
    Case("online-ipo, tau=.25, 30 rounds", "pi_0 exp(P(y > pi)/tau)",
         _once(Ipo(beta=0.25, labels="soft"), targets, rounds=30), _nash(0.25), "a regularised Nash policy"),
    Case("ipo-md, tau=.25, 30 rounds", "pi_0 exp(P(y > mix)/tau)",
         _once(IpoMd(beta=0.25), targets, rounds=30, mixture=0.5), _nash(0.25, 0.5), "with a mixture"),
    Case("nash-md, tau=.25, 30 rounds", "pi_0 exp(P(y > mix)/tau)",
         lambda w: nash_md(w, tau=0.25, mixture=0.5, rounds=30), _nash(0.25, 0.5), "the same, one side at a time"),
    Case("inpo, eta=.75, tau=.25, 30 rounds", "pi_0 exp(P(y > pi)/tau)",
         _once(Inpo(eta=0.75, tau=0.25), rounds=30), _nash(0.25), "reaches it in small steps"),
    Case("dno, 4 rounds", "pi_0 exp(4 r/b)", _once(Dno(beta=1), rounds=4, **_PREVIOUS), _sharpened(4),
         "DPO that sharpens"),
    Case("dno, win rates, 4 rounds", "pi_t exp(P(y > pi_t)/b)",
         _once(Dno(beta=1, labels="win_rates"), rates, rounds=4, **_PREVIOUS),
         lambda w: goals.multiplicative(w.initial, preference(w), 1, 4), "steps towards the Nash policy"),
    Case("sppo, 1 round", "pi_t exp(P(y > pi_t)/b)", _once(Sppo(beta=1), rates, **_PREVIOUS),
         lambda w: goals.multiplicative(w.initial, preference(w), 1, 1), "its constant is not quite the normaliser's",
         exact=False),
    Case("sppo, 4 rounds", "pi_t exp(P(y > pi_t)/b)", _once(Sppo(beta=1), rates, rounds=4, **_PREVIOUS),
         lambda w: goals.multiplicative(w.initial, preference(w), 1, 4), "passes pi* ...", exact=False),
    Case("sppo, 16 rounds", "pi_t exp(P(y > pi_t)/b)", _once(Sppo(beta=1), rates, rounds=16, **_PREVIOUS),
         lambda w: goals.multiplicative(w.initial, preference(w), 1, 16), "... and drifts on to the Nash policy",
         exact=False),
    Case("gpo, 1 round", "pi*", _once(Gpo(beta=1), rates, **_PREVIOUS), _star,
         "mean logits; the constant again", exact=False),
]  # fmt: skip

#: Words of conf/objective without a row of their own, and why.
ABSENT = {
    "irepo-small": "irepo with another beta",
    "dpo-previous": "the same loss and reference as dno",
    "rpo": "contrasts responses of different prompts: a table has no similarity of prompts",
    "bmc": "weighs tokens: responses of a table have none",
    "spo": "reads the text of responses, and a table has none: without that term it is dpo",
    "bvpo": "weighs responses with and without reasoning: in a table it is dpo",
    "c-rlft": "fine-tuning on responses of classes: there is no pair loss",
    "cpo": "no reference: its log-ratios have no optimum in a table without the likelihood of chosen",
    "simpo": "log-probabilities a token: responses of a table have no length",
    "trpa": "levels are certain labels, whose only bound is a divergence of tokens",
}


def rows(world: World | None = None) -> list[Row]:
    """Every case on one world."""
    used = world or make_world(np.random.default_rng(0), 50, 20)
    return [_row(case, used) for case in CASES]


def _row(case: Case, world: World) -> Row:
    policy = softmax(case.solve(world))
    own = None if case.goal is None else _apart(policy, softmax(case.goal(world)))
    reward = float((policy * world.reward).sum(axis=1).mean())
    return Row(
        case.method, case.goal_text, own, case.exact and own is not None, _apart(policy, world.optimum), reward,
        case.shows,
    )  # fmt: skip


def _apart(one: Floats, two: Floats) -> float:
    return float(np.abs(one - two).sum(axis=1).mean() / 2)


@dataclass(frozen=True)
class Circle:
    """Cyclic preferences: distance of each method to the regularised Nash policy."""

    distance: dict[str, float] = field(default_factory=dict)


def circle(tau: float = 0.5) -> Circle:
    """Rock, paper, scissors: each beats the next with .8. No reward explains it; the initial policy prefers one."""
    p = np.array([[[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]]])
    initial = np.log(np.array([[0.6, 0.3, 0.1]]))
    goal = softmax(goals.regularised_nash(initial, p, tau))

    def ends(settings: BatchObjective, rounds: int, label: Callable[[Floats], Labelled], previous: bool) -> float:
        logits = initial
        for _ in range(rounds):
            start = Policies(logits if previous else initial, logits)
            logits = minimise(settings, label(softmax(logits)), start)
        return _apart(softmax(logits), goal)

    logit = np.log(p) - np.log1p(-p)
    return Circle(
        {
            "initial policy": _apart(softmax(initial), goal),
            "irepo, reference=initial": ends(Irepo(beta=tau), 30, lambda q: soft(q, logit), False),
            "inpo": ends(Inpo(eta=3 * tau, tau=tau), 60, lambda q: single_votes(q, p), False),
            "online-ipo": ends(Ipo(beta=tau, labels="soft"), 60, lambda q: soft(q, logit), False),
        }
    )
