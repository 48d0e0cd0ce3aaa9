"""The README's picture, drawn from the table in docs/demo.md: python docs/site/picture.py"""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
PAGE, PICTURE = DOCS / "demo.md", DOCS / "pictures/win-rate.svg"
#: Rows of the table, how the line is named, its colour, and the scale of its numbers.
LINES = (
    ("win rate against the initial policy, by the truth", "win rate against the initial policy", "#1f6feb", 100.0),
    ("correct", "correct", "#2da44e", 1.0),
    ("polite", "polite", "#bf8700", 1.0),
    ("rude", "rude", "#cf222e", 1.0),
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 48, 220, 20, 40


def values(page: str, name: str, scale: float) -> list[tuple[int, float]]:
    """(round, per cent) of a row; a dash has no point."""
    (row,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", page, re.MULTILINE)
    cells = [cell.strip().removesuffix(" %") for cell in row.split("|")]
    return [(number, float(cell) * scale) for number, cell in enumerate(cells) if cell != "–"]


def draw(page: str) -> str:
    """The picture as SVG; readable on a light and on a dark page."""
    x = [LEFT + number * (WIDTH - LEFT - RIGHT) / 3 for number in range(4)]

    def y(value: float) -> float:
        return TOP + (100 - value) / 100 * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '  font-family="sans-serif" font-size="13">',
        "<title>The demo over three rounds, in per cent of held-out replies</title>",
        '<g stroke="#8c959f" fill="#8c959f">',
    ]
    for value in (0, 25, 50, 75, 100):
        out.append(
            f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke-width="0.5"/>'
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" stroke="none">{value} %</text>'
        )
    for number, place in enumerate(x):
        label = f"round {number}" if number else "initial"
        out.append(f'<text x="{place:.1f}" y="{HEIGHT - 14}" text-anchor="middle" stroke="none">{label}</text>')
    out.append("</g>")
    for name, label, colour, scale in LINES:
        points = [(x[number], y(value)) for number, value in values(page, name, scale)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        out.extend(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>' for px, py in points)
        shift = {"win rate against the initial policy": -4, "polite": -14}.get(label, 6)
        out.append(f'<text x="{points[-1][0] + 10:.1f}" y="{points[-1][1] + shift:.1f}" fill="{colour}">{label}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
