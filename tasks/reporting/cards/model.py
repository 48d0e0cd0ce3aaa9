"""The card of a round's policy: README.md in its folder, as the Hugging Face hub shows it."""

from collections.abc import Mapping
from typing import Any

import yaml

from tasks.reporting.cards.text import cell, licence, named, table, value, versions
from tasks.reporting.report.files import Round, RunFiles


def model_card(files: RunFiles, round_: Round) -> str:
    """YAML metadata and Markdown. round_: an evaluated round."""
    config = files.run.config
    objective, base = config.get("objective") or {}, (config.get("policy") or {}).get("path", "")
    method = str(objective.get("name", "unknown"))
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if _hub_id(base):
        metadata |= {"base_model": base, "base_model_relation": "finetune"}
    metadata |= licence(config)
    metadata |= {
        "tags": list(dict.fromkeys(["irepo", "preference-optimization", method])),
        "model-index": [_index(files, round_)],
    }
    sections = [
        f"# {files.name}, round {round_.number}",
        f"A policy aligned by irepo in {round_.number} round(s) with the objective `{method}`, from `{named(base)}`. "
        + _source(config),
        *_decision(round_),
        "## Method",
        _settings(objective),
        "## Data",
        *_data(files, round_),
        "## Annotators",
        *annotators(round_),
        "## Results",
        "On held-out prompts, with 95 % intervals. Win rates count a tie as half a win.",
        *table(["", "", "95 % interval"], _results(round_)),
        "## Limits of these figures",
        "Win rates are the judges' opinions, and judges may share errors. LC (minimal) is not AlpacaEval's figure. "
        "Safety, prompts other than the run's own, and judgements from outside the run were not measured.",
        "## Provenance",
        *_provenance(round_),
        *versions(round_),
    ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(sections) + "\n"


def _source(config: Mapping[str, Any]) -> str:
    if config.get("data"):
        return "The policy is trained on the pairs of a preference set."
    return (
        "In every round the current policy responds to prompts, a panel of annotators votes on the responses, and the "
        "policy is trained on those votes."
    )


def _hub_id(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~", "artifacts/", "runs/"))


def _settings(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {cell(setting)}" for name, setting in settings.items()) or "not recorded"


def _decision(round_: Round) -> list[str]:
    if round_.decision is None or round_.decision.by == "none":
        return []
    note = f": {cell(round_.decision.note)}" if round_.decision.note else ""
    return [f"At the gate: **{round_.decision.action}**, by {round_.decision.by}{note}."]


def _data(files: RunFiles, round_: Round) -> list[str]:
    prompts = files.run.config.get("prompts") or {}
    lines = [f"- prompts: `{named(prompts.get('path'))}`"]
    if data := files.run.config.get("data"):
        lines = [f"- preference set: `{named(data.get('path'))}`, {round_.stages['pairs'].rows['preferences']} pairs"]
    if round_.labels:
        dropped = ", ".join(f"{count} {reason}" for reason, count in round_.labels["dropped"].items() if count)
        lines.append(f"- pairs of this round: {round_.labels['pairs']} of {round_.labels['comparisons']} comparisons "
                     f"(left out: {dropped or 'none'})")  # fmt: skip
    if (evaluation := round_.stages["evaluate"]).rows:
        lines.append(f"- held out: {evaluation.rows['prompts']} prompts, {evaluation.rows['responses']} responses")
    return ["\n".join(lines)]


def annotators(round_: Round) -> list[str]:
    """Annotators with their votes; the dataset card has the same table."""
    if not round_.labels:
        return ["not recorded"]
    rows = []
    for row in round_.labels["annotators"]:
        shown = [row["agrees_with_others"], row["order_consistency"]]
        counts = " / ".join(str(row[outcome]) for outcome in ("a", "b", "tie", "abstain", "error"))
        rows.append([cell(row["annotator"]), row["kind"], counts, *("–" if x is None else f"{x:.2f}" for x in shown)])
    headings = ["annotator", "kind", "votes a / b / tie / abstain / error", "agrees with others", "same in both orders"]
    return table(headings, rows)


def _results(round_: Round) -> list[list[str]]:
    figures = round_.figures
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


def _index(files: RunFiles, round_: Round) -> dict[str, Any]:
    metrics = [
        {"type": "win_rate", "name": f"win rate against {source}, by {judge}", "value": round(rate["mean"], 4)}
        for source, judges in round_.figures["win_rate"].items()
        for judge, rate in judges.items()
    ]
    metrics.append({"type": "kl", "name": "KL to the initial policy, nats a reply",
                    "value": round(round_.figures["kl"]["mean"], 4)})  # fmt: skip
    dataset = {"type": "held-out-prompts", "name": "held-out prompts of the run"}
    result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}
    return {"name": f"{files.name}, round {round_.number}", "results": [result]}


def _provenance(round_: Round) -> list[str]:
    rows = [
        [name, f"`{stage.content[:16]}`", stage.started, f"{stage.seconds:.1f}"]
        for name, stage in round_.stages.items()
    ]
    return table(["stage", "content (sha256)", "started (UTC)", "seconds"], rows)
