"""A sequence that is too long for memory: its items are made when they are read."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T", covariant=True)

_CHUNK = 1024  # items made at a time when iterating


class LazySequence(Sequence[T]):
    """`count` items; `make(start, stop)` makes those of a range. No item is stored."""

    def __init__(self, count: int, make: Callable[[int, int], Sequence[T]]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for start in range(0, self._count, _CHUNK):
            yield from self._make(start, min(start + _CHUNK, self._count))

    @overload
    def __getitem__(self, which: int) -> T: ...
    @overload
    def __getitem__(self, which: slice) -> Sequence[T]: ...
    def __getitem__(self, which: int | slice) -> T | Sequence[T]:
        if isinstance(which, slice):
            start, stop, step = which.indices(self._count)
            if step != 1:
                raise ValueError("a slice must have step 1")
            return self._make(start, max(start, stop))
        index = range(self._count)[which]  # raises IndexError; negative indices count from the end
        return self._make(index, index + 1)[0]
