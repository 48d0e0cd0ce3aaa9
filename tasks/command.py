"""What `python -m tasks.<room> spec.yaml` does, for every room: its main stage, run by hand."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from storage.errors import UserError
from storage.manifest import MANIFEST, Manifest
from storage.stage import Progress, Spec, load_spec

S = TypeVar("S", bound=Spec)


def main(kind: type[S], run: Callable[[S, Progress], Manifest]) -> None:
    """Run the stage whose spec is named on the command line and print where its manifest is.

    Exits with code 2, after one screen on stderr, on a UserError.
    """
    parser = argparse.ArgumentParser(description=f"Run one {kind.stage} stage, or adopt it when it is done.")
    parser.add_argument("spec", type=Path, help="the spec.yaml that the stage left in its folder, or one like it")
    path = parser.parse_args().spec
    try:
        spec = load_spec(path, kind)
        run(spec, _show)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(spec.folder / MANIFEST)


def _show(done: int, total: int, unit: str) -> None:
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} {unit}", end="\n" if done == total else "", file=sys.stderr, flush=True)
