"""What a run will take, from its probe: minutes, disk, tokens and money, by stage, round and run.

What was measured is scaled to the run's numbers of prompts; every line says from what.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.schema import RunConfig
from flows.checks import needs_warmup, prepare_run
from flows.plan import Plan
from flows.probe import Probe, run_probe
from storage.errors import UserError
from storage.manifest import Manifest
from tasks.labeling.summary import LabelSummary
from tasks.training.metrics import TrainSummary

RESPONSES, JUDGEMENTS = "evaluate/responses", "evaluate/judgements"
#: Stages whose work does not grow with the prompts, and folders of weights, whose size does not.
_FIXED, _WEIGHTS = ("prompts", "update", "reference"), ("policy/", "adapter/")


@dataclass(frozen=True)
class Line:
    """One stage: seconds of the probe, of a round and of the run; bytes on disk of a round and of the run.

    basis: what the figures were measured on, and what is assumed.
    """

    stage: str
    probe: float
    round: float | None  # None: not a part of a round
    run: float
    round_bytes: float
    run_bytes: float
    basis: str


@dataclass(frozen=True)
class Usage:
    """Tokens and money of one chat model: in the probe, in a round (None: not in rounds) and in the run.

    tokens, cost: None where the annotator counts none. by_round, by_run: the probe's amounts times this.
    """

    name: str
    tokens: float | None
    cost: float | None
    by_round: float | None
    by_run: float


@dataclass(frozen=True)
class Estimate:
    """lines: stages in order. usages: chat models. free: bytes free on the disk of the run folder."""

    rounds: int
    lines: list[Line]
    usages: list[Usage]
    peak: int
    free: int
    notes: list[str]

    @property
    def round_seconds(self) -> float:
        return sum(line.round or 0.0 for line in self.lines)

    @property
    def run_seconds(self) -> float:
        return sum(line.run for line in self.lines)

    @property
    def round_bytes(self) -> float:
        return sum(line.round_bytes for line in self.lines)

    @property
    def run_bytes(self) -> float:
        return sum(line.run_bytes for line in self.lines)


def estimate(config: RunConfig) -> Estimate:
    """Probe the run and project it. Raises UserError for what the run would be refused for."""
    if needs_warmup(config.policy):
        raise UserError(
            "the initial policy has not been made yet, so that nothing can be probed",
            where=f"policy.path={config.policy.path}",
            remedy="start the run once (it makes the policy first), or see the plan alone: dry_run=plan",
        )
    plan = prepare_run(config)
    return project(plan, run_probe(plan))


def project(plan: Plan, probe: Probe) -> Estimate:
    """The probe's figures for the numbers of prompts, rounds and epochs of `plan`."""
    config = plan.config
    scales = _Scales(
        prompts=probe.of_prompts / probe.prompts,
        held_out=probe.of_held_out / max(1, probe.held_out),
        rounds=config.rounds,
        epochs=config.training.epochs,
        judging=_later_judging(config),
    )
    lines = [*_start_lines(probe, scales), *(_line(name, each, probe, scales) for name, each in probe.round.items())]
    usages = _usages(plan, probe, scales)
    free = shutil.disk_usage(plan.layout.root).free
    result = Estimate(config.rounds, lines, usages, probe.peak, free, [])
    result.notes.extend(_notes(config, probe, result))
    return result


@dataclass(frozen=True)
class _Scales:
    """From the probe to the run. judging: comparisons of a later round for each of the first round."""

    prompts: float
    held_out: float
    rounds: int
    epochs: int
    judging: float

    def of(self, stage: str) -> float:
        if stage in _FIXED:
            return 1.0
        return self.held_out if stage.startswith(("evaluate", "against/")) else self.prompts

    def in_run(self, stage: str) -> float:
        """How many of the first round's are in the run."""
        return 1 + (self.rounds - 1) * (self.judging if stage == JUDGEMENTS else 1.0)


def _later_judging(config: RunConfig) -> float:
    """Later rounds are compared with the policy before them too."""
    others = len(config.evaluation.against)
    return (2 + others) / (1 + others)


def _start_lines(probe: Probe, scales: _Scales) -> list[Line]:
    """The engine's start, which the first stage of the run pays for, and round 0."""
    first, again = probe.start[RESPONSES].seconds, probe.round[RESPONSES].seconds
    opening = max(0.0, first - again)
    seconds = sum(each.seconds for each in probe.start.values()) - opening
    size = sum(_bytes(name, each, scales) for name, each in probe.start.items())
    return [
        Line("engine's start", opening, None, opening, 0, 0, "measured: the first sampling less the second one"),
        Line(
            "round 0 (initial policy)",
            seconds,
            None,
            seconds * scales.held_out,
            0,
            size,
            _of_held_out(probe),
        ),
    ]


def _line(name: str, manifest: Manifest, probe: Probe, scales: _Scales) -> Line:
    scale, basis = scales.of(name), _of_held_out(probe) if name.startswith("evaluate") else _of_prompts(probe)
    seconds = manifest.seconds * scale
    if name == "train":
        parts = TrainSummary.model_validate(manifest.summary).seconds
        around = max(0.0, manifest.seconds - parts.prepare - parts.optimize)
        seconds = around + (parts.prepare + parts.optimize * scales.epochs) * scale
        basis = f"one step of {_of_prompts(probe).removeprefix('measured on ')}; {scales.epochs} epochs"
    elif name in _FIXED:
        basis = "measured; the same for any number of prompts"
    elif name == JUDGEMENTS and scales.rounds > 1:
        basis += f"; later rounds x {scales.judging:g}, assumed"
    size = _bytes(name, manifest, scales)
    times = scales.in_run(name)
    return Line(name, manifest.seconds, seconds, seconds * times, size, size * times, basis)


def _bytes(name: str, manifest: Manifest, scales: _Scales) -> float:
    return sum(entry.bytes * (1.0 if entry.path.startswith(_WEIGHTS) else scales.of(name)) for entry in manifest.files)


def _of_prompts(probe: Probe) -> str:
    return f"measured on {probe.prompts} of {probe.of_prompts} prompts"


def _of_held_out(probe: Probe) -> str:
    return f"measured on {probe.held_out} of {probe.of_held_out} held-out prompts"


def _usages(plan: Plan, probe: Probe, scales: _Scales) -> list[Usage]:
    usages = []
    rounds = scales.rounds
    if "label" in probe.round:
        for name, tokens, cost in _panel_usage(probe.round["label"]):
            usages.append(Usage(name, tokens, cost, scales.prompts, scales.prompts * rounds))
    if "evaluate/pairs" in probe.start:
        for name, tokens, cost in _panel_usage(probe.start["evaluate/pairs"]):
            usages.append(Usage(f"held-out pairs: {name}", tokens, cost, None, scales.held_out))
    for name, (tokens, cost) in _judges_usage(probe.folder / "round-01" / JUDGEMENTS).items():
        in_run = scales.held_out * scales.in_run(JUDGEMENTS)
        usages.append(Usage(f"evaluation: {name}", tokens, cost, scales.held_out, in_run))
    return [usage for usage in usages if usage.tokens is not None or usage.cost is not None]


def _panel_usage(manifest: Manifest) -> list[tuple[str, float | None, float | None]]:
    """Nothing for the held-out pairs of a preference set, on which nobody votes."""
    if manifest.stage != "label":
        return []
    summary = LabelSummary.model_validate(manifest.summary)
    return [(each.annotator, each.tokens, each.cost) for each in summary.annotators]


def _judges_usage(folder: Path) -> Mapping[str, tuple[float | None, float | None]]:
    """Tokens and cost of every judge and rate; of scores the judge that is also a rate counts once."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for file in ("votes.parquet", "scores.parquet"):
        table = pq.read_table(folder / file, columns=["annotator", "tokens", "cost"])
        for name in pc.unique(table["annotator"]).to_pylist():
            rows = table.filter(pc.equal(table["annotator"], name))
            amounts = pc.sum(rows["tokens"]).as_py(), pc.sum(rows["cost"]).as_py()
            if name not in found or found[name] == (None, None):
                found[name] = amounts
    return found


def _notes(config: RunConfig, probe: Probe, result: Estimate) -> list[str]:
    notes = [
        "assumed: time and disk grow with the number of prompts, so that a round is at most as long as said where a"
        " larger batch is faster; later rounds are like the first, and replies keep the initial policy's length"
    ]
    if probe.people:
        who = ", ".join(probe.people)
        instead = "; a rule (the shorter reply wins) voted in their place" if probe.stand_in else ""
        notes.append(f"people ({who}) were not asked, and their time is not included{instead}")
    if config.mixing.replay:
        notes.append("mixing.replay: later rounds train on more pairs than the first; not included")
    left_out = [
        name
        for name, there in (
            ("lm-eval's tasks (harness)", bool(config.harness.tasks)),
            ("MT-Bench", config.mt_bench.questions is not None),
        )
        if there
    ]
    if left_out:
        notes.append(f"not included: {' and '.join(left_out)}")
    if result.run_bytes > result.free:
        notes.append("the run does not fit on the disk: free space, or choose another folder with runs=<folder>")
    notes.extend(_budget_notes(config, result))
    return notes


def _budget_notes(config: RunConfig, result: Estimate) -> list[str]:
    panel = [usage for usage in result.usages if ":" not in usage.name and usage.by_round is not None]
    budget = config.panel.budget
    notes: list[str] = []
    spent = {
        "tokens": sum((usage.tokens or 0) * (usage.by_round or 0) for usage in panel),
        "money": sum((usage.cost or 0) * (usage.by_round or 0) for usage in panel),
        "seconds": next((line.round or 0.0 for line in result.lines if line.stage == "label"), 0.0),
    }
    for key, allowed in (("tokens", budget.tokens), ("money", budget.money), ("seconds", budget.seconds)):
        if allowed is not None and spent[key] > allowed:
            notes.append(f"panel.budget.{key}={allowed:g} does not last for a round")
    return notes
