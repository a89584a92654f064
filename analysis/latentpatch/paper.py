"""Command `latentpatch-figure`: a figure for a paper, as PDF and SVG in the widths of one and of two columns.

For each file a heat map of the donor's answer with N* outlined, all on one scale; then the donor's answer over N at the layer
where it is most frequent, with its 95 % interval and the shuffled donor beside it. The PDF embeds its fonts, the SVG holds the
letters as outlines, so that neither depends on the fonts of a machine.
"""

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import __version__, command, load_results, words
from . import output as files
from .analyse import Analysis, Series, analyse, axes, donor_class, matched_controls, series_rows
from .figures import FILE_COLOURS, FILE_MARKS
from .load import CLASSES, LABELS, LayoutError, Results

WIDTHS = {"single": 3.35, "double": 6.95}  # inches: one column (85 mm), two columns (176 mm)
STYLE = {
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "latentpatch",
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
ROW, LEAST = 0.115, 0.8  # inches: a layer of a heat map; the height of one


@dataclass
class Panel:
    """What the figure draws of one file."""

    analysis: Analysis
    part: pd.DataFrame  # the conditions of the map
    kind: str
    outcome: str  # the class of the donor's answer

    @property
    def rows(self) -> list[str]:
        return axes(self.part, self.kind)[0]

    @property
    def height(self) -> float:
        return max(LEAST, ROW * len(self.rows))

    @property
    def best(self) -> Series | None:
        """The layer whose series over N reaches the largest share."""
        a, panel = self.analysis, self.part["panel"].iloc[0]
        found = [s for s in a.series if s.panel == panel and s.kind == self.kind]
        return max(found, key=lambda s: a.table.loc[s.index, f"{self.outcome}_pct"].max(), default=None)


def panel(r: Results, resamples: int) -> Panel:
    """The first effect of the file that spans a map: over first N thoughts where it has such conditions."""
    a = analyse(r, resamples)
    t = a.table[a.table["role"] == "effect"]
    found = [
        (kind != "first", order, part)
        for order, ((_, kind), part) in enumerate(t.groupby(["panel", "kind"], sort=False))
        if len(part) > 1 and part["n"].any()
    ]
    if not found:
        raise LayoutError(r.path, "/conditions", "two or more conditions of one effect", "none that was run")
    _, _, part = min(found, key=lambda item: item[:2])
    return Panel(a, part, part["kind"].iloc[0], CLASSES[donor_class(part["direction"].iloc[0])])


def draw_map(figure: Figure, at: Axes, p: Panel, letter: str, bar: bool) -> None:
    """The heat map of a file: layers by steps, the share of the donor's answer in %."""
    rows, columns = axes(p.part, p.kind)
    values = np.full((len(rows), len(columns)), np.nan)
    for line in p.part.itertuples():
        if line.n and not line.dead:
            label = words.column(line.kind, line.steps, line.n_steps)
            values[rows.index(line.place), columns.index(label)] = getattr(line, f"{p.outcome}_pct")
    edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
    at.set_facecolor("#ededed")
    image = at.pcolormesh(*edges, values, cmap="cividis", vmin=0, vmax=100, edgecolors="white", linewidth=0.4)
    image.set_rasterized(False)
    cell = p.height / len(rows)
    if cell >= 0.1 and len(columns) <= 12:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "white" if value < 55 else "#111111"
                at.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=min(6.0, 50 * cell), color=ink)
    a = p.analysis
    for s, row in zip(a.series, a.thresholds.itertuples(), strict=False):
        if s.panel == p.part["panel"].iloc[0] and s.kind == p.kind and row.reached and s.place in rows:
            j, i = columns.index(f"{row.threshold:.0f}"), rows.index(s.place)
            at.add_patch(Rectangle((j - 0.42, i - 0.42), 0.84, 0.84, fill=False, edgecolor="#d55e00", linewidth=1.1))
    every = max(1, int(np.ceil(0.1 / cell)))
    shown = range(0, len(rows), every)
    at.set_yticks(list(shown), [rows[i] or "-" for i in shown])
    long = max(map(len, columns)) > 3
    at.set_xticks(range(len(columns)), columns, rotation=90 if long else 0)
    at.tick_params(length=0)
    for spine in at.spines.values():
        spine.set_visible(False)
    at.set_title(f"{letter}  {a.results.label}", fontweight="bold")
    at.set(xlabel=words.AXES.get(p.kind, "steps"), ylabel="layer")
    if bar:
        scale = figure.colorbar(image, ax=at, fraction=0.06, pad=0.03, ticks=[0, 50, 100])
        scale.ax.set_yticklabels(["0", "50", "100 %"])
        scale.ax.tick_params(length=0)
        scale.outline.set_visible(False)


def draw_lines(at: Axes, panels: list[Panel], letter: str) -> None:
    """The donor's answer over N, of each file at its best layer, and the shuffled donor at the same place."""
    for i, p in enumerate(panels):
        s, a = p.best, p.analysis
        if s is None:
            continue
        part, colour = series_rows(a.table, s), FILE_COLOURS[i % 6]
        n, share = part["n_steps"], part[f"{p.outcome}_pct"]
        at.fill_between(n, part[f"{p.outcome}_low"], part[f"{p.outcome}_high"], color=colour, alpha=0.18, linewidth=0)
        label = f"{a.results.label}, {words.place(s.place)}"
        at.plot(n, share, color=colour, marker=FILE_MARKS[i % 6], markersize=3, linewidth=1.2, label=label)
        controls = matched_controls(a.results)
        drawn = [(x, controls[j]) for x, j in zip(n, part["index"], strict=True) if controls[j]]
        if drawn:
            mean = [a.table.loc[found, f"{p.outcome}_pct"].mean() for _, found in drawn]
            at.plot([x for x, _ in drawn], mean, color=colour, linestyle=":", linewidth=1.0)
        at.set_xticks(sorted({int(x) for x in n}))
    at.plot([], [], color="#444444", linestyle=":", linewidth=1.0, label="dotted: another pair's activations")
    at.set_title(f"{letter}  {LABELS[panels[0].outcome].capitalize()} over N", fontweight="bold")
    at.set(ylim=(-3, 103), xlabel=words.AXES[panels[0].kind], ylabel="% of pairs")
    at.grid(axis="y", color="#e2e2e2", linewidth=0.5)
    at.set_axisbelow(True)
    at.legend(frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.27), handlelength=2.2, borderaxespad=0)


def draw(panels: list[Panel], width: str) -> Figure:
    """The figure in the width of one or of two columns."""
    lines = any(p.best for p in panels)
    count = len(panels) + lines
    columns = 1 if width == "single" else min(count, 3)
    grid = [range(i, min(i + columns, count)) for i in range(0, count, columns)]
    below = 1.25 + 0.14 * (len(panels) + 1)  # the lines and their legend
    heights = [max(panels[i].height if i < len(panels) else below for i in row) + 0.62 for row in grid]
    figure = Figure(figsize=(WIDTHS[width], sum(heights)), layout="constrained")
    at = figure.subplots(len(grid), columns, squeeze=False, gridspec_kw={"height_ratios": heights}).ravel()
    for i, p in enumerate(panels):
        last = columns == 1 or i % columns == columns - 1 or i == len(panels) - 1
        draw_map(figure, at[i], p, "abcdefghijklmnopqrstuvwxyz"[i % 26], last)
    if lines:
        draw_lines(at[len(panels)], panels, "abcdefghijklmnopqrstuvwxyz"[len(panels) % 26])
    for rest in at[count:]:
        rest.set_visible(False)
    return figure


_MARK = "latentpatch-figure"
_COMMENTS = {"pdf": "% {}\n", "svg": "<!-- {} -->\n"}


def _sealed(drawn: bytes, kind: str) -> bytes:
    """The file with a last line that says what made it, and the digest of all before that line."""
    return drawn + _COMMENTS[kind].format(f"{_MARK} {hashlib.sha256(drawn).hexdigest()}").encode()


def _is_ours(content: bytes) -> bool:
    """Whether a figure was made here, and nobody has changed it since."""
    end = content.rstrip(b"\n").rfind(b"\n") + 1
    return any(_sealed(content[:end], kind) == content for kind in _COMMENTS)


def write(results: list[Results], output: Path, widths: list[str], resamples: int = 2000) -> list[Path]:
    """Writes OUTPUT-single.pdf, OUTPUT-single.svg and the same for double; returns the paths.

    A figure that was made here is replaced. Where any other file has one of the names, nothing is written.
    """
    out = {}
    panels = [panel(r, resamples) for r in results]
    with mpl.rc_context(STYLE):
        for width in widths:
            for kind, metadata in (
                ("pdf", {"CreationDate": None, "Creator": _MARK, "Producer": None}),
                ("svg", {"Date": None, "Creator": _MARK}),
            ):
                drawn = io.BytesIO()
                draw(panels, width).savefig(drawn, format=kind, metadata=metadata)
                out[output.parent / f"{output.name}-{width}.{kind}"] = _sealed(drawn.getvalue(), kind)
    files.make_folder(output.parent)
    files.write_all(out, _is_ours)
    return list(out)


def main(arguments: list[str] | None = None) -> int:
    return command.run("latentpatch-figure", lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    parser = command.Parser(
        prog="latentpatch-figure",
        description="A figure for a paper from results files: heat maps of the donor's answer, and its share over N. "
        "Writes NAME-single and NAME-double, each as .pdf (fonts embedded) and .svg (letters as outlines).",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.h5", help="results files, one map each")
    parser.add_argument("-o", "--output", type=Path, default=Path("figure"), metavar="NAME", help="default: figure")
    parser.add_argument("--width", choices=("single", "double", "both"), default="both", help="columns (default: both)")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default 2000)")
    parser.add_argument("--version", action="version", version=f"latentpatch-figure {__version__}")
    args = parser.parse_args(arguments)
    if args.resamples < 200:
        parser.error(f"--resamples: expected 200 or more, found {args.resamples}")
    results = [load_results(path) for path in args.results]
    widths = ["single", "double"] if args.width == "both" else [args.width]
    for path in write(results, args.output, widths, args.resamples):
        print(command.printable(str(path), command.MOST))
    return 0


if __name__ == "__main__":
    sys.exit(main())
