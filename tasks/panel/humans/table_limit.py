"""A limit on the cells of a text's tables, for markdown-it-py.

A row may have fewer cells than the table's head, and is filled up: a line of one character becomes a row of hundreds of
cells. A text of 19,000 characters can so become 65,000 cells, which take eight seconds to format.
"""

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import table


class TooManyCells(Exception):
    """The tables of a text have more cells than the limit."""


def table_limit_plugin(markdown: MarkdownIt, most: int) -> None:
    """Have TooManyCells raised for a text whose tables have more than `most` cells in all."""

    def limited(state: StateBlock, first: int, last: int, silent: bool) -> bool:
        if silent or not table(state, first, last, True):
            return table(state, first, last, silent)
        cells = state.env.get("cells", 0) + _columns(state, first + 1) * _rows(state, first, last)
        if cells > most:
            raise TooManyCells
        state.env["cells"] = cells
        return table(state, first, last, False)

    markdown.block.ruler.at("table", limited, {"alt": ["paragraph", "reference"]})


def _columns(state: StateBlock, line: int) -> int:
    """Columns of a table by the line below its head, such as `|--|:-:|`."""
    return len(state.src[state.bMarks[line] : state.eMarks[line]].strip().strip("|").split("|"))


def _rows(state: StateBlock, first: int, last: int) -> int:
    """Lines from `first` to the next empty one: the rows of a table and the line below its head, or more."""
    return next((line for line in range(first, last) if state.isEmpty(line)), last) - first
