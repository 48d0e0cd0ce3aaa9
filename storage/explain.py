"""Where a checkpoint, a preference set, an evaluation or a round came from.

    python -m storage.explain runs/demo-0/round-03/train/policy
    python -m storage.explain runs/demo-0/round-03/label/preferences.parquet --full
    python -m storage.explain runs/demo-0/round-03 --json

Walks from the manifest of the stage that holds the path back to prompts and initial policy, and reads every file on
the way. Leaves with 0; with 1 when a file is missing or altered or an input's maker is gone; with 2 on a path that no
stage holds.
"""

import argparse
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from storage.display import Page, amounts, counted, leave, shown, size
from storage.lineage import Input, Lineage, Stage, find, flat, order, trace
from storage.manifest import FileEntry

#: What is said of a stage that stands behind the asked one: patterns of dotted keys. Others show all that they have.
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
FIGURES: dict[str, tuple[str, ...]] = {
    "generate": ("mean_tokens", "finished", "sampler_gap_max"),
    "assemble": ("mean_tokens", "finished"),
    "label": ("mean_abs_target", "dropped.*"),
    "train": ("first.loss", "last.loss", "last.accuracy", "last.margin"),
    "judge": ("comparisons",),
    "evaluate": ("win_rate.*.mean", "kl.mean", "finish_rate", "rates.*.mean"),
    "gate": ("action", "by"),
}
_SHORT = 12  # hex digits of a digest or key that are shown


def files_of(path: Path, stage: Stage) -> list[FileEntry]:
    """The stage's files that are `path` or lie below it."""
    return [entry for entry in stage.manifest.files if (stage.folder / entry.path).is_relative_to(path)]


def record(path: Path, lineage: Lineage) -> dict[str, Any]:
    """All that `--json` prints: `asked` and the stages behind them by name, newest first, inputs by stage name."""
    stages = {}
    for name in sorted(lineage.inputs, key=order, reverse=True):
        manifest = lineage.run.stages[name].manifest
        stages[name] = {
            **manifest.model_dump(mode="json", exclude={"digest", "inputs"}),
            "content": manifest.content,
            "inputs": [
                {"names": list(i.names), "digest": i.digest, "kind": i.kind, "stage": i.stage, "path": i.path}
                for i in lineage.inputs[name]
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


def chosen(values: Mapping[str, Any], patterns: tuple[str, ...] | None) -> dict[str, Any]:
    """Leaves of nested `values` whose dotted keys fit one of `patterns` (None: all), in their order, unset ones not."""
    leaves = dict(flat(values))
    keys = [key for pattern in patterns for key in leaves if fnmatchcase(key, pattern)] if patterns else list(leaves)
    return {key: leaves[key] for key in keys if leaves[key] not in (None, [], {}, False, "")}


def condensed(stage: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings that matter of a stage, each as `name value`; annotators as `name (kind)`."""
    items = []
    for key, value in chosen(settings, SETTINGS.get(stage)).items():
        parts = key.split(".")
        if parts[-1] != "kind":
            items.append(f"{parts[-1]} {value}")
        else:
            items.append(f"{parts[-2]} ({value})" if len(parts) > 2 else f"{parts[-2]} {value}")
    return items


def figures(stage: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a stage's summary that tell how it went."""
    picked = chosen(summary, FIGURES[stage]) if stage in FIGURES else {}
    return {key.removesuffix(".mean").replace("_", " ").replace(".", " "): value for key, value in picked.items()}


class Explanation:
    """Prints a lineage, a section a round, newest first; within it a tree, each stage once."""

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
        readers = {(i.stage, reader) for reader, inputs in self.lineage.inputs.items() for i in inputs if i.stage}
        for number in sorted({order(name)[0] for name in self.lineage.inputs}, reverse=True):
            self.page.heading(f"round {number}" if number >= 0 else "before the rounds")
            entered = {made for made, reader in readers if order(reader)[0] != number} | set(self.lineage.asked)
            for name in sorted(entered & self.lineage.inputs.keys(), key=order):
                if order(name)[0] == number and name not in self.printed:
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
            code = self.versions.get("irepo", "not recorded: it was made before manifests had it")
            page.field("code", f"irepo {code}")
            page.field("libraries", [f"{name} {v}" for name, v in sorted(self.versions.items()) if name != "irepo"])
        outside = {i.digest for inputs in lineage.inputs.values() for i in inputs if i.kind == "outside"}
        verdict = "every file is there, unchanged" if not lineage.breaks else f"{len(lineage.breaks)} broken, see below"
        reach = f"{counted(len(lineage.inputs), 'stage')}, {counted(len(outside), 'input')} from outside the run"
        page.field("lineage", f"{reach}; {verdict}", style="bold red" if lineage.breaks else "")

    def _state(self, name: str) -> str:
        if name not in self.run.stages:
            return ", whose manifest does not hold"
        stage = self.run.stages[name]
        files = files_of(self.path.resolve(), stage)
        if not files:
            return "" if self.path.is_dir() else ", but it is not one of the files that the stage published"
        if len(files) == 1:
            return f": {files[0].path}, {size(files[0].bytes)}, sha256 {files[0].sha256[:_SHORT]}"
        return f": {counted(len(files), 'file')}, {size(sum(entry.bytes for entry in files))}"

    def _run(self) -> str:
        config = self.run.config
        said = amounts({key: config[key] for key in ("seed", "rounds") if key in config})
        return shown(self.run.root) + (f" (its config.yaml now says {', '.join(said)})" if said else "")

    def _stage(self, name: str, guide: str) -> None:
        """The stage's own lines and what it read, below `guide`."""
        self.printed.add(name)
        manifest, inputs = self.run.stages[name].manifest, self.lineage.inputs[name]
        page, bar = self.page, f"{guide}│ " if inputs else f"{guide}  "
        when = manifest.started.replace("T", " ").replace("Z", " UTC")
        facts = [when, f"{manifest.seconds:.1f} s", f"seed {manifest.seed}", f"key {manifest.key[:_SHORT]}"]
        page.field("made", facts, guide=bar)
        if manifest.rows:
            page.field("rows", amounts(manifest.rows), guide=bar)
        said = figures(manifest.stage, manifest.summary)
        if said:
            page.field("figures", [f"{label} {v:.4g}" for label, v in said.items()], guide=bar)
        self._settings(name, bar)
        other = {key: v for key, v in manifest.versions.items() if self.versions.get(key) != v}
        other |= {key: "not recorded" for key in self.versions if key not in manifest.versions}
        if other:
            page.field("versions", amounts(other), guide=bar)
        for problem in self.lineage.broken[name]:
            page.field("broken", problem, style="red", guide=bar)
        for i, found in enumerate(inputs):
            last = i == len(inputs) - 1
            self._input(found, f"{guide}└─ " if last else f"{guide}├─ ", f"{guide}   " if last else f"{guide}│  ", name)

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

    def _input(self, found: Input, branch: str, guide: str, reader: str) -> None:
        label = ", ".join(found.names)
        if found.kind == "value":
            self.page.line(f"{label}: {found.digest}", guide=branch, hang=guide)
        elif found.kind == "outside":
            where = found.path or "its path is not known"
            self.page.line(f"{label} ← {where} [{found.digest[:_SHORT]}] outside the run", guide=branch, hang=guide)
        elif found.stage is None or found.stage not in self.lineage.inputs:
            self.page.line(f"{label} ← lost [{found.digest[:_SHORT]}]", style="red", guide=branch, hang=guide)
        elif found.stage in self.printed:
            self.page.line(f"{label} ← {found.stage}, above", guide=branch, hang=guide)
        elif order(found.stage)[0] != order(reader)[0]:
            self.page.line(f"{label} ← {found.stage}, below", guide=branch, hang=guide)
        else:
            self.page.line(f"{label} ← {found.stage}", style="bold", guide=branch, hang=guide)
            self._stage(found.stage, guide)


def main() -> int:
    """The command; returns its exit code. Raises UserError for a path that no stage holds."""
    parser = argparse.ArgumentParser(prog="python -m storage.explain", description="Where a run's files came from.")
    parser.add_argument("path", type=Path, help="a file or folder of a stage, a round, or a run folder")
    parser.add_argument("--full", action="store_true", help="all settings of every stage, not only of the asked one")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    words = parser.parse_args()
    run, asked = find(words.path)
    lineage = trace(run, asked)
    if words.json:
        print(json.dumps(record(words.path, lineage), indent=2, ensure_ascii=False, default=str))
    else:
        Explanation(words.path, lineage, full=words.full).show()
    return 1 if lineage.breaks else 0


if __name__ == "__main__":
    leave(main)
