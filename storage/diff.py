"""Where two runs diverge, and why: the first stage, in the order of the runs, whose files differ.

    python -m storage.diff runs/demo-0 runs/demo-1
    python -m storage.diff runs/demo-0 runs/demo-1 --json

Exit codes: 0 when every stage of both has the same content, 1 when not, 2 when a folder is not a run.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from storage.differences import compare_files
from storage.display import Page, brief, change, counted, leave, shown
from storage.errors import UserError
from storage.lineage import CONFIG, Input, Run, StageOrder, open_run, place
from storage.manifest import Manifest

#: Settings that cannot explain a difference between files.
_NO_REASON = ("name", "runs", "dry_run", "overwrite")


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises UserError when it is not a run folder, or no stage of the run is finished."""
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"this is not a run folder: there is no {CONFIG} in it",
            where=str(folder),
            remedy="give the folders of two runs, as in: python -m storage.diff runs/one runs/other",
        )
    run = open_run(folder)
    if not run.stages and not run.unreadable:
        raise UserError(
            "no stage of this run is finished",
            where=str(folder),
            remedy="repeat the command that started the run: it goes on where it stopped",
        )
    return run


class Change(TypedDict):
    """A key (dotted) with other values in `a` and `b`. only_in: the side that has it, if only one does."""

    key: str
    a: Any
    b: Any
    only_in: Literal["a", "b"] | None


def changes(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """The keys whose values differ.

    A mapping that only one side has is one entry.
    """
    result: list[Change] = []
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            result.extend(changes(one, other, f"{prefix}{key}."))
        elif key not in a or key not in b or one != other:
            only: Literal["a", "b"] | None = None if key in a and key in b else ("a" if key in a else "b")
            result.append({"key": f"{prefix}{key}", "a": one, "b": other, "only_in": only})
    return result


def compare(a: Run, b: Run) -> dict[str, Any]:
    """How two runs differ, as `--json` prints it. Every file of both is read."""
    order = a.order | b.order
    shared = sorted(a.stages.keys() & b.stages.keys(), key=order)
    differing = [name for name in shared if a.stages[name].manifest.content != b.stages[name].manifest.content]
    only = [sorted({*one.stages} - {*other.stages} - {*other.unreadable}, key=order) for one, other in ((a, b), (b, a))]
    broken = [
        [*run.unreadable.values(), *(text for stage in run.stages.values() for text in stage.broken_files())]
        for run in (a, b)
    ]
    config = changes(a.config, b.config)
    return {
        "a": str(a.root),
        "b": str(b.root),
        "equal": not differing and not any(only) and not any(broken),
        "stages": {name: name not in differing for name in shared},  # whether their contents are equal
        "files": sum(len(a.stages[name].manifest.files) for name in shared if name not in differing),
        "only_in_a": only[0],
        "only_in_b": only[1],
        "broken": {"a": broken[0], "b": broken[1]},
        "config": [item for item in config if item["key"] not in _NO_REASON],
        "outside": _outside(a, b, shared),
        "first": first_difference(a, b, differing[0]) if differing else None,
    }


def first_difference(a: Run, b: Run, name: str) -> dict[str, Any]:
    """Why stage `name` differs (inputs, settings, seed, versions) and how (its files)."""
    one, other = a.stages[name].manifest, b.stages[name].manifest
    return {
        "stage": name,
        "same_key": one.key == other.key,
        "inputs": _inputs(a, b, name),
        "settings": changes(one.settings, other.settings),
        "numbers": [
            item for item in changes(one.model_dump(), other.model_dump()) if item["key"] in ("seed", "stage_version")
        ],
        "versions": changes(one.versions, other.versions),
        "code_recorded": "irepo" in one.versions and "irepo" in other.versions,
        "files": _files(a.stages[name].folder, b.stages[name].folder, one, other),
    }


def _inputs(a: Run, b: Run, name: str) -> list[dict[str, Any]]:
    """Inputs whose digests differ, with the maker or path on each side."""
    sides = [_by_name(run.inputs(name)) for run in (a, b)]
    result = []
    for label in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(label) for side in sides)
        if one and other and one.digest == other.digest:
            continue
        result.append(
            {
                "name": label,
                "a": one.digest if one else None,
                "b": other.digest if other else None,
                "a_from": (one.stage or one.path) if one else None,
                "b_from": (other.stage or other.path) if other else None,
                "outside": any(side and side.kind != "stage" for side in (one, other)),
            }
        )
    return result


def _by_name(inputs: Sequence[Input]) -> dict[str, Input]:
    return {name: read for read in inputs for name in read.names}


def _outside(a: Run, b: Run, shared: Sequence[str]) -> list[dict[str, Any]]:
    """Inputs from outside the runs whose digests differ, with the first stage that read them."""
    items: dict[tuple[str, str, str], dict[str, Any]] = {}
    for stage in shared:
        for item in _inputs(a, b, stage):
            if item["outside"]:
                items.setdefault((item["name"], item["a"], item["b"]), {"stage": stage, **item})
    return list(items.values())


def _files(a: Path, b: Path, one: Manifest, other: Manifest) -> list[dict[str, Any]]:
    """Files that differ: {"path", "differences"}, in the manifest's order."""
    left, right = ({entry.path: entry.sha256 for entry in manifest.files} for manifest in (one, other))
    result = []
    for path in sorted({*left, *right}):
        if left.get(path) == right.get(path):
            continue
        if path in left and path in right:
            differences = compare_files(a / path, b / path)
        else:
            differences = [f"only in {'A' if path in left else 'B'}"]
        result.append({"path": path, "differences": differences})
    return result


def show(comparison: Mapping[str, Any], order: StageOrder) -> None:
    """Print what `compare` returns."""
    page = Page()
    page.line(f"A  {shown(Path(comparison['a']))}", style="bold")
    page.line(f"B  {shown(Path(comparison['b']))}", style="bold")
    differing = [name for name, same in comparison["stages"].items() if not same]
    stages, files = counted(len(comparison["stages"]), "stage"), counted(comparison["files"], "file")
    if comparison["equal"]:
        page.line(f"Equal: {stages} with {files} compared.")
    elif comparison["first"]:
        first = comparison["first"]["stage"]
        page.line(f"They diverge at {first}: {len(differing)} of the {stages} that both have differ.")
    else:
        page.line(f"The {stages} that both have are equal, {files} compared.")
    for side in "AB":
        if comparison[f"only_in_{side.lower()}"]:
            names = _whole_rounds(comparison[f"only_in_{side.lower()}"], comparison["stages"])
            page.line(f"Only in {side}: {', '.join(names)}", hang="  ")
    for side, problems in comparison["broken"].items():
        for problem in problems:
            page.line(f"Broken in {side.upper()}: {problem}", style="red")
    if comparison["first"]:
        _show_first(page, comparison["first"])
    explained = [item["a"] for item in comparison["first"]["inputs"]] if comparison["first"] else []
    more = [item for item in comparison["outside"] if item["a"] not in explained]
    if more:
        page.heading("other inputs from outside that differ, A -> B")
        _show_inputs(page, more)
    if comparison["config"]:
        page.heading(f"{CONFIG}, A -> B" + ("" if comparison["first"] else ": no file of these stages differs"))
        _show_changes(page, comparison["config"])
    if differing:
        page.heading("stage by stage")
        for row in _overview(comparison, order):
            page.console.print(row, soft_wrap=True)


def _show_first(page: Page, first: Mapping[str, Any]) -> None:
    page.heading(f"why {first['stage']} differs, A -> B")
    _show_inputs(page, first["inputs"])
    _show_changes(page, first["settings"], "setting ")
    _show_changes(page, first["numbers"])
    if first["same_key"]:
        page.line(
            "Same settings, seed and inputs, but other content: the machine, a version or the stage itself.", hang="  "
        )
    _show_changes(page, first["versions"], "version of ")
    if not first["versions"]:
        code = "so is the code's version" if first["code_recorded"] else "the code's was not recorded"
        page.line(f"The libraries' versions are the same; {code}.")
    page.heading(f"what differs in {first['stage']}, A -> B")
    for file in first["files"]:
        page.line(file["path"], style="bold")
        for text in file["differences"]:
            indent = " " * (2 + len(text) - len(text.lstrip()))
            page.line(text.lstrip(), guide=indent, hang=indent + "  ")


def _show_inputs(page: Page, items: Sequence[Mapping[str, Any]]) -> None:
    for item in items:
        sides = [f"{item[f'{s}_from'] or ''} [{(item[s] or 'none')[:12]}]".strip() for s in ("a", "b")]
        of = f" of {item['stage']}" if "stage" in item else ""
        outside = " (outside the run)" if item["outside"] and not of else ""
        page.line(f"input {item['name']}{of}{outside}: {' -> '.join(sides)}", hang="  ")


def _show_changes(page: Page, items: Sequence[Change], label: str = "") -> None:
    for item in items:
        if item["only_in"]:
            only = f"only in {item['only_in'].upper()}: {brief(item[item['only_in']])}"
            page.line(f"{label}{item['key']} {only}", hang="  ")
        else:
            page.line(f"{label}{item['key']}: {change(item['a'], item['b'])}", hang="  ")


def _whole_rounds(names: Sequence[str], shared: Mapping[str, bool]) -> list[str]:
    """Stage names, with `round N` for all stages of a round that the runs do not share."""
    known = {place(name)[0] for name in shared}
    rounds = [f"round {place(name)[0]}" if place(name)[0] not in known else name for name in names]
    return list(dict.fromkeys(rounds))


def _overview(comparison: Mapping[str, Any], order: StageOrder) -> list[str]:
    """A row for each round, a column for each stage: = equal, ≠ different, A or B when only one run has it."""
    marks = {name: "=" if same else "≠" for name, same in comparison["stages"].items()}
    marks |= dict.fromkeys(comparison["only_in_a"], "A") | dict.fromkeys(comparison["only_in_b"], "B")
    cells: dict[int, dict[str, str]] = {}
    columns: dict[str, tuple[int, str, str]] = {}
    for name in sorted(marks, key=order):
        number, stage = place(name)
        cells.setdefault(number, {})[stage] = marks[name]
        columns[stage] = max(columns.get(stage, (0, "", "")), order(name)[1:])
    titles = {stage: stage.removeprefix("evaluate/") for stage in sorted(columns, key=lambda stage: columns[stage])}
    rows = [" ".join([" " * 9, *titles.values()])]
    for number, row in cells.items():
        label = f"round {number}" if number >= 0 else "the run"
        marked = (row.get(stage, "").center(len(title)) for stage, title in titles.items())
        rows.append(" ".join([f"{label:<9}", *marked]).rstrip())
    return rows


def main() -> int:
    """The command; returns its exit code. Raises UserError when a folder is not a run."""
    parser = argparse.ArgumentParser(prog="python -m storage.diff", description="Where two runs diverge, and why.")
    parser.add_argument("a", type=Path, metavar="RUN_A", help="a run folder, such as runs/demo-0")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="another one")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args()
    a, b = read_run(arguments.a), read_run(arguments.b)
    comparison = compare(a, b)
    if arguments.json:
        print(json.dumps(comparison, indent=2, ensure_ascii=False, default=str))
    else:
        show(comparison, a.order | b.order)
    return 0 if comparison["equal"] else 1


if __name__ == "__main__":
    leave(main)
