"""What an annotator is given and what it hands back. A failure is an outcome with its text kept, never a number."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from typing_extensions import TypeIs

Messages = list[dict[str, str]]
Kind = Literal["scores", "pairs", "ranking"]
Lane = Literal["python", "model"]  # "model": loads one, and has the device to itself while it votes
VoteOutcome = Literal["a", "b", "tie", "abstain", "error"]
Order = Literal["ab", "ba", "both", "none"]


@dataclass(frozen=True)
class Limits:
    """How hard a remote annotator may be asked, and when to leave it alone."""

    concurrency: int  # questions in flight
    faults: int  # consecutive faults that open its circuit: then nothing is asked for `pause` seconds
    pause: float  # seconds; doubles each time the probing question fails as well
    probes: int  # failed probes after which the rest of the pass is given up: errors, each with this reason


@dataclass(frozen=True, slots=True)
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
    reference: str | None = None  # the prompt's

    @property
    def prompt(self) -> str:
        """The last message of the prompt: what is asked."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt."""

    a: Response
    b: Response


@dataclass(frozen=True, slots=True)
class Slate:
    """All responses to one prompt that are to be ranked, in the order of their positions."""

    responses: tuple[Response, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """What a score annotator says of one response. `value` is a finite number when outcome is "score", else None."""

    outcome: Literal["score", "abstain", "error"]
    value: float | None = None
    raw: str | None = None  # raw output, or the error's text
    seconds: float | None = None  # None for local, deterministic annotators: equal runs give equal bytes
    tokens: int | None = None
    cost: float | None = None  # in the currency of the annotator's price; None without a price
    faults: str | None = None  # faults of transport on the way, e.g. "HTTP 500, ReadTimeout"; UNANSWERED at the end


@dataclass(frozen=True, slots=True)
class Vote:
    """What a pair annotator says of one comparison."""

    outcome: VoteOutcome
    probability: float | None = None  # of "a is better", where the annotator gives one
    order: Order = "none"  # in which order a and b were shown; "none": not shown as a pair
    ab: VoteOutcome | None = None  # what was said when a was shown first, where both orders were shown
    ba: VoteOutcome | None = None  # what was said when b was shown first
    raw: str | None = None
    seconds: float | None = None
    tokens: int | None = None
    cost: float | None = None
    faults: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a ranking annotator says of one slate: tiers of positions, best first; each position in one tier at most.

    Positions in one tier are tied. A position in no tier was not ranked: it takes no part in votes.
    """

    outcome: Literal["ranking", "abstain", "error"]
    tiers: tuple[tuple[int, ...], ...] = ()
    raw: str | None = None
    seconds: float | None = None
    tokens: int | None = None
    cost: float | None = None
    faults: str | None = None


UNANSWERED = "unanswered"

Question = Response | Comparison | Slate
Answer = Score | Vote | Ranking


class Fault(Exception):
    """Nobody answered: the endpoint could not be reached, or kept failing, after all retries. The text says how.

    `seconds` is what the attempts took. Faults count towards the circuit breaker; an answer that cannot be parsed
    is no fault but an error.
    """

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class Local(Protocol):
    """An annotator on this machine that answers batches: kind "scores", "pairs" or "ranking".

    Annotators of one lane take turns; lanes work at the same time.
    """

    @property
    def lane(self) -> Lane: ...

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def tie_margin(self) -> float:
        """Scores this close, or closer, are a tie. 0 for kinds other than "scores"."""

    def vote(self, batch: Sequence[Any]) -> Sequence[Answer]:
        """One answer a question, in order: Score to Response, Vote to Comparison, Ranking to Slate.

        Swapping a and b of a comparison swaps the outcome, and nothing else.
        """


class Remote(Protocol):
    """An annotator whose every answer costs time or money: asked one question at a time, many at once.

    Its answers are kept as they come, by `identity` and the question's content, and never asked for twice.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def tie_margin(self) -> float: ...

    @property
    def identity(self) -> str:
        """Digest of everything but the question that decides an answer: model, template, sampling; no addresses."""

    @property
    def limits(self) -> Limits: ...

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Within it `ask` works. Raises UserError for what is known to be wrong before anything is asked."""

    async def ask(self, question: Any) -> Answer:
        """Score to Response, Vote to Comparison, Ranking to Slate. Raises Fault."""


Annotator = Local | Remote


def is_remote(annotator: Annotator) -> TypeIs[Remote]:
    return hasattr(annotator, "ask")
