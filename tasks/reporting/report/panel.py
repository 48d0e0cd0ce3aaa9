"""Charts of the panel: agreement between annotators, their biases, their votes, and the resulting targets."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.reporting.report.drawing import (
    INSET,
    WIDTH,
    Figure,
    Scale,
    header,
    label,
    lettering,
    listed,
    marker,
    number,
    rectangle,
    segment,
    short,
    text,
    ticks,
)  # fmt: skip
from tasks.reporting.report.files import Round
from tasks.reporting.report.lettering import width as text_width

Row = Mapping[str, Any]

_NAMES = 106.0  # right end of annotators' names
_LINE = 24.0
_SLOPE = 40  # degrees of the names below the triangle
_TOP = 62.0
_NUMBERED = 11  # annotators; with more, cells have no room for numbers

_SHARES = {
    "agrees_with_panel": ("with the panel", "share of its votes that chose what the panel prefers"),
    "agrees_with_others": ("with the others", "share that agrees with the majority of the other annotators"),
    "gold_accuracy": ("with gold", "share that is correct where gold decides"),
    "order_consistency": ("same in both orders", "share of comparisons with one verdict in both orders"),
    "first_share": ("first shown", "share of verdicts for the reply shown first; ½ is no bias"),
    "longer_share": ("longer", "share of votes for the longer reply; ½ is no bias"),
}
_OUTCOMES = {"a": "first", "b": "second", "tie": "tie", "abstain": "abstain", "error": "error"}


def charts(labelled: Sequence[Round]) -> list[Figure]:
    """Charts of the last labelled round, and targets of all labelled rounds."""
    if not labelled:
        return []
    last = labelled[-1]
    assert last.labels is not None
    rows = last.labels["annotators"]
    figures = [_votes(rows, last.number), _leanings(rows, last.number)]
    if len(rows) > 1 and last.labels["agreement"]:
        figures.append(_agreement([row["annotator"] for row in rows], last.labels["agreement"], last.number))
    return figures + target_charts(labelled)


def _agreement(names: Sequence[str], pairs: Sequence[Row], round_number: int) -> Figure:
    """Cohen's kappa of every pair of annotators, as a triangle."""
    kappas = {frozenset((pair["annotator"], pair["other"])): pair["kappa"] for pair in pairs}
    size = (WIDTH - _NAMES - 4) / (len(names) - 1)
    tall = min(size, 30.0)
    top = _TOP - 14
    title = f"Agreement between annotators, round {round_number}"
    parts = [header(title, "Cohen's κ: 0 is chance, 1 is always; outlined: below chance")]
    descriptions = []
    for row, one in enumerate(names[1:], 1):
        y = top + (row - 1) * tall
        parts.append(label(_NAMES - 8, y + tall / 2 + 4, short(one, 15), "row", "end", room=_NAMES - 8))
        for column, other in enumerate(names[:row]):
            kappa = kappas.get(frozenset((one, other)))
            value = "not known" if kappa is None else f"{kappa:.2f}"
            descriptions.append(f"{other} and {one} {value}")
            parts.append(_cell(_NAMES + column * size, y, size, tall, kappa, f"{other} and {one}: κ {value}"))
            if kappa is not None and len(names) <= _NUMBERED:
                on = " on" if kappa > 0.55 else ""
                words = f"{kappa:.2f}".replace("0.", ".").replace("-.00", ".00")
                parts.append(
                    label(_NAMES + (column + 0.5) * size, y + tall / 2 + 4, words, f"cell{on}", "middle", room=size - 2)
                )
    foot = top + (len(names) - 1) * tall + 12
    longest = 0.0
    for column, name in enumerate(names[:-1]):
        x = _NAMES + (column + 0.5) * size + 3
        words = short(name, 15)
        longest = max(longest, text_width(words, "row"))
        parts.append(
            f'<text transform="translate({number(x)} {number(foot)}) rotate(-{_SLOPE})" class="row" '
            f'text-anchor="end"{lettering(words, "row")}>{text(words)}</text>'
        )
    caption = (
        "Agreement beyond chance, over all comparisons on which both voted first, second or tie. Annotators that "
        "always agree count twice; those at 0 vote on something else, or at random."
    )
    return Figure(
        "agreement",
        title,
        f"{title}. {listed(descriptions)}.",
        foot + 8 + longest * math.sin(math.radians(_SLOPE)),
        "".join(parts),
        caption,
    )


def _cell(x: float, y: float, width: float, height: float, kappa: float | None, tip: str) -> str:
    inner = f"<title>{text(tip)}</title>"
    where = f'x="{number(x + 1)}" y="{number(y + 1)}" width="{number(width - 2)}" height="{number(height - 2)}" rx="2"'
    if kappa is None:
        return f'<rect {where} class="absent">{inner}</rect>'
    kind = "heat below" if kappa < -0.005 else "heat"
    return f'<rect {where} class="{kind}" fill-opacity="{0.06 + 0.9 * max(kappa, 0):.2f}">{inner}</rect>'


def _leanings(rows: Sequence[Row], round_number: int) -> Figure:
    """Shares 0..1 by annotator: one line per annotator, one marker per share."""
    shown = {name: words for name, words in _SHARES.items() if any(row[name] is not None for row in rows)}
    legend = -(-len(shown) // 2) * 17
    top = 46.0 + legend
    scale = Scale(0.0, 1.0, _NAMES + 6, WIDTH - 12)
    bottom = top + len(rows) * _LINE
    title = f"Agreement and biases, round {round_number}"
    parts = [header(title, "shares of an annotator's votes; ½ is marked")]
    for i, (words, _) in enumerate(shown.values()):
        x, y = (0.0 if i % 2 == 0 else WIDTH / 2) + 6, 50.0 + (i // 2) * 17
        parts += [marker(x, y - 4, i, words), label(x + 9, y, words, "row", room=WIDTH / 2 - 15)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        classes = "reference" if share == 0.5 else "grid"
        parts.append(segment((scale.at(share), top), (scale.at(share), bottom), classes))
        parts.append(label(scale.at(share), bottom + 15, f"{share:g}", "tick", "middle"))
    descriptions = []
    for line, row in enumerate(rows):
        y = top + (line + 0.5) * _LINE
        parts.append(label(_NAMES - 8, y + 4, short(row["annotator"], 15), "row", "end", room=_NAMES - 8))
        parts.append(segment((scale.at(0), y), (scale.at(1), y), "grid"))
        for i, (name, (words, _)) in enumerate(shown.items()):
            if row[name] is not None:
                tip = f"{row['annotator']}, {words}: {row[name]:.2f}"
                parts.append(marker(scale.at(row[name]), y, i, tip))
                descriptions.append(tip)
    caption = ". ".join(f"{words.capitalize()}: {meaning}" for words, meaning in shown.values()) + "."
    return Figure("leanings", title, f"{title}. {listed(descriptions)}.", bottom + 22, "".join(parts), caption)


def _votes(rows: Sequence[Row], round_number: int) -> Figure:
    """Stacked shares of outcomes, one bar per annotator."""
    seen = {name: words for name, words in _OUTCOMES.items() if any(row[name] for row in rows)}
    scale = Scale(0.0, 1.0, _NAMES, WIDTH - 4)
    title = f"Votes, round {round_number}"
    parts = [header(title, "share of comparisons by outcome")]
    x = 0.0
    for name, words in seen.items():
        parts += [rectangle(x, 41, 10, 10, f"vote-{name}"), label(x + 14, 50, words, "row")]
        x += 24 + text_width(words, "row")
    descriptions = []
    for line, row in enumerate(rows):
        y = _TOP + line * _LINE
        total = sum(row[name] for name in _OUTCOMES)
        parts.append(label(_NAMES - 8, y + 14, short(row["annotator"], 15), "row", "end", room=_NAMES - 8))
        done = 0
        for name, words in seen.items():
            if row[name]:
                tip = f"{row['annotator']}: {words} {row[name]} of {total} ({row[name] / total:.0%})"
                left, right = scale.at(done / total), scale.at((done + row[name]) / total)
                parts.append(rectangle(left + 0.5, y + 3, right - left - 1, _LINE - 8, f"vote-{name}", tip))
                done += row[name]
                descriptions.append(tip)
    caption = (
        "First and second are positions in the file, unrelated to quality: an annotator without position bias has "
        "about as many of both. Many ties: the annotator rarely has a preference. Errors are never counted as votes."
    )
    return Figure(
        "votes", title, f"{title}. {listed(descriptions)}.", _TOP + len(rows) * _LINE + 4, "".join(parts), caption
    )


def target_charts(labelled: Sequence[Round]) -> list[Figure]:
    """Histograms of p_hat and of targets, one row per round, on one scale."""
    columns_by_round = [
        (round_.number, round_.targets) for round_ in labelled if round_.targets and round_.targets["target"]
    ]
    if not columns_by_round:
        return []
    limit = max(float(np.quantile(np.abs(columns["target"]), 0.995)) for _, columns in columns_by_round)
    drawn = (
        ("p_hat", "Empirical preferences", "P̂ of the preferred reply, pairs by round", (0.5, 1.0),
         "P̂ = σ(target). Close to ½: annotators disagree or tie; close to 1: they agree."),
        ("target", "Targets", "logit of P̂, nats, pairs by round", (0.0, max(limit, 0.1)),
         "What training regresses on, by the estimator in `preferences`. The rightmost bar includes larger values."),
    )  # fmt: skip
    return [
        _histograms(name, title, unit, bounds, caption, [(n, columns[name]) for n, columns in columns_by_round])
        for name, title, unit, bounds, caption in drawn
    ]


def _histograms(
    name: str, title: str, unit: str, bounds: tuple[float, float], caption: str, by_round: list[tuple[int, list[float]]]
) -> Figure:
    edges = np.linspace(*bounds, 26)
    shown = by_round[-6:]
    left, right = 56.0, WIDTH - 84.0
    scale = Scale(*bounds, left, right)
    tall = 46.0 if len(shown) > 2 else 66.0
    shares = [np.histogram(np.clip(values, *bounds), edges)[0] / len(values) for _, values in shown]
    highest = max(float(share.max()) for share in shares)
    parts, descriptions = [header(title, unit)], []
    bottom = 44.0
    for (round_number, values), share in zip(shown, shares, strict=True):
        top, bottom = bottom, bottom + tall
        median = float(np.median(values))
        parts.append(label(INSET, bottom - 4, f"round {round_number}", "row", room=left - 8))
        for start, end, height in zip(edges[:-1], edges[1:], share, strict=True):
            tip = f"round {round_number}, {start:.2f} to {end:.2f}: {height:.1%} of {len(values)} pairs"
            up = height / highest * (tall - 12)
            x = scale.at(start)
            parts.append(rectangle(x + 0.5, bottom - up, scale.at(end) - x - 1, up, "bar c0", tip))
        parts.append(segment((left, bottom), (right, bottom), "grid"))
        at = scale.at(min(max(median, bounds[0]), bounds[1]))
        parts.append(segment((at, top + 8), (at, bottom), "median"))
        parts.append(label(right + 6, bottom - 4, f"median {median:.2f}", "note", room=WIDTH - right - 6))
        descriptions.append(f"round {round_number}: {len(values)} pairs, median {median:.2f}")
    for value in ticks(*bounds):
        if bounds[0] <= value <= bounds[1]:
            parts.append(label(scale.at(value), bottom + 15, f"{value:g}", "tick", "middle"))
    more = f" The last {len(shown)} of {len(by_round)} rounds." if len(shown) < len(by_round) else ""
    body = "".join(parts)
    words = f" The line is the median.{more}"
    return Figure(
        name.replace("_", "-"), title, f"{title}. {listed(descriptions)}.", bottom + 22, body, caption + words
    )
