"""The held-out pairs of a run: the initial policy's held-out replies, labelled once by the panel, for all rounds.

Each evaluation publishes the log-probabilities of these replies under its policy. A later round only computes those of
its own policy.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.arrays import Floats, Ints
from storage.manifest import Manifest
from storage.schemas import PREFERENCES, REFERENCE, read_parquet, table, write_parquet
from tasks.evaluation.calibration import Calibration, Displacement, calibration, displacement
from tasks.evaluation.intervals import Bootstrap
from tasks.evaluation.settings import ImplicitReward
from tasks.modeling.logprobs import TokenSequence

LOGPROBS = "pair-logprobs.parquet"
_COLUMNS = ["prompt_id", "chosen_index", "rejected_index", "p_hat", "prompt_ids", "chosen_ids", "rejected_ids"]


@dataclass(frozen=True)
class HeldoutPairs:
    """prompts, p_hat: [n], of each pair. replies: the m replies in pairs, by prompt and index.

    sides: [n, 2], positions of chosen and rejected in `replies`.
    """

    prompts: list[str]
    p_hat: Floats
    replies: dict[tuple[str, int], TokenSequence]
    sides: Ints


def read_pairs(folder: Path) -> HeldoutPairs:
    """Read the preferences of the label stage in `folder`."""
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


def write_logprobs(folder: Path, pairs: HeldoutPairs, logprobs: Floats) -> Path:
    """Publish the log-probabilities [m] of the replies in pairs, in nats."""
    path = folder / LOGPROBS
    rows = [
        {"prompt_id": prompt, "round": 0, "response_index": index, "logprob": float(value)}
        for (prompt, index), value in zip(pairs.replies, logprobs, strict=True)
    ]
    write_parquet(path, table(rows, REFERENCE))
    return path


def read_logprobs(evaluation: Manifest, folder: Path, pairs: HeldoutPairs) -> Floats:
    """The log-probabilities [m] that an earlier evaluation published. Raises ValueError if one is missing."""
    if LOGPROBS not in {entry.path for entry in evaluation.files}:
        raise ValueError(f"{folder} has no {LOGPROBS}")
    rows = read_parquet(folder / LOGPROBS, REFERENCE).to_pylist()
    known = {(row["prompt_id"], row["response_index"]): row["logprob"] for row in rows}
    if missing := [name for name in pairs.replies if name not in known]:
        raise ValueError(f"{folder / LOGPROBS} lacks {len(missing)} replies, first {missing[0]}")
    return np.array([known[name] for name in pairs.replies])


def pair_metrics(
    pairs: HeldoutPairs, now: Floats, before: dict[str, Floats], reward: ImplicitReward, draw: Bootstrap
) -> tuple[Calibration | None, Displacement | None]:
    """Calibration of the implicit reward, and displacement of log-probabilities.

    now: [m], under the round's policy. before: [m] each, under the initial and the previous policy.
    """
    changes = {name: (now - earlier)[pairs.sides] for name, earlier in before.items()}
    log_ratios = changes[reward.reference]
    margins = reward.scale * (log_ratios[:, 0] - log_ratios[:, 1])
    return (
        calibration(margins, pairs.p_hat, pairs.prompts, draw),
        displacement(changes["initial"], changes["previous"], pairs.p_hat, pairs.prompts, draw),
    )
