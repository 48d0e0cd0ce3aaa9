"""The metrics of one evaluation, as in metrics.json and in the summary of an evaluate stage."""

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from tasks.evaluation.calibration import Calibration, Displacement
from tasks.evaluation.divergence import Divergence
from tasks.evaluation.harness.stage import HarnessScores
from tasks.evaluation.intervals import Interval
from tasks.evaluation.length import LengthEffect
from tasks.evaluation.mt_bench.figures import MtBench
from tasks.evaluation.wins import Category, Gap

SAMPLES = "samples.json"  # beside the metrics: a few replies to read


class Excluded(BaseModel):
    """How many votes and scores are left out of the means, by reason (abstain, error)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    votes: dict[str, dict[str, dict[str, int]]]  # [source][judge][reason]
    scores: dict[str, dict[str, int]]  # [annotator][reason]


class Metrics(BaseModel):
    """The metrics of one evaluation. A judge or annotator without any outcome that counts is in `excluded` only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    win_rate: dict[str, dict[str, Interval]]  # [source][judge]: how often the policy's reply beats the source's
    rates: dict[str, Interval]  # [annotator]: mean score of the policy's replies
    kl: Divergence  # from the initial policy, nats
    tokens: float  # mean reply length, the end token included
    words: float  # mean reply length, split at white space
    finish_rate: float  # share of replies that end by themselves
    unique_rate: float  # distinct reply texts / replies, over all prompts: falls when the policy collapses
    replies: dict[str, Interval]  # length, diversity and finish rate with intervals: tasks.evaluation.replies
    length: dict[str, dict[str, LengthEffect]]  # [source][judge]: the effect of length on the win rate
    gap: dict[str, dict[str, Gap]]  # [source][judge]: difference from the judge that is the truth
    categories: dict[str, Category]  # {} unless prompts have at least two categories
    calibration: Calibration | None  # of the implicit reward, on held-out pairs
    displacement: Displacement | None  # of log-probabilities, on held-out pairs
    excluded: Excluded
    harness: HarnessScores | None = None  # scores of lm-eval; not written when there are none
    mt_bench: MtBench | None = None  # not written when there is none

    @model_serializer(mode="wrap")
    def _without_missing_benchmarks(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Benchmarks that were not run are left out, so that metrics.json is the same as before they existed."""
        metrics: dict[str, object] = serialize(self)
        missing = [name for name in ("harness", "mt_bench") if metrics[name] is None]
        return {name: value for name, value in metrics.items() if name not in missing}
