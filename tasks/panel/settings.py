"""Settings of a panel: its annotators by kind, and what they may spend."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tasks.panel.annotators.function import FunctionSettings
from tasks.panel.annotators.implicit_reward import ImplicitRewardSettings
from tasks.panel.annotators.judge import JudgeSettings
from tasks.panel.annotators.order import OrderSettings
from tasks.panel.annotators.ranking_judge import RankingJudgeSettings
from tasks.panel.annotators.reward_model import RewardModelSettings
from tasks.panel.annotators.rubric import RubricSettings
from tasks.panel.annotators.rule import RuleSettings
from tasks.panel.annotators.self_reference import SelfReferenceSettings
from tasks.panel.annotators.simulated import SimulatedSettings
from tasks.panel.annotators.text_metric import TextMetricSettings
from tasks.panel.annotators.verifier import VerifierSettings
from tasks.panel.humans.settings import HumanSettings

AnnotatorSettings = Annotated[
    VerifierSettings
    | RuleSettings
    | FunctionSettings
    | TextMetricSettings
    | RewardModelSettings
    | ImplicitRewardSettings
    | JudgeSettings
    | RankingJudgeSettings
    | RubricSettings
    | SelfReferenceSettings
    | SimulatedSettings
    | OrderSettings
    | HumanSettings,
    Field(discriminator="kind"),
]


class Budget(BaseModel):
    """What the panel may spend on one round's votes; None = no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int | None = Field(None, ge=1)
    money: float | None = Field(None, gt=0)  # in the currency of the annotators' prices
    seconds: float | None = Field(None, gt=0)  # of each attempt
