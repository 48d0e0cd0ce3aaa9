"""Settings to annotators. torch is imported only for reward models."""

from collections.abc import Mapping

from storage.errors import UserError
from tasks.labeling.annotators.function import FunctionAnnotator
from tasks.labeling.annotators.judge import Judge
from tasks.labeling.annotators.protocol import Annotator
from tasks.labeling.annotators.rule import Rule
from tasks.labeling.annotators.simulated import SimulatedAnnotator
from tasks.labeling.annotators.verifier import Verifier
from tasks.labeling.humans.settings import HumanSettings
from tasks.labeling.settings import (
    AnnotatorSettings,
    FunctionSettings,
    JudgeSettings,
    RewardModelSettings,
    RuleSettings,
    SimulatedSettings,
    VerifierSettings,
)


def open_annotators(settings: Mapping[str, AnnotatorSettings], seed: int) -> list[Annotator]:
    """The annotators that `settings` names, in its order. `seed` is for those that draw.

    Raises UserError for what cannot be opened: a function that is not there, a key that is not set, a wrong model.
    """
    return [_open(name, each, seed) for name, each in settings.items()]


def _open(name: str, settings: AnnotatorSettings, seed: int) -> Annotator:
    match settings:
        case VerifierSettings():
            return Verifier(name, settings)
        case RuleSettings():
            return Rule(name, settings)
        case FunctionSettings():
            return FunctionAnnotator(name, settings)
        case RewardModelSettings():
            from tasks.labeling.annotators.reward_model import RewardModel

            return RewardModel(name, settings)
        case SimulatedSettings():
            return SimulatedAnnotator(name, settings, seed)
        case JudgeSettings():
            return Judge(name, settings, seed)
        case HumanSettings():
            raise UserError(
                f"{name} are people, and cannot be asked here",
                where=name,
                remedy="put them on the panel: people vote in the label stage, which waits for them",
            )
