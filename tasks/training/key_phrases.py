"""Key phrases of a text by RAKE, rapid automatic keyword extraction (Rose et al., Text Mining, 2010, chapter 1).

Candidates are the longest runs of words of a line without a stop word or a punctuation mark. Over all candidates of
the text, a word's score is degree / frequency, where degree adds up the lengths of the candidates that have it, and a
phrase's score is the sum over its words. Left out of the original: phrases that span a stop word because they occur
twice.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

#: English words of grammar, which end a phrase. Lower case.
STOP_WORDS = frozenset(Path(__file__).with_name("stop_words.txt").read_text(encoding="utf-8").split())


class KeyPhrase(NamedTuple):
    """A phrase in lower case, its score, and the places (start, end) of its occurrences in the text."""

    words: tuple[str, ...]
    score: float
    places: tuple[tuple[int, int], ...]


def key_phrases(text: str, stop_words: Collection[str] = STOP_WORDS) -> list[KeyPhrase]:
    """The key phrases of `text`, those with the highest score first, and of equal ones the earliest."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for run in _runs(text, stop_words):
        places[tuple(_plain(word) for word in run)].append((run[0].start(), run[-1].end()))
    frequency: Counter[str] = Counter()
    degree: Counter[str] = Counter()
    for words, found in places.items():
        for word in words:
            frequency[word] += len(found)
            degree[word] += len(found) * len(words)
    phrases = [
        KeyPhrase(words, sum(degree[word] / frequency[word] for word in words), tuple(found))
        for words, found in places.items()
    ]
    return sorted(phrases, key=lambda phrase: (-phrase.score, phrase.places))


def without(text: str, phrases: Collection[KeyPhrase]) -> str:
    """`text` without all occurrences of `phrases`, each with the spaces after it."""
    parts, start = [], 0
    for first, end in sorted(place for phrase in phrases for place in phrase.places):
        parts.append(text[start:first])
        start = end + len(text[end:]) - len(text[end:].lstrip(" "))
    return "".join([*parts, text[start:]])


def _runs(text: str, stop_words: Collection[str]) -> list[list[re.Match[str]]]:
    """The candidates: runs of words with nothing but white space between them, and no stop word."""
    runs: list[list[re.Match[str]]] = []
    end = None  # of the word before, if it is in the last run
    for word in _WORD.finditer(text):
        if _plain(word) in stop_words:
            end = None
            continue
        between = None if end is None else text[end : word.start()]
        if between is not None and between.isspace() and "\n" not in between:
            runs[-1].append(word)
        else:
            runs.append([word])
        end = word.end()
    return runs


def _plain(word: re.Match[str]) -> str:
    return word.group().lower().replace("’", "'")
