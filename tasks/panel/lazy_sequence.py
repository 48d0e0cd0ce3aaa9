"""Sequences that are too long to be held: made a stretch at a time, when somebody asks."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T", covariant=True)

_STRETCH = 1024  # made at once for who goes over all


class Lazy(Sequence[T]):
    """`count` things; `make(start, stop)` makes those of a stretch. Nothing is kept."""

    def __init__(self, count: int, make: Callable[[int, int], Sequence[T]]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for start in range(0, self._count, _STRETCH):
            yield from self._make(start, min(start + _STRETCH, self._count))

    @overload
    def __getitem__(self, which: int) -> T: ...
    @overload
    def __getitem__(self, which: slice) -> Sequence[T]: ...
    def __getitem__(self, which: int | slice) -> T | Sequence[T]:
        if isinstance(which, slice):
            start, stop, step = which.indices(self._count)
            if step != 1:
                raise ValueError("stretches have no gaps")
            return self._make(start, max(start, stop))
        place = range(self._count)[which]  # raises IndexError; counts from the end below 0
        return self._make(place, place + 1)[0]
