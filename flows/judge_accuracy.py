"""How accurate is a judge, and a panel? Scores annotators on pairs whose better response is known.

    python -m flows.judge_accuracy --data llmbar.jsonl.gz --panel judges --annotator judge-one
    python -m flows.judge_accuracy --data llmbar.jsonl.gz --settings '{kind: judge, model: m, base_url: "http://..."}'

The data are LLMBar's (arXiv 2310.07641: subset, prompt, response_a, response_b, label), or chosen and rejected
responses in TRL's or UltraFeedback's formats (docs/offline.md); `answer`, where a row has it, is for verifiers. Every
second pair is shown with chosen first. `--panel` is a file, or the name of one in conf/panel; without `--annotator`
every annotator of the panel is scored. Answers are kept in `--answers`, so no
question is asked twice. Prints a table for each annotator, and for several of them one of their votes together as
the panel grows; `--json` prints the figures of single annotators instead.

accuracy     share of correct votes among those for a side or a tie (a tie counts half); errors and abstentions apart
one order    the same for single verdicts in either order: what a judge that is asked once would reach
consistent   share of pairs with the same verdict in both orders, among those with two verdicts
first        share of verdicts for the response shown first, among those for a side: 50 % means no position bias
log loss     of the vote's probability, in nats, where it has one: 0.693 is chance
"""

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from yaml import YAMLError

from flows.panel_accuracy import Panels, growing, shares
from storage.arrays import Floats
from storage.errors import UserError
from storage.rows import Row, read_rows
from tasks.mixing.shapes.pair import Reading
from tasks.mixing.shapes.read import SHAPES, pairs_of
from tasks.panel.annotators.protocol import Annotator, Answer, AnswerType, Response, is_remote
from tasks.panel.annotators.registry import AnnotatorSettings, open_annotators
from tasks.panel.answers import as_table
from tasks.panel.budget import Spending
from tasks.panel.journal import Journal
from tasks.panel.outages import stop_on_outage
from tasks.panel.questions import Questions
from tasks.panel.remote import ask_all
from tasks.panel.settings import Budget

_PROJECT = Path(__file__).resolve().parents[1]
_PANELS = _PROJECT / "conf" / "panel"
_ANSWERS = _PROJECT / "runs" / "judge-accuracy"
_FIELDS = ("subset", "prompt", "response_a", "response_b", "label")
_READING = Reading("--data", p_hat=0.9, response_score="helpfulness")
_ANNOTATORS: TypeAdapter[dict[str, AnnotatorSettings]] = TypeAdapter(dict[str, AnnotatorSettings])


#: Figures by name; None where no vote determines one.
Figures = dict[str, float | None]


class Spent(TypedDict):
    """What the answers took. wall_seconds: of this call; asked_seconds: the sum over questions."""

    wall_seconds: float
    asked_seconds: float | None
    tokens: float | None
    cost: float | None
    faults: dict[str, int]  # transport faults by name


class Measured(TypedDict):
    """The accuracy of one annotator, as `--json` prints it. figures: by subset, and for `all` of them."""

    annotator: str
    kind: AnswerType
    figures: dict[str, Figures]
    spent: Spent


@dataclass(frozen=True)
class Pairs:
    """`responses[2 i]` and `responses[2 i + 1]` are a and b of pair i."""

    subsets: list[str]
    labels: list[str]
    responses: list[Response]


def read_pairs(path: Path, limit: int | None = None) -> Pairs:
    """The first `limit` pairs of a file of LLMBar's rows or of preference rows, or all of them.

    Raises UserError with file and line for a row without a field, and for a label that is neither a nor b.
    """
    rows = iter(read_rows(path))
    first = next(rows, None)
    if first is None:
        raise UserError("the file has no rows", where=str(path), remedy="name the file with the pairs")
    together = chain([first], rows)
    return _preference_pairs(together, limit) if _is_preference(first[1]) else _labelled_pairs(together, limit)


def _is_preference(row: Row) -> bool:
    return not {"response_a", "response_b", "label"} & row.keys() and any(shape.fits(row, _READING) for shape in SHAPES)


def _preference_pairs(rows: Iterable[tuple[str, Row]], limit: int | None) -> Pairs:
    pairs, seen = Pairs([], [], []), dict[str, Row]()

    def remembered() -> Iterator[tuple[str, Row]]:
        for where, row in rows:
            seen[where] = row
            yield where, row

    for place, pair in enumerate(islice(pairs_of(remembered(), _READING), limit)):
        row = seen.get(pair.where, {})
        answer, subset = row.get("answer"), row.get("subset")
        texts = (pair.rejected, pair.chosen) if place % 2 else (pair.chosen, pair.rejected)
        messages = [{"role": str(each["role"]), "content": str(each["content"])} for each in pair.prompt]
        category = str(subset) if isinstance(subset, str) else None
        for index, text in enumerate(texts):
            wanted = answer if isinstance(answer, str) else None
            pairs.responses.append(Response(pair.where, "pairs", index, messages, wanted, category, text, True))
        pairs.subsets.append(category or "pairs")
        pairs.labels.append("b" if place % 2 else "a")
    return pairs


def _labelled_pairs(rows: Iterable[tuple[str, Row]], limit: int | None) -> Pairs:
    pairs = Pairs([], [], [])
    for where, row in islice(rows, limit):
        if missing := [field for field in _FIELDS if not isinstance(row.get(field), str)]:
            raise UserError(
                f"the row lacks {', '.join(missing)}",
                where=where,
                remedy=f"give every row the fields {', '.join(_FIELDS)}",
            )
        if row["label"] not in ("a", "b"):
            raise UserError(f"the label is {row['label']!r}", where=where, remedy="label rows a or b")
        messages = [{"role": "user", "content": row["prompt"]}]
        for index, text in enumerate((row["response_a"], row["response_b"])):
            pairs.responses.append(Response(where, "llmbar", index, messages, None, row["subset"], text, True))
        pairs.subsets.append(row["subset"])
        pairs.labels.append(row["label"])
    return pairs


def read_annotators(panel: str | None, names: Sequence[str], settings: str | None) -> dict[str, AnnotatorSettings]:
    """The annotators of a panel's file (all, or those in `names`), or the single one that `settings` describes."""
    where = panel or "--settings"
    path = Path(panel or "")
    if panel is not None and not path.suffix:
        path = _PANELS / f"{panel}.yaml"
    try:
        config = OmegaConf.load(path) if panel is not None else OmegaConf.create(f"annotators: {{judge: {settings}}}")
        values: Any = OmegaConf.to_container(config, resolve=True)
        annotators = values["annotators"]
        chosen = {name: annotators[name] for name in names} if names else annotators
        return _ANNOTATORS.validate_python(chosen)
    except OSError as error:
        raise UserError(f"the panel cannot be read: {error}", where=where, remedy="name a file in conf/panel") from None
    except KeyError as error:
        raise UserError(f"there is no annotator {error}", where=where, remedy="name annotators of the panel") from None
    except (YAMLError, OmegaConfBaseException, ValidationError, TypeError, ValueError) as error:
        raise UserError(
            f"the settings of annotators are invalid: {error}", where=where, remedy="see docs/annotators.md"
        ) from None


def ask(annotator: Annotator, questions: Questions, answers: Path) -> Sequence[Answer]:
    """The annotator's answers. A remote one is asked only what the journal in `answers` does not hold yet."""
    items = questions.of(annotator.answer_type)
    if not is_remote(annotator):
        return annotator.vote(list(items))

    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{len(items)} {annotator.name}", end="", file=sys.stderr, flush=True)

    with Journal(answers, annotator.name, annotator.identity, annotator.answer_type) as journal:
        asked = asyncio.run(ask_all(annotator, items, journal, Spending(Budget()), show))
    outages = {} if asked.outage is None else {annotator.name: asked.outage}
    stop_on_outage(outages, "stop", setting=None, folder=answers)
    return asked.answers


def measure(annotator: Annotator, pairs: Pairs, answers: Path) -> tuple[Measured, Floats]:
    """Figures by subset and for `all` of them, and the part of each vote that goes to the right side, [n].

    A figure is None where no vote determines it; a part is NaN for an abstention and an error.
    """
    positions = np.arange(len(pairs.responses)).reshape(-1, 2)
    questions = Questions(pairs.responses, positions)
    started = time.monotonic()
    replies = ask(annotator, questions, answers)
    seconds = time.monotonic() - started
    panel = questions.panel_votes(annotator, as_table(annotator.answer_type, replies))
    votes = panel.votes.to_pylist()
    for vote, label, subset in zip(votes, pairs.labels, pairs.subsets, strict=True):
        vote |= {"label": label, "subset": subset}
    names = list(dict.fromkeys(pairs.subsets))
    subsets = {subset: [vote for vote in votes if vote["subset"] == subset] for subset in names if len(names) > 1}
    spent = panel.scores.to_pylist() if annotator.answer_type == "scores" else votes
    measured: Measured = {
        "annotator": annotator.name,
        "kind": annotator.answer_type,
        "figures": {name: figures(rows) for name, rows in (subsets | {"all": votes}).items()},
        "spent": {
            "wall_seconds": seconds,
            "asked_seconds": _total(row["seconds"] for row in spent),
            "tokens": _total(row["tokens"] for row in spent),
            "cost": _total(row["cost"] for row in spent),
            "faults": dict(Counter(fault for row in spent for fault in (row["faults"] or "").split(", ") if fault)),
        },
    }
    return measured, shares(votes)


def figures(votes: Sequence[Mapping[str, Any]]) -> Figures:
    """The figures of votes that carry their `label`; the module's docstring defines each."""
    outcomes = Counter(vote["outcome"] for vote in votes)
    single = [(vote[order], vote["label"], order[0]) for vote in votes for order in ("ab", "ba")]
    verdicts = [(verdict, label, first) for verdict, label, first in single if verdict in ("a", "b", "tie")]
    sides = [(verdict, first) for verdict, _, first in verdicts if verdict != "tie"]
    both = [vote for vote in votes if {vote["ab"], vote["ba"]} <= {"a", "b", "tie"}]
    probabilities = [(vote["probability"], vote["label"]) for vote in votes if vote["probability"] is not None]
    losses = [-math.log(max(p if label == "a" else 1 - p, 1e-12)) for p, label in probabilities]
    return {
        "pairs": len(votes),
        "accuracy": _accuracy([(vote["outcome"], vote["label"]) for vote in votes]),
        "one_order": _accuracy([(verdict, label) for verdict, label, _ in verdicts]),
        "consistent": _mean([vote["ab"] == vote["ba"] for vote in both]),
        "first": _mean([verdict == first for verdict, first in sides]),
        "log_loss": _mean(losses),
        **{outcome: outcomes[outcome] / len(votes) for outcome in ("tie", "abstain", "error")},
    }


def _accuracy(outcomes: Sequence[tuple[str, str]]) -> float | None:
    """Share of (outcome, label) that agree; a tie counts half, errors and abstentions are left out."""
    return _mean(
        [0.5 if outcome == "tie" else outcome == label for outcome, label in outcomes if outcome in ("a", "b", "tie")]
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _total(amounts: Iterable[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def print_table(result: Measured, console: Console) -> None:
    figures = result["figures"]
    known = ("pairs", "accuracy", "one_order", "consistent", "first", "log_loss", "tie", "abstain", "error")
    columns = [column for column in known if any(row[column] is not None for row in figures.values())]
    table = Table(title=result["annotator"], title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("subset", no_wrap=True)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right", no_wrap=True)
    for subset, row in figures.items():
        table.add_row(subset, *(_shown(column, row[column]) for column in columns))
    console.print(table)
    spent = result["spent"]
    amounts = {
        "wall seconds": spent["wall_seconds"], "asked seconds": spent["asked_seconds"],
        "tokens": spent["tokens"], "cost": spent["cost"],
    }  # fmt: skip
    parts = [f"{name}: {value:,.4g}" for name, value in amounts.items() if value]
    if spent["faults"]:
        parts.append(f"faults: {', '.join(f'{count} {fault}' for fault, count in spent['faults'].items())}")
    console.print(", ".join(parts), highlight=False)


def print_panels(panels: Sequence[Panels], console: Console) -> None:
    table = Table(title="together", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for heading in ("annotators", "pairs", "accuracy", "95 % interval", "worst panel", "best panel"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in panels:
        mean = each.mean
        figures = (f"{mean.mean:.1%}", f"{mean.low:.1%} - {mean.high:.1%}", f"{each.worst:.1%}", f"{each.best:.1%}")
        table.add_row(str(each.size), str(mean.n), *figures)
    console.print(table)


def _shown(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if column == "pairs" else f"{value:.3f}" if column == "log_loss" else f"{value:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="file of labelled pairs")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--panel", help="file, or name of one in conf/panel")
    which.add_argument("--settings", help="settings of one annotator, as YAML")
    parser.add_argument(
        "--annotator", action="append", default=[], help="an annotator of the panel; may be given several times"
    )
    parser.add_argument("--answers", type=Path, default=_ANSWERS, help="folder of the answers so far")
    parser.add_argument("--limit", type=int, help="read only the first LIMIT pairs")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    try:
        pairs = read_pairs(options.data, options.limit)
        annotators = open_annotators(read_annotators(options.panel, options.annotator, options.settings), seed=0)
        measured = [measure(annotator, pairs, options.answers) for annotator in annotators]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    results = [result for result, _ in measured]
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for result in results:
        print_table(result, Console(width=100))
    if len(results) > 1:
        columns = {result["annotator"]: column for result, column in measured}
        print_panels(growing(columns), Console(width=100))


if __name__ == "__main__":
    main()
