"""What an annotator is asked and what it answers. A failure is an outcome that keeps its text, never a number."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from typing_extensions import TypeIs

Messages = list[dict[str, str]]
AnswerType = Literal["scores", "pairs", "ranking"]  # a score per response, a vote per pair, or a ranking per prompt
Lane = Literal["python", "model"]  # "model": loads a model, and has the device to itself while it votes
VoteOutcome = Literal["a", "b", "tie", "abstain", "error"]
ShownOrder = Literal["ab", "ba", "both", "none"]


@dataclass(frozen=True)
class Limits:
    """How many requests a remote annotator gets at once, and when it is given a pause."""

    concurrency: int  # questions in flight
    faults: int  # consecutive faults that open the circuit breaker: then nothing is asked for `pause` seconds
    pause: float  # seconds; doubles each time the probing question fails as well
    probes: int  # failed probes after which the annotator is given up: its other questions become errors


@dataclass(frozen=True, slots=True)
class Response:
    """One response, with the fields of its prompt."""

    prompt_id: str
    source: str
    index: int
    messages: Messages  # the prompt
    answer: str | None
    category: str | None
    text: str  # without the thought of a reasoning reply
    ended: bool  # False: cut off at the token limit
    reference: str | None = None  # the prompt's
    reasoning: str = ""  # the thought before the text, with its marks

    @property
    def prompt(self) -> str:
        """The last message of the prompt."""
        return self.messages[-1]["content"]

    @property
    def reply(self) -> str:
        """All that the policy wrote: what is trained."""
        return self.reasoning + self.text


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt."""

    a: Response
    b: Response


@dataclass(frozen=True, slots=True)
class Slate:
    """The responses to one prompt that are ranked together, in the order of their positions."""

    responses: tuple[Response, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Answer to a Response. `value` is a finite number if the outcome is "score", else None."""

    outcome: Literal["score", "abstain", "error"]
    value: float | None = None
    raw: str | None = None  # raw output, or the error's text
    seconds: float | None = None  # None for local, deterministic annotators: equal runs give equal bytes
    tokens: int | None = None
    cost: float | None = None  # in the currency of the annotator's price; None without a price
    faults: str | None = None  # transport faults before the answer, e.g. "HTTP 500, timeout"; may end in UNANSWERED


@dataclass(frozen=True, slots=True)
class Vote:
    """Answer to a Comparison."""

    outcome: VoteOutcome
    probability: float | None = None  # of "a is better", if the annotator gives one
    order: ShownOrder = "none"  # the order in which a and b were shown; "none": not shown as a pair
    ab: VoteOutcome | None = None  # the verdict when a was shown first, if both orders were shown
    ba: VoteOutcome | None = None  # the verdict when b was shown first
    raw: str | None = None
    seconds: float | None = None
    tokens: int | None = None
    cost: float | None = None
    faults: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answer to a Slate: tiers of positions, best first; each position is in one tier at most.

    Positions in one tier are tied. A position in no tier was not ranked: the annotator abstains on its pairs.
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
    """The model could not be reached, or failed on every retry. The text says how.

    `seconds` is what the attempts took. `lasting`: asking again will not help, because the address, the key or the
    model's name is wrong. Faults count towards the circuit breaker. An answer that cannot be parsed is not a fault but
    an answer with the outcome "error".
    """

    def __init__(self, text: str, seconds: float, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.seconds = seconds
        self.lasting = lasting


class Refused(Exception):
    """The model was reached and refuses this question, for example because it is too long. The text says why.

    It is an error of this question alone: it does not count towards the circuit breaker, and is not stored.
    """

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class LocalAnnotator(Protocol):
    """An annotator on this machine, which answers batches.

    Annotators of one lane take turns; the lanes work at the same time.
    """

    @property
    def lane(self) -> Lane: ...

    @property
    def name(self) -> str: ...

    @property
    def answer_type(self) -> AnswerType: ...

    @property
    def tie_margin(self) -> float:
        """Scores that differ by at most this are a tie. 0 for other answer types than "scores"."""

    def vote(self, batch: Sequence[Any]) -> Sequence[Answer]:
        """One answer per question, in order: Score to Response, Vote to Comparison, Ranking to Slate.

        Swapping a and b of a comparison must swap the outcome and change nothing else.
        """


@runtime_checkable
class HoldsModel(Protocol):
    """A local annotator that loads a model at its first vote."""

    def close(self) -> None:
        """Free the model's memory. Called when the annotator has answered all its questions, or failed.

        A later `vote` loads the model again.
        """


class RemoteAnnotator(Protocol):
    """An annotator whose answers cost time or money: it gets one question per request, and many requests at once.

    Its answers are stored as they arrive, by `identity` and the question's content, and never requested twice.
    """

    @property
    def name(self) -> str: ...

    @property
    def answer_type(self) -> AnswerType: ...

    @property
    def tie_margin(self) -> float: ...

    @property
    def identity(self) -> str:
        """Digest of everything but the question that decides an answer: model, template, sampling; not the address."""

    @property
    def limits(self) -> Limits: ...

    def connected(self) -> AbstractAsyncContextManager[None]:
        """`ask` works inside this context. Raises UserError for settings that cannot work."""

    async def ask(self, question: Any) -> Answer:
        """Score to Response, Vote to Comparison, Ranking to Slate.

        Raises Fault or Refused. Any other exception becomes an error of this question. UserError ends the pass.
        """


Annotator = LocalAnnotator | RemoteAnnotator


def is_remote(annotator: Annotator) -> TypeIs[RemoteAnnotator]:
    return hasattr(annotator, "ask")
