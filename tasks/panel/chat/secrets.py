"""Secrets stay out of configurations: copies of those are kept with every run, and in Prefect's database.

The messages do not repeat what they refuse.
"""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_KEY_ID = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}")  # of AWS; it looks like a variable
_SECRET_FIELD = re.compile(
    r"api_?key|access_?key|secret|passw(or)?d|authorization|bearer|credential|(access|auth|id|refresh)_?token"
    r"|^(key|token|auth|headers?|extra_headers|cookies?)$"
)
_SECRET_TEXT = re.compile(r"\s*(Bearer|Basic)\s+\S{8,}|(sk|pk|rk|gsk|xai|r8|hf|ghp|gho|glpat)[-_][A-Za-z0-9_-]{16,}\s*")


def variable_name(name: str | None) -> str | None:
    """`name`, if it can be that of an environment variable with a key. Raises ValueError for a key in its place."""
    if name is not None and (not _VARIABLE.fullmatch(name) or _KEY_ID.fullmatch(name)):
        raise ValueError(
            "this is not the name of an environment variable (capitals, digits, _); if it is the key itself, take "
            "it out of the configuration, put it into a variable and name that, such as JUDGE_KEY"
        )
    return name


def without_secrets(fields: dict[str, object]) -> dict[str, object]:
    """`fields` of a request, if none looks like a key. Raises ValueError with the place of one that does."""
    for place, name, value in _walk(fields, ""):
        if _SECRET_FIELD.search(name.lower().replace("-", "_")) or _SECRET_TEXT.fullmatch(str(value)):
            raise ValueError(
                f"{place} looks like a secret, and copies of the configuration keep it; name the variable that holds "
                "it in api_key_env"
            )
    return fields


def _walk(value: object, place: str) -> list[tuple[str, str, object]]:
    """(place, own name, value) of every field and text in `value`."""
    if isinstance(value, Mapping):
        items = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list):
        items = [(str(number), inner) for number, inner in enumerate(value)]
    else:
        return []
    found: list[tuple[str, str, object]] = []
    for name, inner in items:
        inside = f"{place}.{name}" if place else name
        found += [(inside, name, inner), *_walk(inner, inside)]
    return found


#: The name of an environment variable that holds a key.
KeyVariable = Annotated[str | None, AfterValidator(variable_name)]
#: More fields for each request; none is a secret.
ExtraBody = Annotated[dict[str, object], AfterValidator(without_secrets)]
