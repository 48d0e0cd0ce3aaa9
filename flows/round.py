"""A round of the method, from top to bottom; and the Prefect flow `irepo-round` that runs it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from prefect import flow
from prefect.states import State as State

from conf.schema import RunConfig
from flows.chain import (
    chain_of,
    moves_reference,
    policy_of,
    previous_policy,
    reference_of,
    replayed,
    trained_in,
)
from flows.evaluation import evaluate_named, evaluate_policy
from flows.plan import Plan, aligned_from
from flows.record import round_record
from flows.show.artifacts import publish_report
from flows.show.panel_tables import complaints
from flows.show.terminal import console
from flows.specs import (
    ask_spec,
    assemble_spec,
    data_spec,
    drafts_spec,
    generate_spec,
    label_spec,
    mix_spec,
    pairs_spec,
    prompts_spec,
    reference_spec,
    select_spec,
    train_spec,
    update_spec,
)
from flows.stages import FinishedStages, ListedStages, PrefectStages, Stages, StageWaits
from storage.artifact import Artifact
from storage.manifest import BrokenManifest
from storage.stage import Spec
from tasks.evaluation.record import RoundRecord
from tasks.generation.drafts import NoDrafts
from tasks.generation.prompts import ROUND
from tasks.generation.settings import GenerateSpec
from tasks.label import WAITING, waits
from tasks.labeling.overlap import asked_ahead
from tasks.training.update import AsTrained, Momentum


def play_start(stages: Stages, plan: Plan) -> None:
    """Round 0: evaluate the initial policy. Later rounds are compared with its held-out responses."""
    evaluate_named(stages, plan)
    evaluate_policy(stages, plan, 0, [0], plan.initial)


def play_round(stages: Stages, plan: Plan, number: int, chain: Sequence[int]) -> None:
    """One round: responses, votes, preferences, a new policy, and whether it is better.

    chain: the rounds whose policies led to the one that this round starts from, 0 first.
    """
    if plan.config.data is not None:
        play_offline(stages, plan, number, chain)
        return
    policy = policy_of(stages, plan, chain[-1])
    prompts = stages(select_spec(plan, number, stages.prompts(plan))) / ROUND
    responses = _responses(stages, plan, number, policy=policy, prompts=prompts)
    policies = {"policy": policy, "previous": previous_policy(stages, plan, chain), "initial": plan.initial}
    labels = stages(
        label_spec(plan, number, plan.folder(number, "label"), responses=responses, prompts=prompts, policies=policies)
    )
    reference = _reference(stages, plan, number, chain)
    labels_by_round = {n: stages.made(plan, n, "label") for n in replayed(plan, chain)} | {number: labels}
    preferences = labels
    if not plan.config.mixing.nothing:
        preferences = _mixed(stages, plan, number, labels_by_round, policy=policy, previous=policies["previous"])
    extra = _extra_responses(stages, plan, number, policy=reference, prompts=prompts)
    trained = stages(
        train_spec(
            plan,
            number,
            policy=policy,
            reference=reference,
            preferences=preferences,
            labels=labels_by_round,
            extra=extra,
        )
    )
    final = _updated(stages, plan, number, chain, trained / "policy")
    evaluate_policy(stages, plan, number, chain, final)


def play_offline(stages: Stages, plan: Plan, number: int, chain: Sequence[int]) -> None:
    """A round on pairs from a file: nothing is sampled or voted on before training."""
    policy, reference = policy_of(stages, plan, chain[-1]), _reference(stages, plan, number, chain)
    pairs = stages(pairs_spec(plan, number, "pairs", data=stages.data(plan), prompts=stages.prompts(plan)))
    trained = stages(
        train_spec(plan, number, policy=policy, reference=reference, preferences=pairs, labels={}, extra=None)
    )
    final = _updated(stages, plan, number, chain, trained / "policy")
    evaluate_policy(stages, plan, number, chain, final)


def _responses(stages: Stages, plan: Plan, number: int, *, policy: Artifact, prompts: Artifact) -> Artifact:
    """Responses to the round's prompts: sampled, or made in pairs where `drafts` says how."""
    drafts, sampling = plan.config.drafts, plan.config.sampling
    if isinstance(drafts, NoDrafts):
        folder = plan.folder(number, "generate")
        spec = generate_spec(plan, number, folder, policy=policy, prompts=prompts, sampling=sampling)
        with stages.beside(lambda: _judges_asked(plan, spec)):
            return stages(spec)
    asked = stages(ask_spec(plan, number, drafts, policy=policy, prompts=prompts))
    sampled = stages(drafts_spec(plan, number, drafts, policy=policy, asked=asked))
    return stages(assemble_spec(plan, number, drafts, policy=policy, prompts=prompts, asked=asked, sampled=sampled))


def _judges_asked(plan: Plan, sampling: GenerateSpec) -> AbstractContextManager[None]:
    """The panel's chat models behind endpoints are asked about the shards that `sampling` has published."""
    if not plan.config.panel.overlap:
        return nullcontext()
    responses = Artifact.planned(sampling.folder)
    folder = plan.folder(sampling.round, "label")
    label = label_spec(plan, sampling.round, folder, responses=responses, prompts=sampling.prompts, policies={})
    return asked_ahead(label, sampling)


def _mixed(
    stages: Stages, plan: Plan, number: int, labels: Mapping[int, Artifact], *, policy: Artifact, previous: Artifact
) -> Artifact:
    """The round's own pairs, with those of earlier rounds and of an offline set."""
    offline = plan.config.mixing.offline
    file = stages.outside(offline.path) if offline else None
    return stages(mix_spec(plan, number, labels=labels, policy=policy, previous=previous, offline=file))


def _reference(stages: Stages, plan: Plan, number: int, chain: Sequence[int]) -> Artifact:
    """The policy that log-ratios are taken against: one that a round ended with, or a running average."""
    settings = plan.config.objective.reference
    if isinstance(settings, str) or not moves_reference(plan, number, chain):
        return reference_of(stages, plan, number, chain)
    base, before = chain[-1], chain[:-1]
    policy, old = policy_of(stages, plan, base), reference_of(stages, plan, base, before)
    return stages(reference_spec(plan, number, settings, policy=policy, before=old)) / "policy"


def _extra_responses(
    stages: Stages, plan: Plan, number: int, *, policy: Artifact, prompts: Artifact
) -> Artifact | None:
    """One more response to each prompt, by the reference, for objectives that move away from it."""
    kind = plan.config.objective.needs().extra
    if kind is None:
        return None
    sampling = plan.config.sampling.drawing(1, temperature=0.0 if kind == "greedy" else None)
    return stages(
        generate_spec(
            plan, number, plan.folder(number, "extra"), policy=policy, prompts=prompts, sampling=sampling, seed=2
        )
    )


def _updated(stages: Stages, plan: Plan, number: int, chain: Sequence[int], trained: Artifact) -> Artifact:
    """The policy that the round ends with: as trained, or averaged with what earlier rounds trained."""
    settings = plan.config.update
    if isinstance(settings, AsTrained):
        return trained
    numbers = chain[-1:] if isinstance(settings, Momentum) else [n for n in chain if n][-(settings.last - 1) :]
    earlier = [trained_in(stages, plan, n) for n in numbers]
    return stages(update_spec(plan, number, settings, trained=trained, earlier=earlier)) / "policy"


def list_stages(config: RunConfig) -> list[Spec]:
    """The stages of the run up to its first round, in order; nothing is read or run."""
    stages = ListedStages()
    named = {name: stages.outside(Path(path)) for name, path in config.evaluation.against.items()}
    before = config.policy.aligned_from
    aligned = stages.outside(Path(before)) if before else None
    plan = Plan(config, stages.outside(Path(config.policy.path)), aligned, named)
    prompts = config.prompts
    heldout = stages.outside(Path(prompts.heldout)) if isinstance(prompts.heldout, str) else None
    if config.data is not None:
        data = stages.outside(Path(config.data.path))
        stages(data_spec(plan, config.data, data, context=config.engine.max_model_len or 0))
    stages(prompts_spec(plan, stages.outside(Path(prompts.path)), heldout, context=config.engine.max_model_len or 0))
    play_start(stages, plan)
    play_round(stages, plan, 1, [0])
    return stages.specs


#: Rounds (run folder, number) that this process worked on: files that it has just published are not checked again.
_worked: set[tuple[Path, int]] = set()


def initial_record(plan: Plan) -> RoundRecord:
    """Run or adopt round 0."""
    stages = PrefectStages(plan.config.placement)
    play_start(stages, plan)
    return round_record(plan, 0, [0], stages.manifests)


# Its parameters come from `irepo`, which has checked them.
@flow(
    name="irepo-round",
    flow_run_name="{run}: round {number}",
    validate_parameters=False,
    persist_result=True,
    result_serializer="json",
)
def irepo_round(
    run: str, number: int, config: RunConfig, initial: Artifact, before: list[RoundRecord]
) -> State[None] | None:
    """Round `number` of the run `run`. before: the records of the rounds before it.

    Ends in a state `Waiting` while people on the panel have not voted.
    """
    plan, chain, stages = Plan(config, initial, aligned_from(config)), chain_of(before), PrefectStages(config.placement)
    console.print(f"{run}: round {number} of {config.rounds}", style="bold")
    try:
        play_round(stages, plan, number, chain)
    except StageWaits as waiting:
        return waits(str(waiting))
    _worked.add((plan.layout.root, number))
    record = round_record(plan, number, chain, stages.manifests)
    for complaint in complaints(record.labels):
        votes = plan.folder(number, "label") / "votes.parquet"
        console.print(f"{complaint} {votes}", style="yellow", soft_wrap=True)
    publish_report(plan, [*before, record])
    return None


def complete_round(plan: Plan, number: int, before: list[RoundRecord]) -> RoundRecord | State[None]:
    """The record of round `number`, run as a subflow; its state `Waiting` while people have not voted.

    When a run is retried or resumed, Prefect returns the results of subflows that had completed without looking at
    their files. They are checked here: where files were lost or altered since, the stages concerned run again.
    """
    config = plan.config
    state = irepo_round(config.name, number, config, plan.initial, before, return_state=True)
    if state.name == WAITING:
        return waits(str(state.message))
    if not state.is_completed():
        state.result()  # raises what the round raised
    try:
        return finished_record(plan, number, before, check_files=(plan.layout.root, number) not in _worked)
    except BrokenManifest as broken:
        console.print(f"round {number} runs again where needed: {broken}")
        # Not as a subflow: Prefect would take it for the next one of the earlier attempt.
        waiting = irepo_round.fn(config.name, number, config, plan.initial, before)
        return waiting if waiting is not None else finished_record(plan, number, before, check_files=False)


def finished_record(plan: Plan, number: int, before: Sequence[RoundRecord], *, check_files: bool) -> RoundRecord:
    """The record of a finished round. Raises BrokenManifest as `FinishedStages`."""
    stages, chain = FinishedStages(check_files=check_files), chain_of(before)
    play_round(stages, plan, number, chain)
    return round_record(plan, number, chain, stages.manifests)
