"""The card of a round's policy: README.md in its folder, as the Hugging Face hub shows it."""

from collections.abc import Mapping
from typing import Any

import yaml

from tasks.reporting.cards.text import cell, licence, named, table, value, versions
from tasks.reporting.report.files import Round, RunFiles


def model_card(files: RunFiles, of: Round) -> str:
    """YAML metadata and Markdown. of: an evaluated round."""
    config = files.run.config
    objective, base = config.get("objective") or {}, (config.get("policy") or {}).get("path", "")
    method = str(objective.get("name", "unknown"))
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if _hub_id(base):
        metadata |= {"base_model": base, "base_model_relation": "finetune"}
    metadata |= licence(config)
    metadata |= {
        "tags": list(dict.fromkeys(["irepo", "preference-optimization", method])),
        "model-index": [_index(files, of)],
    }
    sections = [
        f"# {files.name}, round {of.number}",
        f"A policy aligned by irepo in {of.number} round(s) with the objective `{method}`, from `{named(base)}`. "
        "In every round the current policy responds to prompts, a panel of annotators votes on the responses, and the "
        "policy is trained on those votes.",
        *_decision(of),
        "## Method",
        _settings(objective),
        "## Data",
        *_data(files, of),
        "## Annotators",
        *annotators(of),
        "## Results",
        "On held-out prompts, with 95 % intervals. Win rates count a tie as half a win.",
        *table(["", "", "95 % interval"], _results(of)),
        "## Limits of these figures",
        "Win rates are the judges' opinions, and judges may share errors. LC (minimal) is not AlpacaEval's figure. "
        "Safety, prompts other than the run's own, and judgements from outside the run were not measured.",
        "## Provenance",
        *_provenance(of),
        *versions(of),
    ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(sections) + "\n"


def _hub_id(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~", "artifacts/", "runs/"))


def _settings(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {cell(each)}" for name, each in settings.items()) or "not recorded"


def _decision(of: Round) -> list[str]:
    if of.decision is None or of.decision.by == "none":
        return []
    note = f": {cell(of.decision.note)}" if of.decision.note else ""
    return [f"At the gate: **{of.decision.action}**, by {of.decision.by}{note}."]


def _data(files: RunFiles, of: Round) -> list[str]:
    prompts = files.run.config.get("prompts") or {}
    lines = [f"- prompts: `{named(prompts.get('path'))}`"]
    if of.labels:
        dropped = ", ".join(f"{count} {reason}" for reason, count in of.labels["dropped"].items() if count)
        lines.append(f"- pairs of this round: {of.labels['pairs']} of {of.labels['comparisons']} comparisons "
                     f"(left out: {dropped or 'none'})")  # fmt: skip
    if (evaluation := of.stages["evaluate"]).rows:
        lines.append(f"- held out: {evaluation.rows['prompts']} prompts, {evaluation.rows['responses']} responses")
    return ["\n".join(lines)]


def annotators(of: Round) -> list[str]:
    """Annotators with their votes; the dataset card has the same table."""
    if not of.labels:
        return ["not recorded"]
    rows = []
    for row in of.labels["annotators"]:
        shown = [row["agrees_with_others"], row["order_consistency"]]
        counts = " / ".join(str(row[outcome]) for outcome in ("a", "b", "tie", "abstain", "error"))
        rows.append([cell(row["annotator"]), row["kind"], counts, *("–" if x is None else f"{x:.2f}" for x in shown)])
    headings = ["annotator", "kind", "votes a / b / tie / abstain / error", "agrees with others", "same in both orders"]
    return table(headings, rows)


def _results(of: Round) -> list[list[str]]:
    figures = of.figures
    rows = []
    for source, judges in figures["win_rate"].items():
        for judge, rate in judges.items():
            rows.append([f"win rate against {cell(source)}, by {cell(judge)}", *value(rate)])
            if effect := figures.get("length", {}).get(source, {}).get(judge):
                rows.append([f"the same at equal length, LC (minimal), by {cell(judge)}", *value(effect["controlled"])])
    kl = figures["kl"]
    half = None if kl["se"] is None else 1.96 * kl["se"]
    ends = "" if half is None else f"{kl['mean'] - half:.3f} to {kl['mean'] + half:.3f}"
    rows.append(["KL to the initial policy, nats a reply", f"{kl['mean']:.3f}", ends])
    rows += [[cell(name), *value(rate)] for name, rate in figures["rates"].items()]
    rows += [[f"replies: {name}", *value(rate)] for name, rate in figures.get("replies", {}).items()]
    if calibrated := figures.get("calibration"):
        rows.append(["calibration slope of the implicit reward", *value(calibrated["slope"])])
    return rows


def _index(files: RunFiles, of: Round) -> dict[str, Any]:
    metrics = [
        {"type": "win_rate", "name": f"win rate against {source}, by {judge}", "value": round(rate["mean"], 4)}
        for source, judges in of.figures["win_rate"].items()
        for judge, rate in judges.items()
    ]
    metrics.append({"type": "kl", "name": "KL to the initial policy, nats a reply",
                    "value": round(of.figures["kl"]["mean"], 4)})  # fmt: skip
    dataset = {"type": "held-out-prompts", "name": "held-out prompts of the run"}
    result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}
    return {"name": f"{files.name}, round {of.number}", "results": [result]}


def _provenance(of: Round) -> list[str]:
    rows = [
        [name, f"`{stage.content[:16]}`", stage.started, f"{stage.seconds:.1f}"] for name, stage in of.stages.items()
    ]
    return table(["stage", "content (sha256)", "started (UTC)", "seconds"], rows)
