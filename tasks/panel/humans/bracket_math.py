r"""Math between `\(` and `\)` or `\[` and `\]`, as models write it, for markdown-it-py.

The plugin of mdit-py-plugins that reads these marks searches the rest of the text at every opening mark, which takes
minutes for a text of opening marks. Here the search stops at the first one that has no end.
"""

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

_ENDS = {r"\(": r"\)", r"\[": r"\]"}


def bracket_math_plugin(markdown: MarkdownIt) -> None:
    r"""Add tokens `math_inline` and `math_inline_double` in text, and `math_block` where a line begins with `\[`."""
    markdown.inline.ruler.before("escape", "bracket_math", _inline)
    markdown.block.ruler.before("fence", "bracket_math_block", _block, {"alt": ["paragraph", "blockquote", "list"]})


def _inline(state: StateInline, silent: bool) -> bool:
    mark = state.src[state.pos : state.pos + 2]
    endless: set[tuple[str, str]] = state.env.setdefault("endless", set())  # texts, and marks that have no end in them
    if mark not in _ENDS or (state.src, mark) in endless:
        return False
    end = state.src.find(_ENDS[mark], state.pos + 2, state.posMax)
    if end < 0:
        endless.add((state.src, mark))
        return False
    if not silent:
        token = state.push("math_inline" if mark == r"\(" else "math_inline_double", "math", 0)
        token.content = state.src[state.pos + 2 : end]
        token.markup = mark
    state.pos = end + 2
    return True


def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    r"""From a line that begins with `\[` to the first line that ends with `\]`, without a blank line between them."""
    lines: list[str] = []
    for number in range(first, last):
        line = state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].rstrip()
        if (not lines and not line.startswith(r"\[")) or not line:
            return False
        lines.append(line)
        if line.endswith(r"\]") and (number > first or len(line) > 3):
            break
    else:
        return False
    text = "\n".join(lines)[2:-2]
    if r"\]" in text:
        return False
    if not silent:
        token = state.push("math_block", "math", 0)
        token.block, token.content, token.markup = True, text, r"\["
        token.map = [first, number + 1]
        state.line = number + 1
    return True
