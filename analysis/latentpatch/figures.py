"""Figures of the page, written as SVG. One text is the figure on the page (with hover texts) and the file beside it.

Nothing is measured with a font: label widths are estimated from above, so that no label is cut whatever font the reader
has. Colours: cividis for shares, purple to orange around zero for differences, Okabe-Ito for classes. Every class also has
its own marker and line style, so that the figures survive colour blindness and black-and-white print. `paper.py` draws
with matplotlib what goes into a paper.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

CLASS_COLOURS = {"clean_answer": "#0072B2", "corrupted_answer": "#D55E00", "other": "#7A7A7A", "gibberish": "#000000"}
CLASS_MARKS = {"clean_answer": "o", "corrupted_answer": "s", "other": "^", "gibberish": "x"}
CLASS_LINES = {"clean_answer": "-", "corrupted_answer": "--", "other": "-.", "gibberish": ":"}
FILE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FILE_MARKS = ("o", "s", "^", "D", "v", "P")
DASHES = {"-": "", "--": "6 3", "-.": "6 3 1.5 3", ":": "1.5 2.5"}
# Sixteen steps of matplotlib's cividis (Nunez, Anderton and Renslow 2018) and eight of its PuOr, reversed.
SHARES = (
    *("#00224e", "#002e6a", "#1a386f", "#32436d", "#434e6c", "#535a6d", "#61656f", "#6f7073", "#7d7c78", "#8c8878"),
    *("#9b9476", "#aba072", "#bcae6c", "#cdbb63", "#dec958", "#f0d846", "#fee838"),
)
DIFFERENCES = (*("#2d004b", "#5f3a91", "#9990bf", "#cfcfe5", "#f7f7f6", "#fed59f", "#ee9b39", "#bd6109", "#7f3b08"),)
EMPTY, INK, SOFT, RULE, MARK = "#ededed", "#1a1d21", "#5b6470", "#e2e2e2", "#d55e00"
SIZE, ROW = 12, 22  # px: text; a row of a heat map
NARROW, MIDDLE, WIDE, FULL = 300, 400, 470, 940  # px: the widths of four, three, two figures and of one in a row


@dataclass
class Picture:
    """A finished figure: `name` is its file name without ending, `svg` the inline form with hover texts."""

    name: str
    title: str
    svg: str
    width: int = NARROW


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map: its value (NaN: empty), what hovering says, the text inside, how it is marked."""

    value: float
    tip: str
    text: str = ""
    dead: bool = False
    copy: bool = False
    link: str = ""  # "file:condition", for the page's pair browser
    mark: bool = False  # outlined: where the donor's answer first outnumbers the recipient's


@dataclass(frozen=True)
class Line:
    """A line with a band: x, y, low, high [k]; one hover text per point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    tips: Sequence[str]
    colour: str
    marker: str
    style: str = "-"


def standalone(svg: str) -> str:
    """The inline SVG as a file of its own."""
    body = re.sub(r' (?:data-tip|data-cell|tabindex|class)="[^"]*"', "", svg)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + body.replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
    )


def text_width(text: str, size: float = SIZE) -> float:
    """No font of a page sets this text wider (px): DejaVu Sans, the widest of the usual ones, has 0.6 em on average."""
    return size * sum(0.38 if c in "iljI.,:;'|! ()[]" else 0.98 if c in "MWmw—→%@×" else 0.66 for c in text)


def wrap(text: str, width: float, size: float = SIZE) -> list[str]:
    """The text in lines that are no wider than `width` where its words allow."""
    out: list[str] = []
    for word in text.split():
        if out and text_width(f"{out[-1]} {word}", size) <= width:
            out[-1] += f" {word}"
        else:
            out.append(word)
    return out or [""]


def shade(value: float, limits: tuple[float, float], scale: Sequence[str] = SHARES) -> str:
    """The colour of a value between the limits."""
    at = (value - limits[0]) / ((limits[1] - limits[0]) or 1.0) * (len(scale) - 1)
    at = min(max(at, 0.0), len(scale) - 1.0)
    i = min(int(at), len(scale) - 2)
    ends = ([int(scale[i + k][j : j + 2], 16) for j in (1, 3, 5)] for k in (0, 1))
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in zip(*ends, strict=True))


def _dark(colour: str) -> bool:
    red, green, blue = (int(colour[j : j + 2], 16) / 255 for j in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55


def fit(count: int) -> int:
    """The width of each of so many figures of one row of the page."""
    return NARROW if count > 3 else (WIDE, WIDE, WIDE, MIDDLE)[count]


@dataclass
class _Canvas:
    """The marks of one figure, in order."""

    width: float
    marks: list[str] = field(default_factory=list)

    def add(self, mark: str) -> None:
        self.marks.append(mark)

    def rect(self, x: float, y: float, w: float, h: float, fill: str, more: str = "") -> None:
        self.add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"{more}/>')

    def line(self, x: float, y: float, to_x: float, to_y: float, colour: str, more: str = "") -> None:
        self.add(f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="{colour}"{more}/>')

    def text(self, x: float, y: float, text: str, anchor: str = "", more: str = "") -> None:
        at = f' text-anchor="{anchor}"' if anchor else ""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}"{at}{more}>{html.escape(text)}</text>')

    def hatch(self, x: float, y: float, w: float) -> None:
        """Diagonals over a cell of width w."""
        out = []
        for at in range(6, int(w + ROW) - 2, 8):
            start, end = (max(1, at - ROW + 1), min(at, ROW - 1)), (min(at, w - 1), max(1, at - w + 1))
            out.append(f"M{x + start[0]:.1f} {y + start[1]:.1f}L{x + end[0]:.1f} {y + end[1]:.1f}")
        self.add(f'<path d="{"".join(out)}" stroke="#999" stroke-width=".6" fill="none"/>')

    def marker(self, x: float, y: float, kind: str, colour: str) -> None:
        shapes = {
            "o": f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
            "s": f"M{x - 2.8:.1f} {y - 2.8:.1f}h5.6v5.6h-5.6z",
            "^": f"M{x:.1f} {y - 3.6:.1f}l3.6 6.4h-7.2z",
            "v": f"M{x:.1f} {y + 3.6:.1f}l3.6 -6.4h-7.2z",
            "D": f"M{x:.1f} {y - 3.8:.1f}l3.8 3.8l-3.8 3.8l-3.8 -3.8z",
            "P": f"M{x - 1.2:.1f} {y - 3.6:.1f}h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z",
        }
        if kind == "x":
            self.add(f'<path d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6" stroke="{colour}" stroke-width="1.5"/>')
        else:
            self.add(f'<path d="{shapes[kind]}" fill="{colour}"/>')

    def title(self, text: str) -> float:
        """Writes the title; returns where the figure may begin below it."""
        lines = wrap(text, self.width - 8, 13)
        for i, part in enumerate(lines):
            self.text(4, 15 + 16 * i, part, more=' font-size="13" font-weight="600"')
        return 16 * len(lines) + 8.0

    def finish(self, name: str, title: str, height: float) -> Picture:
        head = (
            f'<svg viewBox="0 0 {self.width:.0f} {height:.0f}" width="{self.width:.0f}" height="{height:.0f}" role="img" '
            f'aria-label="{html.escape(title, quote=True)}" font-family="system-ui, DejaVu Sans, sans-serif" '
            f'font-size="{SIZE}" fill="{INK}" stroke-linecap="butt">'
        )
        return Picture(name, title, head + "\n".join(["", *self.marks, "</svg>"]), round(self.width))


def _tip(tip: str, link: str = "") -> str:
    cell = f' data-cell="{html.escape(link, quote=True)}"' if link else ""
    return f' class="tip" tabindex="-1" data-tip="{html.escape(tip, quote=True)}"{cell}'


def heat_map(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: dict[tuple[int, int], Cell],
    xlabel: str,
    limits: tuple[float, float] = (0.0, 100.0),
    unit: str = "%",
    ylabel: str = "layer",
    width: int = NARROW,
    scale: Sequence[str] = SHARES,
) -> Picture:
    """A heat map; cells maps (row, column) to a Cell. Row 0 is drawn at the bottom (early layers below).

    The figure is at least `width` wide, and wider where its columns need it.
    """
    inside = max((text_width(c.text + "*" * c.copy, 11) for c in cells.values()), default=0)
    labels = max(map(text_width, columns))
    left = 26 + max(map(text_width, rows))
    bar_labels = [f"{v:.3g}{unit}" for v in (limits[0], sum(limits) / 2, limits[1])]
    right = 26 + max(text_width(t, 11) for t in bar_labels)
    column = max((width - left - right) / len(columns), min(inside + 4, 60.0), 15.0)
    turned = labels > column - 3
    canvas = _Canvas(left + right + column * len(columns))
    top = canvas.title(title)
    bottom = top + ROW * len(rows)
    for (i, j), cell in cells.items():
        empty = not math.isfinite(cell.value) or cell.dead
        colour = EMPTY if empty else shade(cell.value, limits, scale)
        x, y = left + column * j, bottom - ROW * (i + 1)
        canvas.rect(x + 0.5, y + 0.5, column - 1, ROW - 1, colour, _tip(cell.tip, cell.link))
        if cell.dead:
            canvas.hatch(x, y, column)
        elif cell.text:
            ink = ' fill="#fff"' if not empty and _dark(colour) else ""
            text = cell.text + "*" * cell.copy
            size = 11 if text_width(text, 11) <= column - 2 else 9
            canvas.text(x + column / 2, y + 15, text, "middle", f'{ink} font-size="{size}"')
        if cell.mark:
            canvas.rect(x + 1.5, y + 1.5, column - 3, ROW - 3, "none", f' stroke="{MARK}" stroke-width="2.5"')
    for i, text in enumerate(rows):
        canvas.text(left - 5, bottom - ROW * i - 7, text, "end")
    for j, text in enumerate(columns):
        x = left + column * (j + 0.5)
        if turned:
            canvas.text(x + 4, bottom + 5, text, "end", f' transform="rotate(-90 {x + 4:.1f} {bottom + 5:.1f})"')
        else:
            canvas.text(x, bottom + 15, text, "middle")
    below = bottom + (labels + 10 if turned else 20)
    lines = wrap(xlabel, canvas.width - 8)
    middle = left + column * len(columns) / 2
    for i, part in enumerate(lines):
        half = text_width(part) / 2
        canvas.text(min(max(middle, half + 2), canvas.width - half - 2), below + 14 * (i + 1), part, "middle")
    centre = (top + bottom) / 2
    canvas.text(13, centre, ylabel, "middle", f' transform="rotate(-90 13 {centre:.1f})"')
    bar, parts = left + column * len(columns) + 7, 24
    high = max(bottom - top, ROW * 2)
    for i in range(parts):
        value = limits[0] + (limits[1] - limits[0]) * (i + 0.5) / parts
        colour = shade(value, limits, scale)
        canvas.rect(bar, bottom - high * (i + 1) / parts, 10, high / parts + 0.5, colour)
    for at, text in zip((0, 0.5, 1), bar_labels, strict=True):
        canvas.text(bar + 14, bottom - at * high + (0, 4, 9)[int(2 * at)], text, more=' font-size="11"')
    return canvas.finish(name, title, below + 14 * len(lines) + 6)


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    heads: Sequence[str],
    xlabel: str,
    ylabel: str,
    limits: tuple[float, float] = (0.0, 100.0),
    width: int = NARROW,
) -> Picture:
    """Values over N with bands, legend below. Hovering an N shows its head and the text of every line there."""
    canvas = _Canvas(width)
    ticks = sorted({x for line in lines for x in line.x})
    values = [limits[0] + (limits[1] - limits[0]) * i / 4 for i in range(5)]
    names = [f"{v:.3g}" for v in values]
    left, right, top, high = 24 + max(map(text_width, names)), 8.0, canvas.title(title), 150.0
    bottom, step = top + high, (width - left - right) / len(ticks)

    def at(x: float) -> float:
        return left + step * (ticks.index(x) + 0.5)

    def up(y: float) -> float:
        return bottom - high * (min(max(y, limits[0]), limits[1]) - limits[0]) / (limits[1] - limits[0])

    for value, text in zip(values, names, strict=True):
        canvas.line(left, up(value), width - right, up(value), RULE)
        canvas.text(left - 5, up(value) + 4, text, "end")
    for line in lines:
        whole = [i for i, (a, b) in enumerate(zip(line.low, line.high, strict=True)) if math.isfinite(a + b)]
        there = [f"{at(line.x[i]):.1f} {up(line.low[i]):.1f}" for i in whole]
        back = [f"{at(line.x[i]):.1f} {up(line.high[i]):.1f}" for i in reversed(whole)]
        if len(whole) > 1:
            canvas.add(f'<path d="M{"L".join(there + back)}z" fill="{line.colour}" fill-opacity=".14"/>')
    for line in lines:
        points = "L".join(f"{at(x):.1f} {up(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
        dash = f' stroke-dasharray="{DASHES[line.style]}"' if DASHES[line.style] else ""
        canvas.add(f'<path d="M{points}" fill="none" stroke="{line.colour}" stroke-width="1.7"{dash}/>')
        for x, y in zip(line.x, line.y, strict=True):
            canvas.marker(at(x), up(y), line.marker, line.colour)
    canvas.line(left, bottom, width - right, bottom, INK)
    thin = math.ceil(max(text_width(f"{t:g}") for t in ticks) / step)
    for i, x in enumerate(ticks):
        if i % thin == 0:
            canvas.text(at(x), bottom + 15, f"{x:g}", "middle")
    for x, head in zip(ticks, heads, strict=True):
        here = [line.tips[list(line.x).index(x)] for line in lines if x in line.x]
        tip = "\n".join([head, *here])
        canvas.rect(at(x) - step / 2, top, step, high, "#fff", f' fill-opacity="0"{_tip(tip)}')
    canvas.text(left + (width - left - right) / 2, bottom + 33, xlabel, "middle")
    centre = (top + bottom) / 2
    canvas.text(13, centre, ylabel, "middle", f' transform="rotate(-90 13 {centre:.1f})"')
    x, y = 6.0, bottom + 54
    step = -(-(len(lines) - 1) // 7) or 1  # of many lines, which differ in colour by rank, the legend has some
    shown = [line for i, line in enumerate(lines) if i % step == 0 or i == len(lines) - 1]
    for line in shown if len(lines) > 1 else ():
        room = 38 + text_width(line.label)
        if x > 6 and x + room > width:
            x, y = 6.0, y + 18
        dash = f' stroke-dasharray="{DASHES[line.style]}"' if DASHES[line.style] else ""
        canvas.line(x, y - 4, x + 24, y - 4, line.colour, f' stroke-width="1.7"{dash}')
        canvas.marker(x + 12, y - 4, line.marker, line.colour)
        canvas.text(x + 28, y, line.label)
        x += room
    return canvas.finish(name, title, y + 8 if len(lines) > 1 else bottom + 42)


def forest(
    name: str,
    title: str,
    rows: Sequence[tuple[str, float, float, float, str]],
    xlabel: str,
    zero: float | None = None,
    limits: tuple[float, float] | None = None,
    ticks: dict[float, str] | None = None,
    width: int = FULL,
) -> Picture:
    """Points with intervals, one line each: (label, estimate, low, high, hover text), first row on top."""
    canvas = _Canvas(width)
    finite = [v for r in rows for v in r[1:4] if math.isfinite(v)] + ([zero] if zero is not None else [])
    low, high = limits or (min(finite, default=0.0), max(finite, default=1.0))
    if low == high:
        low, high = low - 0.5, high + 0.5
    room = 0.55 * width
    labels = [wrap(r[0], room) for r in rows]
    left = 14 + min(max((text_width(part) for label in labels for part in label), default=0), room)
    right, top = 26.0, canvas.title(title)
    heights = [max(ROW, 15 * len(label) + 7) for label in labels]
    bottom = top + sum(heights)
    if ticks is None:
        size = 10 ** math.floor(math.log10((high - low) / 4))
        size *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * size) <= 6)
        ticks = {i * size: f"{i * size:g}" for i in range(math.ceil(low / size), math.floor(high / size) + 1)}

    def at(value: float) -> float:
        return left + 8 + (width - left - right - 16) * (min(max(value, low), high) - low) / (high - low)

    for value, text in ticks.items():
        canvas.line(at(value), top, at(value), bottom, RULE)
        canvas.text(at(value), bottom + 15, text, "middle")
    if zero is not None:
        canvas.line(at(zero), top, at(zero), bottom, SOFT, ' stroke-dasharray="2 2"')
    y = top
    for (_, value, lowest, highest, tip), label, height in zip(rows, labels, heights, strict=True):
        y += height / 2
        for i, part in enumerate(label):
            canvas.text(left - 5, y + 4 + 15 * (i - (len(label) - 1) / 2), part, "end")
        if math.isfinite(lowest) and math.isfinite(highest):
            canvas.line(at(lowest), y, at(highest), y, "#444", ' stroke-width="1.8"')
        canvas.marker(at(value), y, "o", FILE_COLOURS[0])
        canvas.rect(0, y - height / 2, width, height, "#fff", f' fill-opacity="0"{_tip(tip)}')
        y += height / 2
    middle, half = left + (width - left - right) / 2, text_width(xlabel) / 2
    canvas.text(max(min(middle, width - half - 2), half + 2), bottom + 33, xlabel, "middle")
    return canvas.finish(name, title, bottom + 42)


@dataclass(frozen=True)
class Bar:
    """A set of thoughts with a share and its interval in %."""

    members: tuple[int, ...]
    value: float
    low: float
    high: float
    tip: str
    link: str = ""
    dead: bool = False


def set_chart(name: str, title: str, bars: Sequence[Bar], ylabel: str, width: int = FULL) -> Picture:
    """Bars of shares, and below each the members of its set as dots, one row a thought."""
    thoughts = sorted({m for bar in bars for m in bar.members})
    left, right, high = 62.0, 8.0, 150.0
    step = max((width - left - right) / len(bars), 9.0)
    canvas = _Canvas(left + right + step * len(bars))
    top = canvas.title(title)
    bottom = top + high
    for value in (0, 25, 50, 75, 100):
        y = bottom - high * value / 100
        canvas.line(left, y, canvas.width - right, y, RULE)
        canvas.text(left - 5, y + 4, str(value), "end")
    row, low = 15.0, bottom + 14
    for i, thought in enumerate(thoughts):
        if i % 2 == 0:
            canvas.rect(left, low + row * (i - 0.5), step * len(bars), row, "#f5f7f9")
        canvas.text(left - 5, low + row * i + 4, str(thought), "end")
    for i, bar in enumerate(bars):
        x = left + step * (i + 0.5)
        size = bar.value / 100 * high
        colour = EMPTY if bar.dead else FILE_COLOURS[0]
        canvas.rect(x - 0.36 * step, bottom - size, 0.72 * step, size, colour)
        canvas.line(x, bottom - high * bar.low / 100, x, bottom - high * bar.high / 100, "#444", ' stroke-width="1"')
        rows = [low + row * thoughts.index(m) for m in bar.members]
        if len(rows) > 1:
            canvas.line(x, rows[0], x, rows[-1], SOFT, ' stroke-width="1"')
        for y in rows:
            canvas.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{INK}"/>')
        whole = low + row * (len(thoughts) - 0.5) - top
        canvas.rect(x - step / 2, top, step, whole, "#fff", f' fill-opacity="0"{_tip(bar.tip, bar.link)}')
    canvas.line(left, bottom, canvas.width - right, bottom, INK)
    for centre, text in ((top + high / 2, ylabel), (low + row * (len(thoughts) - 1) / 2, "thought")):
        canvas.text(13, centre, text, "middle", f' transform="rotate(-90 13 {centre:.1f})"')
    return canvas.finish(name, title, low + row * len(thoughts) + 4)
