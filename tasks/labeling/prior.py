"""The prior of the strengths: its variance chosen from the votes, its mean from annotators' scores."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from storage.arrays import Floats, Ints
from storage.errors import UserError
from tasks.labeling.aggregation.ensembles import read_scores
from tasks.labeling.aggregation.prior_variance import VARIANCES, best_variance, held_out_likelihoods
from tasks.labeling.aggregation.vote_counts import Blocks
from tasks.labeling.aggregation.votes import Votes
from tasks.panel.responses import Responses

_PROMPTS = 2000  # with votes, evenly spaced, that the variance is chosen on


def _given(mean: Floats | float, votes: Votes, variance: float) -> Floats | float:
    return mean


def chosen_variance(blocks: Blocks, voted: Ints, slots: int, prior_mean: Floats | None) -> float:
    """The prior variance that predicts the votes of left-out annotators best.

    voted: numbers of the prompts with votes, sorted. prior_mean [P, K]: of all prompts, or None for 0. Raises UserError
    when fewer than two annotators have votes that count.
    """
    sampled = voted[:: max(1, len(voted) // _PROMPTS)]
    total = np.zeros(len(VARIANCES))
    annotators = set[int]()
    for start, block in blocks():
        votes = block.take(np.isin(block.prompt + start, sampled) & (block.weight > 0))
        if not len(votes):
            continue
        places, prompt = np.unique(votes.prompt, return_inverse=True)
        votes = votes.renumbered(prompt)
        annotators.update(np.unique(votes.annotator).tolist())
        mean = 0.0 if prior_mean is None else prior_mean[start + places]
        total += held_out_likelihoods(votes, (len(places), slots), prior_mean=partial(_given, mean))
    if len(annotators) < 2:
        raise UserError(
            f"prior_variance=auto leaves out one annotator at a time, and votes of {len(annotators)} count",
            where="preferences.prior_variance",
            remedy="give a number (2.0 is the default), or add annotators",
        )
    return best_variance(total)


def score_means(
    scores: pa.Table, responses: Responses, names: Sequence[str], temperatures: Mapping[str, float]
) -> Floats:
    """Mean [P, K] of the strengths' prior in logits: score / temperature, averaged over `names`, with mean 0 a prompt.

    A response that none of them scored gets 0, the mean of its prompt. Raises UserError for a name without any score.
    """
    found, values = read_scores(scores, responses.prompt_ids, responses.rows.shape[1])
    if missing := [name for name in names if name not in found]:
        raise UserError(
            f"there are no scores of {', '.join(missing)}",
            where="preferences.prior_scores",
            remedy="see its errors in the columns outcome and raw of scores.parquet, or take it off this list",
        )
    logits = np.stack([_centred(values[..., found.index(name)]) / temperatures[name] for name in names])
    known = ~np.isnan(logits)
    means: Floats = np.where(known, logits, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return means


def _centred(values: Floats) -> Floats:
    """Values [P, K] less their prompt's mean, ignoring NaN."""
    known = ~np.isnan(values)
    mean = np.where(known, values, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    centred: Floats = values - mean[:, None]
    return centred
