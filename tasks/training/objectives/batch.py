"""What a loss reads: the responses, pairs and prompts of a micro-batch or of a whole step, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenColumns:
    """Single tokens of all responses, [T], response after response; nats."""

    policy: Tensor
    reference: Tensor
    previous: Tensor | None
    owner: Tensor  # response of each token
    chosen: tuple[Tensor, Tensor]  # positions of differing tokens of chosen responses, and the pair of each; [C]
    rejected: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """R responses, N pairs, G prompts; floating point columns are float64, log-probabilities are nats.

    Only `logprobs` and `tokens.policy` have a gradient.
    """

    logprobs: Tensor  # [R] of whole responses under the policy
    reference: Tensor  # [R]
    lengths: Tensor  # [R] tokens
    owner: Tensor  # [R] prompt of each response
    chosen: Tensor  # [N] response
    rejected: Tensor  # [N]
    labels: Tensor  # [N] logit of the empirical preference of chosen over rejected
    previous: Tensor | None = None  # [R] under the policy that training started from
    pairs: dict[str, Tensor] = field(default_factory=dict)  # further columns of pairs, [N, ...]
    responses: dict[str, Tensor] = field(default_factory=dict)  # further columns of responses, [R]
    embeddings: Tensor | None = None  # [G, E]
    extra: Tensor | None = None  # [G] the prompt's extra response
    copies: Tensor | None = None  # [R] the copy of each response, and of a copy itself
    tokens: TokenColumns | None = None
    annotators: tuple[str, ...] = ()  # of the columns of pairs["votes"]

    def at(self, logprobs: Tensor, tokens: Tensor | None = None) -> Self:
        """The same batch under other log-probabilities of the policy: [R], and of single tokens [T].

        Without the latter it has no tokens.
        """
        columns = replace(self.tokens, policy=tokens) if self.tokens is not None and tokens is not None else None
        return replace(self, logprobs=logprobs, tokens=columns)

    @property
    def h(self) -> Tensor:
        """Log-ratios to the reference, [R]."""
        return self.logprobs - self.reference

    @property
    def h_chosen(self) -> Tensor:
        return self.h[self.chosen]

    @property
    def h_rejected(self) -> Tensor:
        return self.h[self.rejected]

    @property
    def probability(self) -> Tensor:
        """The empirical preference of chosen over rejected, [N]."""
        return self.labels.sigmoid()

    def mean_h(self) -> Tensor:
        """Log-ratios a token, [R]."""
        return self.h / self.lengths

    def log_ratios(self, length: Literal["sum", "mean"]) -> tuple[Tensor, Tensor]:
        """Log-ratios of chosen and rejected, [N] each: nats of whole responses (sum), or a token (mean)."""
        return self.of_pairs(self.mean_h() if length == "mean" else self.h)

    def of_pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values of responses, [R], as those of chosen and of rejected, [N] each."""
        return values[self.chosen], values[self.rejected]

    def extra_of_pairs(self) -> Tensor:
        """The extra response of each pair's prompt, [N]; for an objective that needs one."""
        assert self.extra is not None
        return self.extra[self.owner[self.chosen]]

    def copy_labels(self) -> Tensor:
        """log pi of the label word of each response's copy, which is the copy's last token, [R] nats.

        For an objective that needs degrees.
        """
        assert self.copies is not None
        assert self.tokens is not None
        last = self.lengths.cumsum(0).long() - 1
        return self.tokens.policy[last[self.copies]]
