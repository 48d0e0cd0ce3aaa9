"""The methods compared, each at several strengths, and variants of iREPO on one seed."""

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

#: Method -> words of its configuration.
METHODS: dict[str, tuple[str, ...]] = {
    "irepo": ("objective=irepo-small",),
    "dpo": ("objective=dpo",),
    "dpo-soft": ("objective=dpo-soft",),
    "ipo": ("objective=ipo",),
    "sppo": ("objective=sppo",),
    "rebel": ("objective=rebel",),
    "inpo": ("objective=inpo",),
    "rpo": _RPO,
    "sera": _SERA,
    "dno": ("objective=dno",),
}

#: Method -> its strength setting and the values, the middle one first, so that unfinished runs are useful too.
STRENGTHS: dict[str, tuple[str, tuple[float, ...]]] = {
    "irepo": ("objective.beta", (0.6, 0.35, 1.0)),
    "dpo": ("objective.beta", (1.0, 0.4, 2.5)),
    "dpo-soft": ("objective.beta", (0.2, 0.1, 0.4)),
    "ipo": ("objective.beta", (0.15, 0.07, 0.3)),
    "sppo": ("objective.beta", (0.1, 0.06, 0.2)),
    "rebel": ("objective.eta", (2.0, 1.0, 4.0)),
    "inpo": ("objective.eta", (0.3, 0.15, 0.6)),
    "rpo": ("objective.beta", (15.0, 5.0, 50.0)),
    "sera": ("objective.beta", (1.0, 0.4, 2.5)),
    "dno": ("objective.beta", (1.0, 0.4, 2.5)),
}

#: Variants of iREPO that differ in one setting, run on seed 0.
VARIANTS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "irepo-initial": (("objective.reference=initial",), (0.2, 0.12)),
    "irepo-replay": (("objective.reference=initial", "mixing=replay"), (0.25, 0.5)),
    "irepo-em": (("preferences.reliability=em",), (0.6,)),
    "irepo-alpha": (("preferences.estimator=empirical_logit",), (0.6,)),
    "irepo-m8": (("sampling.responses=8",), (0.6,)),
    "irepo-slow": (("training.learning_rate=1.5e-4",), (0.4,)),
    "irepo-fast": (("training.learning_rate=6e-4",), (0.9,)),
    "irepo-prior2": (("preferences.prior_variance=2.0",), (0.45,)),
    "irepo-ema": (("objective.reference={kind: ema, rate: 0.5}",), (0.4,)),
    "irepo-best-worst": (("preferences.pairs=best_worst",), (0.6,)),
}
METHODS |= {name: (*METHODS["irepo"], *words) for name, (words, _) in VARIANTS.items()}
STRENGTHS |= {name: ("objective.beta", values) for name, (_, values) in VARIANTS.items()}
