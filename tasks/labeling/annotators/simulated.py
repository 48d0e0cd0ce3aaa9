"""Annotator of kind `simulated`: a noisy human who votes by Bradley-Terry on a true utility."""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

from tasks.labeling.annotators.function import apply_function, import_function
from tasks.labeling.annotators.protocol import Comparison, Response, Score, Vote
from tasks.labeling.settings import SimulatedSettings


class SimulatedAnnotator:
    """P(votes a) = noise / 2 + (1 - noise) * sigmoid((utility_a - utility_b) / scale); never a tie.

    Each vote is drawn from a hash of the seed, the annotator's name, the prompt and the two responses' names, so it
    does not depend on what else is in the batch, and swapping a and b swaps it. No utility (None) is an abstention.
    """

    kind: Literal["pairs"] = "pairs"
    lane: Literal["python"] = "python"
    tie_margin = 0.0

    def __init__(self, name: str, settings: SimulatedSettings, seed: int) -> None:
        self.name = name
        self._settings = settings
        self._seed = seed
        self._utility = import_function(settings.utility, where=f"annotators.{name}.utility")

    def vote(self, batch: Sequence[Comparison]) -> list[Vote]:
        known: dict[int, Score] = {}
        for comparison in batch:
            for response in (comparison.a, comparison.b):
                if id(response) not in known:
                    known[id(response)] = apply_function(self._utility, response)
        return [self._vote(each, known[id(each.a)], known[id(each.b)]) for each in batch]

    def _vote(self, comparison: Comparison, utility_a: Score, utility_b: Score) -> Vote:
        for utility in (utility_a, utility_b):
            if utility.outcome == "error":
                return Vote("error", raw=utility.raw)
        if utility_a.value is None or utility_b.value is None:
            return Vote("abstain")
        first, second = sorted((comparison.a, comparison.b), key=_key)
        swapped = first is comparison.b
        gap = (utility_a.value - utility_b.value) / self._settings.scale
        attentive, choice = self._draws(first, second)
        # The draws belong to the pair in its sorted order, so that (a, b) and (b, a) get mirrored votes.
        probability = _sigmoid(-gap if swapped else gap) if attentive >= self._settings.noise else 0.5
        prefers_first = choice < probability
        return Vote("a" if prefers_first != swapped else "b")

    def _draws(self, first: Response, second: Response) -> tuple[float, float]:
        """Two independent uniforms in [0, 1)."""
        text = f"{self._seed}\n{self.name}\n{first.prompt_id}\n{_key(first)}\n{_key(second)}"
        bits = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return tuple(int.from_bytes(half, "big") / 2**64 for half in (bits[:8], bits[8:]))  # type: ignore[return-value]


def _key(response: Response) -> tuple[str, int]:
    return response.source, response.index


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
