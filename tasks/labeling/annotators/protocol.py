"""What an annotator is given and what it hands back. A failure is an outcome with its text kept, never a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Messages = list[dict[str, str]]
VoteOutcome = Literal["a", "b", "tie", "abstain", "error"]
Order = Literal["ab", "ba", "both", "none"]


@dataclass(frozen=True)
class Response:
    """One response with what its prompt's row says."""

    prompt_id: str
    source: str
    index: int
    messages: Messages  # the prompt
    answer: str | None
    category: str | None
    text: str
    ended: bool  # by itself, not cut off

    @property
    def prompt(self) -> str:
        """The last message of the prompt: what is asked."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt."""

    a: Response
    b: Response


@dataclass(frozen=True)
class Score:
    """What a score annotator says of one response. `value` is a finite number when outcome is "score", else None."""

    outcome: Literal["score", "abstain", "error"]
    value: float | None = None
    raw: str | None = None  # raw output, or the error's text


@dataclass(frozen=True)
class Vote:
    """What a pair annotator says of one comparison."""

    outcome: VoteOutcome
    probability: float | None = None  # of "a is better", where the annotator gives one
    order: Order = "none"  # in which order a and b were shown; "none": not shown as a pair
    raw: str | None = None
    seconds: float | None = None  # None for local, deterministic annotators: equal runs give equal bytes
    tokens: int | None = None
    cost: float | None = None


class ScoreAnnotator(Protocol):
    """Scores single responses; its comparisons follow from the scores."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["scores"]: ...

    @property
    def tie_margin(self) -> float:
        """Scores this close, or closer, are a tie."""

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        """One score a response, in order."""


class PairAnnotator(Protocol):
    """Compares two responses."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["pairs"]: ...

    def vote(self, batch: Sequence[Comparison]) -> list[Vote]:
        """One vote a comparison, in order. Swapping a and b of a comparison swaps the outcome, and nothing else."""


Annotator = ScoreAnnotator | PairAnnotator
