"""Replacing values in some rows of a table."""

import pyarrow as pa
import pyarrow.compute as pc


def replace_rows(rows: pa.Table, where: pa.ChunkedArray, column: str, values: pa.Array, schema: pa.Schema) -> pa.Table:
    """`rows` with `values`, in order, in `column` of the rows at `where`."""
    place = schema.get_field_index(column)
    mask = where.combine_chunks()
    replaced = pc.replace_with_mask(rows[column].combine_chunks(), mask, values)
    return rows.set_column(place, schema.field(column), replaced)
