"""Decisions on rounds: promote always (gate=none), by rules (gate=policy), or as a person decides (gate=human).

    python -m flows.gate runs/mine promote                        # decide on the round that waits
    python -m flows.gate runs/mine "roll back" --note "replies grew too long"

A served run is suspended instead, and is resumed from the form in the UI or by the API:
POST /flow_runs/<id>/resume {"run_input": {"action": "promote", "note": "looks good"}}.
"""

import argparse
import sys
from pathlib import Path
from typing import cast, get_args

from flows.help import exit_on_help, plain_help
from flows.operations.environment import prepare

if __name__ == "__main__":
    _ARGUMENTS = "<run folder> promote | 'roll back' | stop [--note=<why>]"
    exit_on_help(sys.argv[1:], plain_help("flows.gate", __doc__ or "", _ARGUMENTS))
prepare()

from prefect import runtime, suspend_flow_run  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.input import RunInput  # noqa: E402
from pydantic import Field  # noqa: E402

from conf.compose import validate_config  # noqa: E402
from flows.checks import finished_rounds  # noqa: E402
from flows.plan import Plan  # noqa: E402
from flows.run_names import WAITS, name_this_run  # noqa: E402
from flows.show.question import question  # noqa: E402
from flows.show.terminal import console, exit_on_user_error  # noqa: E402
from storage.artifact import Artifact  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.files import parse_yaml  # noqa: E402
from storage.layout import RunLayout  # noqa: E402
from storage.manifest import read_manifest  # noqa: E402
from storage.owner import owned  # noqa: E402
from tasks.evaluation.automatic_gate import decide as decide_by_rules  # noqa: E402
from tasks.evaluation.gate import Action, Decision, GateSpec, publish_decision, read_decision  # noqa: E402
from tasks.evaluation.gate_rules.base import RoundMetrics  # noqa: E402
from tasks.evaluation.metrics import Metrics  # noqa: E402
from tasks.evaluation.record import RoundRecord  # noqa: E402


class GateForm(RunInput):
    """The form that a person fills in when a run is suspended at the gate. Nothing is chosen beforehand."""

    action: Action = Field(
        description="promote: the next round starts from this policy. roll back: the next round starts where this one "
        "did, and this policy is only kept. stop: promote this policy, and end the run.",
    )
    note: str = Field("", description="Why. Kept with the decision, and shown in the report.")


def settle(plan: Plan, record: RoundRecord) -> Action | None:
    """The decision on the round of `record`, made now or earlier; None when a person has to decide."""
    spec = gate_spec(plan.layout, record.round, plan.config.policy_stage)
    if read_decision(spec) is None and plan.config.gate.kind == "none":
        publish_decision(spec, Decision(action="promote", by="none"))
    if read_decision(spec) is None and plan.config.gate.kind == "policy":
        by_rules = _by_rules(plan, record)
        publish_decision(spec, by_rules)
        _print(record.round, by_rules)
    decision = read_decision(spec)
    return decision.action if decision else None


def ends(plan: Plan, record: RoundRecord) -> bool:
    """Whether the run ends after the round of `record`, by the decision on it."""
    decision = read_decision(gate_spec(plan.layout, record.round, plan.config.policy_stage))
    return decision is not None and (decision.action == "stop" or decision.last)


def _by_rules(plan: Plan, record: RoundRecord) -> Decision:
    gate, layout = plan.config.gate, plan.layout
    initial, previous = (
        Metrics.model_validate(read_manifest(layout.stage(number, "evaluate"), check_files=False).summary)
        for number in (0, record.base)
    )
    metrics = RoundMetrics(record.figures, initial, previous, first=record.base == 0, judges=gate.judges)
    rolled_back = record.round - record.base - 1  # every round since the one that this one started from
    return decide_by_rules(gate.rules, metrics, patience=gate.patience, rolled_back=rolled_back)


def _print(number: int, decision: Decision) -> None:
    """Print the decision, and why for each rule that is broken."""
    console.print(f"round {number}: {decision.action}{', and the run ends' if decision.last else ''}")
    for reason in decision.reasons:
        if not reason.holds:
            console.print(f"  {reason.rule}: {reason.says}", soft_wrap=True)


def ask(plan: Plan, rounds: list[RoundRecord]) -> Action | None:
    """Suspend a served run until somebody decides on its last round. None for a run from the command line."""
    if runtime.deployment.id is None:
        return None
    number = rounds[-1].round
    name_this_run(f"{plan.config.name}: waits for a decision on round {number}", tags=[WAITS])
    form = suspend_flow_run(
        wait_for_input=GateForm.with_initial_data(description=question(plan, rounds)),
        key=f"gate-{number}",
        timeout=None,
    )
    name_this_run(plan.config.name, tags=[])
    publish_decision(
        gate_spec(plan.layout, number, plan.config.policy_stage),
        Decision(action=form.action, by="human", note=form.note),
    )
    return settle(plan, rounds[-1])


def gate_spec(layout: RunLayout, number: int, policy_stage: str) -> GateSpec:
    """The gate stage of a finished round: a decision on the policy that the round ended with, and its evaluation.

    policy_stage: the stage that made the policy, see RunConfig.policy_stage.
    """
    return GateSpec(
        folder=layout.stage(number, "gate"),
        round=number,
        seed=0,
        policy=Artifact.of_stage(layout.stage(number, policy_stage)) / "policy",
        evaluation=Artifact.of_stage(layout.stage(number, "evaluate")),
    )


def decide(run: Path, action: Action, note: str) -> int:
    """Record a person's decision on the last finished round of a run folder; returns the number of that round.

    Raises UserError when there is no such folder or finished round, when the round is decided already, and while the
    run is in progress.
    """
    layout = RunLayout(run)
    if not layout.config.is_file():
        raise UserError(
            "this is not a run folder: config.yaml is missing", where=str(run), remedy="name one, e.g. runs/mine"
        )
    number = finished_rounds(layout)
    if number == 0:
        raise UserError("no round is finished yet", where=str(run), remedy="wait until the first round is finished")
    with owned(run):
        config = validate_config(parse_yaml(layout.config.read_text(encoding="utf-8")))
        spec = gate_spec(layout, number, config.policy_stage)
        earlier = read_decision(spec)
        if earlier is not None:
            raise UserError(
                f"round {number} is decided already: {earlier.action}, by {earlier.by}",
                where=str(spec.folder),
                remedy="to decide again, remove that folder first; later rounds that build on it then run again, with "
                "overwrite=true in the run's command",
            )
        publish_decision(spec, Decision(action=action, by="human", note=note))
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description="Decide on the last round of a run that waits at its gate.")
    parser.add_argument("run", type=Path, help="the run folder, e.g. runs/mine")
    parser.add_argument("action", choices=get_args(Action))
    parser.add_argument("--note", default="", help="why; kept with the decision")
    words = parser.parse_args()
    number = decide(words.run, cast(Action, words.action), words.note)
    console.print(f"round {number}: {words.action}. The run goes on with the command that started it.")


if __name__ == "__main__":
    exit_on_user_error(main)
