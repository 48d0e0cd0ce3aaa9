"""Settings of mixing: what a round trains on besides its own pairs, and the checks that concern mixing alone."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.mixing.offline import OfflineSettings
from tasks.mixing.reward_conditioning import RewardConditioningSettings
from tasks.panel.settings import PanelSettings


class MixingSettings(BaseModel):
    """A round trains on its own pairs, and on shares of earlier rounds' pairs and of an offline set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replay: Literal["all"] | float = Field(0.0)  # share of a round's pairs from earlier rounds; all: every pair
    rounds: int | None = Field(None, ge=1)  # only the latest so many rounds; None = all
    offline: OfflineSettings | None = None  # a preference set from outside: {path, share, keep, p_hat}
    goals: RewardConditioningSettings | None = None  # reward-conditioned relabelling; None = no relabelling

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        replay = self.replay if isinstance(self.replay, float) else 0.0
        if not 0 <= replay + (self.offline.share if self.offline else 0.0) < 1:
            raise ValueError("replay and offline.share must add up to less than 1: the rest is the round's own share")
        if self.goals and self.offline:
            raise ValueError("goals need scores, which pairs of an offline set do not have; remove one of the two")
        return self

    @property
    def nothing(self) -> bool:
        """Whether a round trains on its own pairs as they are."""
        return self.replay == 0.0 and self.offline is None and self.goals is None

    def check_run(self, panel: PanelSettings, *, system: str | None, drafts: bool) -> None:
        """Raises ValueError when goals do not fit the run: its panel, system prompt (prompts.system) and drafts."""
        if self.goals is None:
            return
        panel.check_scoring("mixing.goals.annotator", [self.goals.annotator] if self.goals.annotator else [])
        if system != self.goals.highest:
            raise ValueError(
                f"mixing.goals: responses are sampled and judged with the highest goal; set "
                f"prompts.system={self.goals.highest!r} (recipe=conditioned does)"
            )
        if drafts:
            raise ValueError("mixing.goals: drafts come in pairs without scores; remove goals, or set drafts=none")
