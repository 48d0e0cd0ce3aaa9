"""Instructions that a program can check (by IFEval's names), in words of our own: the text, and the check with its
arguments."""

import random
from collections.abc import Callable, Mapping
from typing import TypeAlias

Check: TypeAlias = Mapping[str, str | int | list[str]]
Instruction: TypeAlias = tuple[str, Check]

KEYWORDS = ("important", "example", "simple", "together")


def _short(generator: random.Random) -> Instruction:
    words = generator.choice([15, 20, 25])
    check: Check = {"check": "length_constraints:number_words", "num_words": words, "relation": "less than"}
    return f"Answer in fewer than {words} words.", check


def _long(generator: random.Random) -> Instruction:
    words = generator.choice([40, 45])
    check: Check = {"check": "length_constraints:number_words", "num_words": words, "relation": "at least"}
    return f"Answer with at least {words} words.", check


def _one_sentence(generator: random.Random) -> Instruction:
    check: Check = {"check": "length_constraints:number_sentences", "num_sentences": 2, "relation": "less than"}
    return "Answer in one sentence only.", check


def _bullets(generator: random.Random) -> Instruction:
    bullets = generator.choice([2, 3])
    text = f"Your answer must contain exactly {bullets} bullet points. Write each one on a line of its own, like this:"
    return f"{text}\n* This is a point.", {"check": "detectable_format:number_bullet_lists", "num_bullets": bullets}


def _no_commas(generator: random.Random) -> Instruction:
    return "Do not use any commas in your answer.", {"check": "punctuation:no_comma"}


def _title(generator: random.Random) -> Instruction:
    text = "Begin your answer with a title in double angle brackets, such as <<title>>."
    return text, {"check": "detectable_format:title"}


def _keyword(generator: random.Random) -> Instruction:
    word = generator.choice(KEYWORDS)
    return f"Use the word '{word}' in your answer.", {"check": "keywords:existence", "keywords": [word]}


def _lower_case(generator: random.Random) -> Instruction:
    text = "Answer in lowercase letters only, without capital letters, like this: it is small and warm."
    return text, {"check": "change_case:english_lowercase"}


#: kind (the prompt's category) -> makes an instruction of this kind
KINDS: Mapping[str, Callable[[random.Random], Instruction]] = {
    "short": _short,
    "long": _long,
    "one-sentence": _one_sentence,
    "bullets": _bullets,
    "no-commas": _no_commas,
    "title": _title,
    "keyword": _keyword,
    "lower-case": _lower_case,
}
