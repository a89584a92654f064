"""Figures by matplotlib: one drawing gives the inline SVG of the page (with hover texts), the SVG file and the PNG.

Colours: cividis for shares, Okabe-Ito for classes; every class also has its own marker and line style, so that the
figures survive colour blindness and black-and-white print.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

CLASS_COLOURS = {"clean_answer": "#0072B2", "corrupted_answer": "#D55E00", "other": "#7A7A7A", "gibberish": "#000000"}
CLASS_MARKS = {"clean_answer": "o", "corrupted_answer": "s", "other": "^", "gibberish": "x"}
CLASS_LINES = {"clean_answer": "-", "corrupted_answer": "--", "other": "-.", "gibberish": ":"}
FILE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FILE_MARKS = ("o", "s", "^", "D", "v", "P")
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "figure.facecolor": "white",
    "hatch.linewidth": 0.6,
}


@dataclass
class Picture:
    """A finished figure: `name` is its file name without ending, `svg` the inline form with hover texts."""

    name: str
    title: str
    svg: str
    png: bytes

    def save(self, folder: Path) -> None:
        (folder / f"{self.name}.svg").write_text(standalone(self.svg), encoding="utf-8")
        (folder / f"{self.name}.png").write_bytes(self.png)


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


def standalone(svg: str) -> str:
    """The inline SVG as a file of its own."""
    body = re.sub(r' (?:data-tip|data-cell|tabindex|class)="[^"]*"', "", svg)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + body.replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
    )


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
    column_width: float = 0.345,
) -> Picture:
    """A heat map; cells maps (row, column) to a Cell. Row 0 is drawn at the bottom (early layers below)."""
    with mpl.rc_context(STYLE):
        left, right = 0.5, 0.52
        width = left + right + max(column_width * len(columns), 1.5)
        height = 0.85 + max(0.27 * len(rows), 0.8)
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, 0.47 / height, (width - left - right) / width, (height - 0.8) / height))
        cmap, tips = mpl.colormaps["cividis"], []
        low, high = limits
        span = (high - low) or 1.0
        for (i, j), cell in cells.items():
            empty = not np.isfinite(cell.value) or cell.dead
            shade = (0.93, 0.93, 0.93, 1.0) if empty else cmap((cell.value - low) / span)
            patch = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=shade, edgecolor="white", linewidth=0.8)
            if cell.dead:
                patch.set(hatch="////", edgecolor="#999999", linewidth=0.4)
            patch.set_gid(f"tip{len(tips)}")
            tips.append(f"{cell.tip}\0{cell.link}")
            axes.add_artist(patch)
            if cell.mark:
                outline = Rectangle((j - 0.44, i - 0.44), 0.88, 0.88, fill=False, edgecolor="#d55e00", linewidth=2.0)
                axes.add_artist(outline)
            if cell.text and not cell.dead:
                dark = not empty and np.dot(shade[:3], (0.299, 0.587, 0.114)) < 0.55
                axes.text(
                    j,
                    i,
                    cell.text + ("*" if cell.copy else ""),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if dark else "#111111",
                )
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 4 else 0)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.text(left / width, 1 - 0.18 / height, title, fontweight="bold", va="center", fontsize=9.5)
        bar = figure.add_axes(((width - right + 0.07) / width, 0.47 / height, 0.09 / width, (height - 0.8) / height))
        bar.imshow(
            np.linspace(0, 1, 64)[:, None], cmap="cividis", aspect="auto", origin="lower", extent=(0, 1, low, high)
        )
        bar.set_xticks([])
        bar.yaxis.tick_right()
        bar.set_yticks([low, (low + high) / 2, high], [f"{v:.3g}{unit}" for v in (low, (low + high) / 2, high)])
        bar.tick_params(length=0, labelsize=7)
        return _finish(figure, name, title, tips)


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


def line_chart(name: str, title: str, lines: Sequence[Line], heads: Sequence[str], xlabel: str, ylabel: str) -> Picture:
    """Shares in % over N with bands, legend below. Hovering an N shows its head and the text of every line there."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.08, 2.65))
        axes = figure.add_axes((0.17, 0.32, 0.8, 0.58))
        tips = []
        for line in lines:
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.14, linewidth=0)
            axes.plot(
                line.x,
                line.y,
                color=line.colour,
                linestyle=line.style,
                linewidth=1.5,
                label=line.label,
                marker=line.marker,
                markersize=4.5,
            )
        ticks = sorted({x for line in lines for x in line.x})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set(xlim=(ticks[0] - 0.3, ticks[-1] + 0.3), ylim=(-3, 103))
        for x, head in zip(ticks, heads, strict=True):
            here = [line.tips[list(line.x).index(x)] for line in lines if x in line.x]
            strip = Rectangle((x - 0.5, -3), 1, 106, alpha=0.004, facecolor="white", zorder=10)
            strip.set_gid(f"tip{len(tips)}")
            axes.add_artist(strip)
            tips.append("\n".join([head, *here]))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(axis="y", color="#e2e2e2", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.text(0.17, 0.95, title, fontweight="bold", va="center", fontsize=9.5)
        if len(lines) > 1:
            figure.legend(
                loc="lower center",
                ncols=2 if len(lines) > 2 else len(lines),
                frameon=False,
                fontsize=8,
                handlelength=2.4,
                columnspacing=1.2,
                bbox_to_anchor=(0.54, -0.01),
            )
        return _finish(figure, name, title, tips)


def forest(
    name: str,
    title: str,
    rows: Sequence[tuple[str, float, float, float, str]],
    xlabel: str,
    zero: float | None = None,
    limits: tuple[float, float] | None = None,
    ticks: dict[float, str] | None = None,
) -> Picture:
    """Points with intervals, one line each: (label, estimate, low, high, hover text), first row on top."""
    with mpl.rc_context(STYLE):
        wide = 0.062 * max((len(r[0]) for r in rows), default=10) + 0.25
        width, height = wide + 2.6, 0.75 + 0.26 * len(rows)
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((wide / width, 0.42 / height, (width - wide - 0.15) / width, (height - 0.72) / height))
        tips = []
        for i, (_, value, low, high, tip) in enumerate(rows):
            y = len(rows) - 1 - i
            if np.isfinite(low) and np.isfinite(high):
                axes.plot([low, high], [y, y], color="#444444", linewidth=1.4, solid_capstyle="butt")
            axes.plot([value], [y], marker="o", color=FILE_COLOURS[0], markersize=5)
            left, right = limits or (min(r[2] for r in rows), max(r[3] for r in rows))
            band = Rectangle((left, y - 0.5), right - left, 1, alpha=0.004, facecolor="white")
            band.set_gid(f"tip{len(tips)}")
            axes.add_artist(band)
            tips.append(tip)
        if zero is not None:
            axes.axvline(zero, color="#999999", linewidth=0.8, linestyle=":")
        if limits:
            pad = 0.03 * (limits[1] - limits[0])
            axes.set_xlim(limits[0] - pad, limits[1] + pad)
        if ticks:
            axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_yticks(range(len(rows)), [r[0] for r in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=xlabel)
        axes.grid(axis="x", color="#e2e2e2", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.text(0.1 / width, 1 - 0.16 / height, title, fontweight="bold", va="center", fontsize=9.5)
        return _finish(figure, name, title, tips)


def _finish(figure: Figure, name: str, title: str, tips: Sequence[str]) -> Picture:
    out = io.StringIO()
    mpl.rcParams["svg.hashsalt"] = name
    figure.savefig(out, format="svg", metadata={"Date": None})
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return Picture(name, title, _inline(out.getvalue(), title, tips), png.getvalue())


def _inline(svg: str, title: str, tips: Sequence[str]) -> str:
    """Cuts a matplotlib SVG down to what a page needs: no prolog, style or foreign ids; hover texts on the marks."""
    svg = svg[svg.index("<svg ") :]
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    svg = re.sub(r"<svg [^>]*>", "", svg, count=1, flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.S)

    def mark(match: re.Match[str]) -> str:
        tip, _, link = (html.escape(part, quote=True) for part in tips[int(match.group(1))].partition("\0"))
        cell = f' data-cell="{link}"' if link else ""
        return f'<g class="tip" tabindex="-1" data-tip="{tip}"{cell}>'

    svg = re.sub(r'<g id="tip(\d+)">', mark, svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"font: ([^;\"]*)'DejaVu Sans', sans-serif", r"font: \1sans-serif", svg)
    svg = re.sub(r"font: ([^;\"]*)'DejaVu Sans'", r"font: \1sans-serif", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    w, h = float(width) * 4 / 3, float(height) * 4 / 3
    head = (
        f'<svg viewBox="0 0 {width} {height}" width="{w:.0f}" height="{h:.0f}" role="img" '
        f'aria-label="{html.escape(title, quote=True)}" style="stroke-linejoin:round;stroke-linecap:butt">'
    )
    return (head + svg).replace("xlink:href", "href")
