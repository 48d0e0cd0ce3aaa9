"""Annotator of kind `simulated`: a noisy, possibly biased voter who follows Bradley-Terry on a true utility."""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tasks.panel.annotators.function import apply_function, import_function
from tasks.panel.annotators.protocol import Comparison, Response, Score, ShownOrder, Vote, VoteOutcome
from tasks.panel.annotators.settings import AnnotatorBase


class SimulatedSettings(AnnotatorBase):
    """The logit of a vote is utility difference / scale + biases; with probability `noise` it is a coin flip."""

    kind: Literal["simulated"] = "simulated"
    utility: str  # "package.module:name", signature as FunctionSettings.function
    noise: float = Field(0.25, ge=0, le=1)
    scale: float = Field(1.0, gt=0)  # utility difference / scale = logit of the vote
    accuracy: float = Field(1.0, ge=0, le=1)  # the vote is flipped with probability 1 - accuracy; 0: an adversary
    length_bias: float = 0.0  # added to the logit per doubling of the response's length over the other's
    position_bias: float = 0.0  # added to the logit of the response shown first, which is drawn per pair
    ties: float = Field(0.0, ge=0, le=1)  # share of pairs called a tie
    abstentions: float = Field(0.0, ge=0, le=1)  # share of pairs it abstains on

    def open(self, name: str, *, seed: int) -> "SimulatedAnnotator":
        return SimulatedAnnotator(name, self, seed)

    def check(self, name: str) -> None:
        self.open(name, seed=0)

    def files(self) -> list[str]:
        return [self.utility]


class SimulatedAnnotator:
    """Without biases P(votes a) = noise / 2 + (1 - noise) * sigmoid((utility_a - utility_b) / scale), and no ties.

    Each vote is drawn from a hash of the seed, the annotator's name, the prompt's id and the responses' source and
    index. So it does not depend on the rest of the batch, and swapping a and b swaps it. A utility of None is an
    abstention.
    """

    answer_type: Literal["pairs"] = "pairs"
    lane: Literal["python"] = "python"
    tie_margin = 0.0

    def __init__(self, name: str, settings: SimulatedSettings, seed: int) -> None:
        self.name = name
        self._settings = settings
        self._seed = seed
        self._utility = import_function(settings.utility, where=f"annotators.{name}.utility")

    def vote(self, batch: Sequence[Comparison]) -> list[Vote]:
        utilities: dict[int, Score] = {}
        for comparison in batch:
            for response in (comparison.a, comparison.b):
                if id(response) not in utilities:
                    utilities[id(response)] = apply_function(self._utility, response)
        return [self._vote(pair, utilities[id(pair.a)], utilities[id(pair.b)]) for pair in batch]

    def _vote(self, comparison: Comparison, utility_a: Score, utility_b: Score) -> Vote:
        for utility in (utility_a, utility_b):
            if utility.outcome == "error":
                return Vote("error", raw=utility.raw)
        if utility_a.value is None or utility_b.value is None:
            return Vote("abstain")
        # Draws are made for the pair in sorted order, so that (a, b) and (b, a) get mirrored votes.
        first, second = sorted((comparison.a, comparison.b), key=_key)
        swapped = first is comparison.b
        gap = (utility_b.value - utility_a.value) if swapped else (utility_a.value - utility_b.value)
        chosen, first_shown_first = self._choice(first, second, gap)
        order: ShownOrder = "none"
        if self._settings.position_bias:
            order = "ab" if first_shown_first != swapped else "ba"
        if not isinstance(chosen, bool):
            return Vote(chosen, order=order)
        return Vote("a" if chosen != swapped else "b", order=order)

    def _choice(self, first: Response, second: Response, gap: float) -> tuple[bool | VoteOutcome, bool]:
        """(whether the first wins, or "tie" or "abstain"; whether the first was shown first)."""
        settings = self._settings
        attentive, choice = self._draws(first, second, "")
        tie, abstention = self._draws(first, second, "silence")
        flip, shown = self._draws(first, second, "bias")
        first_shown_first = shown < 0.5
        if abstention < settings.abstentions:
            return "abstain", first_shown_first
        if tie < settings.ties:
            return "tie", first_shown_first
        logit = gap / settings.scale
        if settings.length_bias:
            logit += settings.length_bias * math.log2((len(first.text) + 1) / (len(second.text) + 1))
        logit += settings.position_bias if first_shown_first else -settings.position_bias
        probability = _sigmoid(logit) if attentive >= settings.noise else 0.5
        return (choice < probability) != (flip >= settings.accuracy), first_shown_first

    def _draws(self, first: Response, second: Response, what: str) -> tuple[float, float]:
        """Two independent uniform numbers in [0, 1), different for each `what`."""
        text = f"{self._seed}\n{self.name}\n{first.prompt_id}\n{_key(first)}\n{_key(second)}"
        bits = hashlib.blake2b(text.encode(), digest_size=16, person=what.encode()).digest()
        return tuple(int.from_bytes(half, "big") / 2**64 for half in (bits[:8], bits[8:]))  # type: ignore[return-value]


def _key(response: Response) -> tuple[str, int]:
    return response.source, response.index


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
