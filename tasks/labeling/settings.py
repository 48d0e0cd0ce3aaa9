"""Settings and spec of the label stage."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.artifact import Artifact
from storage.stage import Spec, TaskName, Unkeyed
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.settings import Budget


class SelectionSettings(BaseModel):
    """Keep the pairs with the largest margins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(gt=0, le=1)  # of the labelled pairs
    # Annotators that score -> their part in the margin, e.g. {now: 0.7, before: 0.3}; {} = the margin is the target.
    margin_of: dict[str, Annotated[float, Field(gt=0)]] = {}


class PreferenceSettings(BaseModel):
    """How votes become targets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: Literal["all", "best_worst", "tournament"] = "all"
    estimator: Literal[
        "bradley_terry",
        "empirical_logit",
        "plackett_luce",
        "davidson",
        "dawid_skene",
        "general",
        "maxmin",
        "ensemble_mean",
        "ensemble_worst",
        "ensemble_uncertainty",
    ] = "bradley_terry"
    prior_variance: float = Field(2.0, gt=0)  # ridge of the strengths
    cycle_variance: float = Field(0.5, gt=0)  # general: of a pair's deviation from the strengths
    tie_variance: float = Field(1.0, gt=0)  # davidson: of log nu
    groups: int = Field(2, ge=2)  # maxmin: groups of annotators
    penalty: float = Field(0.1, ge=0)  # ensemble_uncertainty: times the variance of the members' scores
    reliability: Literal["none", "em", "lcpo"] = "none"  # of annotators, estimated from the votes (bradley_terry)
    min_votes: int = Field(500, ge=1)  # decided votes on shared pairs; with fewer an annotator's reliability is unknown
    pinned: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}  # annotator -> its reliability, not estimated
    gold: list[str] = []  # annotators whose votes are known to be right: the others are measured against them
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}  # annotator -> weight of its votes; 1 where not named
    soft_votes: bool = False  # count a vote's probability, where it has one, as a share of a win
    quorum: int = Field(1, ge=1)  # votes (a, b or tie) a pair must have; below it the pair is left out and counted
    keep: SelectionSettings | None = None  # of the labelled pairs; None = all
    drop_truncated: bool = True  # responses that did not end by themselves take no part in pairs

    @model_validator(mode="after")
    def _fits(self) -> "PreferenceSettings":
        if self.reliability != "none" and self.estimator != "bradley_terry":
            raise ValueError(
                f"reliability={self.reliability} is for estimator=bradley_terry, not {self.estimator} "
                f"(dawid_skene estimates its own); set reliability=none"
            )
        learns = self.reliability != "none" or self.estimator == "dawid_skene"
        if self.pinned and not learns:
            raise ValueError("pinned means something with reliability=em or lcpo, or estimator=dawid_skene")
        return self


class LabelSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    annotators: dict[str, AnnotatorSettings]
    preferences: PreferenceSettings = PreferenceSettings()


class LabelSpec(Spec):
    """Have the panel vote on the responses of one generate stage, and publish votes and preferences."""

    stage: ClassVar[str] = "label"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.labeling.stage:run"
    task: ClassVar[TaskName] = "label"

    settings: LabelSettings
    responses: Artifact  # folder of a finished generate stage
    prompts: Artifact  # Parquet of storage.schemas.PROMPTS
    policies: dict[str, Artifact] = Field({})  # what policy, previous and initial mean in annotators' settings
    annotator_files: dict[str, Artifact] = Field({})  # local models, functions and templates, by annotator
    #: Answers of remote annotators, kept for every stage; None: in `folder`.
    answers: Annotated[Path | None, Unkeyed("a cache: nobody is asked the same question twice")] = None
    budget: Annotated[Budget, Unkeyed("bounds what a pass spends; a pass that reaches it publishes nothing")] = Budget()
