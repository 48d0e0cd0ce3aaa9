"""Names and text from models are shown as they are: no markup, no Markdown, no escape sequence, no reordering."""

import io

import pytest
from rich.table import Table

from flows.show.panel_tables import panel_tables
from flows.show.terminal import markdown_table
from flows.show.text import cell, code
from storage.plain import PlainConsole, plain
from tests.reporting.records import annotator, label_summary


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a[2Jb"),
        ("a\x1b]0;title\x07b", "a]0;titleb"),
        ("a\rb", "ab"),
        ("a\x9b31mb", "a31mb"),
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("\u2066a\u2069\u200f", "a"),
        ("line\ntab\t", "line\ntab\t"),
        ("naïve 👩‍🔬 मन्त्र", "naïve 👩‍🔬 मन्त्र"),
        ("\ud800", ""),
    ],
)
def test_controls_and_bidi_are_left_out(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_the_console_shows_names_as_they_are() -> None:
    output = io.StringIO()
    console = PlainConsole(file=output, force_terminal=True, width=80)
    table = Table(title="[bold]title")
    table.add_column("[red]head[/red]")
    table.add_row("[link=file:///etc]x\x1b[2J\x1b]8;;http://evil\x07")
    console.print(table)
    console.print("[bold]name[/] \x1b[31m", style="bold")
    shown = output.getvalue()
    for text in ("[bold]title", "[red]head[/red]", "[link=file:///etc]x[2J]8;;http://evil", "[bold]name[/] [31m"):
        assert text in shown
    for harm in ("\x1b[2J", "\x1b[31m", "\x1b]8;;http", "\x07"):
        assert harm not in shown


HOSTILE = "a|b [x](javascript:alert) ![i](http://evil) <img src=x onerror=1> `c` *d* _e_ # f\n| g &lt;"


def test_a_cell_of_a_markdown_table_is_text() -> None:
    shown = cell(HOSTILE)
    for harm in ("<img", "\n", " [x]", " ![i]", "a|b"):
        assert harm not in shown
    (_, rule, row) = markdown_table([HOSTILE, "two"], [[HOSTILE, "2"]])
    assert rule == "| --- | --- |"
    assert row == f"| {shown} | 2 |"
    assert code("a`b\n`c") == "`ab c`"


def test_names_of_annotators_are_never_markdown() -> None:
    text = "\n".join(panel_tables(label_summary([annotator(HOSTILE, a=1)])))
    assert "<img" not in text
    assert cell(HOSTILE) in text
