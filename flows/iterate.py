"""Flow `irepo`: rounds of generate, label, train, evaluate.

    python -m flows.iterate run=demo                                  # the demo, start to end
    python -m flows.iterate run=demo name=slow training.learning_rate=1e-4
    python -m flows.iterate name=mine policy=<folder or id> prompts=<file> panel=answers
    python -m flows.iterate run=phi2 dry_run=plan                     # print the plan
    python -m flows.iterate ... dry_run=true                          # and what it will take, from a probe

The same command continues a run that stopped: finished stages are kept (storage/manifest.py).
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conf.compose import compose_config, dump_config
from flows.early_checks import check_early
from flows.help import exit_on_help, run_help
from flows.operations.environment import prepare, quiet_console
from flows.operations.temporary_server import await_server, start_temporary_server
from flows.show.terminal import console, exit_on_user_error, print_plan, print_verdict, round_table, samples_table

if __name__ == "__main__":
    exit_on_help(sys.argv[1:], run_help("flows.iterate", __doc__ or ""))
prepare()
if __name__ == "__main__":
    quiet_console()
    # Refuse a mistyped word, and what can be known from the configuration, before the slow imports below.
    exit_on_user_error(lambda: check_early(compose_config(sys.argv[1:])))
    # The server starts while this process imports the rest.
    exit_on_user_error(start_temporary_server)

from prefect import flow  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: E402
from prefect.states import State  # noqa: E402

from conf.schema import RunConfig  # noqa: E402
from flows.chain import promoted  # noqa: E402
from flows.checks import needs_warmup, prepare_run, rounds_wanted  # noqa: E402
from flows.estimate import estimate  # noqa: E402
from flows.gate import ask, ends, settle  # noqa: E402
from flows.memory_checks import show_memory  # noqa: E402
from flows.operations.liveness import supervise_this_run  # noqa: E402
from flows.operations.run_log import run_log  # noqa: E402
from flows.parameters import (  # noqa: E402
    Engine,
    Evaluation,
    Gate,
    Name,
    Objective,
    Override,
    Panel,
    Policy,
    Preset,
    Prompts,
    Recipe,
    Rounds,
    Seed,
    Training,
    as_words,
)
from flows.people import wait_for_votes  # noqa: E402
from flows.plan import Plan  # noqa: E402
from flows.retention import free_policies  # noqa: E402
from flows.round import complete_round, initial_record, list_stages  # noqa: E402
from flows.run_names import name_after  # noqa: E402
from flows.served import compose_served  # noqa: E402
from flows.show.artifacts import draw_figures, publish_folder_link, publish_rounds  # noqa: E402
from flows.show.estimate import show_estimate  # noqa: E402
from flows.stages import device_of_run, device_of_stage  # noqa: E402
from flows.warmup import warm_up  # noqa: E402
from storage.disk_errors import disk_faults  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.files import canonical_json, publish_link, publish_text, sweep_temporaries  # noqa: E402
from storage.layout import RunLayout  # noqa: E402
from storage.mirror.background import Mirror, mirrored  # noqa: E402
from storage.owner import owned  # noqa: E402
from tasks.engines import close_engines  # noqa: E402
from tasks.evaluation.record import RoundRecord  # noqa: E402
from tasks.label import WAITING  # noqa: E402
from tasks.panel.humans.collect import EXIT_WAITING  # noqa: E402
from tasks.reporting.cards.hub import push  # noqa: E402
from tasks.reporting.tracking import track  # noqa: E402


@flow(name="irepo", persist_result=True, result_serializer="json")
def irepo(
    name: Name | None = None,
    preset: Preset | None = None,
    policy: Policy | None = None,
    prompts: Prompts | None = None,
    panel: Panel | None = None,
    evaluation: Evaluation | None = None,
    objective: Objective | None = None,
    recipe: Recipe | None = None,
    training: Training | None = None,
    engine: Engine | None = None,
    rounds: Rounds | None = None,
    more_rounds: Rounds | None = None,
    gate: Gate | None = None,
    seed: Seed | None = None,
    overrides: list[Override] = [],  # noqa: B006  (Prefect shows the default in the form)
) -> list[RoundRecord] | State[None]:
    """Align a policy in rounds; returns the record of each round. Finished stages are kept.

    A run that waits for people on its panel is suspended; a run from the command line ends in the state `Waiting`.

    Args:
        name: of the run folder below runs/. The name of an earlier run continues it.
        preset: a file of conf/run to start from. What is set below takes precedence over it.
        policy: the policy to start from, a folder or an id on the Hugging Face hub. Needed without a preset.
        prompts: a file or folder of prompts, or a data set on the hub. Needed without a preset.
        panel: who votes on the responses, a file of conf/panel.
        evaluation: who decides whether a round helped, a file of conf/evaluation.
        objective: what training minimizes, a file of conf/objective.
        recipe: how data are made and selected, a file of conf/recipe.
        training: how the policy is trained, a file of conf/training.
        engine: what samples responses, a file of conf/engine.
        rounds: number of rounds of the run, earlier ones included.
        more_rounds: number of rounds to add to those that the run has; overrides `rounds`.
        gate: who decides after every round. With `human` the run is suspended until somebody decides.
        seed: of prompts, samples and training.
        overrides: as on the command line, e.g. training.learning_rate=1e-4. They take precedence over the fields above.
    """
    supervise_this_run()
    fields = {
        "run": preset, "name": name, "policy": policy, "prompts": prompts, "panel": panel, "evaluation": evaluation,
        "objective": objective, "recipe": recipe, "training": training, "engine": engine, "rounds": rounds,
        "seed": seed, "gate": gate,
    }  # fmt: skip
    words = as_words(overrides, **fields)
    config = compose_served(words)
    name_after(config, words)
    check_early(config)  # before it waits for the device
    return play(config, more_rounds)


def play(config: RunConfig, more_rounds: int | None = None) -> list[RoundRecord] | State[None]:
    """The rounds of a run, inside a flow; as `irepo`."""
    layout = RunLayout.of(config.runs, config.name)
    with (
        owned(layout.root),
        disk_faults(layout.root),
        run_log(layout.root),
        mirrored(config.storage, layout.root) as mirror,
        device_of_run(config.placement),
    ):
        if more_rounds is not None:
            config = config.with_rounds(rounds_wanted(layout, more_rounds))
        if needs_warmup(config.policy):
            with device_of_stage(config.placement):
                warm_up([f"showcase={config.policy.warmup}", f"seed={config.seed}"])
        try:
            return _rounds(prepare_run(config), mirror)
        finally:
            close_engines()


def _rounds(plan: Plan, mirror: Mirror | None) -> list[RoundRecord] | State[None]:
    layout = plan.layout
    sweep_temporaries(layout.root)
    publish_text(layout.config, dump_config(plan.config), private=True)
    publish_folder_link(plan)
    rounds = [initial_record(plan)]
    # The run sends a heartbeat; a second one for every round would delay the end of each round.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        for number in range(1, plan.config.rounds + 1):
            record = complete_round(plan, number, rounds)
            if isinstance(record, State):
                return wait_for_votes(plan, number, str(record.message))
            rounds.append(record)
            console.print(round_table(rounds))
            rounds[-1] = record.decided(settle(plan, record))
            rounds = _publish(plan, rounds, mirror)
            if rounds[-1].decision is None:
                rounds[-1] = record.decided(ask(plan, rounds))
                rounds = _publish(plan, rounds, mirror)
            if rounds[-1].decision is None or ends(plan, record):
                break
        if mirror is not None and plan.config.storage.last_policies is not None:
            rounds = _publish(plan, rounds, mirror, last=True)
    draw_figures(plan)
    _push(plan)
    return rounds


def _push(plan: Plan) -> None:
    """Upload what the configuration names. A failure is printed; the run is finished either way."""
    config = plan.config
    if config.push_to_hub or config.push_preferences_to_hub:
        try:
            addresses = push(plan.layout.root, policy=config.push_to_hub, preferences=config.push_preferences_to_hub)
            console.print(f"pushed: {', '.join(addresses)}", soft_wrap=True)
        except UserError as error:
            console.print(f"not pushed: {error}", style="yellow", soft_wrap=True)


def _publish(plan: Plan, rounds: list[RoundRecord], mirror: Mirror | None, *, last: bool = False) -> list[RoundRecord]:
    """Write the rounds so far to rounds.json, the UI and the tracker; point the link `policy` to the promoted one.

    Before that, policies that are not kept are removed (`free_policies`); returns the records with what that freed.
    """
    rounds = free_policies(plan, rounds, mirror, last=last)
    publish_text(
        plan.layout.root / "rounds.json", canonical_json([record.model_dump(mode="json") for record in rounds]) + "\n"
    )
    publish_rounds(plan, rounds)
    track(plan.config.tracker, plan.layout, rounds, plan.config.model_dump(mode="json"))
    best = promoted([record for record in rounds if record.decision])
    if best.round:
        publish_link(plan.layout.root / "policy", Path(best.policy))
    return rounds


def main(words: Sequence[str]) -> None:
    """The command: check the configuration, run the flow, print where results are and how to continue."""
    run_command(f"python -m flows.iterate {shlex.join(words)}".strip(), words, irepo)


def run_command(command: str, words: Sequence[str], run: Callable[..., Any]) -> list[RoundRecord]:
    """Run the flow `run` with `words` as its overrides; returns its rounds, [] for a dry run.

    command: what was typed, which continues the run after a stop.
    """
    config = compose_config(words)
    folder = RunLayout.of(config.runs, config.name).root
    if config.dry_run:
        print_plan(list_stages(config))
        show_memory(config)
        if config.dry_run != "plan":
            with owned(folder), run_log(folder):
                console.print(show_estimate(estimate(config)))
        return []
    with owned(folder), run_log(folder):
        return _run(config, folder, command, lambda: run(overrides=list(words), return_state=True))


def _run(
    config: RunConfig, folder: Path, command: str, start: Callable[[], State[list[RoundRecord]]]
) -> list[RoundRecord]:
    if not needs_warmup(config.policy):
        prepare_run(config)
    console.print(f"run folder: {folder}   to continue after a stop: {command}", soft_wrap=True)
    await_server()
    try:
        state = start()
        rounds = state if state.name == WAITING else state.result()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; finished stages are kept in {folder}. To continue: {command}") from None
    except BaseException:
        console.print(f"stopped; finished stages are kept in {folder}. To continue: {command}", soft_wrap=True)
        raise
    if isinstance(rounds, State):
        console.print(f"{rounds.message}\nthen, to continue: {command}", soft_wrap=True)
        sys.exit(EXIT_WAITING)
    layout, last = RunLayout.of(config.runs, config.name), rounds[-1].round
    console.print(samples_table(layout.stage(0, "evaluate"), layout.stage(last, "evaluate")))
    if rounds[-1].decision is None:
        console.print(
            f"round {last} waits for a decision: python -m flows.gate {folder} promote (or 'roll back', stop),"
            f" then {command}",
            soft_wrap=True,
        )
        print_verdict(folder)
        return rounds
    kept = promoted(rounds)
    policy = f"last promoted policy: {kept.policy}" if kept.round else f"no round was promoted; policy: {kept.policy}"
    console.print(f"done: {folder}   {policy}", soft_wrap=True)
    print_verdict(folder)
    return rounds


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
