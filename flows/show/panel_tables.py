"""Markdown tables of a round's panel: votes, reliability, cost and agreement of its annotators."""

import json
from collections.abc import Sequence

from flows.show.terminal import markdown_table
from flows.show.text import cell
from tasks.labeling.summary import Agreement, AnnotatorStats, Estimates, LabelSummary

_OUTCOMES = ("a", "b", "tie", "abstain", "error")
_SHARES = {
    "agrees with the panel": "agrees_with_panel",
    "with the others": "agrees_with_others",
    "with gold": "gold_accuracy",
    "prefers the first shown": "first_share",
    "same in both orders": "order_consistency",
    "prefers the longer": "longer_share",
}

_MANY = 0.1  # share of errors from which the terminal prints a line


def panel_tables(labels: LabelSummary) -> list[str]:
    """Lines of Markdown from the summary of a label stage."""
    rows = labels.annotators
    lines = markdown_table(
        ["annotator", *_OUTCOMES], [[row.annotator, *(str(count) for count in row.outcomes.values())] for row in rows]
    )
    lines += ["", *_trust(rows)]
    lines += _learnt(labels.learnt)
    if any(row.seconds is not None for row in rows):
        lines += ["", *_spent(rows)]
    if len(rows) > 1:
        lines += [
            "",
            "Share of equal votes, over comparisons that both voted on:",
            "",
            *_matrix(rows, labels.agreement),
        ]
    return lines


def _trust(rows: Sequence[AnnotatorStats]) -> list[str]:
    shown = {title: name for title, name in _SHARES.items() if any(getattr(row, name) is not None for row in rows)}
    cells = [
        [
            row.annotator,
            *(_share(getattr(row, name)) for name in shown.values()),
            f"{row.intransitive} of {row.triples}",
        ]
        for row in rows
    ]
    return markdown_table(["annotator", *shown, "cycles of three"], cells)


def _learnt(learnt: Estimates) -> list[str]:
    """What the estimation learnt about annotators, and for which of them it could not."""
    lines: list[str] = []
    if learnt.annotators:
        cells = [
            [name, "not known" if row.eta is None else f"{row.eta:.2f}", f"{row.used:.2f}", str(row.shared)]
            for name, row in learnt.annotators.items()
        ]
        lines += ["", *markdown_table(["annotator", "honest votes (estimate)", "counted as", "shared votes"], cells)]
    if unknown := learnt.not_identified:
        lines += ["", "The votes do not determine the reliability of these annotators; they count in full:", ""]
        lines += [f"- {cell(name)}: {cell(why)}" for name, why in unknown.items()]
    if learnt.groups:
        cells = [[name, *(f"{share:.2f}" for share in shares)] for name, shares in learnt.groups.items()]
        lines += ["", *markdown_table(["annotator", *(f"group {u + 1}" for u in range(len(cells[0]) - 1))], cells)]
    if penalties := learnt.length_penalties:
        lines += ["", *(f"- {cell(name)}: {alpha:g} less for each character" for name, alpha in penalties.items())]
    if learnt.temperatures:
        cells = [
            [name, f"{row.temperature:.3g}", "" if row.votes is None else str(row.votes), row.not_identified or ""]
            for name, row in learnt.temperatures.items()
        ]
        title = ["annotator", "scores that make a logit", "from others' votes", "why it is 1"]
        lines += ["", *markdown_table(title, [[cell(each) for each in row] for row in cells])]
    if learnt.prior_variance is not None:
        lines += ["", f"Prior variance of strengths, chosen from the votes: {learnt.prior_variance:g}"]
    if notes := learnt.notes:
        lines += ["", *(f"- {cell(note)}: {count}" for note, count in notes.items())]
    return lines


def complaints(labels: LabelSummary | None) -> list[str]:
    """One line for each annotator that needs attention because many of its votes are errors."""
    lines = []
    for row in labels.annotators if labels else []:
        votes = sum(row.outcomes.values())
        if row.error > _MANY * votes:
            unanswered = f", {row.unanswered} questions unanswered" if row.unanswered else ""
            lines.append(f"{row.annotator}: {row.error} of {votes} votes are errors{unanswered}; see `raw` in")
    return lines


def _spent(rows: Sequence[AnnotatorStats]) -> list[str]:
    cells = []
    for row in rows:
        if row.seconds is not None:
            faults = ", ".join(f"{count} {fault}" for fault, count in json.loads(row.faults).items()) or "none"
            tokens = "-" if row.tokens is None else f"{row.tokens:,}"
            cost = "-" if row.cost is None else f"{row.cost:.4f}"
            cells.append([row.annotator, f"{row.seconds:.1f}", tokens, cost, faults, str(row.unanswered)])
    return markdown_table(["annotator", "seconds", "tokens", "cost", "transport errors", "unanswered"], cells)


def _matrix(rows: Sequence[AnnotatorStats], agreement: Sequence[Agreement]) -> list[str]:
    names = [row.annotator for row in rows]
    same = {frozenset((row.annotator, row.other)): row.same for row in agreement}
    cells = [
        [one, *("" if one == other else _share(same.get(frozenset((one, other)))) for other in names)] for one in names
    ]
    return markdown_table(["", *names], cells)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
