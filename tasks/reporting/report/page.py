"""The page: the answer, then tables, charts and texts. All text from models, people and files is escaped."""

from collections.abc import Sequence
from pathlib import Path

from tasks.evaluation.divergence import Divergence
from tasks.reporting.duration import duration
from tasks.reporting.report import by_round, cost, harness, learning, mt_bench, panel, removed, samples, work
from tasks.reporting.report.answer import answer, changes_table
from tasks.reporting.report.drawing import Figure, text
from tasks.reporting.report.files import Round, RunFiles
from tasks.reporting.report.provenance import provenance
from tasks.reporting.report.tables import Cell, sheet
from tasks.reporting.verdict import nats

_HERE = Path(__file__).parent
FIGURE_STYLE = (_HERE / "figure.css").read_text(encoding="utf-8")
_PAGE_STYLE = (_HERE / "page.css").read_text(encoding="utf-8")
_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    # Nothing is fetched, whatever a text contains; the empty icon keeps browsers from requesting one.
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
    '<link rel="icon" href="data:,">'
)

Section = tuple[str, str, str]  # id, heading, HTML; empty sections are not shown


def page(files: RunFiles) -> tuple[str, list[Figure]]:
    """The HTML file, and its figures in page order."""
    rounds = files.rounds
    labelled = [round_ for round_ in rounds if round_.labels]
    groups = {
        "rounds": by_round.charts(files),
        "categories": cost.category_charts(files),
        "rates": by_round.rate_charts(files),
        "cost": cost.charts(files),
        "replies": cost.reply_charts(files),
        "panel": panel.charts(labelled),
        "training": work.training_charts(rounds),
        "work": work.time_chart(rounds) + work.money_chart(rounds),
    }
    sizes = {"rounds": "large", "cost": "large", "rates": "small", "replies": "small"}
    drawn = {name: _figures(figures, sizes.get(name, "")) for name, figures in groups.items()}
    hollow = any(by_round.rolled_back(round_) for round_ in files.evaluated)
    marked = _note("Hollow markers are rounds that were rolled back.") if hollow else ""
    rates = _note(by_round.RATES) + drawn["rates"] if drawn["rates"] else ""
    like = _note(cost.REPLIES) + drawn["replies"] if drawn["replies"] else ""
    sections: list[Section] = [
        ("changes", "Initial policy and now", changes_table(files)),
        ("rounds", "Rounds at a glance", _glance(files) + marked + drawn["rounds"] if files.evaluated else ""),
        ("categories", "By category", drawn["categories"] + cost.category_table(files)),
        ("rates", "Rates on held-out prompts", rates),
        ("harness", "Benchmarks", harness.table(files.evaluated)),
        ("mt-bench", "MT-Bench", mt_bench.table(files.evaluated)),
        (
            "cost",
            "What the gain costs",
            drawn["cost"] + cost.length_table(files) + cost.calibration_table(files) + like,
        ),
        ("gate", "Decisions", _decisions(rounds)),
        ("panel", "The panel", drawn["panel"]),
        ("training", "Training", learning.table(rounds) + drawn["training"]),
        ("work", "Time and cost", drawn["work"] + _spent(rounds)),
        ("replies", "Held-out replies, not hand-picked", samples.heldout(files.evaluated)),
        ("pairs", "Labelled pairs, not hand-picked", samples.labelled(labelled)),
        ("removed", "Removed policies", removed.table(rounds)),
        ("provenance", "Provenance", provenance(files.run)),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{text(heading)}</a>' for name, heading, _ in shown)
    body = "".join(f'<section id="{n}"><h2>{text(heading)}</h2>{inner}</section>' for n, heading, inner in shown)
    nothing = "" if files.evaluated else "<p>No round has been evaluated yet.</p>"
    html = (
        f'<!doctype html><html lang="en"><head>{_HEAD}<title>{text(files.name)}: report of the run</title>'
        f"<style>{FIGURE_STYLE}{_PAGE_STYLE}{samples.STYLE}</style></head><body><main>"
        f'<h1>{text(files.name)}</h1><p class="quiet">{text(_subtitle(files))}</p>'
        f"{answer(files)}<nav>{links}</nav>{nothing}{body}</main></body></html>\n"
    )
    return html, [figure for figures in groups.values() for figure in figures]


def _subtitle(files: RunFiles) -> str:
    config = files.run.config
    objective, prompts = config.get("objective") or {}, config.get("prompts") or {}
    parts = [
        f"objective {objective['name']}" if "name" in objective else "",
        f"initial policy {(config.get('policy') or {}).get('path')}" if config.get("policy") else "",
        f"prompts {prompts['path']}" if "path" in prompts else "",
        f"seed {config['seed']}" if "seed" in config else "",
    ]
    return " · ".join(part for part in parts if part)


def _figures(figures: Sequence[Figure], size: str) -> str:
    drawn = ""
    for figure in figures:
        caption = f"<figcaption>{text(figure.caption)}</figcaption>" if figure.caption else ""
        drawn += f'<figure id="figure-{figure.name}">{figure.svg()}{caption}</figure>'
    return f'<div class="figures {size}">{drawn}</div>' if drawn else ""


def _note(note: str) -> str:
    return f'<p class="quiet">{text(note)}</p>'


def _glance(files: RunFiles) -> str:
    """One row per round."""
    sources = [(s, j) for s in ("initial", "previous") for j in files.judges
               if any(j in round_.win_rates(s) for round_ in files.evaluated)]  # fmt: skip
    headings: list[Cell] = ["round", "from", "decision"]
    headings += [(f"win vs {source}", judge) for source, judge in sources]
    headings += ["KL, nats", "tokens", "finished", "unique", "time"]
    rows: list[list[Cell]] = []
    for round_ in files.evaluated:
        figures = round_.figures
        rates_by_judge = [round_.win_rates(source).get(judge) for source, judge in sources]
        rates: list[Cell] = [
            (f"{r['mean']:.3f}", f"{r['low']:.3f}–{r['high']:.3f}") if r else "–" for r in rates_by_judge
        ]
        name, base = (str(round_.number), str(round_.base)) if round_.number else ("initial", "–")
        kl = nats(Divergence(**figures["kl"]))
        shares = [f"{figures[share]:.3f}" for share in ("finish_rate", "unique_rate")]
        took = duration(sum(round_.seconds.values()))
        rows.append([name, base, _action(round_), *rates, kl, f"{figures['tokens']:.1f}", *shares, took])
    note = (
        "95 % intervals. From: the round whose policy this one started from (0: the initial policy). Finished: share "
        "of replies that ended before the token limit. Unique: share of distinct replies."
    )
    return sheet(headings, rows) + _note(note)


def _action(round_: Round) -> str:
    if not round_.number:
        return "–"
    return (
        "waits" if round_.decision is None else round_.decision.action + (", run ends" if round_.decision.last else "")
    )


def _decisions(rounds: Sequence[Round]) -> str:
    """One row per decided round, with the result of every rule; empty for a run without a gate."""
    decided = [(round_, round_.decision) for round_ in rounds if round_.decision]
    if all(decision.by == "none" for _, decision in decided):
        return ""
    who = {"none": "no gate", "policy": "rules", "human": "a person"}
    rows: list[list[Cell]] = []
    for round_, decision in decided:
        results = [(r.holds, f"{r.rule} {'holds' if r.holds else 'is broken'}: {r.says}") for r in decision.reasons]
        rows.append(
            [
                str(round_.number),
                _action(round_),
                who.get(decision.by, decision.by),
                ("" if results else decision.note, results),
            ]
        )
    return sheet(["round", "decision", "by", "why"], rows, words=True)


def _spent(rounds: Sequence[Round]) -> str:
    rows: list[list[Cell]] = [
        [str(spent.round), spent.name, "–" if spent.tokens is None else f"{spent.tokens:,}",
         "–" if spent.cost is None else f"{spent.cost:.4f}"]
        for round_ in rounds for spent in round_.spent
    ]  # fmt: skip
    return sheet(["round", "annotator", "tokens", "cost"], rows) if rows else ""
