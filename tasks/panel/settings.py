"""Settings of a panel: its annotators, what they may spend, and the checks that concern the panel alone."""

from collections.abc import Iterable, Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.annotators.settings import Scorer
from tasks.panel.outages import OnOutage


class Budget(BaseModel):
    """What the panel may spend on one round's votes; None = no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int | None = Field(None, ge=1)  # of questions and answers together
    money: float | None = Field(None, gt=0)  # in the currency of the annotators' prices
    seconds: float | None = Field(None, gt=0)  # of each attempt


class PanelSettings(BaseModel):
    """The annotators that vote on a round's responses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotators: dict[str, AnnotatorSettings]  # name -> {kind, its settings}; kinds: docs/annotators.md
    budget: Budget = Budget()  # of one round's votes
    # When an annotator is given up. stop: the stage is not finished, and the same command asks for what is missing.
    # go_on: what is missing is an error for good.
    on_outage: OnOutage = "stop"
    # Ask chat models behind endpoints about published shards while others are sampled. Not with budget.seconds.
    overlap: bool = True

    @model_validator(mode="after")
    def _has_prices(self) -> Self:
        unpriced = [name for name, settings in self.annotators.items() if settings.unpriced]
        if self.budget.money is not None and unpriced:
            raise ValueError(f"budget.money: {', '.join(unpriced)} has no price; set its `price`, or drop the limit")
        return self

    def scoring(self) -> list[str]:
        """Names of the annotators that give scores."""
        return [name for name, settings in self.annotators.items() if isinstance(settings, Scorer)]

    def check_members(self, where: str, names: Iterable[str]) -> None:
        """Raises ValueError when `names` (annotators, or people such as people/ann) are not all on the panel."""
        if unknown := [name for name in names if name.partition("/")[0] not in self.annotators]:
            raise ValueError(f"{where}: {', '.join(unknown)} is not on the panel ({', '.join(self.annotators)})")

    def check_scoring(self, where: str, names: Iterable[str]) -> None:
        """Raises ValueError when `names` are not all annotators that give scores."""
        scoring = self.scoring()
        if silent := [name for name in names if name not in scoring]:
            raise ValueError(
                f"{where}: {', '.join(silent)} gives no scores on this panel; "
                f"annotators that do: {', '.join(scoring) or 'none'}"
            )

    def check_somebody_scores(self, where: str, alternative: str) -> None:
        """Raises ValueError, with an `alternative` for the user, when no annotator gives scores."""
        if not self.scoring():
            raise ValueError(
                f"{where} needs scores, and no annotator of the panel gives any; add one that does (reward_model, "
                f"rubric, rule), or {alternative}"
            )

    def check_drafts(self, *, drafts: bool) -> None:
        """Raises ValueError for annotators that judge drafts only, when a round makes no `drafts`."""
        needing = [name for name, settings in self.annotators.items() if settings.needs_drafts]
        if needing and not drafts:
            raise ValueError(
                f"panel.annotators.{needing[0]}: it prefers the first response, which is the better one for drafts "
                f"only; set drafts=ladder or drafts=sapo, or remove it from the panel"
            )

    def check_first_round(self, weights: Mapping[str, float], policies: Mapping[str, str]) -> None:
        """Raises ValueError when every annotator with a weight above 0 gives nothing but ties in round 1.

        `policies`: the models that the policy names stand for in round 1. An implicit reward of a policy over itself
        is 0 for every response.
        """
        voting = [settings for name, settings in self.annotators.items() if weights.get(name, 1.0) > 0]
        if all(settings.only_ties(policies) for settings in voting):
            raise ValueError(
                "panel: in round 1 every vote would be a tie, because the policy and the reference of the implicit "
                "reward are the same model; start from an aligned policy and name the policy it was aligned from "
                "(policy.aligned_from=<folder>, with reference: previous), or add another annotator"
            )
