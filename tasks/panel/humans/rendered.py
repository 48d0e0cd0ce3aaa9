"""Responses as a person reads them: Markdown, code and math as HTML that runs nothing and fetches nothing.

markdown-it-py reads the Markdown and math-core turns LaTeX into MathML, which browsers draw by themselves. HTML in a
text is shown as text. nh3 then keeps only the elements and attributes listed here, whatever the other two wrote.
Links and images are shown as text with their address: a voter does not leave the page, and no host is contacted.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from math_core import LatexError, LatexToMathML
from mdit_py_plugins.dollarmath import dollarmath_plugin

from tasks.panel.humans.bracket_math import bracket_math_plugin
from tasks.panel.humans.table_limit import TooManyCells, table_limit_plugin

_LONGEST = 30_000  # characters; a longer text is shown as it is written
_MOST_CELLS = 5_000  # of the tables of a text; with more, the text is shown as it is written
#: Characters of a formula; a longer one is shown as LaTeX. The parser recurses: with Linux's usual stack of 8 MiB,
#: 4,000 characters of nested commands are fine, and 20,000 overflow it.
_LONGEST_FORMULA = 2_000

_TAGS = {
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "s", "blockquote", "ul", "ol", "li", "pre",
    "code", "table", "thead", "tbody", "tr", "th", "td", "span",
}  # fmt: skip
_MATH_TAGS = {
    "math", "mi", "mn", "mo", "ms", "mtext", "mspace", "mrow", "mfrac", "msqrt", "mroot", "mstyle", "mpadded",
    "mphantom", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts", "mprescripts", "menclose",
    "mtable", "mtr", "mtd",
}  # fmt: skip
_MATH_ATTRIBUTES = {
    "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "symmetric", "fence", "separator", "form",
    "largeop", "movablelimits", "lspace", "rspace", "minsize", "maxsize", "accent", "accentunder", "linethickness",
    "width", "height", "depth", "voffset", "notation", "columnspan", "rowspan",
}  # fmt: skip
_ALIGNED = re.compile(r'style="text-align: ?(left|right|center)(;[^"]*)?"')

_cleaner = nh3.Cleaner(
    tags=_TAGS | _MATH_TAGS,
    attributes=dict.fromkeys(_MATH_TAGS, _MATH_ATTRIBUTES) | {"ol": {"start"}},
    allowed_classes={
        "span": {"address", "math", "display"}, "code": {"latex"},
        **{cell: {"left", "right", "center"} for cell in ("th", "td", "mtd")},
    },
    link_rel=None,
)  # fmt: skip
# Commands that a formula defines are not expanded: an expansion can be as deep as it likes.
_latex = LatexToMathML(fancy_error=False, max_expansions=0)


@functools.lru_cache(maxsize=4096)
def rendered(text: str) -> str:
    """The HTML of a text in Markdown. Math is between `$`, `$$`, `\\(` and `\\)`, or `\\[` and `\\]`.

    A formula that is no valid LaTeX is shown as it is written. So is, with a line that says why, a text of more than
    30,000 characters, or one whose tables have more than 5,000 cells: formatting them would take many seconds.
    """
    if len(text) > _LONGEST:
        return _as_written(text, f"it has more than {_LONGEST:,} characters")
    try:
        html = _markdown().render(text)
    except TooManyCells:
        return _as_written(text, f"its tables have more than {_MOST_CELLS:,} cells")
    return _cleaner.clean(_ALIGNED.sub(r'class="\1"', html))


def _as_written(text: str, why: str) -> str:
    """The HTML of a text that is not formatted, and a line that says so."""
    return f'<p class="unformatted">This text is not formatted: {why}.</p><pre>{escapeHtml(text)}</pre>'


@functools.cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    bracket_math_plugin(markdown)
    table_limit_plugin(markdown, _MOST_CELLS)
    dollarmath_plugin(markdown, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    for rule in ("math_inline", "math_inline_double", "math_block"):
        markdown.add_render_rule(rule, _draws(display=rule != "math_inline"))
    for rule in ("link_open", "image", "link_close"):
        markdown.add_render_rule(rule, _RULES[rule])
    return markdown


def _formula(latex: str, *, display: bool) -> str:
    """MathML, or the LaTeX itself where it cannot be read."""
    if len(latex) <= _LONGEST_FORMULA:
        try:
            drawn = _latex.convert_with_local_state(latex, displaystyle=display)
            return f'<span class="math{" display" if display else ""}">{drawn}</span>'
        except LatexError:
            pass
    return f'<code class="latex">{escapeHtml(latex)}</code>'


def _draws(*, display: bool) -> Any:
    """A render rule for formulas."""

    def rule(_self: object, tokens: Sequence[Token], index: int, _options: object, _env: object) -> str:
        return _formula(tokens[index].content, display=display)

    return rule


def _link_open(_self: object, tokens: Sequence[Token], index: int, _options: object, _env: object) -> str:
    return "<span>"


def _link_close(_self: object, tokens: Sequence[Token], index: int, _options: object, _env: object) -> str:
    """The end of a link's text, and its address where the text is not the address itself."""
    opened = next(place for place in range(index - 1, -1, -1) if tokens[place].type == "link_open")
    address = str(tokens[opened].attrs.get("href", ""))
    said = "".join(token.content for token in tokens[opened + 1 : index])
    shown = "" if said == address else f' <span class="address">({escapeHtml(address)})</span>'
    return f"</span>{shown}"


def _image(_self: object, tokens: Sequence[Token], index: int, _options: object, _env: object) -> str:
    image = tokens[index]
    said = escapeHtml(f"image: {image.content}" if image.content else "image")
    return f'[{said}] <span class="address">({escapeHtml(str(image.attrs.get("src", "")))})</span>'


_RULES = {"link_open": _link_open, "link_close": _link_close, "image": _image}
