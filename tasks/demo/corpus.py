"""The demo's world: prompts with a known answer, replies of mixed quality, clean question-answer rows, noisy pairs.

Four tasks: `sum` (1..10 plus 1..10), `larger` (of two numbers up to 15), `fact` (40 one-word facts) and `list` (2 to 4
items of a kind), 1280 prompts in all. About a fifth is held out by the prompt's sha256, the same for every seed; the
training prompts ask for the same facts in other words. All random draws use generators that the caller passes.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from storage.files import publish_text

Task = Literal["sum", "larger", "fact", "list"]
Row = dict[str, list[dict[str, str]]]

POLITE_OPENERS = ("Sure!", "Certainly!", "Of course!", "Happy to help!")
POLITE_CLOSERS = ("Have a nice day!", "Hope that helps!")
RUDE_OPENERS = ("Whatever.", "Ugh, fine.", "Obviously.", "Dumb question.")
RAMBLINGS = (
    "There are many things one could say about this.",
    "My neighbor often asks me about that.",
    "Anyway, that is a very big topic.",
    "I was thinking about it only yesterday.",
)
LEADS = ("", "It is ", "The answer is ")

FACTS: dict[str, dict[str, str]] = {
    "the color of {}": {
        "sky": "blue",
        "grass": "green",
        "snow": "white",
        "coal": "black",
        "blood": "red",
        "butter": "yellow",
        "carrots": "orange",
        "chocolate": "brown",
        "violets": "purple",
        "flamingos": "pink",
    },
    "the opposite of {}": {
        "hot": "cold",
        "big": "small",
        "full": "empty",
        "fast": "slow",
        "up": "down",
        "day": "night",
        "wet": "dry",
        "old": "young",
        "open": "closed",
        "soft": "hard",
    },
    "the capital of {}": {
        "France": "Paris",
        "Italy": "Rome",
        "Spain": "Madrid",
        "Japan": "Tokyo",
        "Germany": "Berlin",
        "Egypt": "Cairo",
        "Russia": "Moscow",
        "Greece": "Athens",
        "Peru": "Lima",
        "Cuba": "Havana",
    },
    "the young of a {}": {
        "dog": "puppy",
        "cat": "kitten",
        "cow": "calf",
        "mare": "foal",
        "sheep": "lamb",
        "bear": "cub",
        "duck": "duckling",
        "hen": "chick",
        "frog": "tadpole",
        "swan": "cygnet",
    },
}

KINDS: dict[str, tuple[str, ...]] = {
    "animals": ("tiger", "rabbit", "horse", "zebra", "fox", "goat", "wolf", "deer"),
    "fruits": ("apple", "pear", "plum", "cherry", "grape", "lemon", "melon", "fig"),
    "tools": ("hammer", "saw", "drill", "wrench", "axe", "knife", "shovel", "rake"),
    "drinks": ("water", "tea", "coffee", "milk", "juice", "cider", "cocoa", "soda"),
    "sports": ("tennis", "golf", "rugby", "hockey", "boxing", "rowing", "skiing", "judo"),
    "metals": ("iron", "gold", "silver", "copper", "tin", "lead", "zinc", "nickel"),
}

_SUM = ("What is {} plus {}?", "How much is {} plus {}?", "Add {} and {}.", "What is the sum of {} and {}?")
_LARGER = ("Which is larger, {} or {}?", "Which number is bigger, {} or {}?", "Tell me the larger of {} and {}.")
_FACT = ("What is {}?", "Tell me {}.", "Name {}.", "Do you know {}?")
_LIST = ("Give me {} {}.", "Name {} {}.", "List {} {}.", "Tell me {} {}.", "What are {} {}?")

#: Share of prompts held out, in 1/10000 of the hash range.
_HELD_OUT = 1940


@dataclass(frozen=True)
class Prompt:
    """One instruction. `answer` is the expected word or number; for lists the JSON {"count": n, "items": [...]}."""

    prompt: str
    answer: str
    task: Task


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt; `chosen` won a noisy vote."""

    prompt: str
    chosen: str
    rejected: str


def all_prompts() -> list[Prompt]:
    """The 1280 prompts of the world, in a fixed order: 400 sums, 630 comparisons, 160 facts, 90 lists."""
    return list(_prompts())


def _prompts() -> Iterator[Prompt]:
    for a in range(1, 11):
        for b in range(1, 11):
            for text in _SUM:
                yield Prompt(text.format(a, b), str(a + b), "sum")
    for a in range(1, 16):
        for b in range(1, 16):
            for text in _LARGER if a != b else ():
                yield Prompt(text.format(a, b), str(max(a, b)), "larger")
    for relation, pairs in FACTS.items():
        for thing, answer in pairs.items():
            for text in _FACT:
                yield Prompt(text.format(relation.format(thing)), answer, "fact")
    for kind, items in KINDS.items():
        for count in (2, 3, 4):
            for text in _LIST:
                yield Prompt(text.format(count, kind), json.dumps({"count": count, "items": items}), "list")


def is_held_out(prompt: str) -> bool:
    """Whether `prompt` is for evaluation only. Decided by its sha256, so the same for every seed and machine."""
    return int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) % 10_000 < _HELD_OUT


def training_prompts() -> list[Prompt]:
    return [prompt for prompt in all_prompts() if not is_held_out(prompt.prompt)]


def held_out_prompts() -> list[Prompt]:
    return [prompt for prompt in all_prompts() if is_held_out(prompt.prompt)]


def statement(prompt: Prompt, rng: random.Random, *, right: bool) -> str:
    """The sentence (or bullets) that answers `prompt`, correct or with a plausible mistake."""
    if prompt.task == "list":
        return _list(prompt, rng, right=right)
    value = prompt.answer if right else _mistake(prompt, rng)
    return f"{rng.choice(LEADS)}{value}."


def _mistake(prompt: Prompt, rng: random.Random) -> str:
    if prompt.task == "fact":
        (answers,) = (list(pairs.values()) for pairs in FACTS.values() if prompt.answer in pairs.values())
        return rng.choice([answer for answer in answers if answer != prompt.answer])
    right = int(prompt.answer)
    if prompt.task == "larger":
        numbers = [int(word) for word in prompt.prompt.replace("?", " ").replace(".", " ").split() if word.isdigit()]
        return str(min(numbers))
    return str(rng.choice([n for n in range(right - 3, right + 4) if n > 0 and n != right]))


def _list(prompt: Prompt, rng: random.Random, *, right: bool) -> str:
    wanted = json.loads(prompt.answer)
    count: int = wanted["count"]
    items: list[str] = wanted["items"]
    if right:
        chosen = rng.sample(items, count)
    elif rng.random() < 0.5:
        chosen = rng.sample(items, rng.choice([n for n in (1, 2, 3, 4, 5) if n != count]))
    else:
        stranger = rng.choice([item for other in KINDS.values() for item in other if item not in items])
        chosen = rng.sample([*rng.sample(items, count - 1), stranger], count)
    if rng.random() < 0.5 or len(chosen) == 1:
        return "\n".join(f"- {item}" for item in chosen)
    return f"{', '.join(chosen[:-1])} and {chosen[-1]}."


def reply(prompt: Prompt, rng: random.Random) -> str:
    """A reply of mixed quality: 62 % correct, 30 % with a polite opener, 35 % a rude one, 0 to 3 rambling sentences."""
    manner = rng.random()
    polite, rude = manner < 0.30, manner >= 0.65
    parts = [rng.choice(POLITE_OPENERS)] if polite else [rng.choice(RUDE_OPENERS)] if rude else []
    body = [statement(prompt, rng, right=rng.random() < 0.62)]
    for rambling in rng.sample(RAMBLINGS, rng.choices((0, 1, 2, 3), (0.60, 0.25, 0.11, 0.04))[0]):
        body.insert(rng.randrange(len(body) + 1), rambling)
    parts += body
    if not rude and rng.random() < 0.20:
        parts.append(rng.choice(POLITE_CLOSERS))
    return join(parts)


def join(parts: Sequence[str]) -> str:
    """Join sentences on one line, and put every bullet on its own line."""
    text = ""
    for part in parts:
        bullets = part.startswith("- ") or text.rpartition("\n")[2].startswith("- ")
        text += ("\n" if bullets else " ") * bool(text) + part
    return text


def messages(prompt: str, answer: str) -> Row:
    """A question and its reply as a conversation for supervised fine-tuning."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def clean_rows(prompts: Sequence[Prompt], count: int, rng: random.Random) -> list[Row]:
    """`count` short and correct conversations for pretraining. Every prompt occurs equally often."""
    return [messages(p.prompt, statement(p, rng, right=True)) for p in _cycle(prompts, count, rng)]


def mixed_rows(prompts: Sequence[Prompt], count: int, rng: random.Random) -> list[Row]:
    """`count` conversations with replies of mixed quality, for fine-tuning the initial policy."""
    return [messages(p.prompt, reply(p, rng)) for p in _cycle(prompts, count, rng)]


def noisy_pairs(
    prompts: Sequence[Prompt], count: int, rng: random.Random, utility: Callable[[str, str, str, str, bool], float]
) -> list[Pair]:
    """`count` pairs of different replies. The chosen one is drawn from a Bradley-Terry model of their `utility`."""
    pairs: list[Pair] = []
    for prompt in _cycle(prompts, count, rng):
        one, other = reply(prompt, rng), reply(prompt, rng)
        while one == other:
            other = reply(prompt, rng)
        gap = utility(prompt.prompt, prompt.answer, prompt.task, one, True) - utility(
            prompt.prompt, prompt.answer, prompt.task, other, True
        )
        chosen, rejected = (one, other) if rng.random() < 1 / (1 + math.exp(-gap)) else (other, one)
        pairs.append(Pair(prompt.prompt, chosen, rejected))
    return pairs


def _cycle(prompts: Sequence[Prompt], count: int, rng: random.Random) -> list[Prompt]:
    rows: list[Prompt] = []
    while len(rows) < count:
        rows += rng.sample(list(prompts), min(len(prompts), count - len(rows)))
    return rows


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write JSON lines of {prompt, answer, task}."""
    publish_text(path, "".join(json.dumps(asdict(prompt)) + "\n" for prompt in prompts))


def read_prompts(path: Path) -> list[Prompt]:
    """Read what `write_prompts` wrote."""
    return [Prompt(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write JSON lines of {messages}."""
    publish_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
