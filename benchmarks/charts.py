"""Bar charts of the results for the README, as SVG, each for light and for dark pages. Only drawing is done here.

A chart of every row, named after it, and `overview`, which has the most telling ones side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from xml.sax.saxutils import escape

from peers import SERVERS
from results import Results
from rows import ROWS, Row
from tables import number

__all__ = ["Bar", "Panel", "Theme", "draw", "render"]

OVERVIEW = ("echo-64", "echo-64-in-flight", "echo-1m", "deflate-64k", "handshake", "idle")
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Helvetica, Arial, sans-serif"
LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH, MARGIN = 176, 172, 56, 16
PANEL_WIDTH = LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH
BAR_HEIGHT, BAR_STEP, HEAD_HEIGHT, FOOT_STEP = 14, 22, 50, 16
LONGEST = 3.0
"""A bar beyond so many times the median is cut: drawn to scale it would leave nothing to see of the others."""


@dataclass(frozen=True)
class Theme:
    """Colours. Text has a contrast of at least 4.5 against the page, bars of 3."""

    page: str
    text: str
    muted: str
    ours: str
    ours_other: str
    other: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#0757ba", "#4a8fdc", "#8a939d"),
    "dark": Theme("#0d1117", "#f0f6fc", "#9198a1", "#58a6ff", "#2f6fc4", "#6b747e"),
}


@dataclass(frozen=True)
class Bar:
    server: str
    value: float

    @property
    def title(self) -> str:
        return SERVERS[self.server].title


@dataclass(frozen=True)
class Panel:
    """One chart, or one of several in a picture."""

    title: str
    subtitle: str
    unit: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> int:
        return HEAD_HEIGHT + BAR_STEP * len(self.bars)

    @property
    def scale(self) -> float:
        """The value of a bar of full width."""
        values = [bar.value for bar in self.bars]
        limit = max(LONGEST * median(values), *(bar.value for bar in self.bars if SERVERS[bar.server].ours), 0)
        return max((value for value in values if value <= limit), default=1.0) or 1.0

    @property
    def summary(self) -> str:
        return f"{self.title}, {self.subtitle}: " + "; ".join(
            f"{bar.title} {number(bar.value)} {self.unit}" for bar in self.bars
        )


def render(results: Results) -> dict[str, str]:
    """SVG by file name."""
    panels = {name: panel(results, row) for name, row in ROWS.items() if len(results.rounds.get(name, ())) > 1}
    pictures = {name: [found] for name, found in panels.items()}
    overview = [panels[name] for name in OVERVIEW if name in panels]
    if len(overview) > 1:
        pictures["overview"] = overview
    foot = footer(results)
    return {
        f"{name}-{kind}.svg": draw(found, theme, foot)
        for name, found in pictures.items()
        for kind, theme in THEMES.items()
    }


def panel(results: Results, row: Row) -> Panel:
    bars = [
        Bar(name, value)
        for name in SERVERS
        if (value := results.median(row.name, name, row.figure)) is not None and value >= 0
    ]
    of = {"cpu_us": "CPU µs", "kib": "KiB", "p999_us": "p99.9 µs"}[row.figure]
    ordered = sorted(bars, key=lambda bar: (not SERVERS[bar.server].raw, bar.value))
    return Panel(row.title, f"{row.detail}; {of}", row.unit, tuple(ordered))


def footer(results: Results) -> tuple[str, str]:
    machine = results.machine
    compiled = "compiled" if machine["geventws_compiled"] else "plain Python"
    quick = " A quick run." if results.settings["quick"] else ""
    return (
        f"Less is better. CPU time of the server for each. geventws {compiled}.{quick}",
        f"{machine['python']}, {machine['cpu']}, {machine['date'][:10]}",
    )


def draw(panels: list[Panel], theme: Theme, foot: tuple[str, ...]) -> str:
    """One picture: one panel, or several in two columns."""
    columns = 1 if len(panels) == 1 else 2
    lines = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    width = MARGIN + columns * (PANEL_WIDTH + MARGIN)
    parts: list[str] = []
    top = MARGIN
    for line in lines:
        for column, found in enumerate(line):
            left = MARGIN + column * (PANEL_WIDTH + MARGIN)
            parts += panel_shapes(found, left, top, theme)
        top += max(found.height for found in line) + MARGIN
    for line_of_foot in foot:
        parts.append(text(MARGIN, top + 10, line_of_foot, theme.muted, size=11))
        top += FOOT_STEP
    height = top + MARGIN // 2
    title = panels[0].title if len(panels) == 1 else "How geventws compares"
    description = " — ".join(found.summary for found in panels)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-labelledby="title desc" font-family="{FONT}">'
    )
    return "\n".join(
        [
            head,
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="desc">{escape(description)}</desc>',
            f'<rect width="{width}" height="{height}" rx="6" fill="{theme.page}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def panel_shapes(found: Panel, left: float, top: float, theme: Theme) -> Iterable[str]:
    yield text(left, top + 16, found.title, theme.text, size=16, bold=True)
    yield text(left, top + 34, found.subtitle, theme.muted, size=12)
    for line, bar in enumerate(found.bars):
        yield from bar_shapes(bar, found.scale, left, top + HEAD_HEIGHT + line * BAR_STEP, theme)


def bar_shapes(bar: Bar, scale: float, left: float, top: float, theme: Theme) -> Iterable[str]:
    server = SERVERS[bar.server]
    middle = top + BAR_HEIGHT - 3
    yield text(left, middle, bar.title, theme.text if server.ours else theme.muted, bold=server.ours)
    start = left + LABEL_WIDTH
    width = max(1.0, BAR_WIDTH * min(bar.value / scale, 1.0))
    if server.raw:
        # Not a competitor but the ground that all stand on: an outline.
        shape = f'fill="none" stroke="{theme.muted}" stroke-width="1" stroke-dasharray="3 2"'
    else:
        fill = theme.ours if bar.server == "geventws" else theme.ours_other if server.ours else theme.other
        shape = f'fill="{fill}"'
    yield f'<rect x="{start:g}" y="{top:g}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2" {shape}/>'
    if bar.value > scale:
        at = start + width - 22
        for x in (at, at + 6):
            yield (
                f'<path d="M{x:.1f} {top + BAR_HEIGHT + 2:g} l6 -{BAR_HEIGHT + 4}" '
                f'stroke="{theme.page}" stroke-width="3" fill="none"/>'
            )
    yield text(start + width + 6, middle, number(bar.value), theme.text, bold=server.ours)


def text(x: float, y: float, content: str, fill: str, size: int = 12, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:g}" font-size="{size}"{weight} fill="{fill}">{escape(content)}</text>'
