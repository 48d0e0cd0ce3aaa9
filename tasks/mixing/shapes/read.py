"""From rows of any shape to pairs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from storage.errors import UserError
from storage.rows import Row
from tasks.mixing.shapes import chosen_rejected, scored_responses, transcripts, two_responses
from tasks.mixing.shapes.pair import OfflinePair, Reading

Rows = Iterable[tuple[str, Row]]


@dataclass(frozen=True)
class Shape:
    """fits: whether a row has this shape. pairs: of consecutive rows that have it."""

    fits: Callable[[Row, Reading], bool]
    pairs: Callable[[Rows, Reading], Iterator[OfflinePair]]


#: The first that fits is taken.
SHAPES = [
    Shape(module.fits, module.pairs) for module in (transcripts, chosen_rejected, two_responses, scored_responses)
]


def pairs_of(rows: Rows, reading: Reading) -> Iterator[OfflinePair]:
    """The pairs of the rows, in their order; no more rows are held than those of one prompt.

    Raises UserError, with file and row, for a row of no known shape and for one with faulty content.
    """

    def shape_of(entry: tuple[str, Row]) -> int:
        where, row = entry
        for number, shape in enumerate(SHAPES):
            if shape.fits(row, reading):
                return number
        raise UserError(
            "the row has no chosen and no rejected: it is not a pair of responses "
            f"(it has {', '.join(row) or 'no fields'})",
            where=where,
            remedy="write prompt, chosen and rejected as TRL does; docs/data.md lists what is read",
        )

    for number, group in groupby(rows, key=shape_of):
        yield from SHAPES[number].pairs(group, reading)
