"""What a run's configuration may say. One model a group; unknown keys are refused."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.evaluation.harness.settings import HarnessSettings
from tasks.evaluation.mt_bench.grading import GraderSettings
from tasks.evaluation.rules import Rule, unknown_names, unknown_tasks
from tasks.generation.drafts import DraftSettings, NoDrafts
from tasks.generation.prompts import PromptSettings
from tasks.generation.registry import AnyEngine
from tasks.generation.settings import SamplingSettings
from tasks.labeling.settings import PreferenceSettings
from tasks.mixing.stage import MixingSettings
from tasks.panel.annotators.implicit_reward import ImplicitRewardSettings
from tasks.panel.annotators.reward_model import RewardModelSettings
from tasks.panel.annotators.settings import POLICY_NAMES, Scorer
from tasks.panel.chat.settings import ChatSettings
from tasks.panel.settings import AnnotatorSettings, Budget
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


class PanelSettings(_Group):
    annotators: dict[str, AnnotatorSettings]
    budget: Budget = Budget()  # of one round's votes

    @model_validator(mode="after")
    def _known(self) -> "PanelSettings":
        asked = {name: each for name, each in self.annotators.items() if isinstance(each, ChatSettings)}
        unpriced = [name for name, each in asked.items() if each.backend == "endpoint" and each.price is None]
        if self.budget.money is not None and unpriced:
            raise ValueError(f"budget.money: what {', '.join(unpriced)} costs is not known; give it a price")
        return self


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
    def _panel_and_judges(self) -> "RunConfig":
        people = [
            name for name, each in (self.evaluation.judges | self.evaluation.rates).items() if each.kind == "human"
        ]
        if people:
            raise ValueError(f"evaluation: {', '.join(people)} are people, who vote on the panel only")
        if not self.panel.annotators:
            raise ValueError("panel.annotators: the panel is empty; choose one (panel=demo) or add an annotator")
        models = {_model_of(annotator) for annotator in self.panel.annotators.values()} - {None}
        shared = {name for name, judge in self.evaluation.judges.items() if _model_of(judge) in models}
        if shared:
            raise ValueError(
                f"evaluation.judges: {', '.join(sorted(shared))} also votes in the panel; a judge must be held out"
            )
        grader = self.mt_bench.judge
        if grader is not None and grader.model in models:
            raise ValueError(f"mt_bench.judge: {grader.model} also votes in the panel; a judge must be held out")
        for name, judge in (self.evaluation.judges | self.evaluation.rates).items():
            if isinstance(judge, ImplicitRewardSettings) and judge.length_penalty == "level":
                raise ValueError(
                    f"evaluation: {name} levels lengths over a round's votes; give length_penalty a number"
                )
            if asked := set(judge.reads()) & set(POLICY_NAMES):
                raise ValueError(f"evaluation: {name} asks the run's own {', '.join(asked)}; only the panel can")
        return self

    @model_validator(mode="after")
    def _rules_on_benchmarks(self) -> "RunConfig":
        if unknown := unknown_tasks(self.gate.rules, [each.task for each in self.harness.tasks]):
            raise ValueError("; ".join(unknown))
        return self

    def _scoring(self) -> list[str]:
        """Who on the panel gives scores."""
        return [name for name, each in self.panel.annotators.items() if isinstance(each, Scorer)]

    @model_validator(mode="after")
    def _goals_can_be_asked_for(self) -> "RunConfig":
        goals = self.mixing.goals
        if goals is None:
            return self
        scoring = self._scoring()
        if goals.annotator not in scoring:
            raise ValueError(
                f"mixing.goals.annotator: {goals.annotator} gives no scores on this panel; "
                f"name one of: {', '.join(scoring) or 'nobody does'}"
            )
        if self.prompts.system != goals.highest:
            raise ValueError(
                f"mixing.goals: responses are sampled and judged with the highest goal; set "
                f"prompts.system={goals.highest!r} (recipe=conditioned does)"
            )
        return self

    @model_validator(mode="after")
    def _drafts_and_their_order(self) -> "RunConfig":
        ordered = [name for name, each in self.panel.annotators.items() if each.kind == "order"]
        if ordered and self.drafts.kind == "none":
            raise ValueError(
                f"panel: {ordered[0]} takes the first response for the better one, which is so for drafts alone; "
                f"set drafts=ladder or drafts=sapo, or leave it out"
            )
        if self.drafts.kind != "none" and self.mixing.goals:
            raise ValueError("mixing.goals: drafts are made in pairs, and have no scores; leave one of the two out")
        return self

    @model_validator(mode="after")
    def _somebody_votes_in_the_first_round(self) -> "RunConfig":
        """An implicit reward of a policy over itself is 0: nothing but ties."""
        first = {"policy": "initial", "previous": "initial" if self.policy.aligned_from is None else "aligned_from"}
        voting = [each for name, each in self.panel.annotators.items() if self.preferences.weights.get(name, 1.0) > 0]
        rewards = [each for each in voting if isinstance(each, ImplicitRewardSettings)]
        mute = [e for e in rewards if first.get(e.policy, e.policy) == first.get(e.reference, e.reference)]
        if len(mute) == len(voting):
            raise ValueError(
                "panel: in round 1 the policy and what its implicit reward is taken over are the same, so that all "
                "votes are ties; start from an aligned policy and name what it was aligned from "
                "(policy.aligned_from=<folder>, with reference: previous), or add another annotator"
            )
        return self

    @model_validator(mode="after")
    def _annotators_are_known(self) -> "RunConfig":
        named = {"gold": self.preferences.gold, "pinned": self.preferences.pinned, "weights": self.preferences.weights}
        for option, names in named.items():
            if unknown := [name for name in names if name.partition("/")[0] not in self.panel.annotators]:
                panel = ", ".join(self.panel.annotators)
                raise ValueError(f"preferences.{option}: {', '.join(unknown)} is not on the panel ({panel})")
        scoring = self._scoring()
        margins = self.preferences.keep.margin_of if self.preferences.keep else {}
        if mute := [name for name in margins if name not in scoring]:
            raise ValueError(
                f"preferences.keep.margin_of: {', '.join(mute)} gives no scores on this panel; "
                f"name some of: {', '.join(scoring) or 'nobody does'}"
            )
        if self.preferences.estimator.startswith("ensemble_") and not scoring:
            raise ValueError(
                f"preferences.estimator: {self.preferences.estimator} is made of scores, and no annotator of the panel "
                f"gives any; add one that does (reward_model, rubric, rule), or use estimator=bradley_terry"
            )
        return self

    @model_validator(mode="after")
    def _objective_gets_what_it_needs(self) -> "RunConfig":
        setup = RunSetup(
            scoring=self._scoring(),
            pairs=self.preferences.pairs,
            offline=self.mixing.offline is not None,
            replay=bool(self.mixing.replay),
            goals=self.mixing.goals is not None,
        )
        check_objective(self.objective, setup)
        return self


def _model_of(annotator: AnnotatorSettings) -> str | None:
    """The model that decides an annotator's votes; None for rules and functions."""
    if isinstance(annotator, ChatSettings):
        return annotator.model
    return annotator.path if isinstance(annotator, RewardModelSettings) else None
