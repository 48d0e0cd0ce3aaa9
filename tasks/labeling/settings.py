"""Settings and spec of the label stage."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.artifact import Artifact
from storage.stage import Spec, TaskName, Unkeyed
from tasks.cluster_settings import ClusterSettings, Where
from tasks.labeling.margin_filter import ScoreMarginFilter
from tasks.panel.active import ActiveSettings
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.annotators.settings import Scorer
from tasks.panel.outages import OnOutage
from tasks.panel.settings import Budget, PanelSettings

#: Estimators that fit no strengths, so that no prior of strengths matters.
_WITHOUT_STRENGTHS = ("dawid_skene", "ensemble_mean", "ensemble_worst", "ensemble_uncertainty")


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
    # Ridge of the strengths. auto: the one that predicts the votes of an annotator best who is left out.
    prior_variance: Annotated[float, Field(gt=0)] | Literal["auto"] = 2.0
    # Annotators whose scores, over their temperature, are the mean of the strengths' prior. They do not vote besides.
    prior_scores: list[str] = []
    cycle_variance: float = Field(0.5, gt=0)  # general: variance of a pair's deviation from the strengths
    tie_variance: float = Field(1.0, gt=0)  # davidson: variance of log nu
    groups: int = Field(2, ge=2)  # maxmin: groups of annotators
    penalty: float = Field(0.1, ge=0)  # ensemble_uncertainty: times the variance of the members' scores
    reliability: Literal["none", "em", "lcpo"] = "none"  # of annotators, estimated from the votes (bradley_terry)
    min_votes: int = Field(500, ge=1)  # decided votes on shared pairs that a reliability needs to be estimated
    pinned: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}  # annotator -> its reliability, not estimated
    gold: list[str] = []  # annotators whose votes are known to be right: the others are compared with them
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}  # annotator -> weight of its votes; otherwise 1
    soft_votes: bool = True  # count the probability of a vote that has one as a share of a win
    quorum: int = Field(1, ge=1)  # votes (a, b or tie) that a pair needs; other pairs are left out and counted
    # Of the labelled pairs; None = all. informative: those of prompts whose targets are not all 0.
    keep: ScoreMarginFilter | Literal["informative"] | None = None
    drop_truncated: bool = True  # leave responses that did not end by themselves out of pairs

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.reliability != "none" and self.estimator != "bradley_terry":
            raise ValueError(
                f"reliability={self.reliability} works with estimator=bradley_terry, not {self.estimator} "
                f"(dawid_skene estimates its own); set reliability=none"
            )
        estimates_reliability = self.reliability != "none" or self.estimator == "dawid_skene"
        if self.pinned and not estimates_reliability:
            raise ValueError("pinned has an effect only with reliability=em or lcpo, or estimator=dawid_skene")
        if self.prior_variance == "auto" and self.estimator in _WITHOUT_STRENGTHS:
            raise ValueError(
                f"prior_variance=auto is about the strengths of responses, and estimator={self.estimator} has none; "
                f"give a number, or use estimator=bradley_terry"
            )
        if self.prior_scores and (self.estimator != "bradley_terry" or self.reliability != "none"):
            raise ValueError(
                f"prior_scores works with estimator=bradley_terry and reliability=none, not "
                f"{self.estimator} and {self.reliability}; set these, or remove prior_scores"
            )
        return self

    @property
    def variance(self) -> float:
        """The prior variance. Raises ValueError for auto, which the votes have to decide first."""
        if self.prior_variance == "auto":
            raise ValueError("prior_variance=auto has no value before the votes are known")
        return self.prior_variance

    def check_panel(self, panel: PanelSettings) -> None:
        """Raises ValueError for annotators that are not on the panel, or that must give scores and do not."""
        panel.check_members("preferences.gold", self.gold)
        panel.check_members("preferences.pinned", self.pinned)
        panel.check_members("preferences.weights", self.weights)
        self._check_prior(panel)
        margins = self.keep.margin_of if isinstance(self.keep, ScoreMarginFilter) else ()
        panel.check_scoring("preferences.keep.margin_of", margins)
        if self.estimator.startswith("ensemble_"):
            panel.check_somebody_scores(f"preferences.estimator: {self.estimator}", "use estimator=bradley_terry")

    def _check_prior(self, panel: PanelSettings) -> None:
        panel.check_scoring("preferences.prior_scores", self.prior_scores)
        for name in self.prior_scores:
            scorer = panel.annotators[name]
            if isinstance(scorer, Scorer) and scorer.vote_temperature() is None:
                raise ValueError(
                    f"preferences.prior_scores: the scores of {name} have no temperature, which makes logits of them; "
                    f"set panel.annotators.{name}.soft=true (a rubric: score_temperature=auto)"
                )
        voting = [name for name in panel.annotators if name not in self.prior_scores and self.weights.get(name, 1.0)]
        if self.prior_scores and not voting:
            raise ValueError("preferences.prior_scores: nobody is left to vote; remove one of them from this list")
        people = any(isinstance(panel.annotators[name], HumanSettings) for name in voting)
        if self.prior_variance == "auto" and len(voting) < 2 and not people:
            raise ValueError(
                "preferences.prior_variance=auto leaves out one annotator at a time, and fewer than two vote on this "
                "panel; give a number (2.0 is the default), or add annotators"
            )


class LabelSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    annotators: dict[str, AnnotatorSettings]
    preferences: PreferenceSettings = PreferenceSettings()
    reasoning_end: str | None = "</think>"  # annotators see what follows it in a reply; None: the whole reply


class LabelSpec(Spec):
    """Collect the panel's votes on the responses of one generate stage, and publish votes and preferences."""

    stage: ClassVar[str] = "label"
    version: ClassVar[int] = 3

    runs: ClassVar[str] = "tasks.labeling.stage:run"
    task: ClassVar[TaskName] = "label"

    settings: LabelSettings
    responses: Artifact  # folder of a finished generate stage
    prompts: Artifact  # Parquet of storage.schemas.PROMPTS
    policies: dict[str, Artifact] = Field({})  # the policies that annotators' settings call policy, previous, initial
    annotator_files: dict[str, Artifact] = Field({})  # local models, functions and templates, by annotator
    #: Folder of remote annotators' answers, shared by all stages; None: in `folder`.
    answers: Annotated[Path | None, Unkeyed("a cache: no question is asked twice")] = None
    active: ActiveSettings | None = None  # annotators that are asked about a share of the prompts only
    trust_remote_code: Annotated[bool, Unkeyed("whether the policies' code may run, not what it does")] = False
    budget: Annotated[Budget, Unkeyed("limits spending; a stage that reaches the limit publishes nothing")] = Budget()
    on_outage: Annotated[OnOutage, Unkeyed("an unfinished stage has no key; go_on publishes errors for good")] = "stop"
    cluster: Where = ClusterSettings()
