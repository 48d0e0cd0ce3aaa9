"""choix and crowd-kit, the libraries that aggregation is compared with."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = ("crowdkit.aggregation", "crowdkit.aggregation.classification", "crowdkit.aggregation.pairwise")


def crowdkit(module: str) -> Any:
    """Import a module below crowdkit.aggregation without the package's own __init__.

    That one imports scikit-learn and nltk, which the aggregators compared here do not use (docs/decisions.md).
    """
    found = importlib.util.find_spec("crowdkit")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("crowd-kit is not installed: make setup")
    for name in _PACKAGES:
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(Path(found.origin).parent.parent / name.replace(".", "/"))]
            sys.modules[name] = package
    return importlib.import_module(f"crowdkit.aggregation.{module}")


def label_frame(item: np.ndarray, annotator: np.ndarray, share: np.ndarray) -> Any:
    """Votes without ties in crowd-kit's classification format: task, worker, label (1: the first is preferred)."""
    import pandas

    return pandas.DataFrame({"task": item, "worker": annotator, "label": (share > 0.5).astype(int)})


def win_list(wins: np.ndarray) -> list[tuple[int, int]]:
    """Win counts [K, K] in choix's pairwise format: (winner, loser) for each win."""
    return [(i, j) for i, j in np.argwhere(wins > 0).tolist() for _ in range(round(wins[i, j]))]
