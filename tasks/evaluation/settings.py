"""Settings of evaluation in a run's configuration, and settings and specs of the judge and evaluate stages."""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.artifact import Artifact
from storage.stage import Spec, TaskName, Unkeyed
from tasks.cluster_settings import ClusterSettings, Where
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.annotators.settings import POLICY_NAMES
from tasks.panel.outages import OnOutage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class EvaluationSettings(BaseModel):
    """What is measured after every round, on held-out prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    responses: int = Field(2, ge=1)  # samples a held-out prompt
    judges: dict[str, AnnotatorSettings] = {}  # decide win rates; must not sit on the panel
    rates: dict[str, AnnotatorSettings] = {}  # score single responses; reported as means
    truth: str | None = None  # the judge that is right by construction (a verifier): the others are compared with it
    better: dict[str, Literal["higher", "lower"]] = {}  # rate -> which values are better; others are only reported
    against: dict[str, str] = {}  # name -> folder or hub id of another policy to compare with
    pairs: bool = False  # the panel labels the initial policy's held-out responses: calibration and displacement
    on_outage: OnOutage = "stop"  # when a judge, rate or MT-Bench's judge is given up; as panel.on_outage
    bootstrap: int = Field(1000, ge=100)  # resamples of prompts for the 95 % intervals
    batch_tokens: int = Field(16384, ge=1)  # padded tokens at a time when the KL is measured

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.truth is not None and self.truth not in self.judges:
            raise ValueError(f"truth: {self.truth} is not one of the judges ({', '.join(self.judges) or 'none'})")
        if wrong := [name for name in self.against if name in POLICY_NAMES or not _NAME.fullmatch(name)]:
            raise ValueError(
                f"against: {', '.join(wrong)} cannot be the name of a policy here; use letters, digits, '-' and '_', "
                f"and none of {', '.join(POLICY_NAMES)}"
            )
        if self.pairs and self.responses < 2:
            raise ValueError("pairs: a pair needs two responses a prompt; set responses=2, or pairs=false")
        return self


class JudgingSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    judges: dict[str, AnnotatorSettings]  # decide win rates
    rates: dict[str, AnnotatorSettings] = {}  # score single responses; the mean score is a rate
    reasoning_end: str | None = "</think>"  # judges see what follows it in a reply; None: the whole reply


class JudgeSpec(Spec):
    """Compare the responses of several policies to the same prompts. The votes are for evaluation only.

    Response j of the first source is compared with response j of every other source. `rates` only score.
    """

    stage: ClassVar[str] = "judge"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.evaluation.judging:run_judging"
    task: ClassVar[TaskName] = "evaluate"

    settings: JudgingSettings
    # Source -> folder of a finished generate stage. The first source is compared with every other one.
    responses: dict[str, Artifact]
    prompts: Artifact
    judge_files: dict[str, Artifact] = Field({})  # as LabelSpec.annotator_files
    rate_files: dict[str, Artifact] = Field({})
    answers: Annotated[Path | None, Unkeyed("a cache: no question is asked twice")] = None
    on_outage: Annotated[OnOutage, Unkeyed("an unfinished stage has no key; go_on publishes errors for good")] = "stop"
    cluster: Where = ClusterSettings()


class ImplicitReward(BaseModel):
    """The implicit reward of a round's policy, scale * log(policy / reference), with the scale used in training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float = Field(gt=0)  # beta
    reference: Literal["previous", "initial"]


class MetricsSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: int = Field(1000, ge=100)  # resamples of prompts for the 95 % intervals
    divergence_tokens: int = Field(16384, ge=1)  # padded tokens at a time, of the divergence estimate
    truth: str | None = None  # the judge that the others are compared with
    margin: ImplicitReward | None = None  # None for the initial policy, which has no implicit reward
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False


class EvaluateSpec(Spec):
    """Metrics of one policy from held-out responses, judges' votes, and both policies for the divergence."""

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 3

    runs: ClassVar[str] = "tasks.evaluation.stage:run"
    task: ClassVar[TaskName] = "evaluate"

    settings: MetricsSettings
    responses: Artifact  # folder of the generate stage of the policy under evaluation, on held-out prompts
    judgements: Artifact  # folder of the judge stage (votes.parquet, scores.parquet)
    policy: Artifact  # pi_t+1
    initial: Artifact  # pi_0
    prompts: Artifact | None = None  # held-out prompts, for their categories; None: no metrics by category
    rivals: dict[str, Artifact] = Field({})  # source -> folder of the rival's held-out responses
    pairs: Artifact | None = None  # folder of the label stage on the initial policy's held-out responses
    evaluations: dict[str, Artifact] = Field({})  # initial, previous -> evaluate folders with their log-probabilities
    harness: Artifact | None = None  # folder of this policy's harness stage; None: no benchmarks
    mt_bench: Artifact | None = None  # folder of this policy's grade stage; None: no MT-Bench
