"""Reward-conditioned relabelling: each pair twice, once for the score of either response as the goal.

Source: arXiv 2410.08067. A pair with scores s_w > s_l becomes

    (x + goal s_w,  y_w over y_l)    and    (x + goal s_l,  y_l over y_w)

with the goal as a system message; the policy is asked for the highest score afterwards, and samples so. Pairs in which
the scores do not say s_w > s_l are left out. A soft label is the same for both: ours, the paper's are hard. So are the
words of the goal, and deciles where scores are on no scale from 1 to 10.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, field_validator

from storage.arrays import Floats
from storage.errors import UserError
from storage.schemas import PREFERENCES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HIGHEST = 10
SCORE = "{score}"


class GoalSettings(BaseModel):
    """Prompts must carry the goal of the highest score: prompts.system is `text` with 10 for {score}."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotator: str  # whose scores are the goals
    text: str = "Answer so that a judge who scores answers from 1 to 10 gives yours this score: {score}"
    scale: Literal["deciles", "as_given"] = "deciles"  # of the round's scores; as_given: they are from 1 to 10

    @field_validator("text")
    @classmethod
    def _has_a_place(cls, text: str) -> str:
        if SCORE not in text:
            raise ValueError("the goal's text has {score} where the score stands")
        return text

    def goal(self, score: float) -> str:
        """The system message that asks for `score`."""
        return self.text.replace(SCORE, f"{score:g}")

    @property
    def highest(self) -> str:
        return self.goal(HIGHEST)


def on_scale(scores: Floats, scale: Literal["deciles", "as_given"]) -> Floats:
    """Scores [n] (NaN where there is none) as goals: as they are, or 1 + the number of deciles that they exceed."""
    if scale == "as_given":
        return scores
    known = scores[~np.isnan(scores)]
    if not len(known):
        return scores
    cuts = np.quantile(known, np.arange(1, HIGHEST) / HIGHEST)
    return np.where(np.isnan(scores), np.nan, 1.0 + (scores[:, None] > cuts).sum(axis=1))


def records(won: float, lost: float) -> list[tuple[float, bool]]:
    """(goal, whether the pair is turned round) of each record that a pair with these scores becomes."""
    return [(won, False), (lost, True)] if won > lost else []


def relabel(
    pairs: pa.Table, scores: Mapping[int, pa.Table], settings: GoalSettings, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[pa.Table, int]:
    """`pairs` (storage.schemas.PREFERENCES) with goals, and how many pairs were left out.

    scores: by round, storage.schemas.SCORES. A record's prompt_id says its goal, so that it is a prompt of its own.
    Raises UserError where nobody was scored, and for a prompt that does not begin with the goal of the highest score.
    """
    from tasks.modeling.load import encode_chat

    goals = _goals(scores, settings)
    found: list[dict[str, Any]] = []
    left_out = 0
    for row in pairs.to_pylist():
        keys = [(row["round"], row["prompt_id"], row[index]) for index in ("chosen_index", "rejected_index")]
        made = records(*(goals.get(key, np.nan) for key in keys))
        left_out += not made
        for goal, turned in made:
            messages = _asking(row["prompt"], settings, goal, str(row["prompt_id"]))
            found.append(
                (_turned(row) if turned else row)
                | {
                    "prompt": messages,
                    "prompt_id": f"{row['prompt_id']}@{goal:g}",
                    "prompt_ids": encode_chat(tokenizer, messages),
                }
            )
    if not found:
        raise UserError(
            f"no pair has scores of {settings.annotator} that say which response is better",
            where="mixing.goals.annotator",
            remedy="name an annotator whose scores differ between responses",
        )
    return pa.Table.from_pylist(found, schema=PREFERENCES), left_out


def _goals(scores: Mapping[int, pa.Table], settings: GoalSettings) -> dict[tuple[int, str, int], float]:
    goals: dict[tuple[int, str, int], float] = {}
    for number, rows in scores.items():
        mine = rows.filter(pc.equal(rows["annotator"], settings.annotator))
        values = on_scale(mine["score"].to_numpy().astype(np.float64), settings.scale)  # null is NaN
        names = zip(mine["prompt_id"].to_pylist(), mine["response_index"].to_pylist(), strict=True)
        goals |= {(number, *name): float(value) for name, value in zip(names, values, strict=True)}
    return goals


def _asking(messages: list[dict[str, str]], settings: GoalSettings, goal: float, name: str) -> list[dict[str, str]]:
    if messages[0] != {"role": "system", "content": settings.highest}:
        raise UserError(
            f"prompt {name} does not begin with the goal {settings.highest!r}",
            where="mixing.goals",
            remedy="leave system messages out of the prompts' file; prompts.system puts the goal there",
        )
    return [{"role": "system", "content": settings.goal(goal)}, *messages[1:]]


def _turned(row: dict[str, Any]) -> dict[str, Any]:
    """The pair with chosen and rejected changed over."""
    other = dict(row)
    for name, value in row.items():
        if name.startswith("chosen"):
            other[name], other[f"rejected{name.removeprefix('chosen')}"] = row[f"rejected{name[6:]}"], value
    other["votes_chosen"], other["votes_rejected"] = row["votes_rejected"], row["votes_chosen"]
    return other
