"""The paper's figures and tables, one command each, on any run's configuration.

    python -m flows.paper fig1   run=demo "methods=[irepo-small,dpo]" mt_bench=judge mt_bench.questions=<file>
    python -m flows.paper fig2a  run=demo objective=irepo-small
    python -m flows.paper fig2b  run=demo objective=irepo-small h=[1,3,5,7]
    python -m flows.paper fig3   run=demo data=pairs.jsonl
    python -m flows.paper tables run=demo "methods=[irepo-small,dpo]" harness=leaderboard-v1 mt_bench=judge ...

fig1    MT-Bench by category, methods side by side: a radar, and the initial policy on it
fig2a   with and without the logit, over rounds
fig2b   number of annotators h that vote, the first h of the panel, with intervals
fig3    accuracy of each annotator, and of the panel as it grows, on pairs of chosen and rejected responses
tables  scores of lm-eval and MT-Bench over methods, as Markdown

All but fig3 run flows.compare: a run for each method and seed, below runs/<name>, which continues where it stopped.
Pictures are <name of the figure>.svg and .png in runs/<name>. What they show and do not: docs/paper.md.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.compose import compose_config
from flows.help import exit_on_help, run_help
from flows.operations.environment import prepare, quiet_console
from flows.operations.temporary_server import await_server, start_temporary_server
from flows.show.terminal import console, exit_on_user_error, markdown_table

_WORDS = (
    ("fig1 | fig2a | fig2b | fig3 | tables", "the first word: which figure"),
    ("methods=[...]", "fig1, tables: words of objective=, each with overrides"),
    ("objective=irepo", "fig2a, fig2b: the method"),
    ("h=[1,2,...]", "fig2b: numbers of annotators; all by default"),
    ("data=<file>", "fig3: pairs of chosen and rejected responses, or LLMBar's"),
    ("limit=<n>", "fig3: read only the first pairs"),
    ("seeds=[0]", "every method runs with each of them"),
    ("name=<figure>", "folder below runs/"),
)
if __name__ == "__main__":
    exit_on_help(sys.argv[1:], run_help("flows.paper", __doc__ or "", _WORDS))
prepare()
if __name__ == "__main__":
    quiet_console()
    if sys.argv[1:2] != ["fig3"]:
        exit_on_user_error(start_temporary_server)

from pydantic import TypeAdapter  # noqa: E402

from flows.compare import compare, objective_words, slug  # noqa: E402
from flows.judge_accuracy import Measured, measure, print_panels, print_table, read_pairs  # noqa: E402
from flows.panel_accuracy import growing  # noqa: E402
from flows.paper_words import Words  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.files import canonical_json, publish_file, publish_text  # noqa: E402
from storage.layout import RunLayout  # noqa: E402
from tasks.evaluation.record import RoundRecord  # noqa: E402
from tasks.panel.annotators.registry import open_annotators  # noqa: E402
from tasks.reporting.comparison import HARNESS, MT_BENCH, Value, figures, worth, write_figure  # noqa: E402
from tasks.reporting.paper_figures import accuracy, categories, over, radar  # noqa: E402
from tasks.reporting.report.drawing import Figure  # noqa: E402
from tasks.reporting.report.page import FIGURE_STYLE  # noqa: E402
from tasks.reporting.report.png import has_font, png  # noqa: E402

_RECORDS = TypeAdapter(list[RoundRecord])
INITIAL = "initial policy"
Rounds = list[dict[str, Value]]


@dataclass(frozen=True)
class Compared:
    """The figures by round of methods that were run, those of the initial policy, and the folder of all runs."""

    folder: Path
    methods: dict[str, Rounds]
    initial: dict[str, Value]
    judge: str  # of MT-Bench; empty without it


def run_methods(words: Words, methods: Sequence[str], rest: Sequence[str]) -> Compared:
    """Run flows.compare on `methods`. The initial policy's figures are those of the first run."""
    seeds = words.numbers("seeds", "[0]")
    await_server()
    plain = compare(list(methods), seeds, name=words.name, overrides=list(rest))
    folder = RunLayout.of(compose_config([*rest, *objective_words(methods[0])]).runs, words.name).root
    records = _RECORDS.validate_json((folder / f"{slug(methods[0])}-{seeds[0]}" / "rounds.json").read_bytes())
    graded = records[0].figures.mt_bench
    made = {
        method: [{name: Value(v["mean"], v["half"]) for name, v in each.items()} for each in plain[slug(method)]]
        for method in methods
    }
    return Compared(folder, made, figures(records[0]), graded.judge if graded else "")


def fig1(words: Words) -> list[Path]:
    compared = run_methods(words, words.methods(), words.without_objective())
    last = {INITIAL: compared.initial} | {name: rounds[-1] for name, rounds in compared.methods.items()}
    if not all(categories(each) for each in last.values()):
        raise UserError(
            "there are no grades of MT-Bench to draw",
            where=str(compared.folder),
            remedy="add mt_bench=judge mt_bench.questions=<question.jsonl> mt_bench.judge.base_url=<a judge>",
        )
    names = [MT_BENCH, *(f"{MT_BENCH}: {name}" for name in categories(compared.initial))]
    print_lines(["", *names], [[method, *cells(each, names)] for method, each in last.items()])
    return written(compared.folder, radar(last, compared.judge))


def fig2a(words: Words) -> list[Path]:
    objective = words.objective()
    named = {"with the logit": objective, "without": f"{objective} objective.logit=false"}
    compared = run_methods(words, list(named.values()), words.without_objective())
    lines = {line: compared.methods[method] for line, method in named.items()}
    paths: list[Path] = []
    for figure in worth(list(lines["with the logit"][-1])):
        values = {line: {float(n): each[figure] for n, each in enumerate(rounds, 1)} for line, rounds in lines.items()}
        paths += written(
            compared.folder,
            over(
                values,
                title=f"The logit: {figure}",
                unit="95 % intervals",
                x_title="round",
                name=f"logit-{slug(figure)}",
                caption="Without the logit the target is P - 1/2; the same beta then asks for a smaller step.",
            ),
        )
    return paths


def fig2b(words: Words) -> list[Path]:
    objective, rest = words.objective(), words.without_objective()
    config = compose_config([*rest, f"objective={objective}"])
    panel = list(config.panel.annotators)
    sizes = words.numbers("h", str(list(range(1, len(panel) + 1))))
    if not sizes or min(sizes) < 1 or max(sizes) > len(panel):
        raise UserError(
            f"the panel has {len(panel)} annotators ({', '.join(panel)})", where=f"h={words.own.get('h')}",
            remedy=f"name numbers from 1 to {len(panel)}",
        )  # fmt: skip
    methods = {h: " ".join([objective, *_without(panel[h:], config.preferences.weights)]) for h in sizes}
    compared = run_methods(words, list(methods.values()), rest)
    last = {h: compared.methods[method][-1] for h, method in methods.items()}
    paths: list[Path] = []
    shown = worth(list(last[sizes[0]]))
    print_lines(["annotators", *shown], [[str(h), *cells(each, shown)] for h, each in last.items()])
    for figure in shown:
        paths += written(
            compared.folder,
            over(
                {objective: {float(h): each[figure] for h, each in last.items()}},
                title=f"Annotators: {figure}",
                unit="after the last round; 95 % intervals",
                x_title="annotators h",
                name=f"annotators-{slug(figure)}",
                caption=f"The first h of: {', '.join(panel)}.",
            ),
        )
    return paths


def _without(left_out: Sequence[str], weights: Mapping[str, float]) -> list[str]:
    """Words that take annotators off the panel, and their weights out of the preferences."""
    gone = [f"~panel.annotators.{name}" for name in left_out]
    return gone + [f"~preferences.weights.{name}" for name in left_out if name in weights]


def fig3(words: Words) -> list[Path]:
    if "data" not in words.own:
        raise UserError("no pairs are named", where="command line", remedy="data=<file of chosen and rejected>")
    config = compose_config(words.rest)
    folder = RunLayout.of(config.runs, words.name).root
    limit = words.numbers("limit", "[]")
    pairs = read_pairs(Path(words.own["data"]), limit[0] if limit else None)
    policies = {name: Path(config.policy.path) for name in ("policy", "previous", "initial")}
    annotators = open_annotators(config.panel.annotators, seed=config.seed, policies=policies)
    measured = [measure(annotator, pairs, folder / "answers") for annotator in annotators]
    results = [result for result, _ in measured]
    for result in results:
        print_table(result, console)
    panels = growing({result["annotator"]: column for result, column in measured})
    print_panels(panels, console)
    single = {each["annotator"]: share for each in results if (share := _accuracy(each)) is not None}
    by_size = {
        each.size: (Value(each.mean.mean, (each.mean.high - each.mean.low) / 2), each.worst, each.best)
        for each in panels
    }
    folder.mkdir(parents=True, exist_ok=True)
    told = {"annotators": results, "panels": {str(size): value[0].mean for size, value in by_size.items()}}
    publish_text(folder / "accuracy.json", canonical_json(told) + "\n")
    return written(folder, accuracy(single, by_size))


def _accuracy(result: Measured) -> float | None:
    return result["figures"]["all"]["accuracy"]


def tables(words: Words) -> list[Path]:
    compared = run_methods(words, words.methods(), words.without_objective())
    last = {INITIAL: compared.initial} | {name: rounds[-1] for name, rounds in compared.methods.items()}
    lines: list[str] = []
    for title, start in (("lm-eval", HARNESS), ("MT-Bench", MT_BENCH)):
        names = list(dict.fromkeys(name for each in last.values() for name in each if name.startswith(start)))
        if names:
            headings = [name.removeprefix(f"{start}: ") for name in names]
            rows = [[method, *cells(each, names)] for method, each in last.items()]
            lines += [f"## {title}", "", *markdown_table(["", *headings], rows), ""]
    if not lines:
        raise UserError(
            "there are no benchmarks to put into tables",
            where=str(compared.folder),
            remedy="add harness=leaderboard-v1, or mt_bench=judge with its questions",
        )
    console.print("\n".join(lines))
    publish_text(compared.folder / "tables.md", "\n".join(lines))
    return [compared.folder / "tables.md"]


FIGURES: dict[str, Callable[[Words], list[Path]]] = {
    "fig1": fig1, "fig2a": fig2a, "fig2b": fig2b, "fig3": fig3, "tables": tables,
}  # fmt: skip


def cells(values: Mapping[str, Value], names: Sequence[str]) -> list[str]:
    return [str(values.get(name, "-")) for name in names]


def print_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console.print("\n".join(markdown_table(list(headings), rows)), soft_wrap=True)


def written(folder: Path, figure: Figure) -> list[Path]:
    """The figure as SVG and, where there is a font, as PNG."""
    write_figure(figure, folder / f"{figure.name}.svg")
    if not has_font():
        console.print("no PNG: this machine has no font (Debian: apt install fonts-dejavu-core)")
        return [folder / f"{figure.name}.svg"]
    drawn = png(figure, FIGURE_STYLE)
    publish_file(folder / f"{figure.name}.png", lambda path: _write(path, drawn))
    return [folder / f"{figure.name}.{suffix}" for suffix in ("svg", "png")]


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def main(words: Sequence[str]) -> None:
    """The command: the figure's name, then words."""
    if not words:
        raise UserError("no figure is named", where="command line", remedy=f"one of {', '.join(FIGURES)}")
    figure, *rest = words
    if figure not in FIGURES:
        known = ", ".join(FIGURES)
        raise UserError(f"there is no figure {figure!r}", where="command line", remedy=f"choose one of {known}")
    for path in FIGURES[figure](Words.of(figure, rest)):
        console.print(f"written: {path}", soft_wrap=True)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
