"""The voting page bounds what a hostile table or many links cost, and says when a text is not formatted."""

import time

import pytest

from tasks.panel.humans.rendered import rendered
from tests.waiting import limit


def table(columns: int, rows: int) -> str:
    """A table with one cell in each row; the parser fills it up to `columns`."""
    return "|a" * columns + "|\n" + "|-" * columns + "|\n" + "b\n" * rows


@pytest.mark.parametrize(
    "text", [table(50, 9_400), table(250, 9_000), table(4_000, 1_500), (table(70, 69) + "\n") * 70]
)
def test_many_cells_are_shown_as_they_are_written(text: str) -> None:
    started = time.monotonic()
    html = rendered(text)
    assert time.monotonic() - started < limit(1)
    assert "This text is not formatted: its tables have more than 5,000 cells." in html
    assert "<td>" not in html
    assert "|a|a|a" in html, "the text itself is shown"


@pytest.mark.parametrize(("columns", "rows"), [(4, 1_000), (60, 60)])
def test_a_large_table_is_formatted(columns: int, rows: int) -> None:
    html = rendered(table(columns, rows))
    assert html.count("<td>") == columns * rows
    assert "not formatted" not in html


def test_what_is_not_a_table_counts_no_cells() -> None:
    """Lines with bars, without the line below a head."""
    assert "not formatted" not in rendered("a|b|c|d\n" * 3_000)


def test_a_very_long_text_says_that_it_is_not_formatted() -> None:
    assert "This text is not formatted: it has more than 30,000 characters." in rendered("*a* " * 10_000)


@pytest.mark.parametrize("text", ["[a](b) " * 4_000, "<http://a.b> " * 2_300])
def test_many_links_take_seconds_at_most(text: str) -> None:
    started = time.monotonic()
    assert rendered(text).count("<span>") == text.count(" ")
    assert time.monotonic() - started < limit(5)
