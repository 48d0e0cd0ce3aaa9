"""Figures as PNG, from the same SVG: resvg draws them, which knows neither CSS variables nor colour schemes."""

import re
from functools import cache

from tasks.reporting.report.drawing import COLOURS, Figure

_FAMILIES = '"DejaVu Sans", "Liberation Sans", "Noto Sans", Arial, Helvetica, sans-serif'
_PROBE = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><text y="15" style="{}">{}</text></svg>'


def png(figure: Figure, style: str) -> bytes:
    """The figure on light paper, two pixels a unit. style: of the SVG file (CSS)."""
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=figure.svg(plain(style))))


@cache
def has_font() -> bool:
    """Whether this machine has a font to write with; without one a PNG would have no words."""
    import resvg_py

    words, nothing = (
        resvg_py.svg_to_bytes(svg_string=_PROBE.format(f"font-family: {_FAMILIES.replace(chr(34), chr(39))}", text))
        for text in ("wins", "")
    )
    return bool(bytes(words) != bytes(nothing))


def plain(style: str) -> str:
    """The style with its light colours in place of variables, a rule a colour of series, and no conditions."""
    style = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    style = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", style)
    values = dict(re.findall(r"(--[\w-]+):\s*([^;}]+?)\s*[;}]", "".join(re.findall(r":root\s*\{[^}]*\}", style))))
    rules = []
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
        if selector.strip() == ":root" or re.fullmatch(r"\s*--c:[^;]*;?\s*", body):
            continue
        body = re.sub(r"font:\s*(\S+) [^;]*;", rf"font-size: \1; font-family: {_FAMILIES};", body)
        series = range(COLOURS) if "var(--c)" in body else (None,)
        for number in series:
            own = body if number is None else body.replace("var(--c)", values[f"--c{number}"])
            own = re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], own)
            names = selector.strip() if number is None else f"{selector.strip()}.c{number}"
            rules.append(f"{names} {{{own}}}")
    return "\n".join(rules)
