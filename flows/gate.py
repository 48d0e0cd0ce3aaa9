"""Decisions on rounds: made at once where no gate is set, by rules with gate=policy, asked of a person with gate=human.

    python -m flows.gate runs/mine promote                        # decide on the round that waits
    python -m flows.gate runs/mine "roll back" --note "replies grew too long"

A served run suspends instead, and is resumed from the form in the UI, or by the API:
POST /flow_runs/<id>/resume {"run_input": {"action": "promote", "note": "looks good"}}.
"""

import argparse
from pathlib import Path
from typing import cast, get_args

from flows.operations.environment import prepare

prepare()

from prefect import runtime, suspend_flow_run  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.input import RunInput  # noqa: E402

from flows.checks import finished_rounds  # noqa: E402
from flows.plan import Plan  # noqa: E402
from flows.show.artifacts import report  # noqa: E402
from flows.show.terminal import console, exit_on_user_error  # noqa: E402
from storage.artifact import Artifact  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.layout import RunLayout  # noqa: E402
from storage.manifest import MANIFEST, read_manifest  # noqa: E402
from storage.owner import owned  # noqa: E402
from tasks.evaluation.gate import Action, Decision, GateSpec, publish_decision, read_decision  # noqa: E402
from tasks.evaluation.metrics import Metrics  # noqa: E402
from tasks.evaluation.record import RoundRecord  # noqa: E402
from tasks.evaluation.rules import Standing  # noqa: E402
from tasks.evaluation.rules import decide as decide_by_rules  # noqa: E402


class GateForm(RunInput):
    """What a person is asked when a run is suspended at the gate."""

    action: Action = "promote"
    note: str = ""


def settle(plan: Plan, record: RoundRecord) -> Action | None:
    """What was decided on the round of `record`, now or earlier; None when a person has to be asked."""
    spec = gate_spec(plan.layout, record.round)
    if read_decision(spec) is None and plan.config.gate.kind == "none":
        publish_decision(spec, Decision(action="promote", by="none"))
    if read_decision(spec) is None and plan.config.gate.kind == "policy":
        decided = _by_rules(plan, record)
        publish_decision(spec, decided)
        _tell(record.round, decided)
    decision = read_decision(spec)
    return decision.action if decision else None


def ends(plan: Plan, record: RoundRecord) -> bool:
    """Whether the decision on the round of `record` is that no round follows."""
    decision = read_decision(gate_spec(plan.layout, record.round))
    return decision is not None and (decision.action == "stop" or decision.last)


def _by_rules(plan: Plan, record: RoundRecord) -> Decision:
    gate, layout = plan.config.gate, plan.layout
    initial, previous = (
        Metrics.model_validate(read_manifest(layout.stage(number, "evaluate"), check_files=False).summary)
        for number in (0, record.base)
    )
    standing = Standing(record.figures, initial, previous, first=record.base == 0)
    fruitless = record.round - record.base - 1  # every round since the one that this one started from
    return decide_by_rules(gate.rules, standing, judges=gate.judges, patience=gate.patience, fruitless=fruitless)


def _tell(number: int, decision: Decision) -> None:
    """Say on the terminal what was decided, and of broken rules why."""
    console.print(f"round {number}: {decision.action}{', and the run ends' if decision.last else ''}")
    for reason in decision.reasons:
        if not reason.holds:
            console.print(f"  {reason.rule}: {reason.says}", soft_wrap=True, markup=False)


def ask(plan: Plan, rounds: list[RoundRecord]) -> Action | None:
    """Suspend a served run until it is resumed with a decision on its last round; None where nobody can resume it."""
    if runtime.deployment.id is None:
        return None
    number = rounds[-1].round
    question = f"{report(plan, rounds)}\n\n**Promote this policy, roll back to the one before, or promote and stop?**"
    form = suspend_flow_run(
        wait_for_input=GateForm.with_initial_data(description=question), key=f"gate-{number}", timeout=None
    )
    publish_decision(gate_spec(plan.layout, number), Decision(action=form.action, by="human", note=form.note))
    return settle(plan, rounds[-1])


def gate_spec(layout: RunLayout, number: int) -> GateSpec:
    """Where the decision on a finished round is kept, and on which policy and evaluation it is one.

    The policy is the one that the round ended with: of the update stage where there is one.
    """
    update = layout.stage(number, "update")
    policy = update if (update / MANIFEST).is_file() else layout.stage(number, "train")
    return GateSpec(
        folder=layout.stage(number, "gate"),
        round=number,
        seed=0,
        policy=Artifact.of_stage(policy) / "policy",
        evaluation=Artifact.of_stage(layout.stage(number, "evaluate")),
    )


def decide(run: Path, action: Action, note: str) -> int:
    """Record a person's decision on the last finished round of the run folder; returns that round.

    Raises UserError when there is no such folder or round, when the round is decided, or while the run is working.
    """
    layout = RunLayout(run)
    if not layout.config.is_file():
        raise UserError(
            "this is no run folder: config.yaml is missing", where=str(run), remedy="name one, e.g. runs/mine"
        )
    number = finished_rounds(layout)
    if number == 0:
        raise UserError("no round is finished yet", where=str(run), remedy="wait until one is")
    with owned(run):
        spec = gate_spec(layout, number)
        standing = read_decision(spec)
        if standing is not None:
            raise UserError(
                f"round {number} is decided: {standing.action}, by {standing.by}",
                where=str(spec.folder),
                remedy="to decide anew, remove that folder first; later rounds that build on it are then run again",
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
