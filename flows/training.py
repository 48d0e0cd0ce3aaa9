"""Specs of what a round trains: its reference, its extra responses, its pairs, the training, and what follows it.

`chain`, here: the rounds whose policies led to the one that a round starts from, 0 first and that round last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.digests import contents_of
from flows.plan import Plan
from storage.files import sha256_file
from storage.manifest import folder_digest, read_manifest
from tasks.generation.settings import GenerateSpec
from tasks.mixing.stage import PREFERENCES_FILE, MixSpec
from tasks.training.objectives.moving import whence
from tasks.training.settings import TrainingSettings, TrainSpec
from tasks.training.update import AsTrained, Momentum, UpdateSpec


def reference_folder(plan: Plan, round_number: int, chain: Sequence[int]) -> Path:
    """The policy that round `round_number` takes log-ratios against."""
    made, number = whence(plan.config.objective.reference, round_number, chain)
    return plan.policy(number) if made == "policy" else plan.layout.stage(number, "reference") / "policy"


def reference_digest(plan: Plan, round_number: int, chain: Sequence[int], policies: Mapping[int, str]) -> str:
    """Its digest, once it is there; `policies`: digests of the policies that rounds ended with, by round."""
    made, number = whence(plan.config.objective.reference, round_number, chain)
    return policies[number] if made == "policy" else read_manifest(plan.layout.stage(number, "reference")).content


def moves_reference(plan: Plan, round_number: int, chain: Sequence[int]) -> bool:
    """Whether the round's reference is a stage of its own."""
    return whence(plan.config.objective.reference, round_number, chain) == ("reference", round_number)


def reference_spec(
    plan: Plan, round_number: int, chain: Sequence[int], policies: Mapping[int, str]
) -> UpdateSpec | None:
    """From the reference before to this round's; None where it is a policy, or still the one before.

    `policies` as for `reference_digest`.
    """
    moving = plan.config.objective.reference
    if isinstance(moving, str) or not moves_reference(plan, round_number, chain):
        return None
    base, before = chain[-1], chain[:-1]
    return UpdateSpec(
        folder=plan.layout.stage(round_number, "reference"),
        round=round_number,
        seed=plan.config.seed,
        inputs={"policy": policies[base], "reference": reference_digest(plan, base, before, policies)},
        settings=moving,
        trained=plan.policy(base),
        earlier=[reference_folder(plan, base, before)],
    )


def extra_spec(plan: Plan, round_number: int, chain: Sequence[int], inputs: dict[str, str]) -> GenerateSpec | None:
    """One more response to each prompt of the round, by the reference, where the objective needs one."""
    kind = plan.config.objective.needs().extra
    if kind is None:
        return None
    spec = plan.generate(round_number, chain[-1], inputs)
    sampling = spec.settings.sampling.model_copy(update={"responses": 1})
    if kind == "greedy":
        sampling = sampling.model_copy(update={"temperature": 0.0})
    return spec.model_copy(
        update={
            "folder": plan.layout.stage(round_number, "extra"),
            "seed": plan.config.seed + 2,  # shares no randomness with the responses that are compared
            "settings": spec.settings.model_copy(update={"sampling": sampling}),
            "policy": reference_folder(plan, round_number, chain),
        }
    )


def mix_inputs(plan: Plan, chain: Sequence[int]) -> dict[str, str]:
    """Digests of what a round mixes its own pairs with, once it is there."""
    settings = plan.config.mixing
    found = {f"preferences:{n}": _labelled_digest(plan, n) for n in _replayed(plan, chain)}
    if settings.offline:
        found["offline"] = sha256_file(settings.offline.path)
    if settings.offline and settings.offline.keep:
        first = folder_digest(plan.before_initial)
        before = _policy_digest(plan, chain[-2]) if len(chain) > 1 else first
        found |= {"policy": _policy_digest(plan, chain[-1]), "previous": before, "reference": first}
    return found


def mix_spec(plan: Plan, round_number: int, chain: Sequence[int], inputs: dict[str, str]) -> MixSpec | None:
    """From what was labelled to what is trained on; None where they are the same. `inputs`: also `mix_inputs`."""
    settings = plan.config.mixing
    if settings.nothing:
        return None
    earlier = _replayed(plan, chain)
    return MixSpec(
        folder=plan.layout.stage(round_number, "mix"),
        round=round_number,
        seed=plan.config.seed,
        inputs=inputs,
        settings=settings,
        own=plan.layout.stage(round_number, "label") / PREFERENCES_FILE,
        earlier=[plan.layout.stage(n, "label") / PREFERENCES_FILE for n in earlier],
        policy=plan.policy(chain[-1]),
        previous=plan.policy(chain[-2]) if len(chain) > 1 else plan.before_initial,
        reference=plan.before_initial,
        scores={n: plan.layout.stage(n, "label") / "scores.parquet" for n in [*earlier, round_number]},
    )


def train_spec(plan: Plan, round_number: int, chain: Sequence[int], inputs: dict[str, str]) -> TrainSpec:
    """The policy that the round starts from in, a policy out. What else the objective reads is added to `inputs`."""
    labels = plan.layout.stage(round_number, "label")
    replayed, needs = _replayed(plan, chain), plan.config.objective.needs()
    labelled = [*replayed, round_number]
    if needs.scores is not None or needs.votes or needs.win_rates:
        inputs = inputs | {f"labels:{n}": _labelled_digest(plan, n) for n in replayed}
    return TrainSpec(
        folder=plan.layout.stage(round_number, "train"),
        round=round_number,
        seed=plan.config.seed,
        inputs=inputs | _embedder_input(plan),
        settings=TrainingSettings(
            objective=plan.config.objective,
            optimization=plan.config.training,
            trust_remote_code=plan.config.policy.trust_remote_code,
        ),
        policy=plan.policy(chain[-1]),
        reference=reference_folder(plan, round_number, chain),
        preferences=labels / PREFERENCES_FILE
        if plan.config.mixing.nothing
        else plan.layout.stage(round_number, "mix") / PREFERENCES_FILE,
        scores={number: plan.layout.stage(number, "label") / "scores.parquet" for number in labelled},
        votes={number: plan.layout.stage(number, "label") / "votes.parquet" for number in labelled},
        extra=plan.layout.stage(round_number, "extra"),
    )


def update_spec(plan: Plan, round_number: int, chain: Sequence[int], inputs: dict[str, str]) -> UpdateSpec | None:
    """From what was trained to the round's policy; None where they are the same. `inputs`: also `update_inputs`."""
    settings = plan.config.update
    if isinstance(settings, AsTrained):
        return None
    return UpdateSpec(
        folder=plan.layout.stage(round_number, "update"),
        round=round_number,
        seed=plan.config.seed,
        inputs=inputs,
        settings=settings,
        trained=_trained(plan, round_number),
        earlier=[_trained(plan, n) for n in _updated_from(plan, chain)],
    )


def update_inputs(plan: Plan, chain: Sequence[int]) -> dict[str, str]:
    """Digests of what rounds before have trained, as far as the update reads it."""
    return {f"trained:{n}": _trained_digest(plan, n) for n in _updated_from(plan, chain)}


def _updated_from(plan: Plan, chain: Sequence[int]) -> Sequence[int]:
    """The earlier rounds whose trained policies the update reads."""
    settings = plan.config.update
    if isinstance(settings, AsTrained):
        return []
    return chain[-1:] if isinstance(settings, Momentum) else [n for n in chain if n][-(settings.last - 1) :]


def _replayed(plan: Plan, chain: Sequence[int]) -> list[int]:
    """The earlier rounds whose pairs are trained on again."""
    settings = plan.config.mixing
    return [n for n in chain if n][-(settings.rounds or 0) :] if settings.replay else []


def _trained(plan: Plan, round_number: int) -> Path:
    """What a round has trained: its policy, but for an update that follows."""
    return plan.layout.stage(round_number, "train") / "policy" if round_number else plan.initial


def _embedder_input(plan: Plan) -> dict[str, str]:
    """Digest of the encoder's folder, where the objective reads one from this machine."""
    embedder = plan.config.objective.needs().embedder
    contents = contents_of(embedder) if embedder else None
    return {"embedder": contents} if contents else {}


def _policy_digest(plan: Plan, round_number: int) -> str:
    if round_number == 0:
        return folder_digest(plan.initial)
    return read_manifest(plan.policy(round_number).parent).content


def _labelled_digest(plan: Plan, round_number: int) -> str:
    return read_manifest(plan.layout.stage(round_number, "label")).content


def _trained_digest(plan: Plan, round_number: int) -> str:
    if round_number == 0:
        return folder_digest(plan.initial)
    return read_manifest(plan.layout.stage(round_number, "train")).content
