"""The figures of one evaluation: what metrics.json and the summary of an evaluate stage hold."""

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from tasks.evaluation.calibration import Calibration, Displacement
from tasks.evaluation.divergence import Divergence
from tasks.evaluation.harness.stage import HarnessScores
from tasks.evaluation.intervals import Interval
from tasks.evaluation.length import LengthEffect
from tasks.evaluation.mt_bench.figures import MtBench
from tasks.evaluation.wins import Category, Gap


class Excluded(BaseModel):
    """What took no part in a mean, by reason (abstain, error)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    votes: dict[str, dict[str, dict[str, int]]]  # [source][judge][reason]
    scores: dict[str, dict[str, int]]  # [annotator][reason]


class Metrics(BaseModel):
    """The figures of one evaluation. A judge or annotator none of whose outcomes counts is in `excluded` only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    win_rate: dict[str, dict[str, Interval]]  # [source][judge]: how often the policy's reply beats the source's
    rates: dict[str, Interval]  # [annotator]: mean score of the policy's replies
    kl: Divergence  # from the initial policy, nats
    tokens: float  # mean reply length, the end token included
    words: float  # mean reply length, split at white space
    finish_rate: float  # share of replies that ended by themselves
    unique_rate: float  # distinct reply texts / replies, over all prompts: falls when the policy collapses
    replies: dict[str, Interval]  # length, diversity and finish rate, with intervals: see tasks.evaluation.replies
    length: dict[str, dict[str, LengthEffect]]  # [source][judge]: how much of a win rate is length
    gap: dict[str, dict[str, Gap]]  # [source][judge]: judges beside the one that is the truth
    categories: dict[str, Category]  # {} unless prompts have at least two categories
    calibration: Calibration | None  # of the implicit reward, on held-out pairs
    displacement: Displacement | None  # of log-probabilities, on held-out pairs
    excluded: Excluded
    harness: HarnessScores | None = None  # of lm-eval's tasks; left out where none was asked
    mt_bench: MtBench | None = None  # left out where nobody graded

    @model_serializer(mode="wrap")
    def _asked_only(self, said: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Evaluations without benchmarks have the bytes that they had before there were any."""
        figures: dict[str, Any] = said(self)
        unasked = [name for name in ("harness", "mt_bench") if figures[name] is None]
        return {name: value for name, value in figures.items() if name not in unasked}
