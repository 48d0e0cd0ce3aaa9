"""A run's stages from its configuration alone: what each reads, what it writes, what it is keyed by.

Here prompts, responses and votes; the specs of training, evaluation, drafts and benchmarks are built over a Plan in the
files of those names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from conf.schema import RunConfig
from flows.digests import what_it_reads
from storage.layout import RunLayout
from tasks.generation.prompts import ROUND, PromptsSpec, SelectSettings, SelectSpec
from tasks.generation.settings import GenerateSpec, GenerationSettings
from tasks.labeling.settings import LabelSettings, LabelSpec
from tasks.panel.annotators.settings import POLICY_NAMES


@dataclass(frozen=True)
class Plan:
    """Where one run's stages lie, and the specs of the first ones. `inputs` are digests, known when what is read is."""

    config: RunConfig
    initial: Path  # folder of the initial policy
    named: Mapping[str, Path] = field(default_factory=dict)  # folders of further policies to compare with

    @cached_property
    def layout(self) -> RunLayout:
        return RunLayout.of(self.config.runs, self.config.name)

    def policy(self, round_number: int) -> Path:
        """The policy that round `round_number` ends with; round 0's is the initial policy."""
        stage = "train" if self.config.update.kind == "none" else "update"
        return self.layout.stage(round_number, stage) / "policy" if round_number else self.initial

    @property
    def before_initial(self) -> Path:
        """What the initial policy was aligned from, as far as that is known; else itself."""
        return Path(self.config.policy.aligned_from) if self.config.policy.aligned_from else self.initial

    @cached_property
    def model_inputs(self) -> dict[str, str]:
        """Digests of what annotators and judges read: model folders, modules of functions, templates."""
        groups = {
            "annotator": self.config.panel.annotators,
            "judge": self.config.evaluation.judges,
            "rate": self.config.evaluation.rates,
        }
        read = {
            f"{group}:{name}": what_it_reads(settings)
            for group, annotators in groups.items()
            for name, settings in annotators.items()
        }
        return {name: value for name, value in read.items() if value is not None}

    def prompts(self, inputs: dict[str, str]) -> PromptsSpec:
        return PromptsSpec(folder=self.layout.prompts, round=0, seed=0, inputs=inputs, settings=self.config.prompts)

    def select(self, round_number: int, inputs: dict[str, str]) -> SelectSpec:
        return SelectSpec(
            folder=self.layout.stage(round_number, "prompts"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs,
            settings=SelectSettings(per_round=self.config.prompts.per_round),
            prompts=self.layout.prompts,
        )

    def generate(self, round_number: int, base: int, inputs: dict[str, str]) -> GenerateSpec:
        """Responses to the round's training prompts by the policy that the round starts from: that of round `base`."""
        return GenerateSpec(
            folder=self.layout.stage(round_number, "generate"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs,
            settings=self.generation(self.config.sampling.responses),
            policy=self.policy(base),
            prompts=self.layout.stage(round_number, "prompts") / ROUND,
        )

    def generation(self, responses: int) -> GenerationSettings:
        """Settings of a stage that draws so many responses to each prompt."""
        sampling = self.config.sampling.model_copy(update={"responses": responses})
        return GenerationSettings(
            sampling=sampling,
            engine=self.config.engine,
            trust_remote_code=self.config.policy.trust_remote_code,
        )

    @cached_property
    def policies_asked(self) -> set[str]:
        """Which of the run's policies annotators of the panel ask: policy, previous, initial."""
        read = (name for annotator in self.config.panel.annotators.values() for name in annotator.reads())
        return set(read) & set(POLICY_NAMES)

    def label(self, round_number: int, base: int, previous: int, inputs: dict[str, str]) -> LabelSpec:
        """Votes on responses of the policy of round `base`, which itself started from that of round `previous`."""
        models = {name: value for name, value in self.model_inputs.items() if name.startswith("annotator:")}
        return LabelSpec(
            folder=self.layout.stage(round_number, "label"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs | models,
            settings=LabelSettings(
                annotators=self.config.panel.annotators,
                preferences=self.config.preferences,
            ),
            responses=self.layout.stage(round_number, "generate"),
            prompts=self.layout.stage(round_number, "prompts") / ROUND,
            answers=self.layout.answers,
            budget=self.config.panel.budget,
            policies={
                "policy": self.policy(base),
                "previous": self.policy(previous) if base else self.before_initial,
                "initial": self.initial,
            },
        )
