"""Settings and spec of the label stage: an annotator is a class here, a file in annotators/ and a line of YAML."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.stage import Spec
from tasks.labeling.humans.settings import HumanSettings


class _Annotator(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Scorer(_Annotator):
    tie_margin: float = Field(0.0, ge=0)  # scores closer than this (or equal) are a tie


class VerifierSettings(_Scorer):
    """Compares a response's final answer with the prompt's `answer`: score 1 or 0; no answer known = abstain."""

    kind: Literal["verifier"]
    method: Literal["number", "exact", "contains"] = "number"  # number: the last number, after '####' if it is there


class RuleSettings(_Scorer):
    """A check that needs no model: score = points of the rules that hold."""

    kind: Literal["rule"]
    require: list[str] = []  # regular expressions; +1 each that is found
    forbid: list[str] = []  # regular expressions; -1 each that is found
    max_words: int | None = Field(None, ge=1)  # -1 when longer
    shorter: bool = False  # score = -words (use tie_margin for 'about as long')


class FunctionSettings(_Scorer):
    """A Python function `score(prompt: str, answer: str | None, category: str | None, response: str, ended: bool)`.

    It returns a float, or None to abstain.
    """

    kind: Literal["function"]
    function: str  # "package.module:name"


class RewardModelSettings(_Scorer):
    """A transformers sequence-classification folder or id with one label."""

    kind: Literal["reward_model"]
    path: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int = Field(16384, ge=1)
    device: str = "auto"


class SimulatedSettings(_Annotator):
    """A noisy human: votes by Bradley-Terry on a true utility, and by coin flip with probability `noise`."""

    kind: Literal["simulated"]
    utility: str  # "package.module:name", signature as FunctionSettings.function
    noise: float = Field(0.25, ge=0, le=1)
    scale: float = Field(1.0, gt=0)  # utility difference / scale = logit of the vote


class JudgeSettings(_Annotator):
    """A pairwise LLM judge on any OpenAI-compatible endpoint; sees both orders, a contradiction is a tie."""

    kind: Literal["judge"]
    base_url: str = "http://127.0.0.1:8000/v1"
    model: str
    api_key_env: str | None = None  # name of the environment variable with the key; None = no key is sent
    template: str | None = None  # file with {prompt} {response_a} {response_b}; None = the built-in one
    max_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.0, ge=0)
    concurrency: int = Field(16, ge=1)
    timeout: float = Field(120, gt=0)  # seconds a request
    retries: int = Field(3, ge=0)  # transport faults only


AnnotatorSettings = Annotated[
    VerifierSettings
    | RuleSettings
    | FunctionSettings
    | RewardModelSettings
    | SimulatedSettings
    | JudgeSettings
    | HumanSettings,
    Field(discriminator="kind"),
]


class PreferenceSettings(BaseModel):
    """How votes become targets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: Literal["all", "best_worst"] = "all"
    estimator: Literal["bradley_terry", "empirical_logit"] = "bradley_terry"
    prior_variance: float = Field(2.0, gt=0)  # ridge of the Bradley-Terry strengths
    quorum: int = Field(1, ge=1)  # votes (a, b or tie) a pair must have; below it the pair is left out and counted
    drop_truncated: bool = True  # responses that did not end by themselves take no part in pairs


class LabelSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    annotators: dict[str, AnnotatorSettings]
    preferences: PreferenceSettings = PreferenceSettings()


class LabelSpec(Spec):
    """Have the panel vote on the responses of one generate stage, and publish votes and preferences."""

    stage: ClassVar[str] = "label"
    version: ClassVar[int] = 1

    settings: LabelSettings
    responses: Path  # folder of a finished generate stage
    prompts: Path  # Parquet of storage.schemas.PROMPTS


class JudgeSpec(Spec):
    """Have annotators compare several policies' responses to the same prompts (evaluation): no preferences are made.

    Response j of each other source is compared with response j of the first source. `rates` only score.
    """

    stage: ClassVar[str] = "judge"
    version: ClassVar[int] = 1

    settings: "JudgingSettings"
    responses: dict[
        str, Path
    ]  # source name -> folder of a finished generate stage; the first is compared with the rest
    prompts: Path


class JudgingSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    judges: dict[str, AnnotatorSettings]  # decide win rates
    rates: dict[str, AnnotatorSettings] = {}  # score single responses; their mean is a rate


JudgeSpec.model_rebuild()
