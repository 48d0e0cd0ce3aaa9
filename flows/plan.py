"""What a run works with, from its configuration: its folders, its policies, and the files that annotators read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from conf.schema import RunConfig
from flows.digests import files_of
from storage.artifact import Artifact
from storage.layout import RunLayout
from tasks.modeling.chat_template import fixed_policy
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.annotators.settings import POLICY_NAMES


@dataclass(frozen=True)
class Plan:
    """One run. aligned_from: what the initial policy was aligned from, None where that is not known.

    named: the policies of evaluation.against, by name.
    """

    config: RunConfig
    initial: Artifact
    aligned_from: Artifact | None = None
    named: Mapping[str, Artifact] = field(default_factory=dict)

    @cached_property
    def layout(self) -> RunLayout:
        return RunLayout.of(self.config.runs, self.config.name)

    def folder(self, round_number: int, stage: str) -> Path:
        return self.layout.stage(round_number, stage)

    @property
    def before_initial(self) -> Artifact:
        """The policy that the initial one was aligned from; the initial policy itself where that is not known."""
        return self.aligned_from or self.initial

    @cached_property
    def policies_of_annotators(self) -> frozenset[str]:
        """The policies of the run that annotators on the panel ask: of policy, previous and initial."""
        names = (name for annotator in self.config.panel.annotators.values() for name in annotator.reads())
        return frozenset(names) & frozenset(POLICY_NAMES)

    @cached_property
    def annotator_files(self) -> Mapping[str, Artifact]:
        return _files(self.config.panel.annotators)

    @cached_property
    def judge_files(self) -> Mapping[str, Artifact]:
        return _files(self.config.evaluation.judges)

    @cached_property
    def rate_files(self) -> Mapping[str, Artifact]:
        return _files(self.config.evaluation.rates)


def aligned_from(config: RunConfig) -> Artifact | None:
    """The folder in policy.aligned_from. Raises UserError when it is missing."""
    folder = config.policy.aligned_from
    return with_template(config, "aligned_from", Path(folder)) if folder else None


def with_template(config: RunConfig, name: str, folder: Path, *, strict: bool = False) -> Artifact:
    """The policy in `folder` with the run's template_arguments and template_date, or `folder` itself without any.

    strict: raise UserError for arguments that its chat template does not read; otherwise those are left out.
    """
    values = config.policy.template_values
    if not values or not folder.is_dir():
        return Artifact.of(folder)
    made = RunLayout.of(config.runs, config.name).policy(name)
    return Artifact.of(fixed_policy(folder, made, values, strict=strict))


def _files(annotators: Mapping[str, AnnotatorSettings]) -> Mapping[str, Artifact]:
    files = {name: files_of(settings) for name, settings in annotators.items()}
    return {name: artifact for name, artifact in files.items() if artifact is not None}
