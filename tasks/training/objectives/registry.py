"""From settings to a loss of batches: which function, and which columns go into it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from tasks.training.objectives import settings as s
from tasks.training.objectives.batch import Batch, TokenColumns
from tasks.training.objectives.bmc import bmc, extra_weight, reweighted
from tasks.training.objectives.divergence import f_dpo
from tasks.training.objectives.exploration import selm, xpo
from tasks.training.objectives.irepo import irepo
from tasks.training.objectives.listwise import adpo
from tasks.training.objectives.logistic import dpo, length_offset, rdpo
from tasks.training.objectives.madpo import madpo
from tasks.training.objectives.needs import Needs
from tasks.training.objectives.offsets import odpo, sr_dpo, sr_ipo, step_apo
from tasks.training.objectives.pointwise import gpo, sppo
from tasks.training.objectives.slic import slic
from tasks.training.objectives.squared import inpo, ipo, rebel
from tasks.training.objectives.steps import WindowLoss, beta_dpo_step, lcpo_step, rpo_step
from tasks.training.objectives.trpa import k3, trpa

#: Losses of each pair of a batch, [N]; of each prompt, [G], for listwise objectives.
BatchLoss = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Objective:
    """An objective with its constants filled in: `loss` of any part of a step, or `step_loss` of the whole."""

    name: str
    needs: Needs
    margin_scale: float  # the metric `margin` is this times the difference of log-ratios
    loss: BatchLoss | None
    step_loss: WindowLoss | None = None
    nll: float = 0.0

    def losses(self, batch: Batch) -> Tensor:
        """Losses of the batch's pairs (prompts), with the NLL add-on. Not for an objective of whole steps."""
        assert self.loss is not None
        return self.loss(batch) + self.nll_loss(batch) if self.nll else self.loss(batch)

    def nll_loss(self, batch: Batch) -> Tensor:
        """nll * -log pi(chosen) / |chosen| of each pair, [N] (Iterative RPO, arXiv 2404.19733)."""
        return -self.nll * batch.logprobs[batch.chosen] / batch.lengths[batch.chosen]


Settings = TypeVar("Settings", bound=s.ObjectiveBase)
_LOSSES: dict[type[s.ObjectiveBase], Callable[[Batch, s.ObjectiveBase], Tensor]] = {}


def _loss(kind: type[Settings]) -> Callable[[Callable[[Batch, Settings], Tensor]], Callable[[Batch, Settings], Tensor]]:
    """Registers the loss of an objective's settings."""

    def register(function: Callable[[Batch, Settings], Tensor]) -> Callable[[Batch, Settings], Tensor]:
        _LOSSES[kind] = cast(Callable[[Batch, s.ObjectiveBase], Tensor], function)
        return function

    return register


def build_objective(settings: s.ObjectiveSettings) -> Objective:
    """The objective that `settings` describe. Names are checked where settings are read."""
    step_loss = None
    if isinstance(settings, s.BetaDpoSettings):
        step_loss = beta_dpo_step(settings)
    elif isinstance(settings, s.LcpoSettings):
        step_loss = lcpo_step(settings)
    elif isinstance(settings, s.RpoSettings):
        step_loss = rpo_step(settings)
    function = None if step_loss else _LOSSES[type(settings)]
    return Objective(
        name=settings.name,
        needs=settings.needs(),
        margin_scale=settings.margin_scale,
        loss=(lambda batch: function(batch, settings)) if function else None,
        step_loss=step_loss,
        nll=getattr(settings, "nll", 0.0),
    )


def _probability(batch: Batch, labels: s.Labels) -> Tensor | float:
    return batch.probability if labels == "soft" else 1.0


def _ratios(batch: Batch, length: str) -> tuple[Tensor, Tensor]:
    """Log-ratios of chosen and rejected, [N], nats of whole responses or a token."""
    h = batch.mean_h() if length == "mean" else batch.h
    return h[batch.chosen], h[batch.rejected]


def _of(batch: Batch, column: str) -> tuple[Tensor, Tensor]:
    """A column of responses, for chosen and rejected."""
    values = batch.responses[column]
    return values[batch.chosen], values[batch.rejected]


def _extra(batch: Batch) -> Tensor:
    """The extra response of each pair's prompt, [N]."""
    assert batch.extra is not None
    return batch.extra[batch.owner[batch.chosen]]


def _reward(batch: Batch, settings: s.Rewarded) -> Tensor:
    """Reward of chosen less that of rejected, [N]."""
    return batch.pairs["reward"] if settings.rewards == "scores" else batch.labels


@_loss(s.IrepoSettings)
def _irepo(batch: Batch, o: s.IrepoSettings) -> Tensor:
    return irepo(batch.h_chosen, batch.h_rejected, batch.labels, beta=o.beta, scale=o.scale, logit=o.logit)


@_loss(s.DpoSettings)
def _dpo(batch: Batch, o: s.DpoSettings) -> Tensor:
    offset = length_offset(batch.lengths[batch.chosen], batch.lengths[batch.rejected], o.length_penalty)
    probability = _probability(batch, o.labels)
    return dpo(*_ratios(batch, o.length), probability, beta=o.beta, label_smoothing=o.label_smoothing, offset=offset)


@_loss(s.RdpoSettings)
def _rdpo(batch: Batch, o: s.RdpoSettings) -> Tensor:
    return rdpo(batch.h_chosen, batch.h_rejected, beta=o.beta, flip_rate=o.flip_rate)


@_loss(s.OdpoSettings)
def _odpo(batch: Batch, o: s.OdpoSettings) -> Tensor:
    reward = _reward(batch, o)
    return odpo(batch.h_chosen, batch.h_rejected, reward, beta=o.beta, alpha=o.alpha, offset=o.offset)


@_loss(s.MadpoSettings)
def _madpo(batch: Batch, o: s.MadpoSettings) -> Tensor:
    return madpo(
        batch.h_chosen,
        batch.h_rejected,
        _reward(batch, o),
        beta=o.beta,
        c_max=o.c_max,
        c_min=o.c_min,
        slope=o.slope,
        threshold=o.threshold,
    )


@_loss(s.FDpoSettings)
def _f_dpo(batch: Batch, o: s.FDpoSettings) -> Tensor:
    probability = _probability(batch, o.labels)
    return f_dpo(batch.h_chosen, batch.h_rejected, probability, beta=o.beta, divergence=o.divergence, alpha=o.alpha)


@_loss(s.BmcSettings)
def _bmc(batch: Batch, o: s.BmcSettings) -> Tensor:
    tokens = batch.tokens
    assert tokens is not None
    policy_weights = extra_weight(tokens.policy, o.ceiling)
    own = extra_weight(tokens.reference, o.ceiling) if o.confidence == "own" else policy_weights
    policy = _reweighted_margin(batch, tokens, batch.logprobs, tokens.policy, policy_weights)
    return bmc(policy, _reweighted_margin(batch, tokens, batch.reference, tokens.reference, own), beta=o.beta)


def _reweighted_margin(batch: Batch, columns: TokenColumns, sums: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """S_w - S_l of each pair, [N]."""
    sides = []
    for response, (position, pair) in ((batch.chosen, columns.chosen), (batch.rejected, columns.rejected)):
        sides.append(reweighted(sums[response], tokens[position], weights[position], pair))
    return sides[0] - sides[1]


@_loss(s.DnoSettings)
def _dno(batch: Batch, o: s.DnoSettings) -> Tensor:
    won, lost = _of(batch, "win_rate") if o.labels == "win_rates" else (None, None)
    probability: Tensor | float = 1.0 if won is None or lost is None else (won - lost).sigmoid()
    return dpo(batch.h_chosen, batch.h_rejected, probability, beta=o.beta)


@_loss(s.SelmSettings)
def _selm(batch: Batch, o: s.SelmSettings) -> Tensor:
    return selm(batch.h_chosen, batch.h_rejected, batch.h[_extra(batch)], beta=o.beta, alpha=o.alpha)


@_loss(s.XpoSettings)
def _xpo(batch: Batch, o: s.XpoSettings) -> Tensor:
    return xpo(batch.h_chosen, batch.h_rejected, batch.logprobs[_extra(batch)], beta=o.beta, alpha=o.alpha)


@_loss(s.SrDpoSettings)
def _sr_dpo(batch: Batch, o: s.SrDpoSettings) -> Tensor:
    better, worse = _of(batch, "quality")
    function = sr_dpo if o.base == "dpo" else sr_ipo
    return function(batch.h_chosen, batch.h_rejected, better - worse, beta=o.beta, weight=o.weight)


@_loss(s.StepApoSettings)
def _step_apo(batch: Batch, o: s.StepApoSettings) -> Tensor:
    return step_apo(batch.h_chosen, batch.h_rejected, _reward(batch, o), beta=o.beta)


@_loss(s.TrpaSettings)
def _trpa(batch: Batch, o: s.TrpaSettings) -> Tensor:
    tokens = batch.tokens
    assert tokens is not None
    assert tokens.previous is not None
    first = batch.pairs["first_level"].bool()
    preference = trpa(*_ratios(batch, "mean"), first, beta=o.beta, kappa=o.kappa)
    of_token = k3(tokens.policy, tokens.previous) / batch.lengths[tokens.owner]
    divergence = torch.zeros_like(batch.logprobs).index_add(0, tokens.owner, of_token)
    return preference + o.kl * (divergence[batch.chosen] + divergence[batch.rejected]) / 2


@_loss(s.SlicSettings)
def _slic(batch: Batch, o: s.SlicSettings) -> Tensor:
    values = batch.h if o.log_ratios else batch.logprobs
    return slic(values[batch.chosen], values[batch.rejected], beta=o.beta, margin=o.margin)


@_loss(s.IpoSettings)
def _ipo(batch: Batch, o: s.IpoSettings) -> Tensor:
    return ipo(*_ratios(batch, o.length), _probability(batch, o.labels), beta=o.beta)


@_loss(s.IpoMdSettings)
def _ipo_md(batch: Batch, o: s.IpoMdSettings) -> Tensor:
    return ipo(batch.h_chosen, batch.h_rejected, _probability(batch, o.labels), beta=o.beta)


@_loss(s.SppoSettings)
def _sppo(batch: Batch, o: s.SppoSettings) -> Tensor:
    return sppo(batch.h_chosen, batch.h_rejected, *_of(batch, "win_rate"), beta=o.beta)


@_loss(s.RebelSettings)
def _rebel(batch: Batch, o: s.RebelSettings) -> Tensor:
    return rebel(batch.h_chosen, batch.h_rejected, _reward(batch, o), eta=o.eta, scale=o.scale)


@_loss(s.GpoSettings)
def _gpo(batch: Batch, o: s.GpoSettings) -> Tensor:
    return gpo(batch.h_chosen, batch.h_rejected, *_of(batch, "mean_logit"), beta=o.beta)


@_loss(s.InpoSettings)
def _inpo(batch: Batch, o: s.InpoSettings) -> Tensor:
    assert batch.previous is not None
    policy, initial, previous = (
        values[batch.chosen] - values[batch.rejected] for values in (batch.logprobs, batch.reference, batch.previous)
    )
    return inpo(policy, initial, previous, _probability(batch, o.labels), eta=o.eta, tau=o.tau)


@_loss(s.AdpoSettings)
def _adpo(batch: Batch, o: s.AdpoSettings) -> Tensor:
    h = batch.mean_h() if o.length == "mean" else batch.h
    return adpo(h, batch.responses["share"], batch.owner, temperature=o.temperature)
