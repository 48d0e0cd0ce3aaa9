"""References that follow the policy from round to round: running averages of weights.

    ema   ref_t+1 = (1 - rate) * ref_t + rate * theta_t      after every round
    tr    the same every `every` rounds; rate=1 copies       TR-DPO, soft and hard updates (arXiv 2404.09656)

TR-DPO updates its reference every few hundred steps within one training; here log-probabilities under the reference
are computed once a round, and the update is between rounds. theta_t is the policy that a promoted round ended with.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Ema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ema"] = "ema"
    rate: float = Field(0.5, gt=0, lt=1)  # OURS: share of the policy in the next reference

    @property
    def every(self) -> int:
        return 1


class TrustRegion(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tr"] = "tr"
    rate: float = Field(0.6, gt=0, le=1)  # the paper's alpha, as in TRL; 1 is the hard update
    every: int = Field(1, ge=1)  # OURS: rounds between updates


Moving = Annotated[Ema | TrustRegion, Field(discriminator="kind")]


def _expand_word(value: Any) -> Any:
    """`ema` and `tr` are short for the schedules with their defaults."""
    return {"kind": value} if value in ("ema", "tr") else value


#: initial: pi_0; previous: the policy that the round starts from; or a schedule in between.
Reference = Annotated[Literal["initial", "previous"] | Moving, BeforeValidator(_expand_word)]


def reference_source(
    reference: Literal["initial", "previous"] | Ema | TrustRegion, round_number: int, chain: Sequence[int]
) -> tuple[Literal["policy", "reference"], int]:
    """Where a round's reference comes from: the policy that a round ended with, or a moved reference; and which round.

    chain: the rounds that led to round `round_number`, from 0 to the one whose policy it starts from.
    """
    if reference == "initial" or len(chain) == 1:
        return "policy", 0
    if reference == "previous":
        return "policy", chain[-1]
    if (len(chain) - 1) % reference.every:
        return reference_source(reference, chain[-1], chain[:-1])
    return ("policy", chain[-1]) if reference.rate == 1 else ("reference", round_number)
