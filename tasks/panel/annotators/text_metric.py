"""Annotator of kind `text_metric`: how close a response is to the prompt's reference (BLEUBERI, arXiv 2505.11080)."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer

_ORDER = 4  # BLEU counts n-grams up to this n


class TextMetricSettings(Scorer):
    """Score in [0, 1] against the prompt's `reference`; none known = abstain."""

    kind: Literal["text_metric"]
    metric: Literal["bleu", "rouge_l"] = "bleu"


class TextMetric:
    """Deterministic."""

    kind: Literal["scores"] = "scores"
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
    """Sentence BLEU (Papineni et al. 2002) in [0, 1] as sacrebleu reports it: 13a tokens, effective order (only n-grams
    that the text is long enough for), and the k-th order without a match counted as 1 / (2^k total)."""
    words, wanted = tokens_13a(text), tokens_13a(reference)
    precisions: list[float] = []
    halvings = 1
    for n in range(1, _ORDER + 1):
        total = len(words) - n + 1
        if total < 1:
            break
        matches = (_ngrams(words, n) & _ngrams(wanted, n)).total()
        if matches == 0:
            halvings *= 2
        precisions.append(matches / total if matches else 1 / (halvings * total))
        if n == 1 and matches == 0:
            return 0.0
    if not precisions:
        return 0.0
    brevity = min(0.0, 1 - len(wanted) / len(words))
    return math.exp(brevity + sum(map(math.log, precisions)) / len(precisions))


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1 (Lin 2004) in [0, 1] over lower-case words of letters and digits: longest common subsequence."""
    words, wanted = (re.findall(r"[a-z0-9]+", each.lower()) for each in (text, reference))
    common = _common_subsequence(words, wanted)
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


def tokens_13a(text: str) -> list[str]:
    """Words as NIST's mteval-v13a separates them: symbols stand alone, '.' and ',' unless between digits, and '-'
    after a digit."""
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
    """Length of the longest common subsequence; a row of the table is one integer (Hyyro 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(one) - row.bit_count()
