"""Run any stage by its spec, without Prefect.

    python -m tasks.run runs/mine/round-01/train        # a stage folder, or its spec.yaml

A finished stage is kept; delete its folder's manifest.json to have it done again.
"""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from storage.errors import UserError
from storage.manifest import MANIFEST, Manifest
from storage.stage import Progress, Spec, load_any_spec, silent
from tasks.engines import close_engines, cluster_engine_for
from tasks.panel.humans.collect import EXIT_WAITING, WaitingForVotes


def run_stage_of(spec: Spec, progress: Progress = silent, engine: object = None) -> Manifest:
    """Run or adopt the stage of `spec` by the function that its class names in `runs`.

    engine: for stages that sample (`Spec.samples`), an open engine; without one the stage opens its own. Raises what
    the stage raises, and UserError for a stage that is not run but decided, such as the gate.
    """
    if not spec.runs:
        raise UserError(
            f"a {spec.stage} stage holds a decision; it is not run",
            where=str(spec.folder),
            remedy="name another stage's folder; decide on a round with python -m flows.gate <run folder> promote",
        )
    module, _, name = spec.runs.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    manifest = function(spec, progress, engine) if spec.samples else function(spec, progress)
    assert isinstance(manifest, Manifest)
    return manifest


def main() -> None:
    """The command. Prints where the manifest is.

    Exits with code 2, after one screen on stderr, on a UserError, and with EXIT_WAITING while people on the panel have
    not voted enough; run it again when they have.
    """
    parser = argparse.ArgumentParser(description="Run one stage, or keep it when it is finished.")
    parser.add_argument("stage", type=Path, help="a stage's folder, or a spec.yaml")
    path = parser.parse_args().stage
    try:
        spec = load_any_spec(path / "spec.yaml" if path.is_dir() else path)
        try:
            run_stage_of(spec, _show, cluster_engine_for(spec))
        finally:
            close_engines()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except WaitingForVotes as waiting:
        print(waiting, file=sys.stderr)
        raise SystemExit(EXIT_WAITING) from None
    print(spec.folder / MANIFEST)


def _show(done: int, total: int, unit: str) -> None:
    """On a terminal, one line that is written over."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} {unit}", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
