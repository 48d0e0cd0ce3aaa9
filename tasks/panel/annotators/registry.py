"""Settings to annotators. torch, vLLM and httpx are imported only for those that need them."""

from collections.abc import Mapping
from pathlib import Path

from storage.errors import UserError
from tasks.panel.annotators.function import FunctionAnnotator, FunctionSettings
from tasks.panel.annotators.implicit_reward import ImplicitReward, ImplicitRewardSettings
from tasks.panel.annotators.judge import Judge, JudgeSettings
from tasks.panel.annotators.order import Order, OrderSettings
from tasks.panel.annotators.protocol import Annotator
from tasks.panel.annotators.ranking_judge import RankingJudge, RankingJudgeSettings
from tasks.panel.annotators.reward_model import RewardModel, RewardModelSettings
from tasks.panel.annotators.rubric import Rubric, RubricSettings
from tasks.panel.annotators.rule import Rule, RuleSettings
from tasks.panel.annotators.self_reference import SelfReference, SelfReferenceSettings
from tasks.panel.annotators.simulated import SimulatedAnnotator, SimulatedSettings
from tasks.panel.annotators.text_metric import TextMetric, TextMetricSettings
from tasks.panel.annotators.verifier import Verifier, VerifierSettings
from tasks.panel.humans.settings import HumanSettings
from tasks.panel.settings import AnnotatorSettings


def open_annotators(
    settings: Mapping[str, AnnotatorSettings], seed: int, policies: Mapping[str, Path] | None = None
) -> list[Annotator]:
    """The annotators that `settings` names, in its order.

    `seed` is for those that draw; `policies` is what the words policy, previous and initial stand for. Raises
    UserError for what cannot be opened: a function that is not there, a key that is not set, a wrong model.
    """
    return [_open(name, each.with_policies(name, policies or {}), seed) for name, each in settings.items()]


def _open(name: str, settings: AnnotatorSettings, seed: int) -> Annotator:
    match settings:
        case VerifierSettings():
            return Verifier(name, settings)
        case RuleSettings():
            return Rule(name, settings)
        case FunctionSettings():
            return FunctionAnnotator(name, settings)
        case TextMetricSettings():
            return TextMetric(name, settings)
        case RewardModelSettings():
            return RewardModel(name, settings)
        case ImplicitRewardSettings():
            return ImplicitReward(name, settings)
        case JudgeSettings():
            return Judge(name, settings)
        case RankingJudgeSettings():
            return RankingJudge(name, settings)
        case RubricSettings():
            return Rubric(name, settings)
        case SelfReferenceSettings():
            return SelfReference(name, settings)
        case SimulatedSettings():
            return SimulatedAnnotator(name, settings, seed)
        case OrderSettings():
            return Order(name, settings)
        case HumanSettings():
            raise UserError(
                f"{name} are people, and cannot be asked here",
                where=name,
                remedy="put them on the panel: people vote in the label stage, which waits for them",
            )
