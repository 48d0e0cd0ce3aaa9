"""Reward-conditioned relabelling: each pair becomes two, one for the score of each response as the goal.

Source: arXiv 2410.08067. A pair with scores s_w > s_l becomes

    (x + goal s_w,  y_w over y_l)    and    (x + goal s_l,  y_l over y_w)

with the goal as a system message. Afterwards the policy is asked for the highest score, and responses are sampled with
that goal. Pairs without s_w > s_l are left out. Three choices are ours: both pairs keep the same soft label (the
paper's are hard), the text of the goal, and deciles where scores are not on a scale from 1 to 10.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

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


class RewardConditioningSettings(BaseModel):
    """Prompts must contain the highest goal: prompts.system is `text` with 10 for {score}."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotator: str  # whose scores are the goals
    text: str = "Answer so that a judge who scores answers from 1 to 10 gives yours this score: {score}"
    scale: Literal["deciles", "as_given"] = "deciles"  # deciles of the round's scores; as_given: from 1 to 10

    @field_validator("text")
    @classmethod
    def _has_a_place(cls, text: str) -> str:
        if SCORE not in text:
            raise ValueError("the text must contain {score}, where the score goes")
        return text

    def goal(self, score: float) -> str:
        """The system message that asks for `score`."""
        return self.text.replace(SCORE, f"{score:g}")

    @property
    def highest(self) -> str:
        return self.goal(HIGHEST)


def on_scale(scores: Floats, scale: Literal["deciles", "as_given"]) -> Floats:
    """Scores [n] (NaN where missing) as goals [n]: unchanged, or 1 + the number of deciles below the score."""
    if scale == "as_given":
        return scores
    known = scores[~np.isnan(scores)]
    if not len(known):
        return scores
    cuts = np.quantile(known, np.arange(1, HIGHEST) / HIGHEST)
    return np.where(np.isnan(scores), np.nan, 1.0 + (scores[:, None] > cuts).sum(axis=1))


def goals_of_pair(won: float, lost: float) -> list[tuple[float, bool]]:
    """(goal, whether chosen and rejected are swapped) for each pair that a pair with these scores becomes."""
    return [(won, False), (lost, True)] if won > lost else []


def relabel(
    pairs: pa.Table,
    scores: Mapping[int, pa.Table],
    settings: RewardConditioningSettings,
    tokenizer: "PreTrainedTokenizerBase",
) -> tuple[pa.Table, int]:
    """`pairs` (storage.schemas.PREFERENCES) with goals, and how many pairs are left out.

    scores: storage.schemas.SCORES by round. prompt_id ends with the goal, so that each goal makes a prompt of its own.
    Raises UserError when no pair has usable scores, and for a prompt that does not start with the highest goal.
    """
    goals = _goals(scores, settings)
    rows: list[dict[str, object]] = []
    left_out = 0
    for row in pairs.to_pylist():
        keys = [(row["round"], row["prompt_id"], row[index]) for index in ("chosen_index", "rejected_index")]
        relabelled = goals_of_pair(*(goals.get(key, np.nan) for key in keys))
        left_out += not relabelled
        for goal, swapped in relabelled:
            messages = _with_goal(row["prompt"], settings, goal, str(row["prompt_id"]))
            rows.append(
                (_swapped(row) if swapped else row)
                | {
                    "prompt": messages,
                    "prompt_id": f"{row['prompt_id']}@{goal:g}",
                    "prompt_ids": _encode(tokenizer, messages, str(row["prompt_id"])),
                }
            )
    if not rows:
        raise UserError(
            f"no pair has a chosen response with a higher score of {settings.annotator} than the rejected one",
            where="mixing.goals.annotator",
            remedy="choose an annotator whose scores differ between responses",
        )
    return pa.Table.from_pylist(rows, schema=PREFERENCES), left_out


def _goals(scores: Mapping[int, pa.Table], settings: RewardConditioningSettings) -> dict[tuple[int, str, int], float]:
    """The goal of each response, by round, prompt and index."""
    goals: dict[tuple[int, str, int], float] = {}
    for number, rows in scores.items():
        scored = rows.filter(pc.equal(rows["annotator"], settings.annotator))
        values = on_scale(scored["score"].to_numpy().astype(np.float64), settings.scale)  # null is NaN
        names = zip(scored["prompt_id"].to_pylist(), scored["response_index"].to_pylist(), strict=True)
        goals |= {(number, *name): float(value) for name, value in zip(names, values, strict=True)}
    return goals


def _with_goal(
    messages: list[dict[str, str]], settings: RewardConditioningSettings, goal: float, name: str
) -> list[dict[str, str]]:
    """The messages with `goal` in place of the highest one."""
    if messages[0] != {"role": "system", "content": settings.highest}:
        raise UserError(
            f"prompt {name} does not start with the goal {settings.highest!r}",
            where="mixing.goals",
            remedy="remove system messages from the prompt file; prompts.system adds the goal",
        )
    return [{"role": "system", "content": settings.goal(goal)}, *messages[1:]]


def _encode(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], name: str) -> list[int]:
    from tasks.modeling.conversation import RefusedConversation, encode_chat

    try:
        return encode_chat(tokenizer, messages)
    except RefusedConversation as refused:
        raise refused.at(f"mixing.goals, prompt {name}") from None


def _swapped(row: dict[str, object]) -> dict[str, object]:
    """The pair with chosen and rejected swapped."""
    other = dict(row)
    for name, value in row.items():
        if name.startswith("chosen"):
            other[name], other[f"rejected{name.removeprefix('chosen')}"] = row[f"rejected{name[6:]}"], value
    other["votes_chosen"], other["votes_rejected"] = row["votes_rejected"], row["votes_chosen"]
    return other
