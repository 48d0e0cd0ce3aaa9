"""HTML tables. On a phone a wide one becomes a list, one line a figure; others may scroll sideways."""

from collections.abc import Sequence

from tasks.reporting.report.drawing import text

#: A text; a text and a smaller one below it; or a text and a list of items (fine or not, text).
Cell = str | tuple[str, str] | tuple[str, list[tuple[bool, str]]]


_NARROW = 4  # columns that fit a phone side by side


def sheet(headings: Sequence[Cell], rows: Sequence[Sequence[Cell]], *, words: bool = False) -> str:
    """An HTML table. words: cells hold text, not numbers: aligned left, and the last one may be long."""
    head = "".join(f'<th scope="col">{_cell(heading)}</th>' for heading in headings)
    stacked = not words and len(headings) > _NARROW
    names = [f' data-head="{text(_plain(heading))}"' if stacked else "" for heading in headings]
    body = ""
    for row in rows:
        cells = [_cell(cell) for cell in row]
        last = ' class="wide"' if words else ""
        inner = "".join(f"<td{name}>{cell}</td>" for name, cell in zip(names[1:-1], cells[1:-1], strict=True))
        inner += f"<td{last}{names[-1]}>{cells[-1]}</td>"
        body += f'<tr><th scope="row"{names[0]}>{cells[0]}</th>{inner}</tr>'
    kind = ' class="words"' if words else ' class="stacked"' if stacked else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="sheet" tabindex="0">{table}</div>'


def _plain(cell: Cell) -> str:
    """A heading on one line."""
    if isinstance(cell, str):
        return cell
    first, second = cell
    return f"{first}, {second}" if isinstance(second, str) and second else first


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return text(cell)
    first, second = cell
    if isinstance(second, str):
        return f"{text(first)}<small>{text(second)}</small>" if second else text(first)
    items = "".join(f"<li>{text(s)}</li>" if fine else f'<li class="broken">{text(s)}</li>' for fine, s in second)
    return text(first) + (f"<ul>{items}</ul>" if items else "")
