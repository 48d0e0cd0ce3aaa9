"""The held-out pairs of a run: the initial policy's held-out replies, labelled by the panel, once for all rounds.

Each evaluation publishes the log-probabilities of their replies under its policy, so that later rounds need their own
policy's only.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.manifest import Manifest
from storage.schemas import PREFERENCES, REFERENCE, read_parquet, table, write_parquet
from tasks.evaluation.calibration import Calibration, Displacement, calibration, displacement
from tasks.evaluation.settings import MarginSettings
from tasks.evaluation.wins import Drawing
from tasks.modeling.logprobs import TokenSequence

LOGPROBS = "pair-logprobs.parquet"
_COLUMNS = ["prompt_id", "chosen_index", "rejected_index", "p_hat", "prompt_ids", "chosen_ids", "rejected_ids"]


@dataclass(frozen=True)
class HeldoutPairs:
    """prompts, p_hat: [n] of each pair. replies: the m replies that are in pairs, by name (prompt, index).

    sides: [n, 2], positions in `replies` of chosen and rejected.
    """

    prompts: list[str]
    p_hat: np.ndarray
    replies: dict[tuple[str, int], TokenSequence]
    sides: np.ndarray


def read_pairs(folder: Path) -> HeldoutPairs:
    """From the preferences of the label stage in `folder`."""
    rows = read_parquet(folder / "preferences.parquet", PREFERENCES, _COLUMNS).to_pylist()
    replies: dict[tuple[str, int], TokenSequence] = {}
    for row in rows:
        for side in ("chosen", "rejected"):
            name = (row["prompt_id"], row[f"{side}_index"])
            replies.setdefault(name, TokenSequence(row["prompt_ids"], row[f"{side}_ids"]))
    place = {name: i for i, name in enumerate(replies)}
    sides = [[place[row["prompt_id"], row[f"{side}_index"]] for side in ("chosen", "rejected")] for row in rows]
    p_hat = np.array([row["p_hat"] for row in rows])
    return HeldoutPairs([row["prompt_id"] for row in rows], p_hat, replies, np.array(sides, dtype=np.int64))


def write_logprobs(folder: Path, pairs: HeldoutPairs, logprobs: np.ndarray) -> Path:
    """Publish the log-probabilities [m] of the replies in pairs, nats."""
    path = folder / LOGPROBS
    rows = [
        {"prompt_id": prompt, "round": 0, "response_index": index, "logprob": float(value)}
        for (prompt, index), value in zip(pairs.replies, logprobs, strict=True)
    ]
    write_parquet(path, table(rows, REFERENCE))
    return path


def read_logprobs(evaluation: Manifest, folder: Path, pairs: HeldoutPairs) -> np.ndarray:
    """[m], as an earlier evaluation in `folder` published them. Raises ValueError when it has not all of them."""
    if LOGPROBS not in {entry.path for entry in evaluation.files}:
        raise ValueError(f"{folder} has no {LOGPROBS}")
    rows = read_parquet(folder / LOGPROBS, REFERENCE).to_pylist()
    known = {(row["prompt_id"], row["response_index"]): row["logprob"] for row in rows}
    if missing := [name for name in pairs.replies if name not in known]:
        raise ValueError(f"{folder / LOGPROBS} lacks {len(missing)} replies, first {missing[0]}")
    return np.array([known[name] for name in pairs.replies])


def pair_figures(
    pairs: HeldoutPairs, now: np.ndarray, before: dict[str, np.ndarray], margin: MarginSettings, draw: Drawing
) -> tuple[Calibration | None, Displacement | None]:
    """now: [m] log-probabilities under the round's policy; before: under the initial and the previous one."""
    changes = {name: (now - earlier)[pairs.sides] for name, earlier in before.items()}
    of_reference = changes[margin.reference]
    margins = margin.scale * (of_reference[:, 0] - of_reference[:, 1])
    drawn = {"resamples": draw.resamples, "seed": draw.seed}
    return (
        calibration(margins, pairs.p_hat, pairs.prompts, **drawn),
        displacement(changes["initial"], changes["previous"], pairs.p_hat, pairs.prompts, **drawn),
    )
