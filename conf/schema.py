"""What a run's configuration may say. One model a group; unknown keys are refused."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.evaluation.harness.settings import HarnessSettings
from tasks.evaluation.held_out import refuse_judges_on_the_panel, refuse_unfit_judges
from tasks.evaluation.mt_bench.grading import GraderSettings
from tasks.evaluation.rules import Rule, unknown_names, unknown_tasks
from tasks.generation.drafts import DraftSettings, NoDrafts
from tasks.generation.prompts import PromptSettings
from tasks.generation.registry import AnyEngine
from tasks.generation.settings import SamplingSettings
from tasks.labeling.settings import PreferenceSettings
from tasks.mixing.stage import MixingSettings
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.annotators.settings import POLICY_NAMES
from tasks.panel.settings import PanelSettings
from tasks.reporting.tracking import TrackerKind
from tasks.training.objectives.check import RunSetup, check_objective
from tasks.training.objectives.registry import AnyObjective
from tasks.training.settings import OptimizationSettings
from tasks.training.update import UpdateSettings

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicySettings(_Group):
    """The initial policy: a Hugging Face folder or id."""

    path: str  # folder, or id on the Hugging Face hub
    revision: str | None = None  # of a hub id
    trust_remote_code: bool = False  # run Python code that the policy's folder brings
    # What `path` was aligned from (a folder). Where an annotator asks for the previous policy, it is that in round 1.
    aligned_from: str | None = None
    warmup: Literal["demo"] | None = None  # how `path` is made when it does not exist; None = it must exist


class EvaluationSettings(_Group):
    """After every round, on held-out prompts."""

    responses: int = Field(2, ge=1)  # samples a held-out prompt
    judges: dict[str, AnnotatorSettings] = {}  # decide win rates; must not sit on the panel
    rates: dict[str, AnnotatorSettings] = {}  # score single responses; reported as means
    truth: str | None = None  # the judge that is right by construction (a verifier): the others are measured against it
    against: dict[str, str] = {}  # name -> folder or hub id of a further policy to compare with
    pairs: bool = False  # the panel labels the initial policy's held-out responses: calibration and displacement
    bootstrap: int = Field(1000, ge=100)
    batch_tokens: int = Field(16384, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "EvaluationSettings":
        if self.truth is not None and self.truth not in self.judges:
            raise ValueError(f"truth: {self.truth} is not among the judges ({', '.join(self.judges) or 'none'})")
        if wrong := [name for name in self.against if name in POLICY_NAMES or not _WORD.fullmatch(name)]:
            raise ValueError(
                f"against: {', '.join(wrong)} cannot be a policy's name here; use letters, digits, '-' and '_', and "
                f"none of {', '.join(POLICY_NAMES)}"
            )
        if self.pairs and self.responses < 2:
            raise ValueError("pairs: a pair takes two responses a prompt; set responses=2, or pairs=false")
        return self


class MtBenchSettings(_Group):
    """Two-turn questions, graded by one judge; without questions there is none."""

    questions: Path | None = None  # JSONL: question_id, category, turns [2]
    references: Path | None = None  # JSONL: question_id, choices[0].turns
    max_tokens: int = Field(1024, ge=1)
    judge: GraderSettings | None = None  # must not sit on the panel

    @model_validator(mode="after")
    def _has_a_judge(self) -> "MtBenchSettings":
        if self.questions is not None and self.judge is None:
            raise ValueError("nobody would grade the answers; give judge.model, or use mt_bench=judge")
        return self


class GateSettings(_Group):
    """Who decides, after every round, whether its policy is promoted."""

    kind: Literal["none", "human", "policy"] = "none"  # none: every policy is promoted; policy: when all `rules` hold
    rules: dict[str, Rule] = {}
    patience: int | None = Field(None, ge=1)  # end the run after so many rounds in a row without promotion
    # What the evaluation has, so that rules about anything else are refused; conf/gate/policy.yaml fills these in.
    judges: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rules_can_be_answered(self) -> "GateSettings":
        if self.kind == "policy" and not self.rules:
            raise ValueError("there are no rules: every policy would be promoted; add one, or use gate=none")
        if self.kind != "policy" and (self.rules or self.patience is not None):
            raise ValueError(f"kind={self.kind} has neither rules nor patience; use gate=policy")
        if unknown := unknown_names(self.rules, self.judges, self.rates):
            raise ValueError("; ".join(unknown))
        return self


class RunConfig(_Group):
    """One run: `runs`/`name` holds everything it makes."""

    name: str
    runs: Path = Path("runs")
    rounds: int = Field(3, ge=1, le=100)
    seed: int = Field(0, ge=0)
    policy: PolicySettings
    prompts: PromptSettings
    sampling: SamplingSettings
    drafts: DraftSettings = NoDrafts()
    engine: AnyEngine
    panel: PanelSettings
    preferences: PreferenceSettings
    mixing: MixingSettings
    objective: AnyObjective
    training: OptimizationSettings
    update: UpdateSettings
    evaluation: EvaluationSettings
    harness: HarnessSettings = HarnessSettings()
    mt_bench: MtBenchSettings = MtBenchSettings()
    gate: GateSettings
    tracker: TrackerKind = "none"  # where curves go as well, besides the run folder
    license: str | None = None  # of what the run publishes, as the hub names it (apache-2.0); None: the cards say so
    push_to_hub: str | None = None  # repository for the last promoted policy; None: nothing leaves this machine
    push_preferences_to_hub: str | None = None  # dataset repository for the rounds' preference sets
    # plan: print the plan, run nothing. true: then estimate from a probe what a panel of chat models will cost.
    dry_run: bool | Literal["plan"] = False

    @property
    def policy_stage(self) -> str:
        """The stage that makes the policy that a round ends with."""
        return "train" if self.update.kind == "none" else "update"

    def with_rounds(self, rounds: int) -> "RunConfig":
        """The same run with another number of rounds."""
        return RunConfig.model_validate(self.model_dump() | {"rounds": rounds})

    @model_validator(mode="after")
    def _judges_are_held_out(self) -> "RunConfig":
        judges, rates = self.evaluation.judges, self.evaluation.rates
        refuse_unfit_judges([*judges.items(), *rates.items()])
        policies = {name: Path(model) for name, model in self._first_policies().items()}
        refuse_judges_on_the_panel(self.panel.annotators, judges, self.mt_bench.judge, policies)
        return self

    def _first_policies(self) -> dict[str, str]:
        """The models that policy, previous and initial stand for in round 1."""
        initial = self.policy.path
        return {"policy": initial, "previous": self.policy.aligned_from or initial, "initial": initial}

    @model_validator(mode="after")
    def _rules_on_benchmarks(self) -> "RunConfig":
        if unknown := unknown_tasks(self.gate.rules, [each.task for each in self.harness.tasks]):
            raise ValueError("; ".join(unknown))
        return self

    @model_validator(mode="after")
    def _goals_can_be_asked_for(self) -> "RunConfig":
        goals = self.mixing.goals
        if goals is None:
            return self
        self.panel.check_scoring("mixing.goals.annotator", [goals.annotator])
        if self.prompts.system != goals.highest:
            raise ValueError(
                f"mixing.goals: responses are sampled and judged with the highest goal; set "
                f"prompts.system={goals.highest!r} (recipe=conditioned does)"
            )
        return self

    @model_validator(mode="after")
    def _drafts_have_no_scores(self) -> "RunConfig":
        if self.drafts.kind != "none" and self.mixing.goals:
            raise ValueError("mixing.goals: drafts are made in pairs, and have no scores; leave one of the two out")
        return self

    @model_validator(mode="after")
    def _panel_fits(self) -> "RunConfig":
        panel, preferences = self.panel, self.preferences
        panel.check_drafts(drafts=self.drafts.kind != "none")
        panel.check_first_round(preferences.weights, self._first_policies())
        panel.check_members("preferences.gold", preferences.gold)
        panel.check_members("preferences.pinned", preferences.pinned)
        panel.check_members("preferences.weights", preferences.weights)
        panel.check_scoring("preferences.keep.margin_of", preferences.keep.margin_of if preferences.keep else ())
        if preferences.estimator.startswith("ensemble_"):
            panel.check_somebody_scores(
                f"preferences.estimator: {preferences.estimator}", "use estimator=bradley_terry"
            )
        return self

    @model_validator(mode="after")
    def _objective_gets_what_it_needs(self) -> "RunConfig":
        setup = RunSetup(
            scoring=self.panel.scoring(),
            pairs=self.preferences.pairs,
            offline=self.mixing.offline is not None,
            replay=bool(self.mixing.replay),
            goals=self.mixing.goals is not None,
        )
        check_objective(self.objective, setup)
        return self
