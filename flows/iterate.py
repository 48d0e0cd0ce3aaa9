"""Flow `irepo`: rounds of generate, label, train, evaluate.

    python -m flows.iterate run=demo                                  # the demo, start to end
    python -m flows.iterate run=demo rounds=2 training.learning_rate=1e-4
    python -m flows.iterate name=mine policy=<folder or id> prompts=<file> panel=answers
    python -m flows.iterate run=phi2 dry_run=true                     # print the plan

The same command goes on where a run stopped: finished stages are kept, see storage/manifest.py.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.compose import compose_config, dump_config
from flows.environment import prepare, quiet_console
from flows.terminal import console, exit_on_user_error, print_plan, round_table, samples_table

prepare()
if __name__ == "__main__":
    quiet_console()
    # A mistyped word is refused now, not after the seconds that the imports below take.
    exit_on_user_error(lambda: compose_config(sys.argv[1:]))

from prefect import flow  # noqa: E402  (Prefect reads its settings as it is imported)

from conf.schema import RunConfig  # noqa: E402
from flows.plan import Plan, folder_digest  # noqa: E402
from flows.preflight import find_policy, finished_rounds, needs_warmup, prepare_run  # noqa: E402
from flows.warmup import warm_up  # noqa: E402
from storage.files import canonical_json, publish_text  # noqa: E402
from storage.layout import RunLayout  # noqa: E402
from storage.manifest import read_manifest  # noqa: E402
from tasks.evaluate import evaluate  # noqa: E402
from tasks.generate import close_engines, generate  # noqa: E402
from tasks.generation.prompts import run_select  # noqa: E402
from tasks.label import label  # noqa: E402
from tasks.train import train  # noqa: E402


@flow(name="irepo", persist_result=True, result_serializer="json")
def irepo(overrides: list[str], more_rounds: int | None = None) -> list[dict[str, Any]]:
    """Run the configuration that `overrides` ask for; returns one record a round.

    Args:
        overrides: words as on the command line, e.g. ["run=demo", "rounds=2", "training.learning_rate=1e-4"].
        more_rounds: go so many rounds beyond those the run folder has, whatever `rounds` says.
    """
    config = compose_config(overrides)
    if more_rounds is not None:
        done = finished_rounds(RunLayout.of(config.runs, config.name))
        config = config.model_copy(update={"rounds": done + more_rounds})
    if needs_warmup(config.policy):
        warm_up(["demo=true", f"seed={config.seed}"])
    plan = prepare_run(config)
    publish_text(plan.layout.config, dump_config(config))
    prompts = read_manifest(plan.layout.prompts).content
    initial = folder_digest(plan.initial)
    try:
        rounds = [first_record(plan, prompts, initial)]
        for number in range(1, config.rounds + 1):
            rounds.append(irepo_round(config.name, number, config, str(plan.initial), prompts, initial, rounds))
            console.print(round_table(rounds))
            publish_text(plan.layout.root / "rounds.json", canonical_json(rounds) + "\n")
    finally:
        close_engines()
    return rounds


def first_record(plan: Plan, prompts: str, initial: str) -> dict[str, Any]:
    """Evaluate the initial policy, once a run: later rounds are compared with its held-out responses."""
    evaluate_initial = evaluate.with_options(task_run_name="evaluate initial policy")
    result = evaluate_initial(*plan.evaluate(0, {"prompts": prompts, "policy": initial, "initial": initial}))
    return {
        "round": 0,
        "policy": str(plan.initial),
        "digest": initial,
        "responses": result["responses"],
        "figures": result["summary"],
        "seconds": {"evaluate": result["seconds"]},
    }


@flow(name="irepo-round", flow_run_name="{run}: round {number}", persist_result=True, result_serializer="json")
def irepo_round(
    run: str,
    number: int,
    config: RunConfig,
    initial_policy: str,
    prompts: str,
    initial: str,
    before: list[dict[str, Any]],
) -> dict[str, Any]:
    """One round: responses, votes, a new policy, and whether it is better. `before` holds the earlier records."""
    plan = Plan(config, find_policy(config.policy.model_copy(update={"path": initial_policy})))
    policy = before[-1]["digest"]
    console.print(f"[bold]{run}: round {number} of {config.rounds}[/]")
    selected = run_select(plan.select(number, {"prompts": prompts}))
    generated = generate(plan.generate(number, {"prompts": selected.content, "policy": policy}))
    labelled = label(plan.label(number, {"prompts": selected.content, "responses": generated["content"]}))
    reference = policy if config.objective.reference == "previous" else initial
    trained = train(plan.train(number, {"policy": policy, "reference": reference, "preferences": labelled["content"]}))
    inputs = {"prompts": prompts, "policy": trained["content"], "initial": initial}
    rivals = {f"responses:{name}": before[rival]["responses"] for name, rival in plan.rivals(number)}
    evaluated = evaluate(*plan.evaluate(number, inputs | rivals))
    stages = {"generate": generated, "label": labelled, "train": trained, "evaluate": evaluated}
    return {
        "round": number,
        "policy": str(plan.policy(number)),
        "digest": trained["content"],
        "responses": evaluated["responses"],
        "figures": evaluated["summary"],
        "seconds": {name: result["seconds"] for name, result in stages.items()},
    }


def main(words: Sequence[str]) -> None:
    """The command: check first, then run the flow, say where things are and how to go on."""
    config = compose_config(words)
    if config.dry_run:
        print_plan(Plan(config, Path(config.policy.path)).dry_run())
        return
    if not needs_warmup(config.policy):
        prepare_run(config)
    folder = config.runs / config.name
    command = f"python -m flows.iterate {shlex.join(words)}".strip()
    console.print(f"run folder: {folder}   to go on after a stop: [bold]{command}[/]", soft_wrap=True)
    try:
        irepo(list(words))
    except BaseException:
        console.print(f"stopped; what is done is kept in {folder}. To go on: [bold]{command}[/]", soft_wrap=True)
        raise
    layout = RunLayout.of(config.runs, config.name)
    console.print(samples_table(layout.stage(0, "evaluate"), layout.stage(config.rounds, "evaluate")))
    last = folder / f"round-{config.rounds:02d}" / "train" / "policy"
    console.print(f"done: {folder}   last policy: {last}", soft_wrap=True)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
