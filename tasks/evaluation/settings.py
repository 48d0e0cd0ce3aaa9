"""Settings and specs of the judge and evaluate stages."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.stage import Spec
from tasks.panel.settings import AnnotatorSettings, without_operations


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

    settings: JudgingSettings
    responses: dict[
        str, Path
    ]  # source name -> folder of a finished generate stage; the first is compared with the rest
    prompts: Path
    answers: Path | None = None  # as LabelSpec.answers

    def keyed_settings(self) -> dict[str, Any]:
        return without_operations(super().keyed_settings())


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

    settings: MetricsSettings
    responses: Path  # folder of the generate stage of the policy under evaluation, on held-out prompts
    judgements: Path  # folder of the judge stage (votes.parquet, scores.parquet)
    policy: Path  # pi_t+1
    initial: Path  # pi_0
    prompts: Path | None = None  # held-out prompts, for their categories; None: figures are not split
    rivals: dict[str, Path] = Field({})  # source -> folder of the responses that the policy's were compared with
    pairs: Path | None = None  # folder of the label stage on the initial policy's held-out responses
    evaluations: dict[str, Path] = Field({})  # initial, previous -> evaluate folders with their log-probabilities
    harness: Path | None = None  # folder of the harness stage of this policy; None = no benchmark was asked
    mt_bench: Path | None = None  # folder of the grade stage of this policy; None = nobody graded
