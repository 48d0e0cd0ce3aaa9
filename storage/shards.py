"""Random access to the rows of several Parquet files, one row group at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.schemas import read_row_group, read_row_groups, row_group_sizes

Numbers = NDArray[np.integer]


class Shards:
    """Files of `schema` with consecutive row numbers, from the first row of the first file to the last of the last.

    Only the most recent row group is kept in memory, for accesses to neighbouring rows. Safe for several threads.
    Raises ValueError, naming the file, if one has other columns.
    """

    def __init__(self, paths: Sequence[Path], schema: pa.Schema) -> None:
        self._paths, self._schema = list(paths), schema
        self._groups: list[tuple[Path, int]] = []
        starts = [0]
        for path in self._paths:
            for number, size in enumerate(row_group_sizes(path)):
                self._groups.append((path, number))
                starts.append(starts[-1] + size)
        self._starts = np.array(starts)
        self._last: tuple[int, list[str], pa.Table] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pass_over(self, columns: list[str]) -> Iterator[pa.Table]:
        """All rows in order, one row group at a time."""
        return read_row_groups(self._paths, self._schema, columns)

    def take(self, rows: Numbers, columns: list[str]) -> pa.Table:
        """The rows with these numbers [n], in this order, as one chunk. Reads each row group that has one of them."""
        numbers, place = np.unique(rows, return_inverse=True)
        group = np.searchsorted(self._starts, numbers, side="right") - 1
        parts = [pa.schema([self._schema.field(name) for name in columns]).empty_table()]
        for number in np.unique(group).tolist():
            parts.append(self._group(number, columns).take(numbers[group == number] - self._starts[number]))
        distinct = pa.concat_tables(parts).combine_chunks()
        return distinct if len(place) == len(numbers) and (np.diff(place) == 1).all() else distinct.take(place)

    def _group(self, number: int, columns: list[str]) -> pa.Table:
        last = self._last
        if last is None or last[:2] != (number, columns):
            path, place = self._groups[number]
            last = self._last = (number, columns, read_row_group(path, place, self._schema, columns))
        return last[2]
