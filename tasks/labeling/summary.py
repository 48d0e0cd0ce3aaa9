"""The summary of a label stage, as in its manifest: votes, pairs, and statistics of the panel."""

import logging
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

log = logging.getLogger("irepo")


class _Summary(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AnnotatorStats(_Summary):
    """One annotator in one label stage. Fields are the columns of storage.schemas.ANNOTATORS."""

    annotator: str
    kind: str
    a: int
    b: int
    tie: int
    abstain: int
    error: int
    unanswered: int
    faults: str
    agrees_with_panel: float | None
    agrees_with_others: float | None
    gold_votes: int
    gold_accuracy: float | None
    first_share: float | None
    order_consistency: float | None
    longer_share: float | None
    triples: int
    intransitive: int
    seconds: float | None
    tokens: int | None
    cost: float | None

    @property
    def outcomes(self) -> dict[str, int]:
        """Votes by outcome."""
        return {"a": self.a, "b": self.b, "tie": self.tie, "abstain": self.abstain, "error": self.error}


class Agreement(_Summary):
    """Two annotators on the comparisons that both voted on. Fields are the columns of storage.schemas.AGREEMENT."""

    annotator: str
    other: str
    both: int
    same: float
    kappa: float | None


class AnnotatorReliability(_Summary):
    """eta: estimated probability of an honest vote, None when the votes do not identify it. used: the probability that
    its votes count with. votes: decided votes; shared: those on pairs that another annotator decided too."""

    eta: float | None
    used: float
    votes: int
    shared: int


class ScoreTemperature(_Summary):
    """temperature: the difference of scores that counts as one logit. votes: decided votes of others that it was
    estimated from; None when it was given. not_identified: why it could not be estimated and is 1."""

    temperature: float
    votes: int | None = None
    not_identified: str | None = None


class Estimates(_Summary):
    """What the votes show about annotators. Fields that no estimator sets are not written."""

    annotators: dict[str, AnnotatorReliability] = {}
    not_identified: dict[str, str] = {}  # annotator -> why its reliability is unknown; its votes count in full
    passes: int | None = None
    groups: dict[str, list[float]] = {}  # annotator -> its share in each group
    length_penalties: dict[str, float] = {}  # annotator -> reward subtracted a character
    temperatures: dict[str, ScoreTemperature] = {}  # annotator whose votes are soft -> temperature of its scores
    prior_variance: float | None = None  # chosen by leaving out one annotator at a time
    notes: dict[str, int] = {}  # what the estimator reports -> how often it happened

    def with_notes(self, notes: dict[str, int]) -> Self:
        """These estimates with notes, if there are any."""
        return self._with("notes", notes)

    def with_length_penalties(self, penalties: dict[str, float]) -> Self:
        """These estimates with length penalties, if there are any."""
        return self._with("length_penalties", penalties)

    def with_prior_variance(self, variance: float) -> Self:
        """These estimates with the prior variance that was chosen."""
        return type(self).model_validate(self.model_dump(exclude_unset=True) | {"prior_variance": variance})

    def with_temperatures(self, temperatures: dict[str, ScoreTemperature]) -> Self:
        """These estimates with the temperatures of soft votes, if there are any."""
        return self._with("temperatures", temperatures)

    def _with(self, name: str, values: dict[str, Any]) -> Self:
        return type(self).model_validate(self.model_dump(exclude_unset=True) | {name: values}) if values else self


class Targets(_Summary):
    """How much the targets of a round say. All counts are of the published pairs, but for `prompts`."""

    pairs: int
    zero: int  # pairs whose target is 0: the panel is split evenly, or ties them
    prompts: int  # of the round, with or without pairs
    informative: int  # prompts with a target that is not 0

    @classmethod
    def of(cls, preferences: pa.Table, prompts: int) -> Self:
        """Of rows with the columns prompt_id and target of storage.schemas.PREFERENCES."""
        differs = preferences.filter(pc.not_equal(preferences["target"], 0.0))
        return cls(
            pairs=len(preferences),
            zero=len(preferences) - len(differs),
            prompts=prompts,
            informative=pc.count_distinct(differs["prompt_id"]).as_py(),
        )

    def __str__(self) -> str:
        silent = self.prompts - self.informative
        return (
            f"{100 * self.zero / self.pairs:.0f} % of targets are 0; {silent} of {self.prompts} prompts teach nothing"
        )

    def report(self) -> None:
        """Log how much the targets say; a warning with a remedy when half of them or of the prompts say nothing."""
        if 2 * self.zero < self.pairs and 2 * self.informative > self.prompts:
            log.info("%s", self)
            return
        log.warning(
            "%s. More responses a prompt, a finer annotator or more of them give more of them a target; "
            "preferences.keep=informative spares the training of prompts that teach nothing",
            self,
        )


class LabelSummary(_Summary):
    """votes: {annotator: {outcome: count}}. dropped: pairs left out, by reason."""

    responses: int
    comparisons: int
    votes: dict[str, dict[str, int]]
    pairs: int
    dropped: dict[str, int]
    mean_abs_target: float
    targets: Targets | None = None  # None in stages of earlier versions
    annotators: list[AnnotatorStats]
    agreement: list[Agreement]
    learnt: Estimates

    def as_json(self) -> dict[str, Any]:
        """The summary for the manifest, without estimates that are not set."""
        return self.model_dump(mode="json", exclude_unset=True)
