"""What a run's panel will cost, from a probe: the policy answers a few prompts of round 1, and the panel votes on them.

The answers of the probe's annotators are kept with the run; round 1 does not ask again.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.table import Table

from conf.schema import RunConfig
from flows.checks import prepare_run
from flows.evaluation import labels_pairs
from flows.plan import Plan
from flows.specs import generate_spec, label_spec, select_spec
from flows.stages import BareStages
from storage.artifact import Artifact
from storage.errors import UserError
from storage.schemas import write_parquet
from tasks.engines import close_engines
from tasks.generation.prompts import ROUND
from tasks.labeling.summary import AnnotatorStats, LabelSummary
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.chat.settings import ChatSettings

PROBE = 32  # prompts


def asks_models(config: RunConfig) -> bool:
    """Whether the panel has annotators whose answers cost tokens."""
    return any(isinstance(annotator, ChatSettings) for annotator in config.panel.annotators.values())


def estimate(config: RunConfig) -> Table:
    """Probe the panel and project a round and the whole run. Raises UserError for what a run would be refused for."""
    if not Path(config.policy.path).is_dir() and config.policy.warmup is not None:
        raise UserError(
            "the initial policy has not been made yet, so that nothing can be probed",
            where=f"policy.path={config.policy.path}",
            remedy="start the run once (it makes the policy first), or see the plan alone: dry_run=plan",
        )
    plan = prepare_run(config)
    stages = BareStages()
    selected = stages(select_spec(plan, 1, stages.prompts(plan)))
    chosen = pq.read_table(selected.path / ROUND)
    folder = plan.layout.root / "probe"
    write_parquet(folder / ROUND, chosen[:PROBE])
    prompts = Artifact.of(folder / ROUND)
    panel = {name: each for name, each in config.panel.annotators.items() if not isinstance(each, HumanSettings)}
    policies = {"policy": plan.initial, "previous": plan.before_initial, "initial": plan.initial}
    sample = generate_spec(plan, 1, folder / "generate", policy=plan.initial, prompts=prompts, sampling=config.sampling)
    try:
        responses = stages(sample)
    finally:
        close_engines()
    labels = stages(
        label_spec(plan, 1, folder / "label", responses=responses, prompts=prompts, policies=policies, annotators=panel)
    ).manifest()
    summary = LabelSummary.model_validate(labels.summary)
    return _projection(plan, summary.annotators, len(chosen) / min(PROBE, len(chosen)), labels.seconds)


def _projection(plan: Plan, annotators: Sequence[AnnotatorStats], scale: float, seconds: float) -> Table:
    """scale: how many times the probe's prompts a round has. seconds: that the probe's votes took."""
    rounds = plan.config.rounds
    table = Table(
        title=f"what the panel will take, from {PROBE} prompts of round 1 (evaluation not included)",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
    )
    for heading in ("", "probe: tokens", "cost", "a round: tokens", "cost", f"{rounds} rounds: tokens", "cost"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    paid = [annotator for annotator in annotators if annotator.seconds is not None]
    tokens, cost = _sum([each.tokens for each in paid]), _sum([each.cost for each in paid])
    rows = [(each.annotator, each.tokens, each.cost) for each in paid]
    for name, row_tokens, row_cost in [*rows, ("in all", tokens, cost)]:
        cells = []
        for times in (1.0, scale, scale * rounds):
            cells.append("-" if row_tokens is None else f"{row_tokens * times:,.0f}")
            cells.append("-" if row_cost is None else f"{row_cost * times:,.4f}")
        table.add_row(name, *cells)
    budget = plan.config.panel.budget
    notes = [f"votes of a round take about {seconds * scale:.0f} s"]
    if labels_pairs(plan):
        notes.append("once a run the panel also votes on one pair of replies or more to each held-out prompt")
    for key, allowed, spent in (("tokens", budget.tokens, tokens), ("money", budget.money, cost)):
        if allowed is not None and spent is not None and spent * scale > allowed:
            notes.append(f"panel.budget.{key}={allowed:g} does not last for a round")
    table.caption = "; ".join(notes)
    table.caption_justify = "left"
    return table


def _sum(amounts: Sequence[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None
