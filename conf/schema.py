"""What a run's configuration may say. One model a group; unknown keys are refused."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.generation.prompts import PromptSettings
from tasks.generation.settings import EngineSettings, SamplingSettings
from tasks.labeling.settings import AnnotatorSettings, PreferenceSettings
from tasks.training.settings import ObjectiveSettings, OptimizationSettings


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicySettings(_Group):
    """The initial policy: a Hugging Face folder or id."""

    path: str  # folder, or id on the Hugging Face hub
    revision: str | None = None  # of a hub id
    trust_remote_code: bool = False  # run Python code that the policy's folder brings
    warmup: Literal["demo"] | None = None  # how `path` is made when it does not exist; None = it must exist


class PanelSettings(_Group):
    annotators: dict[str, AnnotatorSettings]


class EvaluationSettings(_Group):
    """After every round, on held-out prompts."""

    responses: int = Field(2, ge=1)  # samples a held-out prompt
    judges: dict[str, AnnotatorSettings] = {}  # decide win rates; must not sit on the panel
    rates: dict[str, AnnotatorSettings] = {}  # score single responses; reported as means
    bootstrap: int = Field(1000, ge=100)
    batch_tokens: int = Field(16384, ge=1)


class GateSettings(_Group):
    """Who decides, after every round, whether its policy is promoted."""

    kind: Literal["none", "human"] = "none"  # none: every policy is promoted


class RunConfig(_Group):
    """One run: `runs`/`name` holds everything it makes."""

    name: str
    runs: Path = Path("runs")
    rounds: int = Field(3, ge=1, le=100)
    seed: int = Field(0, ge=0)
    policy: PolicySettings
    prompts: PromptSettings
    sampling: SamplingSettings
    engine: EngineSettings
    panel: PanelSettings
    preferences: PreferenceSettings
    objective: ObjectiveSettings
    training: OptimizationSettings
    evaluation: EvaluationSettings
    gate: GateSettings
    dry_run: bool = False  # print the plan, run nothing

    @model_validator(mode="after")
    def _panel_and_judges(self) -> "RunConfig":
        people = [
            name for name, each in (self.evaluation.judges | self.evaluation.rates).items() if each.kind == "human"
        ]
        if people:
            raise ValueError(f"evaluation: {', '.join(people)} are people, who vote on the panel only")
        if not self.panel.annotators:
            raise ValueError("panel.annotators: the panel is empty; choose one (panel=demo) or add an annotator")
        shared = {
            name
            for name, judge in self.evaluation.judges.items()
            if any(
                judge == annotator and judge.kind in ("judge", "reward_model")
                for annotator in self.panel.annotators.values()
            )
        }
        if shared:
            raise ValueError(
                f"evaluation.judges: {', '.join(sorted(shared))} also votes in the panel; a judge must be held out"
            )
        return self
