"""The runs of a folder: their state, rounds, win rate, cost and size on disk; archive or remove one.

    python -m flows.runs                          # a table of runs/
    python -m flows.runs archive mine             # runs/archive/mine.tar.gz in place of runs/mine
    python -m flows.runs rm mine --yes

`archive` and `rm` ask first, unless --yes is given, and refuse a run that is in progress. An archive is unpacked with
`tar -xzf runs/archive/mine.tar.gz -C runs`.
"""

import argparse
import difflib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.run_list import ARCHIVE, RunLine, archive, run_lines
from flows.show.terminal import console, exit_on_user_error
from storage.display import size
from storage.errors import UserError
from storage.layout import RunLayout
from storage.owner import owned

_COLUMNS = ("run", "state", "rounds", "win rate", "cost", "size", "changed")


def main(words: Sequence[str]) -> None:
    options = _parser().parse_args(words)
    if options.action is None:
        lines = run_lines(options.runs)
        console.print(table(lines, options.runs) if lines else _none(options.runs), soft_wrap=not lines)
        return
    folder = _folder(options.runs, options.name)
    with owned(folder):
        (line,) = run_lines(options.runs, [options.name])
        what = "archived" if options.action == "archive" else "removed for good"
        _ask(f"{folder} ({line.rounds} rounds, {size(line.bytes)}) will be {what}", yes=options.yes)
        if options.action == "archive":
            made = archive(folder)
            console.print(f"{made}   {size(made.stat().st_size)}; to unpack: tar -xzf {made} -C {options.runs}",
                          soft_wrap=True)  # fmt: skip
        shutil.rmtree(folder)
    console.print(f"{folder} is {'archived' if options.action == 'archive' else 'removed'}", soft_wrap=True)


def table(lines: Sequence[RunLine], runs: Path) -> Table:
    """One row a run, the latest first. The win rate is the latest round's against the initial policy."""
    shown = Table(
        title=f"{len(lines)} run{'s' if len(lines) != 1 else ''} in {runs}",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
    )
    for heading in _COLUMNS:
        shown.add_column(heading, justify="left" if heading in ("run", "state") else "right", no_wrap=True)
    for line in lines:
        shown.add_row(
            line.name, line.state, line.rounds, line.win_rate, line.cost, size(line.bytes), line.changed
        )  # fmt: skip
    return shown


def _none(runs: Path) -> str:
    """What to say of a folder without runs. Raises UserError when a folder of another name than runs does not exist."""
    if not runs.is_dir() and str(runs) != "runs":
        raise UserError("there is no such folder", where=str(runs), remedy="give the folder that holds run folders")
    return f"there is no run in {runs} yet; `make run` starts the demo, python -m flows.iterate --help says more"


def _folder(runs: Path, name: str) -> Path:
    """The run's folder. Raises UserError for a name that is no run."""
    folder = RunLayout.of(runs, name).root
    if (folder / "config.yaml").is_file() and not folder.is_symlink():
        return folder
    names = [line.name for line in run_lines(runs)]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise UserError(
        f"there is no run {name!r}" + (f" (did you mean {close[0]}?)" if close else ""),
        where=str(runs),
        remedy="give a name of the table: python -m flows.runs" + (f" --runs {runs}" if str(runs) != "runs" else ""),
    )


def _ask(what: str, *, yes: bool) -> None:
    """Raises UserError unless `yes`, or the user confirms."""
    if yes:
        return
    if sys.stdin.isatty() and input(f"{what}. Go on? [y/N] ").strip().lower() in ("y", "yes"):
        return
    raise UserError(f"{what}, and nobody confirmed it", where="standard input", remedy="confirm with --yes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    actions = parser.add_subparsers(dest="action", metavar="archive|rm")
    for name, text in (("archive", f"pack a run into runs/{ARCHIVE}/"), ("rm", "remove a run for good")):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("name", help="of the run, as in the table")
        action.add_argument("--yes", action="store_true", help="do not ask")
    return parser


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
