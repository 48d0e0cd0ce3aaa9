"""Figures as PNG, drawn by resvg from the same SVG. resvg supports neither CSS variables nor colour schemes."""

import re
from functools import cache

from tasks.reporting.report.drawing import COLOURS, Figure

_FAMILIES = '"DejaVu Sans", "Liberation Sans", "Noto Sans", Arial, Helvetica, sans-serif'
_PROBE = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><text y="15" style="{}">{}</text></svg>'


def png(figure: Figure, style: str) -> bytes:
    """The figure in its light colours, two pixels per unit. style: the CSS of the SVG file."""
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=figure.svg(plain(style))))


@cache
def has_font() -> bool:
    """Whether this machine has a font; without one, a PNG would have no text."""
    import resvg_py

    words, nothing = (
        resvg_py.svg_to_bytes(svg_string=_PROBE.format(f"font-family: {_FAMILIES.replace(chr(34), chr(39))}", text))
        for text in ("wins", "")
    )
    return bool(bytes(words) != bytes(nothing))


def plain(style: str) -> str:
    """The style without what resvg lacks: variables are replaced by light colours, media queries are removed."""
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
            own = re.sub(r"var\((--[\w-]+)\)", lambda variable: values[variable[1]], own)
            names = selector.strip() if number is None else f"{selector.strip()}.c{number}"
            rules.append(f"{names} {{{own}}}")
    return "\n".join(rules)
