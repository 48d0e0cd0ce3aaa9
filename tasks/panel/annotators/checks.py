"""Instructions that a program can check, by the names and arguments of IFEval (arXiv 2311.07911).

Differences from IFEval: keywords are literal texts, not expressions; sentences are counted by their full stops, not by
a trained splitter; upper and lower case are checked without testing whether the text is English; the language of a
response (`language:response_language`) is not checked, because that needs a language detector.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Relation = Literal["at least", "less than"]

#: Checks of IFEval that are skipped.
SKIPPED = frozenset({"language:response_language"})

_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*(?:```)?", re.DOTALL | re.IGNORECASE)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|[A-Z])\.")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _compare(count: int, relation: Relation, limit: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"the relation must be 'at least' or 'less than', not {relation!r}")
    return count >= limit if relation == "at least" else count < limit


def _count(text: str, keyword: str) -> int:
    return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def _existence(text: str, keywords: Sequence[str]) -> bool:
    return all(_count(text, keyword) for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: Relation = "at least") -> bool:
    return _compare(_count(text, keyword), relation, frequency)


def _forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: Relation = "at least") -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def _words(text: str, num_words: int, relation: Relation = "at least") -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def _sentences(text: str, num_sentences: int, relation: Relation = "at least") -> bool:
    return _compare(count_sentences(text), relation, num_sentences)


def count_sentences(text: str) -> int:
    """Number of pieces with a word in them that end at '.', '!' or '?' before white space, or at the end of the text.
    The full stops of common abbreviations and of initials do not end a sentence."""
    text = _ABBREVIATION.sub(lambda match: match[0][:-1], text)
    return sum(bool(re.search(r"\w", part)) for part in re.split(r"[.!?]+[\"')\]]*(?=\s|$)", text))


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs separated by ***; an empty one fails the check unless it is the first or the last."""
    parts = [part.strip() for part in text.split("***")]
    inner = parts[bool(not parts[0]) : len(parts) - bool(not parts[-1])]
    return len(inner) == num_paragraphs and all(inner)


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are separated by blank lines; nth_paragraph counts from 1."""
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
        return False
    word = re.match(r"[^\s.,?!'\"]*", parts[nth_paragraph - 1].lstrip("'\""))
    return word is not None and word[0].lower() == first_word.lower()


def _bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*\n]|-).*$", text, re.MULTILINE)) == num_bullets


def _highlights(text: str, num_highlights: int) -> bool:
    """*like this* or **like this**."""
    highlights = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
    return sum(bool(highlight.strip("* ")) for highlight in highlights) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = patterns.get(postscript_marker, re.escape(postscript_marker))
    return re.search(pattern, text, re.IGNORECASE) is not None


def _title(text: str) -> bool:
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+>>", text))


def _json(text: str) -> bool:
    fenced = _FENCE.fullmatch(text.strip())
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def _capital_words(text: str, capital_frequency: int, capital_relation: Relation = "at least") -> bool:
    return _compare(
        sum(word.isupper() for word in re.findall(r"\w+(?:-\w+)*", text)), capital_relation, capital_frequency
    )


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = parts[bool(not parts[0]) : len(parts) - bool(not parts[-1])]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _starts_with(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _one_of_the_answers(text: str) -> bool:
    return any(answer in text for answer in _ANSWERS)


CHECKS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text: text.isupper(),
    "change_case:english_lowercase": lambda text: text.islower(),
    "combination:repeat_prompt": _starts_with,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _one_of_the_answers,
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letter_frequency,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
}


def holds(text: str, check: str, arguments: Mapping[str, Any]) -> bool:
    """Whether `text` follows one instruction; an empty text follows none. Raises ValueError for what `problem_with`
    reports."""
    if problem := problem_with(check, arguments):
        raise ValueError(problem)
    return bool(text.strip()) and CHECKS[check](text, **arguments)


def problem_with(check: str, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with a check's name or the names of its arguments; None if nothing is."""
    if check not in CHECKS:
        return f"there is no check {check!r}; the checks are {', '.join(CHECKS)}"
    try:
        inspect.signature(CHECKS[check]).bind("", **arguments)
    except TypeError as error:
        return f"{check}: {error}"
    return None
