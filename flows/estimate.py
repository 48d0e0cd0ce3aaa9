"""What a run's panel will cost, from a probe: the policy answers a few prompts of round 1, and the panel votes on them.

What the probe's annotators said is kept with the run: round 1 does not ask for it again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.table import Table

from conf.schema import RunConfig
from flows.evaluation import labels_pairs
from flows.plan import Plan
from flows.preflight import prepare_run
from storage.errors import UserError
from storage.manifest import read_manifest
from storage.schemas import write_parquet
from tasks.generate import close_engines, kept_engine
from tasks.generation.prompts import ROUND, run_select
from tasks.generation.stage import run as run_generate
from tasks.labeling.stage import run as run_label
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
    prompts = read_manifest(plan.layout.prompts).content
    selected = run_select(plan.select(1, {"prompts": prompts}))
    chosen = pq.read_table(plan.layout.stage(1, "prompts") / ROUND)
    folder = plan.layout.root / "probe"
    write_parquet(folder / ROUND, chosen[:PROBE])
    probe = {"folder": folder / "generate", "prompts": folder / ROUND}
    inputs = {"prompts": selected.content, "policy": "probe"}
    generate = plan.generate(1, 0, inputs).model_copy(update=probe)
    try:
        engine = kept_engine(config.engine, trust_remote_code=config.policy.trust_remote_code)
        generated = run_generate(generate, engine=engine)
    finally:
        close_engines()
    inputs = {"prompts": selected.content, "responses": generated.content}
    paths: dict[str, Any] = {"folder": folder / "label", "responses": folder / "generate", "prompts": folder / ROUND}
    spec = plan.label(1, 0, 0, inputs)
    panel = {name: each for name, each in spec.settings.annotators.items() if each.kind != "human"}
    paths["settings"] = spec.settings.model_copy(update={"annotators": panel})
    labelled = run_label(spec.model_copy(update=paths))
    return _projection(plan, labelled.summary["annotators"], len(chosen) / min(PROBE, len(chosen)), labelled.seconds)


def _projection(plan: Plan, rows: Sequence[dict[str, Any]], scale: float, seconds: float) -> Table:
    """`scale`: how many times the probe's prompts a round has."""
    rounds = plan.config.rounds
    table = Table(
        title=f"what the panel will take, from {PROBE} prompts of round 1 (evaluation not included)",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
    )
    for heading in ("", "probe: tokens", "cost", "a round: tokens", "cost", f"{rounds} rounds: tokens", "cost"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    asked = [row for row in rows if row["seconds"] is not None]
    total: dict[str, Any] = {"annotator": "in all"} | {name: _sum(asked, name) for name in ("tokens", "cost")}
    for row in [*asked, total]:
        cells = [
            _amount(None if row[name] is None else row[name] * times, name)
            for times in (1.0, scale, scale * rounds)
            for name in ("tokens", "cost")
        ]
        table.add_row(row["annotator"], *cells)
    budget = plan.config.panel.budget
    notes = [f"votes of a round take about {seconds * scale:.0f} s"]
    if labels_pairs(plan):
        notes.append("once a run the panel also votes on one pair of replies or more to each held-out prompt")
    for name, allowed in (("tokens", budget.tokens), ("cost", budget.money)):
        if allowed is not None and total[name] is not None and total[name] * scale > allowed:
            key = "money" if name == "cost" else name
            notes.append(f"panel.budget.{key}={allowed:g} does not last for a round")
    table.caption = "; ".join(notes)
    table.caption_justify = "left"
    return table


def _sum(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) if known else None


def _amount(value: float | None, name: str) -> str:
    return "-" if value is None else f"{value:,.0f}" if name == "tokens" else f"{value:,.4f}"
