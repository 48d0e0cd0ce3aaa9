"""What a checkpoint, a preference set, an evaluation or a round was made from.

    python -m storage.explain runs/demo-0/round-03/train/policy
    python -m storage.explain runs/demo-0/round-03/label/preferences.parquet --full
    python -m storage.explain runs/demo-0/round-03 --json

Starts at the manifest of the stage that the path lies in, goes back to the prompts and the initial policy, and checks
every file on the way. Exit codes: 0; 1 when a file is missing or altered, or an input is lost; 2 for a path that lies
in no stage.
"""

import argparse
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from storage.display import Page, amounts, brief, counted, leave, shown, size
from storage.lineage import Input, Lineage, Stage, find, flat, place, trace
from storage.manifest import FileEntry

#: The settings shown for stages other than the requested one, by kind of stage: patterns of dotted keys. A kind that is
#: not listed shows all its settings.
SETTINGS: dict[str, tuple[str, ...]] = {
    "prompts": ("path", "split", "system", "limit", "heldout", "per_round"),
    "select": ("per_round",),
    "generate": (
        "sampling.responses",
        "sampling.temperature",
        "sampling.top_*",
        "sampling.max_tokens",
        "engine.kind",
        "engine.dtype",
    ),
    "ask": ("kind", "best", "gaps.*", "tokens"),
    "label": ("annotators.*.kind", "preferences.pairs", "preferences.estimator", "preferences.quorum"),
    "train": (
        "objective.name",
        "objective.labels",
        "objective.beta",
        "objective.eta",
        "objective.scale",
        "objective.reference",
        "objective.reference.*",
        "optimization.learning_rate",
        "optimization.epochs",
        "optimization.prompts_per_step",
        "optimization.dtype",
        "optimization.lora.*",
    ),
    "judge": ("judges.*.kind", "rates.*.kind"),
    "evaluate": ("bootstrap",),
}
#: The figures shown from a stage's summary, by kind of stage: patterns of dotted keys. A kind that is not listed shows
#: the numbers at the top level of its summary.
FIGURES: dict[str, tuple[str, ...]] = {
    "generate": ("mean_tokens", "finished", "sampler_gap_max"),
    "assemble": ("mean_tokens", "finished"),
    "label": ("mean_abs_target", "dropped.*"),
    "train": ("first.loss", "last.loss", "last.accuracy", "last.margin"),
    "judge": ("comparisons",),
    "evaluate": ("win_rate.*.mean", "kl.mean", "finish_rate", "rates.*.mean"),
    "gate": ("action", "by"),
}
_SHORT = 12  # hex digits shown of a digest or key


def files_of(path: Path, stage: Stage) -> list[FileEntry]:
    """The stage's files that are `path` or lie below it."""
    return [entry for entry in stage.manifest.files if (stage.folder / entry.path).is_relative_to(path)]


def record(path: Path, lineage: Lineage) -> dict[str, object]:
    """What `--json` prints: the stages `asked` and all that they were made from, newest first."""
    stages = {}
    for name in sorted(lineage.inputs, key=lineage.run.order, reverse=True):
        manifest = lineage.run.stages[name].manifest
        stages[name] = {
            **manifest.model_dump(mode="json", exclude={"digest", "inputs"}),
            "content": manifest.content,
            "inputs": [
                {
                    "names": list(read.names),
                    "digest": read.digest,
                    "kind": read.kind,
                    "stage": read.stage,
                    "path": read.path,
                }
                for read in lineage.inputs[name]
            ],
        }
    asked = [lineage.run.stages[name] for name in lineage.asked if name in lineage.run.stages]
    return {
        "path": str(path),
        "run": str(lineage.run.root),
        "asked": lineage.asked,
        "files": [str(stage.folder / entry.path) for stage in asked for entry in files_of(path.resolve(), stage)],
        "config": lineage.run.config,
        "stages": stages,
        "breaks": [{"stage": name, "problem": problem} for name, problem in lineage.breaks],
    }


def chosen(values: Mapping[str, Any], patterns: tuple[str, ...] | None) -> dict[str, object]:
    """The leaves of nested `values` that are set and whose dotted keys match one of `patterns` (None: all of them)."""
    leaves = dict(flat(values))
    keys = [key for pattern in patterns for key in leaves if fnmatchcase(key, pattern)] if patterns else list(leaves)
    return {key: leaves[key] for key in keys if leaves[key] not in (None, [], {}, False, "")}


def condensed(stage: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings of a stage in short, each as `name value`; annotators as `name (kind)`."""
    items = []
    for key, value in chosen(settings, SETTINGS.get(stage)).items():
        parts = key.split(".")
        if parts[-1] != "kind":
            items.append(f"{parts[-1]} {value}")
        else:
            items.append(f"{parts[-2]} ({value})" if len(parts) > 2 else f"{parts[-2]} {value}")
    return items


def figures(stage: str, summary: Mapping[str, Any]) -> dict[str, object]:
    """Figures of a stage's summary, by name in words."""
    numbers = {key: value for key, value in summary.items() if type(value) in (int, float)}
    picked = chosen(summary, FIGURES[stage]) if stage in FIGURES else numbers
    return {key.removesuffix(".mean").replace("_", " ").replace(".", " "): value for key, value in picked.items()}


class Explanation:
    """Prints a lineage: a section for each round, newest first, with a tree that shows each stage once."""

    def __init__(self, path: Path, lineage: Lineage, *, full: bool) -> None:
        self.path = path
        self.lineage = lineage
        self.run = lineage.run
        self.full = full
        self.page = Page()
        self.printed: set[str] = set()
        known = [name for name in lineage.asked if name in lineage.inputs]
        self.versions = self.run.stages[known[0]].manifest.versions if known else {}

    def show(self) -> None:
        self._head()
        inputs = self.lineage.inputs
        links = {(read.stage, reader) for reader, reads in inputs.items() for read in reads if read.stage}
        for number in sorted({place(name)[0] for name in inputs}, reverse=True):
            self.page.heading(f"round {number}" if number >= 0 else "before the rounds")
            roots = {made for made, reader in links if place(reader)[0] != number} | set(self.lineage.asked)
            for name in sorted(roots & inputs.keys(), key=self.run.order):
                if place(name)[0] == number and name not in self.printed:
                    self.page.line(name, style="bold")
                    self._stage(name, "")
        if self.lineage.breaks:
            self.page.heading("broken")
            for _, problem in self.lineage.breaks:
                self.page.line(problem, style="red", guide="✗ ", hang="  ")

    def _head(self) -> None:
        page, lineage = self.page, self.lineage
        page.line(shown(self.path), style="bold")
        for name in lineage.asked:
            above = self.path.resolve() in (self.run.root / name).parents
            page.field("ends in" if above else "made by", name if above else f"{name}{self._state(name)}")
        page.field("run", self._run())
        if self.versions:
            code = self.versions.get("irepo", "not recorded: the manifest is of an early version")
            page.field("code", f"irepo {code}")
            page.field("libraries", [f"{name} {v}" for name, v in sorted(self.versions.items()) if name != "irepo"])
        outside = {read.digest for inputs in lineage.inputs.values() for read in inputs if read.kind == "outside"}
        verdict = "every file is there, unchanged" if not lineage.breaks else f"{len(lineage.breaks)} broken, see below"
        reach = f"{counted(len(lineage.inputs), 'stage')}, {counted(len(outside), 'input')} from outside the run"
        page.field("lineage", f"{reach}; {verdict}", style="bold red" if lineage.breaks else "")

    def _state(self, name: str) -> str:
        if name not in self.run.stages:
            return ", whose manifest is damaged"
        stage = self.run.stages[name]
        files = files_of(self.path.resolve(), stage)
        if not files:
            return "" if self.path.is_dir() else ", but it is not one of the files that the stage published"
        if len(files) == 1:
            return f": {files[0].path}, {size(files[0].bytes)}, sha256 {files[0].sha256[:_SHORT]}"
        return f": {counted(len(files), 'file')}, {size(sum(entry.bytes for entry in files))}"

    def _run(self) -> str:
        config = self.run.config
        values = amounts({key: config[key] for key in ("seed", "rounds") if key in config})
        return shown(self.run.root) + (f" (its config.yaml now says {', '.join(values)})" if values else "")

    def _stage(self, name: str, guide: str) -> None:
        """A stage's own lines and, below them, its inputs; `guide` is printed before each line."""
        self.printed.add(name)
        manifest, inputs = self.run.stages[name].manifest, self.lineage.inputs[name]
        page, bar = self.page, f"{guide}│ " if inputs else f"{guide}  "
        when = manifest.started.replace("T", " ").replace("Z", " UTC")
        facts = [when, f"{manifest.seconds:.1f} s", f"seed {manifest.seed}", f"key {manifest.key[:_SHORT]}"]
        page.field("made", facts, guide=bar)
        if manifest.rows:
            page.field("rows", amounts(manifest.rows), guide=bar)
        numbers = figures(manifest.stage, manifest.summary)
        if numbers:
            page.field("figures", [f"{label} {brief(v, digits=4)}" for label, v in numbers.items()], guide=bar)
        self._settings(name, bar)
        other = {key: v for key, v in manifest.versions.items() if self.versions.get(key) != v}
        other |= {key: "not recorded" for key in self.versions if key not in manifest.versions}
        if other:
            page.field("versions", amounts(other), guide=bar)
        for problem in self.lineage.broken[name]:
            page.field("broken", problem, style="red", guide=bar)
        for i, read in enumerate(inputs):
            last = i == len(inputs) - 1
            self._input(read, f"{guide}└─ " if last else f"{guide}├─ ", f"{guide}   " if last else f"{guide}│  ", name)

    def _settings(self, name: str, bar: str) -> None:
        manifest = self.run.stages[name].manifest
        if name not in self.lineage.asked and not self.full:
            items = condensed(manifest.stage, manifest.settings)
            if items:
                self.page.field("settings", items, guide=bar)
        elif manifest.settings:
            self.page.field("settings", "", guide=bar)
            for row in yaml.safe_dump(manifest.settings, sort_keys=False, allow_unicode=True).splitlines():
                indent = len(row) - len(row.lstrip())
                self.page.line(row.lstrip(), guide=f"{bar}  {' ' * indent}", hang=f"{bar}    {' ' * indent}")

    def _input(self, read: Input, branch: str, guide: str, reader: str) -> None:
        label = ", ".join(read.names)
        if read.kind == "value":
            self.page.line(f"{label}: {read.digest}", guide=branch, hang=guide)
        elif read.kind == "outside":
            where = read.path or "its path is not known"
            self.page.line(f"{label} ← {where} [{read.digest[:_SHORT]}] outside the run", guide=branch, hang=guide)
        elif read.stage is None or read.stage not in self.lineage.inputs:
            self.page.line(f"{label} ← lost [{read.digest[:_SHORT]}]", style="red", guide=branch, hang=guide)
        elif read.stage in self.printed:
            self.page.line(f"{label} ← {read.stage}, above", guide=branch, hang=guide)
        elif place(read.stage)[0] != place(reader)[0]:
            self.page.line(f"{label} ← {read.stage}, below", guide=branch, hang=guide)
        else:
            self.page.line(f"{label} ← {read.stage}", style="bold", guide=branch, hang=guide)
            self._stage(read.stage, guide)


def main() -> int:
    """The command; returns its exit code. Raises UserError for a path that lies in no stage."""
    parser = argparse.ArgumentParser(prog="python -m storage.explain", description="What files were made from.")
    parser.add_argument("path", type=Path, help="a file or folder of a stage, a round, or a run folder")
    parser.add_argument("--full", action="store_true", help="show all settings of every stage")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args()
    run, asked = find(arguments.path)
    lineage = trace(run, asked)
    if arguments.json:
        print(json.dumps(record(arguments.path, lineage), indent=2, ensure_ascii=False, default=str))
    else:
        Explanation(arguments.path, lineage, full=arguments.full).show()
    return 1 if lineage.breaks else 0


if __name__ == "__main__":
    leave(main)
