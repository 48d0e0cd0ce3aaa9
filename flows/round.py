"""Flow `irepo-round`: generate, label, train, evaluate; and the record of a round, read from its manifests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.states import State

from conf.schema import RunConfig
from flows.benchmarks import benchmark_stages, harness_spec, mt_bench_specs
from flows.drafts import generated
from flows.evaluation import against_spec, evaluation_specs, labels_pairs, pairs_spec, rivals
from flows.plan import Plan
from flows.preflight import open_plan
from flows.show.artifacts import publish_report
from flows.show.panel_tables import complaints
from flows.show.terminal import console
from flows.training import (
    extra_spec,
    mix_inputs,
    mix_spec,
    moves_reference,
    reference_digest,
    reference_spec,
    train_spec,
    update_inputs,
    update_spec,
)
from storage.manifest import BrokenManifest, folder_digest, read_manifest
from tasks.evaluate import evaluate
from tasks.generate import generate
from tasks.generation.prompts import run_select
from tasks.label import WAITING, label, waits
from tasks.mixing.stage import run_mix
from tasks.train import train
from tasks.training.update import run_update

Record = dict[str, Any]

#: Rounds (run folder, number) that this process worked on: what it has just published need not be read again.
_worked: set[tuple[Path, int]] = set()


def initial_record(plan: Plan, prompts: str, initial: str) -> Record:
    """Evaluate the initial policy, once a run: later rounds are compared with its held-out responses."""
    inputs = {"prompts": prompts, "policy": initial, "initial": initial} | _against(plan, prompts)
    evaluate_initial = evaluate.with_options(task_run_name="evaluate initial policy")
    evaluate_initial(
        *evaluation_specs(plan, 0, 0, inputs),
        pairs_spec(plan, {"prompts": prompts, "initial": initial}),
        harness=harness_spec(plan, 0, initial),
        mt_bench=mt_bench_specs(plan, 0, initial),
    )
    return read_record(plan, 0, [0]) | {"digest": initial}


def _against(plan: Plan, prompts: str) -> dict[str, str]:
    """Digests of the held-out responses of the policies in evaluation.against, which are sampled once a run."""
    found = {}
    for name, folder in plan.named.items():
        sample = generate.with_options(task_run_name=f"generate {name}")
        spec = against_spec(plan, name, {"prompts": prompts, "policy": folder_digest(folder)})
        found[f"responses:{name}"] = sample(spec)["content"]
    return found


# Its parameters come from `irepo`, which has checked them.
@flow(
    name="irepo-round",
    flow_run_name="{run}: round {number}",
    validate_parameters=False,
    persist_result=True,
    result_serializer="json",
)
def irepo_round(
    run: str, number: int, config: RunConfig, initial_policy: str, prompts: str, before: list[Record]
) -> Record | State[None]:
    """One round: responses, votes, a new policy, and whether it is better. `before` holds the earlier records.

    Ends in a state `Waiting` while people on the panel have not voted.
    """
    plan = open_plan(config.model_copy(update={"policy": config.policy.model_copy(update={"path": initial_policy})}))
    base, initial = promoted(before), before[0]["digest"]
    policy = base["digest"]
    console.print(f"[bold]{run}: round {number} of {config.rounds}[/]")
    start, steps = base["round"], chain(before)
    selected = run_select(plan.select(number, {"prompts": prompts}))
    responses = generated(plan, number, start, {"prompts": selected.content, "policy": policy})
    asked = {"policy": policy, "previous": before[base["base"]]["digest"], "initial": initial}
    if start == 0 and config.policy.aligned_from:
        asked["previous"] = folder_digest(plan.before_initial)
    inputs = {"prompts": selected.content, "responses": responses}
    inputs |= {f"asked:{name}": asked[name] for name in plan.policies_asked}
    labelled = label(plan.label(number, start, base["base"], inputs))
    if isinstance(labelled, State):
        return waits(str(labelled.message))
    policies = {record["round"]: record["digest"] for record in before}
    move = reference_spec(plan, number, steps, policies)
    if move is not None:
        run_update(move)
    reference = reference_digest(plan, number, steps, policies)
    mix = mix_spec(plan, number, steps, {"preferences": labelled["content"]} | mix_inputs(plan, steps))
    preferences = run_mix(mix).content if mix else labelled["content"]
    inputs = {"policy": policy, "reference": reference, "preferences": preferences}
    extra = extra_spec(plan, number, steps, {"prompts": selected.content, "policy": reference})
    if extra is not None:
        inputs["extra"] = generate.with_options(task_run_name="generate extra")(extra)["content"]
    trained = train(train_spec(plan, number, steps, inputs))
    update = update_spec(plan, number, steps, {"trained": trained["content"]} | update_inputs(plan, steps))
    ended = run_update(update).content if update else trained["content"]
    inputs = {"prompts": prompts, "policy": ended, "initial": initial}
    inputs |= {f"responses:{name}": before[rival]["responses"] for name, rival in rivals(number, start)}
    inputs |= {f"responses:{name}": content for name, content in before[0]["against"].items()}
    if before[0]["pairs"] is not None:
        inputs |= {"pairs": before[0]["pairs"]}
        inputs |= {f"evaluation:{name}": before[n]["evaluation"] for name, n in (("initial", 0), ("previous", start))}
    harness, mt_bench = harness_spec(plan, number, ended), mt_bench_specs(plan, number, ended)
    evaluate(*evaluation_specs(plan, number, start, inputs), harness=harness, mt_bench=mt_bench)
    _worked.add((plan.layout.root, number))
    record = read_record(plan, number, steps)
    for complaint in complaints(record["labels"]):
        console.print(f"[yellow]{complaint} {plan.layout.stage(number, 'label') / 'votes.parquet'}[/]", soft_wrap=True)
    publish_report(plan, [*before, record])
    return record


def complete_round(plan: Plan, number: int, prompts: str, before: list[Record]) -> Record | State[None]:
    """The record of round `number`, run as a subflow; its state `Waiting` while people have not voted.

    When a run is retried or resumed, Prefect hands back subflows that had completed without looking at their files.
    They are looked at here: where files were lost or altered since, the stages concerned are run again.
    """
    config = plan.config
    arguments = (config.name, number, config, str(plan.initial), prompts, before)
    state = irepo_round(*arguments, return_state=True)
    if state.name == WAITING:
        return waits(str(state.message))
    if not state.is_completed():
        state.result()  # raises what the round raised
    try:
        return read_record(plan, number, chain(before), check_files=(plan.layout.root, number) not in _worked)
    except BrokenManifest as broken:
        console.print(f"round {number} is looked at again: {broken}")
        # Not as a subflow: Prefect would take it for the next one of the earlier attempt.
        return irepo_round.fn(*arguments)


def promoted(rounds: Sequence[Record]) -> Record:
    """The record of the policy that the next round starts from: the last one that was not rolled back."""
    return next(record for record in reversed(rounds) if record["decision"] != "roll back")


def chain(rounds: Sequence[Record]) -> list[int]:
    """The rounds whose policies led to the one that the next round starts from, 0 first."""
    number, found = promoted(rounds)["round"], []
    while number:
        found.append(number)
        number = rounds[number]["base"]
    return [0, *reversed(found)]


def read_record(plan: Plan, number: int, steps: Sequence[int], *, check_files: bool = False) -> Record:
    """What later rounds and tables need of a finished round, from its manifests. `steps`: its `chain`.

    Raises BrokenManifest, naming the file, when one is missing, cut or altered; with `check_files`, when any file is.
    """
    made = "train" if plan.config.update.kind == "none" else "update"
    mixed = "label" if plan.config.mixing.nothing else "mix"
    moved = ["reference"] if number and moves_reference(plan, number, steps) else []
    order = ["generate", "label", mixed, *moved, "train", made, "evaluate"]
    stages = ["evaluate"] if number == 0 else list(dict.fromkeys(order))
    manifests = {stage: read_manifest(plan.layout.stage(number, stage), check_files=check_files) for stage in stages}
    names = [
        "responses",
        "judgements",
        *(["pairs"] if number == 0 and labels_pairs(plan) else []),
        *benchmark_stages(plan.config),
    ]
    parts = [read_manifest(plan.layout.stage(number, "evaluate") / part, check_files=check_files) for part in names]
    seconds = {stage: manifest.seconds for stage, manifest in manifests.items()}
    seconds["evaluate"] = round(seconds["evaluate"] + sum(part.seconds for part in parts), 3)
    return {
        "round": number,
        "base": steps[-1],
        "policy": str(plan.policy(number)),
        "digest": manifests[made].content if number else None,
        "responses": parts[0].content,
        "evaluation": manifests["evaluate"].content,
        "pairs": parts[2].content if len(parts) > 2 else None,
        "against": {name: read_manifest(plan.layout.stage(0, "against") / name).content for name in plan.named},
        "figures": manifests["evaluate"].summary,
        "labels": manifests["label"].summary if number else None,
        "seconds": seconds,
        "decision": None if number else "promote",
    }
