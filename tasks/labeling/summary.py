"""The summary of a label stage, as in its manifest: votes, pairs, and statistics of the panel."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


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


class Estimates(_Summary):
    """What the votes show about annotators. Fields that no estimator sets are not written."""

    annotators: dict[str, AnnotatorReliability] = {}
    not_identified: dict[str, str] = {}  # annotator -> why its reliability is unknown; its votes count in full
    passes: int | None = None
    groups: dict[str, list[float]] = {}  # annotator -> its share in each group
    length_penalties: dict[str, float] = {}  # annotator -> reward subtracted a character
    notes: dict[str, int] = {}  # what the estimator reports -> how often it happened

    def with_notes(self, notes: dict[str, int]) -> Self:
        """These estimates with notes, if there are any."""
        return self._with("notes", notes)

    def with_length_penalties(self, penalties: dict[str, float]) -> Self:
        """These estimates with length penalties, if there are any."""
        return self._with("length_penalties", penalties)

    def _with(self, name: str, values: dict[str, Any]) -> Self:
        return type(self).model_validate(self.model_dump(exclude_unset=True) | {name: values}) if values else self


class LabelSummary(_Summary):
    """votes: {annotator: {outcome: count}}. dropped: pairs left out, by reason."""

    responses: int
    comparisons: int
    votes: dict[str, dict[str, int]]
    pairs: int
    dropped: dict[str, int]
    mean_abs_target: float
    annotators: list[AnnotatorStats]
    agreement: list[Agreement]
    learnt: Estimates

    def as_json(self) -> dict[str, Any]:
        """The summary for the manifest, without estimates that are not set."""
        return self.model_dump(mode="json", exclude_unset=True)
