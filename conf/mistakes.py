"""What is wrong with a configuration, in our words: the key, its value, the word or the line that set it, what fits."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from conf.leaves import leaves
from storage.errors import UserError

CONF = Path(__file__).resolve().parent

#: What a value must be, by pydantic's type of error.
_NOUNS = {
    "float_parsing": "a number", "float_type": "a number", "finite_number": "a finite number",
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "bool_parsing": "true or false", "bool_type": "true or false", "string_type": "a text", "path_type": "a path",
    "list_type": "a list, such as [a, b]", "tuple_type": "a list, such as [a, b]",
    "dict_type": "a mapping, such as {key: value}", "model_type": "a mapping, such as {key: value}",
    "model_attributes_type": "a mapping, such as {key: value}", "none_required": "null",
}  # fmt: skip
#: Settings in which people may have written a key. What they hold is never repeated.
_PRIVATE = re.compile(r"api_key_env|base_url|extra_body|https?:|://[^/]*@")
_BOUNDS = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
    "string_pattern_mismatch": ("pattern", "does not fit the pattern"),
}


def invalid(error: ValidationError, values: object, words: Sequence[str]) -> UserError:
    """The error of a configuration whose `values`, composed from `words`, do not fit. One line a key."""
    found: dict[str, list[ErrorDetails]] = {}
    for item in error.errors():
        found.setdefault(_place(item, values), []).append(item)
    lines, sources = [], []
    for place, items in found.items():
        lines.append(": ".join(filter(None, [place, _said(place, items, words)])))
        sources.append(set_by(place, words))
    where = "; ".join(dict.fromkeys(filter(None, sources))) or "configuration"
    return UserError("\n".join(lines), where=where, remedy="correct it there, or give the key on the command line")


def refuse_odd_numbers(values: object, checked: Mapping[str, Any], words: Sequence[str]) -> None:
    """Raises UserError, with its key, for a number that is infinite, not a number, or given as true or false.

    values: as composed. checked: the same, as the configuration took them; pydantic takes true for 1.
    """
    given = dict(leaves(values))
    for place, value in leaves(checked):
        if isinstance(value, float) and not math.isfinite(value):
            raise _odd(f"{place} is not a finite number", place, words)
        if isinstance(given.get(place), bool) and isinstance(value, int | float) and not isinstance(value, bool):
            raise _odd(f"{place} is {str(given[place]).lower()}; it must be a number", place, words)


def _odd(what: str, place: str, words: Sequence[str]) -> UserError:
    return UserError(
        what,
        where=set_by(place, words) or "configuration",
        remedy="correct it there, or give the key on the command line",
    )


def _place(item: ErrorDetails, values: object) -> str:
    """The dotted key that an error is about, without pydantic's names of the alternatives that a value may be."""
    parts: list[str] = []
    for at, part in enumerate(item["loc"]):
        last = at == len(item["loc"]) - 1
        if isinstance(values, Mapping) and part in values:  # noqa: SIM114 (their keys have different types)
            values = values[part]
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        elif not (last and item["type"] == "missing"):
            continue
        parts.append(str(part))
    return ".".join(parts)


def _said(place: str, items: Sequence[ErrorDetails], words: Sequence[str]) -> str:
    nouns = list(dict.fromkeys(_NOUNS[item["type"]] for item in items if item["type"] in _NOUNS))
    others = [item for item in items if item["type"] not in _NOUNS]
    literals = [str(item["ctx"]["expected"]) for item in others if item["type"] == "literal_error"]
    rest = [_message(place, item, words) for item in others if item["type"] != "literal_error"]
    if rest:
        return "; ".join(dict.fromkeys(rest))
    fitting = [f"one of {each.replace(' or ', ', ')}" for each in literals] + nouns
    what = "the value" if _PRIVATE.search(place) else _shown(items[0]["input"])
    return f"{what} is not {', nor '.join(fitting)}"


def _message(place: str, item: ErrorDetails, words: Sequence[str]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in _BOUNDS:
        name, says = _BOUNDS[kind]
        bound = context[name]
        return f"{_shown(item['input'])} {says} {f'{bound:g}' if isinstance(bound, float) else bound}"
    if kind == "extra_forbidden":
        return f"there is no such key{closest(place, words)}"
    if kind == "missing":
        return "a value is missing"
    if kind == "union_tag_invalid":
        return f"{context['tag']!r} is not one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"{str(context['discriminator']).strip(chr(39))} is missing"
    return item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0]
    text = text.strip()
    return text if len(text) <= 80 else f"{text[:77]}..."


def closest(key: str, words: Sequence[str]) -> str:
    """` (did you mean training.learning_rate, which is 5.0e-07 in conf/training/full.yaml?)`, or nothing."""
    from conf.describe import keys

    known = {each.name: each for each in keys(words)}
    by_end = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or by_end[:1]
    if not close:
        ends = {name.rpartition(".")[2]: name for name in known}
        close = [ends[end] for end in difflib.get_close_matches(key.rpartition(".")[2], ends, n=1, cutoff=0.75)]
    if not close:
        return ""
    found = known[close[0]]
    return f" (did you mean {found.name}, which is {found.default}{f' in {found.file}' if found.file else ''}?)"


def echoed(word: str) -> str:
    """A word as an error repeats it: without a value that may hold a key."""
    key, equals, value = word.lstrip("+").partition("=")
    return f"{key}=..." if _PRIVATE.search(key) or _PRIVATE.search(value) else f"{key}{equals}{value}"


def set_by(place: str, words: Sequence[str]) -> str:
    """The word of the command line, or the file and line, that sets a key; "" where nothing is found."""
    if not place:
        return ""
    for word in reversed(words):
        key = word.lstrip("+~").partition("=")[0]
        if "=" in word and "." in key and (place == key or place.startswith(f"{key}.")):
            return f"command line, {echoed(word)}"
        if word.lstrip("+").startswith(f"{place}="):
            return f"command line, {echoed(word)}"
    group, _, inner = place.partition(".")
    given = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in words)}
    for folder in [*search_folders(words), CONF]:
        for chosen in ("recipe", "run"):
            if found := _line(folder / chosen / f"{given.get(chosen)}.yaml", place):
                return found
        if found := _line(folder / group / f"{given.get(group)}.yaml", inner):
            return found
    below = [echoed(word) for word in words if word.lstrip("+~").startswith(f"{place}.")]
    return f"command line, {' '.join(below)}" if below else ""


def search_folders(words: Sequence[str]) -> list[Path]:
    """The user's folders of YAML files, hydra.searchpath=[file://<folder>]."""
    paths = [word.partition("=")[2] for word in words if word.startswith("hydra.searchpath=")]
    return [Path(folder) for path in paths for folder in re.findall(r"file://([^,\]]+)", path)]


def _line(path: Path, key: str) -> str:
    """`file, line n` of a dotted key, or of the nearest one above it; "" where the file does not have it."""
    if not key or not path.is_file():
        return ""
    node, found = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), ""
    for part in key.split("."):
        if not isinstance(node, yaml.MappingNode):
            break
        pairs: dict[str, Any] = {name.value: (name, value) for name, value in node.value}
        if part not in pairs:
            break
        name, node = pairs[part]
        found = f"{path}, line {name.start_mark.line + 1}"
    return found


def unreadable_file(words: Sequence[str]) -> UserError | None:
    """The first YAML file of the user's folders that cannot be parsed, with its line; None where all can be."""
    for folder in search_folders(words):
        for path in sorted(folder.rglob("*.yaml")):
            try:
                text = path.read_text(encoding="utf-8")
                yaml.safe_load(text)
                if (twice := _given_twice(yaml.compose(text, Loader=yaml.SafeLoader))) is not None:
                    return UserError(
                        f"the key {twice.value} is given twice",
                        where=f"{path}, line {twice.start_mark.line + 1}, column {twice.start_mark.column + 1}",
                        remedy="remove one of the two",
                    )
            except yaml.MarkedYAMLError as error:
                mark = error.problem_mark or error.context_mark
                line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
                return UserError(
                    f"the file is not YAML: {error.problem or error.context}",
                    where=f"{path}{line}",
                    remedy="correct the indentation, quotes or brackets there",
                )
            except (UnicodeDecodeError, yaml.YAMLError) as error:
                return UserError(
                    f"the file is not YAML: {error}", where=str(path), remedy="save it as UTF-8 text in YAML"
                )
    return None


def _given_twice(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """The second of two equal keys of one mapping, which YAML's safe loader accepts and OmegaConf does not."""
    if isinstance(node, yaml.MappingNode):
        known: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                return key
            if isinstance(key, yaml.ScalarNode):
                known.add(key.value)
            if (found := _given_twice(value)) is not None:
                return found
    if isinstance(node, yaml.SequenceNode):
        return next((found for each in node.value if (found := _given_twice(each)) is not None), None)
    return None
