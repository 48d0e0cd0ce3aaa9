"""What a run's configuration may say. One model a group; unknown keys are refused."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.settings import StorageSettings
from storage.stage import TaskName
from tasks.cluster_settings import ClusterSettings
from tasks.evaluation.automatic_gate import GateSettings
from tasks.evaluation.harness.settings import HarnessSettings
from tasks.evaluation.held_out import refuse_judges_on_the_panel, refuse_unfit_judges
from tasks.evaluation.mt_bench.settings import MtBenchSettings
from tasks.evaluation.settings import EvaluationSettings
from tasks.generation.drafts import DraftSettings, NoDrafts
from tasks.generation.prompts import PromptSettings
from tasks.generation.registry import AnyEngine
from tasks.generation.settings import SamplingSettings
from tasks.labeling.settings import PreferenceSettings
from tasks.mixing.data import DataSettings
from tasks.mixing.settings import MixingSettings
from tasks.modeling.chat_template import TemplateSettings
from tasks.modeling.device import CardSettings
from tasks.panel.settings import PanelSettings
from tasks.reporting.tracking import TrackerKind
from tasks.training.objectives.check import RunSetup, check_objective
from tasks.training.objectives.registry import AnyObjective
from tasks.training.settings import OptimizationSettings
from tasks.training.update import UpdateSettings


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


#: Policies that the project makes itself, each with its prompts.
Showcase = Literal["demo", "smollm2"]


class PolicySettings(_Group, TemplateSettings):
    """The initial policy: a Hugging Face folder or id."""

    path: str  # folder, or id on the Hugging Face hub
    revision: str | None = None  # of a hub id
    trust_remote_code: bool = False  # run Python code that the policy's folder brings
    # Annotators see what follows this mark in a reply, the final answer; null: the whole reply. All of it is trained.
    reasoning_end: str | None = "</think>"
    # What `path` was aligned from (a folder). Where an annotator asks for the previous policy, it is that in round 1.
    aligned_from: str | None = None
    # A folder, or a name below conf/shapes: the memory plan reads its config.json while `path` is not on this machine.
    shape: str | None = None
    warmup: Showcase | None = None  # how `path` is made when it does not exist; None = it must exist


class PlacementSettings(_Group):
    """The work pools of Prefect in which stages run; None: in the process of the run. Nothing of it is in a key."""

    generate: str | None = None  # stages that sample responses, also those of evaluations
    label: str | None = None  # votes to preferences
    train: str | None = None  # training, and what averages policies
    evaluate: str | None = None  # judges, lm-eval, figures
    patience: float = Field(300, gt=0)  # seconds without a live worker in a pool until the run stops

    def pools(self) -> dict[TaskName, str]:
        """The pool of every kind of stage that has one."""
        named: dict[TaskName, str | None] = {
            "generate": self.generate,
            "label": self.label,
            "train": self.train,
            "evaluate": self.evaluate,
        }
        return {task: pool for task, pool in named.items() if pool is not None}


class RunConfig(_Group):
    """One run: `runs`/`name` holds everything it makes."""

    name: str
    runs: Path = Path("runs")
    rounds: int = Field(3, ge=1, le=100)
    seed: int = Field(0, ge=0, lt=2**32)
    policy: PolicySettings
    prompts: PromptSettings
    data: DataSettings | None = None  # pairs from a file in place of responses and votes (flows.train)
    sampling: SamplingSettings
    drafts: DraftSettings = NoDrafts()
    engine: AnyEngine
    cluster: ClusterSettings = ClusterSettings()
    placement: PlacementSettings = PlacementSettings()
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
    storage: StorageSettings = StorageSettings()
    card: CardSettings | None = None  # GPUs that dry_run=plan plans the memory of; None: those of this machine
    tracker: TrackerKind = "none"  # where curves go as well, besides the run folder
    license: str | None = None  # of what the run publishes, as the hub names it (apache-2.0); None: the cards say so
    push_to_hub: str | None = None  # repository for the last promoted policy; None: nothing leaves this machine
    push_preferences_to_hub: str | None = None  # dataset repository for the rounds' preference sets
    overwrite: bool = False  # replace finished stages of the run that were made with other settings
    # plan: print the plan, run nothing. true: then play a small round and estimate what the run will take.
    dry_run: bool | Literal["plan"] = False

    @property
    def policy_stage(self) -> str:
        """The stage that makes the policy that a round ends with."""
        return "train" if self.update.kind == "none" else "update"

    def with_rounds(self, rounds: int) -> "RunConfig":
        """The same run with another number of rounds."""
        return RunConfig.model_validate(self.model_dump() | {"rounds": rounds})

    @model_validator(mode="after")
    def _pairs_come_from_one_place(self) -> "RunConfig":
        if self.data is None:
            if not self.panel.annotators:
                raise ValueError("the panel is empty; choose one (panel=demo) or add to panel.annotators")
            return self
        wrong = {
            "rounds": self.rounds != 1 and "rounds=1",
            "panel": bool(self.panel.annotators) and "panel=none",
            "mixing": not self.mixing.nothing and "mixing=none",
            "push": self.push_preferences_to_hub is not None and "push_preferences_to_hub=null",
            "drafts": self.drafts.kind != "none" and "drafts=none",
            "prompts.per_round": self.prompts.per_round is not None
            and "prompts.per_round=null (data.limit reads less)",
        }
        if remedies := [remedy for remedy in wrong.values() if remedy]:
            raise ValueError(
                f"data: the pairs of {self.data.path} train one round, and nothing is sampled or voted on; set "
                f"{', '.join(remedies)}; rounds that follow are a run of their own: python -m flows.iterate"
            )
        return self

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
    def _gate_rules_can_be_answered(self) -> "RunConfig":
        self.gate.check_rules(tasks=[task.task for task in self.harness.tasks])
        if self.gate.kind == "policy" and self.evaluation.on_outage == "go_on":
            raise ValueError(
                "gate=policy with evaluation.on_outage=go_on: a judge that is down would roll rounds back, because a "
                "win rate that was not measured breaks its rule; set evaluation.on_outage=stop, or gate=human"
            )
        return self

    @model_validator(mode="after")
    def _mixing_fits(self) -> "RunConfig":
        self.mixing.check_run(self.panel, system=self.prompts.system, drafts=self.drafts.kind != "none")
        return self

    @model_validator(mode="after")
    def _panel_fits(self) -> "RunConfig":
        self.panel.check_drafts(drafts=self.drafts.kind in ("ladder", "sapo"))
        if self.data is None:
            self.panel.check_first_round(self.preferences.weights, self._first_policies())
        self.preferences.check_panel(self.panel)
        return self

    @model_validator(mode="after")
    def _objective_gets_what_it_needs(self) -> "RunConfig":
        setup = RunSetup(
            scoring=self.panel.scoring(),
            pairs=self.preferences.pairs,
            offline=self.mixing.offline is not None or self.data is not None,
            replay=bool(self.mixing.replay),
            goals=self.mixing.goals is not None,
            mixes=self.engine.mixes,
            drafts=self.drafts.kind,
            responses=self.sampling.responses,
        )
        check_objective(self.objective, setup)
        return self
