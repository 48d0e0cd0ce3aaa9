"""Settings and specs of the judge and evaluate stages."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.artifact import Artifact
from storage.stage import Spec, TaskName, Unkeyed
from tasks.panel.annotators.registry import AnnotatorSettings


class JudgingSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    judges: dict[str, AnnotatorSettings]  # decide win rates
    rates: dict[str, AnnotatorSettings] = {}  # score single responses; their mean is a rate


class JudgeSpec(Spec):
    """Have annotators compare several policies' responses to the same prompts (evaluation): no preferences are made.

    Response j of each other source is compared with response j of the first source. `rates` only score.
    """

    stage: ClassVar[str] = "judge"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.evaluation.judging:run_judging"
    task: ClassVar[TaskName] = "evaluate"

    settings: JudgingSettings
    # Source name -> folder of a finished generate stage. The first source is compared with every other one.
    responses: dict[str, Artifact]
    prompts: Artifact
    judge_files: dict[str, Artifact] = Field({})  # as LabelSpec.annotator_files
    rate_files: dict[str, Artifact] = Field({})
    answers: Annotated[Path | None, Unkeyed("a cache: nobody is asked the same question twice")] = None


class MarginSettings(BaseModel):
    """What an implicit reward is: scale * log(policy / reference), as the round was trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float = Field(gt=0)  # beta
    reference: Literal["previous", "initial"]


class MetricsSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: int = Field(1000, ge=100)  # resamples of prompts for the 95 % intervals
    divergence_tokens: int = Field(16384, ge=1)  # padded tokens in one forward of the divergence estimate
    truth: str | None = None  # the judge that the others are measured against
    margin: MarginSettings | None = None  # None: of the initial policy, which has none
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False


class EvaluateSpec(Spec):
    """Figures of one round from files: held-out responses, judges' votes, and both policies for the divergence."""

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.evaluation.stage:run"
    task: ClassVar[TaskName] = "evaluate"

    settings: MetricsSettings
    responses: Artifact  # folder of the generate stage of the policy under evaluation, on held-out prompts
    judgements: Artifact  # folder of the judge stage (votes.parquet, scores.parquet)
    policy: Artifact  # pi_t+1
    initial: Artifact  # pi_0
    prompts: Artifact | None = None  # held-out prompts, for their categories; None: figures are not split
    rivals: dict[str, Artifact] = Field({})  # source -> folder of the responses that the policy's are compared with
    pairs: Artifact | None = None  # folder of the label stage on the initial policy's held-out responses
    evaluations: dict[str, Artifact] = Field({})  # initial, previous -> evaluate folders with their log-probabilities
    harness: Artifact | None = None  # folder of the harness stage of this policy; None: no benchmark is wanted
    mt_bench: Artifact | None = None  # folder of the grade stage of this policy; None: no MT-Bench is wanted
