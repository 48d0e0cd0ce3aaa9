"""The methods compared, each at several strengths, and variants: other choices of iREPO, rivals with its options.

The panel is the demo's: every method learns from the same soft votes, unless its words turn them off.
"""

#: SeRA's selection on the demo's panel: implicit rewards choose among the pairs and do not vote (docs/aggregation.md).
_SERA = (
    "objective=dpo",
    "+panel.annotators.now={kind: implicit_reward, policy: policy, reference: initial}",
    "+panel.annotators.before={kind: implicit_reward, policy: previous, reference: initial}",
    "preferences.keep={share: 0.7, margin_of: {now: 0.7, before: 0.3}}",
    "preferences.weights={now: 0, before: 0}",
)
#: The encoder of RPO's paper would need a download, and these prompts do not need it.
_RPO = ("objective=rpo", "objective.embedder=policy", "preferences.pairs=best_worst")

#: The fixed reference and the pairs of earlier rounds.
_REPLAY = ("objective.reference=initial", "mixing=replay")

#: Method -> words of its configuration.
METHODS: dict[str, tuple[str, ...]] = {
    "irepo": ("objective=irepo-small",),
    "irepo-hard": ("objective=irepo-small", "preferences.soft_votes=false"),  # the preset before soft votes
    "dpo": ("objective=dpo",),
    "dpo-soft": ("objective=dpo-soft",),
    "ipo": ("objective=ipo",),
    "sppo": ("objective=sppo",),
    "gpo": ("objective=gpo",),
    "rebel": ("objective=rebel",),
    "inpo": ("objective=inpo",),
    "rpo": _RPO,
    "sera": _SERA,
    "dno": ("objective=dno",),
}

#: Method -> its strength setting and the values, the middle one first, so that unfinished runs are useful too.
STRENGTHS: dict[str, tuple[str, tuple[float, ...]]] = {
    "irepo": ("objective.beta", (0.45, 0.7, 0.35)),
    "irepo-hard": ("objective.beta", (0.6, 0.35, 1.0)),
    "dpo": ("objective.beta", (1.0, 0.4, 2.5)),
    "dpo-soft": ("objective.beta", (0.2, 0.1, 0.4)),
    "ipo": ("objective.beta", (0.15, 0.07, 0.3)),
    "sppo": ("objective.beta", (0.1, 0.06, 0.2)),
    "gpo": ("objective.beta", (0.4, 0.25, 0.8)),
    "rebel": ("objective.eta", (2.0, 1.0, 4.0)),
    "inpo": ("objective.eta", (0.3, 0.15, 0.6)),
    "rpo": ("objective.beta", (15.0, 5.0, 50.0)),
    "sera": ("objective.beta", (1.0, 0.4, 2.5)),
    "dno": ("objective.beta", (1.0, 0.4, 2.5)),
}

#: Variant -> the method that it changes, the words that change it, and its strengths.
VARIANTS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "irepo-initial": ("irepo", ("objective.reference=initial",), (0.2, 0.12)),
    "irepo-replay": ("irepo", _REPLAY, (0.2, 0.35)),
    "irepo-em": ("irepo", ("preferences.reliability=em",), (0.45,)),
    "irepo-scores": ("irepo", ("preferences.prior_scores=[reward-one,reward-two]",), (0.5,)),
    "irepo-alpha": ("irepo", ("preferences.estimator=empirical_logit",), (0.45,)),
    "irepo-linear": ("irepo", ("objective.logit=false",), (0.1, 0.15)),  # P - 1/2 is about a quarter of its logit
    "irepo-m8": ("irepo", ("sampling.responses=8",), (0.45,)),
    "irepo-slow": ("irepo", ("training.learning_rate=1.5e-4",), (0.3,)),
    "irepo-fast": ("irepo", ("training.learning_rate=6e-4",), (0.7,)),
    "irepo-prior2": ("irepo", ("preferences.prior_variance=2.0",), (0.35,)),
    "irepo-ema": ("irepo", ("objective.reference={kind: ema, rate: 0.5}",), (0.3,)),
    "irepo-best-worst": ("irepo", ("preferences.pairs=best_worst",), (0.45,)),
    "sppo-hard": ("sppo", ("preferences.soft_votes=false",), (0.1, 0.06)),
    "rebel-replay": ("rebel", _REPLAY, (4.0, 6.0)),
    "sppo-replay": ("sppo", _REPLAY, (0.06, 0.03)),
    "gpo-replay": ("gpo", _REPLAY, (0.25, 0.12)),
    "dpo-replay": ("dpo", _REPLAY, (0.4, 0.2)),
}
for _name, (_method, _words, _values) in VARIANTS.items():
    METHODS[_name] = (*METHODS[_method], *_words)
    STRENGTHS[_name] = (STRENGTHS[_method][0], _values)
