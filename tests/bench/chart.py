"""
The chart of a benchmark, as an SVG: a bar for each figure that has an aim, and the slots over time where it has strips.

A bar says how the figure stands to its aim, so longer is better for all of them: what should be at most something is
drawn the other way round. The line is the aim.
"""

from collections.abc import Iterator
from html import escape

from bench.aims import ratio
from bench.figure import Figure

WIDTH = 960
NAME_WIDTH, VALUE_WIDTH = 270, 240
ROW, STRIP_ROW, MARGIN = 26, 7, 16
RATIO_DRAWN_MAX = 2.0  # where a bar ends at last
STRIP_SECONDS = 15.0  # enough to see the gaps
COLOURS = {True: "#2e7d32", False: "#c62828", None: "#78909c"}


def svg(about: str, figures: list[Figure]) -> str:
    """The whole file. about: one line on where this was measured."""
    y, body = MARGIN + 14, []
    for line in ("Each figure against its aim; longer is better", about):
        body.append(text(MARGIN, y, line, weight="bold" if not body else "normal"))
        y += 20
    top = y
    for figure in figures:
        if (value := ratio(figure.value, figure.aim)) is not None:
            body += bar(figure, value, y)
            y += ROW
    aim_x = NAME_WIDTH + bar_width(1.0)
    body.append(f'<path d="M{aim_x:.1f} {top}V{y}" stroke="#000" stroke-dasharray="3 3"/>')
    for figure in figures:
        if rows := figure.detail.get("strips"):
            y += ROW
            body.append(text(MARGIN, y, f"{figure.name}: each slot predicting, the first {STRIP_SECONDS:g} s"))
            y += STRIP_ROW + 4
            for row in rows:
                body.append(strip(row, y))
                y += STRIP_ROW + 1
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + MARGIN}" font-family="sans-serif" '
    head += 'font-size="13">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y + MARGIN}" fill="#fff"/>', *body, "</svg>\n"])


def bar(figure: Figure, value: float, y: float) -> Iterator[str]:
    width = bar_width(value)
    yield text(MARGIN, y + 17, figure.name)
    yield f'<rect x="{NAME_WIDTH}" y="{y + 4}" width="{width:.1f}" height="{ROW - 8}" fill="{COLOURS[figure.met]}"/>'
    yield text(WIDTH - VALUE_WIDTH + 8, y + 17, f"{figure.value:.3g} {figure.unit} (aim {figure.aim})")


def bar_width(value: float) -> float:
    return max(0.0, min(value, RATIO_DRAWN_MAX)) / RATIO_DRAWN_MAX * (WIDTH - NAME_WIDTH - VALUE_WIDTH)


def strip(row: list[tuple[float, float]], y: float) -> str:
    """One slot: a stroke for each prediction, and nothing where none is."""
    scale = (WIDTH - 2 * MARGIN) / STRIP_SECONDS
    lines = [
        f"M{MARGIN + begin * scale:.1f} {y}h{(min(end, STRIP_SECONDS) - begin) * scale:.1f}"
        for begin, end in row
        if begin < STRIP_SECONDS
    ]
    return f'<path d="{"".join(lines)}" stroke="#1565c0" stroke-width="{STRIP_ROW}"/>'


def text(x: float, y: float, words: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}">{escape(words)}</text>'
