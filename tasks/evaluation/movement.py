"""Whether a round moved the policy: too little to be seen, or so far that it is another policy."""

import logging

from tasks.evaluation.divergence import Divergence

log = logging.getLogger("irepo")

_ERRORS = 2.0  # standard errors below which a divergence is not distinguishable from 0
_FAR = 1.0  # nats a token: replies are e times as likely, per token, as under the initial policy


def cannot_be_told_apart(kl: Divergence) -> bool:
    """Whether a divergence from the initial policy is within its error, so that the policy may be the initial one."""
    return kl.se is not None and kl.mean <= _ERRORS * kl.se


def warn_of_movement(kl: Divergence) -> None:
    """Log a warning for a trained policy whose divergence `kl` from the initial policy is within its error, or large.

    The demo's three rounds are between: 0.4, 1.1 and 1.9 nats a reply (docs/demo.md).
    """
    if kl.se is not None and cannot_be_told_apart(kl):
        log.warning(
            "the policy cannot be told from the initial one: KL is %.3g ± %.2g nats a reply. Raise "
            "training.learning_rate or training.epochs, or train on more prompts (sizes: docs/training.md)",
            kl.mean,
            _ERRORS * kl.se,
        )
    elif kl.per_token > _FAR:
        log.warning(
            "the policy is far from the initial one: KL is %.2f nats a token (%.3g a reply). Read its replies before "
            "you trust a win rate; lower training.learning_rate, raise the objective's beta, or train fewer epochs",
            kl.per_token,
            kl.mean,
        )
