"""Annotator of kind `text_metric`: how close a response is to the prompt's reference (BLEUBERI, arXiv 2505.11080)."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import SoftScorer

_ORDER = 4  # BLEU counts n-grams up to this n


class TextMetricSettings(SoftScorer):
    """Score in [0, 1] against the prompt's `reference`; without a reference it abstains."""

    kind: Literal["text_metric"] = "text_metric"
    metric: Literal["bleu", "rouge_l"] = "bleu"
    soft: bool = False  # a difference of 0.1 says much, and is no logit: with soft, set temperature too

    def compares_with(self) -> Literal["reference"]:
        return "reference"

    def open(self, name: str, *, seed: int) -> "TextMetric":
        return TextMetric(name, self)


class TextMetric:
    """The metric of each response against its prompt's reference. Deterministic."""

    answer_type: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: TextMetricSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._metric = bleu if settings.metric == "bleu" else rouge_l

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [self._score(response) for response in batch]

    def _score(self, response: Response) -> Score:
        if not (response.reference or "").strip():
            return Score("abstain")
        return Score("score", self._metric(response.text, response.reference or ""))


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU (Papineni et al. 2002) in [0, 1], as sacrebleu computes it: 13a tokens, effective order (n only up
    to the length of the text), and 1 / (2^k total) for the k-th order without a match."""
    words, target = tokens_13a(text), tokens_13a(reference)
    precisions: list[float] = []
    halvings = 1
    for n in range(1, _ORDER + 1):
        total = len(words) - n + 1
        if total < 1:
            break
        matches = (_ngrams(words, n) & _ngrams(target, n)).total()
        if matches == 0:
            halvings *= 2
        precisions.append(matches / total if matches else 1 / (halvings * total))
        if n == 1 and matches == 0:
            return 0.0
    if not precisions:
        return 0.0
    brevity = min(0.0, 1 - len(target) / len(words))
    return math.exp(brevity + sum(map(math.log, precisions)) / len(precisions))


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1 (Lin 2004) in [0, 1] over lower-case words of letters and digits."""
    words, target = (re.findall(r"[a-z0-9]+", string.lower()) for string in (text, reference))
    common = _common_subsequence(words, target)
    return 2 * common / (len(words) + len(target)) if common else 0.0


def tokens_13a(text: str) -> list[str]:
    """Tokens of NIST's mteval-v13a: symbols are tokens of their own, and so are '.' and ',' except between digits, and
    '-' after a digit."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(entity, character)
    text = re.sub(r"([ -&(-+:-@/\[-`{-~])", r" \1 ", f" {text} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence; each row of the table is one integer (Hyyro 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(one) - row.bit_count()
