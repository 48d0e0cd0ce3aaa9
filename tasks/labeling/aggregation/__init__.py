"""Estimators that turn votes into preferences: for every pair a logit and its standard error.

Numpy, float64, batched over prompts. P prompts, K responses (slots) of each, A annotators. docs/aggregation.md says
which estimator to use when.
"""

from tasks.labeling.aggregation.arrays import Gaps, PairLogits, logit, sigmoid
from tasks.labeling.aggregation.bradley_terry import Strengths, bradley_terry
from tasks.labeling.aggregation.counts import empirical_logit, pair_logits, rankings_to_wins
from tasks.labeling.aggregation.votes import Votes, read_votes

__all__ = [
    "Gaps",
    "PairLogits",
    "Strengths",
    "Votes",
    "bradley_terry",
    "empirical_logit",
    "logit",
    "pair_logits",
    "rankings_to_wins",
    "read_votes",
    "sigmoid",
]
