"""Where two runs part, and why: the first stage, in the order of making, whose files differ.

    python -m storage.diff runs/demo-0 runs/demo-1
    python -m storage.diff runs/demo-0 runs/demo-1 --json

Leaves with 0 when every stage of both has the same content, 1 when not, 2 when a folder is no run.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.differences import compare_files
from storage.display import Page, brief, change, counted, leave, shown
from storage.errors import UserError
from storage.lineage import CONFIG, Run, open_run, order
from storage.manifest import Manifest

#: Names of the run and of its place, and what only says how far it goes: no reason for other files.
_NO_REASON = ("name", "runs", "dry_run")


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises UserError when it is none, or no stage of it is finished."""
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"this is no run folder: there is no {CONFIG} in it",
            where=str(folder),
            remedy="give the folders of two runs, as in: python -m storage.diff runs/one runs/other",
        )
    run = open_run(folder)
    if not run.stages and not run.unreadable:
        raise UserError(
            "no stage of this run is finished",
            where=str(folder),
            remedy="the command that started the run goes on where it stopped",
        )
    return run


def changes(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Keys (dotted) whose values differ: {"key", "a", "b", "only_in"}; `only_in` is "a" or "b" when one lacks the key.

    What one lacks is one entry with all that lies below it.
    """
    result = []
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            result.extend(changes(one, other, f"{prefix}{key}."))
        elif key not in a or key not in b or one != other:
            lacking = None if key in a and key in b else ("a" if key in a else "b")
            result.append({"key": f"{prefix}{key}", "a": one, "b": other, "only_in": lacking})
    return result


def compare(a: Run, b: Run) -> dict[str, Any]:
    """All that the command says of two runs, as `--json` prints it. Every file of both is read."""
    shared = [name for name in a.stages if name in b.stages]
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
    """Why stage `name` differs (inputs, settings, seed, versions) and in what (its files)."""
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
    """Inputs whose digests differ, with the maker or path of each side."""
    sides = [
        {label: found for found in run.inputs(name) for label in found.names} for run in (a, b)
    ]  # an input of several names stands under each
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


def _outside(a: Run, b: Run, shared: Sequence[str]) -> list[dict[str, Any]]:
    """Inputs from outside the runs whose digests differ, each with the first stage that read it."""
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
            said = compare_files(a / path, b / path)
        else:
            said = [f"only in {'A' if path in left else 'B'}"]
        result.append({"path": path, "differences": said})
    return result


def show(found: Mapping[str, Any]) -> None:
    """Print what `compare` found."""
    page = Page()
    page.line(f"A  {shown(Path(found['a']))}", style="bold")
    page.line(f"B  {shown(Path(found['b']))}", style="bold")
    differing = [name for name, same in found["stages"].items() if not same]
    both = f"{counted(len(found['stages']), 'stage')} that both have"
    if found["equal"]:
        page.line(f"Equal: {counted(len(found['stages']), 'stage')} with {counted(found['files'], 'file')} compared.")
    elif found["first"]:
        page.line(f"They part at {found['first']['stage']}: {len(differing)} of the {both} differ.")
    else:
        page.line(f"The {both} are equal, {counted(found['files'], 'file')} compared.")
    for side in "AB":
        if found[f"only_in_{side.lower()}"]:
            names = _whole_rounds(found[f"only_in_{side.lower()}"], found["stages"])
            page.line(f"Only in {side}: {', '.join(names)}", hang="  ")
    for side, problems in found["broken"].items():
        for problem in problems:
            page.line(f"Broken in {side.upper()}: {problem}", style="red")
    if found["first"]:
        _show_first(page, found["first"])
    explained = [item["a"] for item in found["first"]["inputs"]] if found["first"] else []
    more = [item for item in found["outside"] if item["a"] not in explained]
    if more:
        page.heading("what else came from outside and is not the same, A -> B")
        _show_inputs(page, more)
    if found["config"]:
        page.heading(f"{CONFIG}, A -> B" + ("" if found["first"] else ": it changed no file of these stages"))
        _show_changes(page, found["config"])
    if differing:
        page.heading("stage by stage")
        for row in _overview(found):
            page.console.print(row, soft_wrap=True)


def _show_first(page: Page, first: Mapping[str, Any]) -> None:
    page.heading(f"why {first['stage']} differs, A -> B")
    _show_inputs(page, first["inputs"])
    _show_changes(page, first["settings"], "setting ")
    _show_changes(page, first["numbers"])
    if first["same_key"]:
        page.line(
            "Same settings, seed and inputs, yet other content: the machine, a version or the stage itself.", hang="  "
        )
    _show_changes(page, first["versions"], "version of ")
    if not first["versions"]:
        code = "and the code's version" if first["code_recorded"] else "the code's was not recorded"
        page.line(f"The libraries' versions are the same, {code}.")
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


def _show_changes(page: Page, items: Sequence[Mapping[str, Any]], label: str = "") -> None:
    for item in items:
        if item["only_in"]:
            only = f"only in {item['only_in'].upper()}: {brief(item[item['only_in']])}"
            page.line(f"{label}{item['key']} {only}", hang="  ")
        else:
            page.line(f"{label}{item['key']}: {change(item['a'], item['b'])}", hang="  ")


def _whole_rounds(names: Sequence[str], shared: Mapping[str, bool]) -> list[str]:
    """Stage names, with `round N` for all stages of a round that the other run has nothing of."""
    known = {order(name)[0] for name in shared}
    rounds = [f"round {order(name)[0]}" if order(name)[0] not in known else name for name in names]
    return list(dict.fromkeys(rounds))


def _overview(found: Mapping[str, Any]) -> list[str]:
    """Rounds by row, stages by column: = equal, ≠ different, A or B where only one run has it."""
    marks = {name: "=" if same else "≠" for name, same in found["stages"].items()}
    marks |= dict.fromkeys(found["only_in_a"], "A") | dict.fromkeys(found["only_in_b"], "B")
    cells: dict[int, dict[str, str]] = {}
    for name in sorted(marks, key=order):
        number, _, stage = order(name)
        cells.setdefault(number, {})[stage.removeprefix("evaluate/")] = marks[name]
    stages = [stage.removeprefix("evaluate/") for _, stage in sorted({order(name)[1:] for name in marks})]
    rows = [" ".join([" " * 9, *stages])]
    for number, row in cells.items():
        label = f"round {number}" if number >= 0 else "the run"
        rows.append(" ".join([f"{label:<9}", *(row.get(stage, "").center(len(stage)) for stage in stages)]).rstrip())
    return rows


def main() -> int:
    """The command; returns its exit code. Raises UserError when a folder is no run."""
    parser = argparse.ArgumentParser(prog="python -m storage.diff", description="Where two runs part, and why.")
    parser.add_argument("a", type=Path, metavar="RUN_A", help="a run folder, such as runs/demo-0")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="another one")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    words = parser.parse_args()
    found = compare(read_run(words.a), read_run(words.b))
    if words.json:
        print(json.dumps(found, indent=2, ensure_ascii=False, default=str))
    else:
        show(found)
    return 0 if found["equal"] else 1


if __name__ == "__main__":
    leave(main)
