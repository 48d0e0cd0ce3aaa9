"""The specs of a round's stages up to its policy: each from the artifacts that it reads and the configuration.

`chain`: the rounds whose policies led to the one that a round starts from, 0 first.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.digests import local_file
from flows.plan import Plan
from storage.artifact import Artifact
from tasks.generation.prompts import HELDOUT, PromptsSpec, SelectSettings, SelectSpec
from tasks.generation.settings import GenerateSpec, GenerationSettings, MixtureSettings, SamplingSettings
from tasks.labeling.settings import LabelSettings, LabelSpec
from tasks.mixing.data import PAIRS, DataSettings, DataSpec
from tasks.mixing.pairs import PairsSettings, PairsSpec
from tasks.mixing.stage import MixSpec
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.training.embedding import POLICY
from tasks.training.objectives.moving import Ema, TrustRegion
from tasks.training.settings import TrainingSettings, TrainSpec
from tasks.training.update import Merge, Momentum, UpdateSpec


def prompts_spec(plan: Plan, prompts: Artifact, heldout: Artifact | None, *, context: int) -> PromptsSpec:
    """prompts, heldout: the files. context: tokens that a prompt and its response have together."""
    return PromptsSpec(
        folder=plan.layout.prompts,
        round=0,
        seed=0,
        settings=plan.config.prompts,
        prompts=prompts,
        heldout=heldout,
        policy=plan.initial,
        context=context,
        max_tokens=plan.config.sampling.max_tokens,
        trust_remote_code=plan.config.policy.trust_remote_code,
    )


def data_spec(plan: Plan, settings: DataSettings, data: Artifact, *, context: int) -> DataSpec:
    """data: the preference set. context: tokens that the policy's positions reach to."""
    return DataSpec(
        folder=plan.layout.data,
        round=0,
        seed=0,
        settings=settings,
        data=data,
        policy=plan.initial,
        context=context,
        trust_remote_code=plan.config.policy.trust_remote_code,
    )


def pairs_spec(plan: Plan, number: int, stage: str, *, data: Artifact, prompts: Artifact) -> PairsSpec:
    """Round 0: the held-out pairs; round 1: those to train on. data, prompts: of the stages of these names."""
    return PairsSpec(
        folder=plan.folder(number, stage),
        round=number,
        seed=0,
        settings=PairsSettings(keep="training" if number else "held out"),
        pairs=data / PAIRS,
        heldout=prompts / HELDOUT,
    )


def select_spec(plan: Plan, number: int, prompts: Artifact) -> SelectSpec:
    return SelectSpec(
        folder=plan.folder(number, "prompts"),
        round=number,
        seed=plan.config.seed,
        settings=SelectSettings(per_round=plan.config.prompts.per_round),
        prompts=prompts,
    )


def generate_spec(
    plan: Plan,
    number: int,
    folder: Path,
    *,
    policy: Artifact,
    prompts: Artifact,
    sampling: SamplingSettings,
    prefixes: Artifact | None = None,
    seed: int = 0,
    draw: int | None = None,
    mixture: MixtureSettings | None = None,
    reference: Artifact | None = None,
) -> GenerateSpec:
    """Responses of `policy`. seed is added to the run's: stages with different ones share no randomness.

    draw: stages with the same one share all of it; None: no two rounds do. mixture: of the policy with `reference`.
    """
    return GenerateSpec(
        folder=folder,
        round=number,
        seed=plan.config.seed + seed,
        settings=GenerationSettings(
            sampling=sampling,
            engine=plan.config.engine,
            cluster=plan.config.cluster,
            trust_remote_code=plan.config.policy.trust_remote_code,
        ),
        draw=draw,
        policy=policy,
        prompts=prompts,
        prefixes=prefixes,
        mixture=mixture,
        reference=reference,
    )


def mixture_of(plan: Plan) -> MixtureSettings | None:
    """The mixture of policy and reference that the objective wants responses of; None: the policy's own."""
    needs = plan.config.objective.needs()
    if needs.mixture is None:
        return None
    return MixtureSettings(share=needs.mixture, first=first_half(plan) if needs.halves else 0)


def first_half(plan: Plan) -> int:
    """How many responses to a prompt are in the first half; an odd one is."""
    return -(-plan.config.sampling.responses // 2)


def label_spec(
    plan: Plan,
    number: int,
    folder: Path,
    *,
    responses: Artifact,
    prompts: Artifact,
    policies: Mapping[str, Artifact],
    annotators: Mapping[str, AnnotatorSettings] | None = None,
) -> LabelSpec:
    """policies: what policy, previous and initial are; only those that annotators ask are read.

    annotators: the part of the panel that is asked; None: all of it.
    """
    panel = plan.config.panel.annotators if annotators is None else annotators
    return LabelSpec(
        folder=folder,
        round=number,
        seed=plan.config.seed,
        settings=LabelSettings(
            annotators=dict(panel),
            preferences=plan.config.preferences,
            reasoning_end=plan.config.policy.reasoning_end,
        ),
        responses=responses,
        prompts=prompts,
        policies={name: policy for name, policy in policies.items() if name in plan.policies_of_annotators},
        annotator_files={name: file for name, file in plan.annotator_files.items() if name in panel},
        answers=plan.layout.answers,
        budget=plan.config.panel.budget,
        active=plan.config.panel.active,
        trust_remote_code=plan.config.policy.trust_remote_code,
        on_outage=plan.config.panel.on_outage,
        cluster=plan.config.cluster,
    )


def mix_spec(
    plan: Plan,
    number: int,
    *,
    labels: Mapping[int, Artifact],
    policy: Artifact,
    previous: Artifact,
    offline: Artifact | None,
) -> MixSpec:
    """From what was labelled to what is trained on. labels: the label stages of replayed rounds, then this round's."""
    settings = plan.config.mixing
    filtered = settings.offline is not None and settings.offline.keep is not None
    scored = settings.goals is not None and settings.goals.annotator is not None
    tokenized = settings.offline is not None or settings.goals is not None
    return MixSpec(
        folder=plan.folder(number, "mix"),
        round=number,
        seed=plan.config.seed,
        settings=settings,
        own=labels[number] / "preferences.parquet",
        earlier=[stage / "preferences.parquet" for earlier, stage in labels.items() if earlier != number],
        policy=policy if tokenized else None,
        previous=previous if filtered else None,
        reference=plan.before_initial if filtered else None,
        offline=offline,
        scores={earlier: stage / "scores.parquet" for earlier, stage in labels.items()} if scored else {},
        trust_remote_code=plan.config.policy.trust_remote_code,
    )


def reference_spec(
    plan: Plan, number: int, settings: Ema | TrustRegion, *, policy: Artifact, before: Artifact
) -> UpdateSpec:
    """From the reference before to this round's."""
    return UpdateSpec(
        folder=plan.folder(number, "reference"),
        round=number,
        seed=plan.config.seed,
        settings=settings,
        trained=policy,
        earlier=[before],
    )


def train_spec(
    plan: Plan,
    number: int,
    *,
    policy: Artifact,
    reference: Artifact,
    preferences: Artifact,
    labels: Mapping[int, Artifact],
    extra: Artifact | None,
) -> TrainSpec:
    """labels: the label stages of replayed rounds and of this one; read where the objective needs scores or votes."""
    needs = plan.config.objective.needs()
    votes = needs.votes or needs.win_rates
    return TrainSpec(
        folder=plan.folder(number, "train"),
        round=number,
        seed=plan.config.seed,
        settings=TrainingSettings(
            objective=plan.config.objective,
            optimization=plan.config.training,
            trust_remote_code=plan.config.policy.trust_remote_code,
        ),
        policy=policy,
        reference=reference,
        preferences=preferences / "preferences.parquet",
        scores={n: stage / "scores.parquet" for n, stage in labels.items()} if needs.scores is not None else {},
        votes={n: stage / "counted_votes.parquet" for n, stage in labels.items()} if votes else {},
        extra=extra,
        embedder=local_file(needs.embedder) if needs.embedder not in (None, POLICY) else None,
        mixture=needs.mixture,
        first_half=first_half(plan) if needs.halves else None,
    )


def update_spec(
    plan: Plan, number: int, settings: Momentum | Merge, *, trained: Artifact, earlier: Sequence[Artifact]
) -> UpdateSpec:
    """From what was trained to the policy that the round ends with."""
    return UpdateSpec(
        folder=plan.folder(number, "update"),
        round=number,
        seed=plan.config.seed,
        settings=settings,
        trained=trained,
        earlier=list(earlier),
    )
