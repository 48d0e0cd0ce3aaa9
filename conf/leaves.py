"""The single values of a composed configuration, each with its dotted key."""

from collections.abc import Iterator, Mapping


def leaves(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """(key, value) of everything in `value` that is no mapping, list or tuple; items of a list have their number."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{place}.{number}")
    else:
        yield place, value
