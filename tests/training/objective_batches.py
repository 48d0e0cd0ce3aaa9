"""Batches that hold what any objective reads, and every objective with the options that change its formula."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.training.objectives.base import BatchObjective, Objective
from tasks.training.objectives.batch import Batch, TokenColumns
from tasks.training.objectives.registry import OBJECTIVES

#: Each objective at its defaults, and with every option that changes its formula.
VARIANTS: dict[str, dict[str, Any]] = {
    "irepo": {},
    "irepo-logratio": {"name": "irepo", "scale": "logratio"},
    "irepo-without-logit": {"name": "irepo", "logit": False},
    "irepo-precision": {"name": "irepo", "weights": "precision"},
    "dpo": {},
    "dpo-soft": {"name": "dpo", "labels": "soft"},
    "cdpo": {"name": "dpo", "label_smoothing": 0.1},
    "dpo-mean": {"name": "dpo", "length": "mean", "beta": 2.0},
    "dpo-length": {"name": "dpo", "length_penalty": 0.01},
    "dpo-nll": {"name": "dpo", "nll": 1.0},
    "rdpo": {},
    "odpo": {},
    "odpo-scores": {"name": "odpo", "rewards": "scores", "offset": "log1p"},
    "odpo-identity": {"name": "odpo", "offset": "identity"},
    "madpo": {},
    "madpo-scores": {"name": "madpo", "rewards": "scores"},
    "beta-dpo": {},
    "f-dpo": {},
    "f-dpo-forward": {"name": "f-dpo", "divergence": "forward_kl"},
    "f-dpo-reverse": {"name": "f-dpo", "divergence": "reverse_kl", "labels": "soft"},
    "f-dpo-alpha": {"name": "f-dpo", "divergence": "alpha", "labels": "soft"},
    "lcpo": {},
    "lcpo-pooled": {"name": "lcpo", "by_annotator": False},
    "lcpo-ipo": {"name": "lcpo", "base": "ipo", "temperature": 10.0},
    "lcpo-simpo": {"name": "lcpo", "base": "simpo", "beta": 2.0},
    "lcpo-cpo": {"name": "lcpo", "base": "cpo", "nll": 1.0},
    "rpo": {},
    "rpo-unpaired": {"name": "rpo", "pairing": "unpaired"},
    "rpo-diagonal": {"name": "rpo", "pairing": "diagonal"},
    "bmc": {},
    "bmc-policy": {"name": "bmc", "confidence": "policy"},
    "dno": {},
    "dno-soft": {"name": "dno", "labels": "win_rates"},
    "selm": {},
    "xpo": {},
    "sr-dpo": {},
    "sr-ipo": {"name": "sr-dpo", "base": "ipo"},
    "spo": {},
    "spo-ipo": {"name": "spo", "base": "ipo"},
    "step-apo": {},
    "trpa": {},
    "slic": {},
    "slic-classic": {"name": "slic", "log_ratios": False, "beta": 1.0, "nll": 0.1},
    "simpo": {},
    "simpo-soft": {"name": "simpo", "labels": "soft"},
    "cpo": {},
    "cpo-soft": {"name": "cpo", "labels": "soft", "nll": 0.0},
    "ipo": {},
    "ipo-soft": {"name": "ipo", "labels": "soft"},
    "ipo-mean": {"name": "ipo", "length": "mean"},
    "ipo-md": {},
    "nash-md": {},
    "bvpo": {},
    "c-rlft": {},
    "sppo": {},
    "rebel": {},
    "rebel-paper": {"name": "rebel", "scale": "reward", "rewards": "target"},
    "gpo": {},
    "inpo": {},
    "inpo-soft": {"name": "inpo", "labels": "soft"},
    "adpo": {},
    "adpo-mean": {"name": "adpo", "length": "mean"},
}


def objective_of(variant: str) -> Objective:
    return OBJECTIVES.read({"name": variant, **VARIANTS[variant]})


def batch_of(h: Tensor, labels: Tensor, **columns: Tensor) -> Batch:
    """Prompts of three responses: chosen, rejected, and an extra one. h: [3 G] log-ratios, labels: [G].

    Responses have 2, 3 and 4 tokens; all columns are of the dtype of `h`, and depend on no more than G.
    """
    groups = len(labels)
    noise = np.random.default_rng(groups)

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(noise.random(shape)).to(h.dtype)

    lengths = torch.tensor([2, 3, 4] * groups)
    owner = torch.repeat_interleave(torch.arange(3 * groups), lengths)
    first = torch.arange(groups) * 3
    starts = torch.cumsum(lengths, 0) - lengths
    reference = -10 * lengths.to(h.dtype)
    logprobs = h + reference
    pair = torch.arange(groups)
    shares = torch.stack([labels.detach().sigmoid(), (-labels.detach()).sigmoid()], dim=1).to(h.dtype)
    fields: dict[str, Any] = {
        "logprobs": logprobs,
        "reference": reference,
        "lengths": lengths.to(h.dtype),
        "owner": torch.arange(groups).repeat_interleave(3),
        "chosen": first,
        "rejected": first + 1,
        "labels": labels,
        "previous": reference + drawn(3 * groups),
        "pairs": {
            "reward": drawn(groups) + 0.1,
            "votes": torch.tensor([[1.0, 0.0, 0.5]] * groups, dtype=h.dtype),
            "vote_weights": torch.ones(groups, 3, dtype=h.dtype),
            "first_level": torch.ones(groups, dtype=h.dtype),
            "se": 0.2 + drawn(groups),
            "second": torch.zeros(groups, dtype=h.dtype),
            "best": torch.ones(groups, dtype=h.dtype),
        },
        "responses": {
            "win_rate": drawn(3 * groups),
            "mean_logit": drawn(3 * groups),
            "quality": drawn(3 * groups),
            "share": torch.cat([shares, torch.full((groups, 1), torch.nan, dtype=h.dtype)], dim=1).flatten(),
        },
        "embeddings": drawn(groups, 4),
        "extra": first + 2,
        "copies": (first + 2).repeat_interleave(3),
        "tokens": TokenColumns(
            policy=(logprobs / lengths)[owner],
            reference=(reference / lengths)[owner],
            previous=(reference / lengths)[owner],
            owner=owner,
            chosen=(starts[first], pair),
            rejected=(starts[first + 1] + 1, pair),
        ),
        "annotators": ("one", "two", "three"),
    }
    return Batch(**{**fields, **columns})


def values_of(objective: Objective, batch: Batch) -> Tensor:
    """The losses of the batch, with the NLL term where the objective is of pairs or prompts."""
    if isinstance(objective, BatchObjective):
        return objective.losses(batch)
    return objective.step_loss(batch, {}, np.random.default_rng(0)).values
