"""The report: one self-contained HTML page, and the same as Markdown with figures and CSV tables beside it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from . import __version__, charts, figures, findings, original, stats, words
from .analyse import (
    PANEL_KEYS,
    Analysis,
    Series,
    analyse,
    axes,
    donor_class,
    panel_title,
    place_words,
    series_rows,
    sources,
)
from .compare import QUANTITIES, Comparison, compare, quantity, sentences
from .effects import Effects, effects
from .export import latex_table, long_format
from .known import Known, known
from .load import CLASSES, LABELS, Results
from .output import write_folder

METRIC_UNITS = {"kl": "nats", "logit_diff": "logits", "recovery": "ratio of means"}
MAP_NOTE = (
    "The numbers are % of the pairs with the donor's answer. The orange outline marks the fewest thoughts with which it "
    "outnumbers the recipient's. A click on a cell opens its pairs."
)
SAID = {"other": "another answer", "gibberish": "gibberish"}
TEXT_BUDGET_BYTES = 6_000_000
TEXT_LIMITS = (2000, 1000, 500, 300, 200, 120, 80, 40)
MAX_FLIPS_SHOWN = 200
MAX_COMPARED_SHOWN = 60
NOT_REACHED = "not reached"


@dataclass
class Block:
    """A panel of the page: its class table and its figures."""

    title: str
    words: str
    slug: str
    role: str
    rows: list[dict[str, Any]]
    heat: list[tuple[str, list[figures.Picture], str]] = field(default_factory=list)  # axis, maps, what has none
    lines: list[figures.Picture] = field(default_factory=list)
    metrics: list[figures.Picture] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def notes(self) -> str:
        """What the signs on the block's maps mean, of those that are there."""
        marks = [row["mark"] for row in self.rows]
        out = ["In hatched cells nothing can change."] if "dead" in marks else []
        if any(mark.startswith("=") for mark in marks):
            out.append("A cell with * has the same replacements as another condition, and the tests count the two once.")
        return " ".join(out) if self.heat else ""

    @property
    def has_unpatched(self) -> bool:
        """Whether any condition was tested against the unpatched run."""
        return any(np.isfinite(row["p_unpatched"]) for row in self.rows)


@dataclass
class FileSection:
    """Everything the page shows about one file."""

    key: str
    analysis: Analysis
    blocks: list[Block]
    findings: list[findings.Finding]
    charts: list[charts.Chart]
    thresholds: list[figures.Picture]
    lens: list[figures.Picture]
    effects: Effects
    known: Known
    provenance: list[tuple[str, str]]
    job: str
    data: str
    text_note: str


@dataclass
class CompareSection:
    key: str
    comparison: Comparison
    sentences: list[tuple[str, str]]
    pictures: list[figures.Picture]


def pct(k: int, n: int) -> str:
    return f"{100 * k / n:.1f}" if n else "-"


def _tip(name: str, line: Any, outcome: str) -> str:
    k, n = int(getattr(line, outcome)), int(line.n)
    if not n:
        return f"{name}\nnot run"
    low, high = getattr(line, f"{outcome}_low"), getattr(line, f"{outcome}_high")
    text = f"{name}\n{LABELS[outcome]}: {k} of n = {n} ({100 * k / n:.1f} %)"
    over = f", {line.sources} sources" if line.sources < n else ""
    return f"{text}\n95 % interval {low:.1f} to {high:.1f} %{over}"


def _point(word: str, k: int, n: int, low: float, high: float) -> str:
    return f"{word}: {k} of n = {n} ({100 * k / n:.1f} %), 95 % interval {low:.1f} to {high:.1f} %"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


def _panel_slugs(panels: pd.DataFrame) -> dict[int, str]:
    """A name for files by panel; none of a file's panels share one."""
    out: dict[int, str] = {}
    for panel in panels.itertuples():
        slug = _slug(panel.title.replace("×-", "×minus "))
        out[panel.panel] = slug if slug not in out.values() else f"{slug}-{panel.panel}"
    return out


def _heat_maps(
    key: str, a: Analysis, part: pd.DataFrame, kind: str, classes: Iterable[str], slug: str
) -> tuple[list[figures.Picture], str]:
    """The maps of some classes, and a sentence on those that are zero everywhere."""
    part = part[part["kind"] == kind]
    rows, columns = axes(part, kind)
    found, zero, panel = [], [], part["panel"].iloc[0]
    starts = [
        (s, t) for s, t in zip(a.series, a.thresholds.itertuples(), strict=False) if s.panel == panel and t.reached
    ]
    for name in classes:
        own = name == CLASSES[donor_class(part["direction"].iloc[0])]
        marks = {(s.place, int(t.threshold)) for s, t in starts if s.kind == "first"} if own else set()
        cells: dict[tuple[int, int], figures.Cell] = {}
        drawn: dict[tuple[int, int], list[Any]] = {}
        for line in part.itertuples():
            where = (rows.index(line.place), columns.index(words.column(kind, line.steps, line.n_steps)))
            drawn.setdefault(where, []).append(line)
        for where, lines in drawn.items():  # several lines: several draws of one donor
            tips = []
            for line in lines:
                label = f"{line.name}{' (dead cell: nothing can change)' if line.dead else ''}"
                if line.copy_of >= 0:
                    label += f"\n* the same replacements as {a.table['name'][line.copy_of]}"
                tips.append(_tip(label, line, name))
            line = lines[0]
            k, n = (sum(int(getattr(x, what)) for x in lines) for what in (name, "n"))
            cells[where] = figures.Cell(
                100 * k / n if n else np.nan,
                "\n".join(tips),
                f"{100 * k / n:.0f}" if n else "",
                bool(line.dead),
                line.copy_of >= 0,
                f"{key}:{line.index}",
                (line.place, line.n_steps) in marks and kind == "first",
            )
        if any(cell.value > 0 for cell in cells.values()):
            found.append((name, cells))
        else:
            zero.append(f"the {LABELS[name]}" if "answer" in name else SAID[name])
    sentence = f"No pair gives {' or '.join(zero)} under any of these conditions." if zero else ""
    maps = [
        figures.heat_map(
            f"{key}-heat-{slug}-{kind}-{name}",
            LABELS[name],
            [r or "-" for r in rows],
            columns,
            cells,
            words.AXES.get(kind, "steps"),
            width=figures.fit(len(found)),
        )
        for name, cells in found
    ]
    return maps, sentence


def _metric_maps(key: str, a: Analysis, part: pd.DataFrame, slug: str) -> list[figures.Picture]:
    out = []
    if not len(a.metrics):
        return out
    for metric, values in a.metrics.groupby("metric", sort=False):
        values = values.set_index("index")
        for kind in part["kind"].unique():
            some = part[part["kind"] == kind]
            rows, columns = axes(some, kind)
            cells = {}
            for line in some.itertuples():
                j = line.copy_of if line.copy_of >= 0 else line.index
                if j not in values.index:
                    continue
                v = values.loc[j]
                unit = METRIC_UNITS.get(metric, "")
                tip = (
                    f"{line.name}\n{metric}: {v['mean']:.3f} {unit}, n = {int(v['n'])}\n"
                    f"95 % interval {v['low']:.3f} to {v['high']:.3f} ({v['interval']})"
                )
                where = (rows.index(line.place), columns.index(words.column(kind, line.steps, line.n_steps)))
                cells[where] = figures.Cell(
                    float(v["mean"]), tip, f"{v['mean']:.2f}", bool(line.dead), line.copy_of >= 0
                )
            shown = [c.value for c in cells.values() if np.isfinite(c.value) and not c.dead]
            if shown:
                limits = (min(shown), max(shown))
                if limits[0] == limits[1]:
                    limits = (limits[0] - 0.5, limits[1] + 0.5)
                out.append(
                    figures.heat_map(
                        f"{key}-metric-{slug}-{kind}-{metric}",
                        metric,
                        [r or "-" for r in rows],
                        columns,
                        cells,
                        words.AXES.get(kind, "steps"),
                        limits,
                        unit="",
                        width=figures.MIDDLE,
                    )
                )
    return out


def _share_lines(key: str, a: Analysis, panel: int, slug: str) -> list[figures.Picture]:
    out = []
    for s in a.series:
        if s.panel != panel:
            continue
        part = series_rows(a.table, s)
        lines = []
        for name in CLASSES:
            k, n = part[name].to_numpy(), part["n"].to_numpy()
            low, high = part[f"{name}_low"], part[f"{name}_high"]
            tips = [_point(LABELS[name], *values) for values in zip(k, n, low, high, strict=True)]
            lines.append(
                figures.Line(
                    LABELS[name],
                    part["n_steps"].tolist(),
                    (100 * k / n).tolist(),
                    low.tolist(),
                    high.tolist(),
                    tips,
                    figures.CLASS_COLOURS[name],
                    figures.CLASS_MARKS[name],
                    figures.CLASS_LINES[name],
                )
            )
        out.append(
            figures.line_chart(
                f"{key}-shares-{slug}-{s.kind}-{_slug(s.place)}",
                words.place(s.place),
                lines,
                part["name"].tolist(),
                words.AXES[s.kind],
                "% of pairs",
            )
        )
    return out


def _rows(a: Analysis, part: pd.DataFrame) -> list[dict[str, Any]]:
    plain = a.tests[a.tests["test"] == "vs_unpatched"].set_index("index")["holm"]
    control = a.tests[a.tests["test"] == "vs_shuffled"].set_index("index")
    damage = a.tests[a.tests["test"] == "damage"].set_index("index")["holm"]
    out = []
    drawn_often = part["draw"].max() > 0
    order = part.assign(kind_rank=[list(words.AXES).index(k) if k in words.AXES else 99 for k in part["kind"]])
    for line in order.sort_values(
        ["kind_rank", "layer", "layers", "from_layer", "n_steps", "index"], kind="stable"
    ).itertuples():
        mark = "dead" if line.dead else ""
        if not line.dead and line.copy_of >= 0:
            first = a.table.loc[line.copy_of]
            near = (first["panel"], first["place"]) == (line.panel, line.place)
            mark = f"= {first['steps'] if near else first['name']}"
        out.append(
            {
                "index": line.index,
                "where": place_words(line.place) if line.place else "-",
                "steps": line.steps + (f", draw {line.draw + 1}" if drawn_often else ""),
                "n": int(line.n),
                "mark": mark,
                "classes": [
                    {
                        "name": c,
                        "k": int(getattr(line, c)),
                        "pct": getattr(line, f"{c}_pct"),
                        "low": getattr(line, f"{c}_low"),
                        "high": getattr(line, f"{c}_high"),
                    }
                    for c in CLASSES
                ],
                "p_unpatched": plain.get(line.index, np.nan),
                "p_shuffled": control["holm"].get(line.index, np.nan),
                "p_damage": damage.get(line.index, np.nan),
                "shuffled": control.loc[line.index] if line.index in control.index else None,
            }
        )
    return out


def _thresholds(key: str, a: Analysis) -> list[figures.Picture]:
    """The donor's answer over N, one line a layer, of the first panel with series; N* of all series with intervals."""
    if not len(a.thresholds):
        return []
    rows = []
    top = int(a.thresholds["n_max"].max()) + 1
    for s, line in zip(a.series, a.thresholds.itertuples(), strict=True):
        value = f"{line.threshold:.0f}" if line.reached else NOT_REACHED
        tip = (
            f"{line.series}\nN* = {value}, n = {line.n_pairs}\n95 % interval "
            f"{n_text(line.threshold_low, line.n_max)} to "
            f"{n_text(line.threshold_high, line.n_max)} ({line.threshold_method})\nlargest share of the "
            f"donor's answer at N = {line.best_n}"
        )
        points = (top if v > line.n_max else v for v in (line.threshold, line.threshold_low, line.threshold_high))
        rows.append((_short_series(a, s), *points, tip))
    step = -(-top // 12)
    ticks = {float(n): str(n) if n < top else "never" for n in [*range(1, top, step), top]}
    first = [s for s in a.series if s.panel == a.series[0].panel and s.kind == a.series[0].kind]
    word = CLASSES[donor_class(a.table["direction"][first[0].index[0]])]
    lines = []
    for i, s in enumerate(first):
        part = series_rows(a.table, s)
        value, low, high = (part[f"{word}_{x}"].tolist() for x in ("pct", "low", "high"))
        none = [float("nan")] * len(part)
        tips = [_point(words.place(s.place), *values) for values in zip(part[word], part["n"], low, high, strict=True)]
        colour = figures.shade(i, (0, max(len(first) - 1, 1)), figures.SHARES[:15])
        mark = "os^Dv"[i % 5]
        steps = part["n_steps"].tolist()
        lines.append(figures.Line(words.place(s.place), steps, value, none, none, tips, colour, mark))
    heads = [words.KINDS[first[0].kind].replace("N", str(n)) for n in sorted({x for line in lines for x in line.x})]
    title = f"The donor's answer ({LABELS[word]}), one line a layer"
    overlay = figures.line_chart(
        f"{key}-layers", title, lines, heads, words.AXES[first[0].kind], "% of pairs", width=figures.WIDE
    )
    title = "N*, the fewest thoughts for a majority, with 95 % intervals"
    limits = (1.0, float(top))
    return [
        overlay,
        figures.forest(f"{key}-thresholds", title, rows[:60], "N*", limits=limits, ticks=ticks, width=figures.WIDE),
    ]


def _short_series(a: Analysis, s: Series) -> str:
    """A series in words, without what all series of the file have in common."""
    out = words.place(s.place)
    if len({other.kind for other in a.series}) > 1:
        out += f", {words.KINDS[s.kind]}"
    if len({other.panel for other in a.series}) > 1:
        out = f"{a.panels.set_index('panel')['words'][s.panel]}, {out}"
    return out


def series_label(a: Analysis, name: str) -> str:
    """The name of a series, without its panel where the file has only one."""
    one_panel = len({s.panel for s in a.series}) == 1
    return ", ".join(name.split(", ")[-2:]) if one_panel else name


def n_range(low: float, high: float, n_max: float) -> str:
    """An interval of N's as text."""
    texts = [n_text(low, n_max), n_text(high, n_max)]
    return texts[0] if texts[0] == texts[1] else " – ".join(texts)


def n_text(value: float, n_max: float) -> str:
    """An N as text; values above the largest N tested mean 'not reached'."""
    return "-" if not np.isfinite(value) else NOT_REACHED if value > n_max else f"{value:.0f}"


@dataclass
class Summary:
    """The top of the page: one figure a file, a few sentences, the table of models, warnings."""

    pictures: list[tuple[str, figures.Picture, str]]  # file, picture, what it shows
    sentences: list[tuple[str, str, str]]
    table: list[tuple[str, list[str]]]
    warnings: list[tuple[str, str]]


def _main_picture(f: FileSection) -> tuple[figures.Picture, str] | None:
    """The picture of the summary, and what it shows.

    The heat map of the donor's answer over first N thoughts, of the first panel that has one; else any map; else a chart.
    """
    found = []
    for block in f.blocks:
        if block.role == "effect":
            found += [(axis != words.AXES["first"], group[0]) for axis, group, _ in block.heat if group]
    drawn = [(chart.pictures[0], chart.note) for chart in f.charts]
    best = min(found, key=lambda item: item[0])[1] if found else None
    if best and (best.svg.count("<rect") > 30 or not drawn):  # a map of more than a few cells
        return best, MAP_NOTE
    return drawn[0] if drawn else None


def _model_rows(f: FileSection) -> dict[str, str]:
    """What the table of models says about one file; shares with their intervals."""
    a, t = f.analysis, f.analysis.table
    base = {row["what"]: row for row in a.baseline.to_dict("records")}
    out = {
        "protocol": str(a.results.provenance.get("protocol", "-")),
        "arithmetic": str(a.results.provenance.get("dtype", "-")),
        "pairs that pass the filter": f"{a.n} of {len(a.results.pairs)}",
        "sources of these pairs": str(a.clusters),
    }
    for what, label in (
        ("clean question right", "clean questions right"),
        ("corrupted question right", "corrupted right"),
    ):
        row = base[what]
        out[label] = f"{row['pct']:.1f} % ({row['low']:.0f} to {row['high']:.0f})"
    live = t[t["in_family"]] if a.n else t.iloc[:0]
    if not len(live):
        return out
    words_of = [CLASSES[donor_class(d)] for d in live["direction"]]
    shares = np.array([live[f"{w}_pct"].iloc[i] for i, w in enumerate(words_of)])

    def cell(i: int, outcome: str) -> str:
        line = live.iloc[i]
        if not line[outcome]:
            return f"none (0 to {line[f'{outcome}_high']:.0f} %)"
        value, low, high = (line[f"{outcome}_{x}"] for x in ("pct", "low", "high"))
        return f"{value:.1f} % ({low:.0f} to {high:.0f}), {words.condition(line['place'], line['steps'])}"

    one = np.flatnonzero((live["n_steps"] == 1) & live["kind"].isin(["first", "single"]))
    if len(one):
        i = int(one[np.argmax(shares[one])])
        out["donor's answer, one thought, at most"] = cell(i, words_of[i])
    best = int(np.argmax(shares))
    out["donor's answer, at most"] = cell(best, words_of[best])
    chance, name, _ = findings.chance_rate(a)
    out["the same with another pair's activations"] = f"{100 * chance:.1f} %" if name else "no control in the file"
    if len(a.thresholds):
        reached = a.thresholds[a.thresholds["reached"]]
        if len(reached):
            row = reached.loc[reached["threshold"].idxmin()]
            interval = n_range(row["threshold_low"], row["threshold_high"], row["n_max"])
            out["fewest thoughts for a majority, N*"] = f"{row['threshold']:.0f} ({interval}), layer {row['layer']}"
        else:
            out["fewest thoughts for a majority, N*"] = NOT_REACHED
        row = a.thresholds.loc[a.thresholds["area"].idxmax()]
        out["mean share over N, at most"] = f"{100 * row['area']:.1f} %, layer {row['layer']}"
    damage = int(np.argmax(live["other_pct"].to_numpy() + live["gibberish_pct"].to_numpy()))
    lost = live["other_pct"].iloc[damage] + live["gibberish_pct"].iloc[damage]
    out["neither answer, at most"] = (
        f"{lost:.1f} %, {words.condition(live['place'].iloc[damage], live['steps'].iloc[damage])}"
    )
    out["gibberish, at most"] = cell(int(np.argmax(live["gibberish_pct"].to_numpy())), "gibberish")
    return out


def _summary(files: list[FileSection], comparisons: list[CompareSection]) -> Summary:
    pictures = [(f.analysis.results.label, *p) for f in files if (p := _main_picture(f)) is not None]
    rows = {f.key: _model_rows(f) for f in files}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = [(name, [rows[f.key].get(name, "-") for f in files]) for name in names]
    warnings, sentences = [], []
    for f in files:
        label = f.analysis.results.label
        warnings += [(label, x.text) for x in f.findings if x.strength == "warning"]
        warnings += [(label, note) for note in f.analysis.notes if "defects of the published scripts" in note]
    per_file = 2 if len(files) <= 2 else 1
    for f in files:
        found = sorted(
            (x for x in f.findings if x.rule in ("effect", "damage", "null")),
            key=lambda x: ({"effect": 0, "null": 1, "damage": 2}[x.rule], x.strength != "supported", -_percent(x.text)),
        )
        kept: dict[str, findings.Finding] = {}
        for x in found:
            kept.setdefault(x.rule, x)
        sentences += [
            (f.analysis.results.label, x.strength, x.headline or x.text) for x in list(kept.values())[:per_file]
        ]
    sentences += [("comparison", *c.sentences[-1]) for c in comparisons[:1] if c.sentences]
    return Summary(pictures, sentences[:5], table, warnings)


def _percent(text: str) -> float:
    """The first share that a sentence gives."""
    found = re.search(r"\(([\d.]+) %", text)
    return float(found.group(1)) if found else 0.0


def _lens_maps(key: str, r: Results) -> list[figures.Picture]:
    """Per run a heat map layer x position: the token that most pairs have first; colour: its mean probability there."""
    if r.lens is None or not len(r.included):
        return []
    pictures = []
    for run, tokens in r.lens.tokens.items():
        first = tokens[r.included, :, :, 0]
        probability = np.exp(r.lens.log_probability[run][r.included, :, :, 0].astype(float))
        n, positions, layers = first.shape
        names = ["question", *(f"thought {t}" for t in range(positions - 1))]
        cells = {}
        for position in range(positions):
            for layer in range(layers):
                here = first[:, position, layer]
                ids, counts = np.unique(here, return_counts=True)
                order = np.argsort(-counts, kind="stable")[:3]
                best = ids[order[0]]
                mean = 100 * probability[here == best, position, layer].mean()
                often = ", ".join(f"“{r.lens.texts[int(ids[i])]}” {pct(int(counts[i]), n)}" for i in order)
                tip = f"{names[position]}, layer {layer}, n = {n}\nmost often first: {often}\n"
                tip += f"mean probability of the first of these: {mean:.0f} %"
                cells[layer, position] = figures.Cell(mean, tip, short(r.lens.texts[int(best)].strip() or "␣", 6))
        pictures.append(
            figures.heat_map(
                f"{key}-lens-{run}",
                f"{run} runs",
                [str(layer) for layer in range(layers)],
                ["Q", *map(str, range(positions - 1))],
                cells,
                "last question position, thought steps",
                width=figures.WIDE,
            )
        )
    return pictures


def _fit_texts(texts: list[str]) -> tuple[list[str], str]:
    """Cuts long texts so that they take at most TEXT_BUDGET_BYTES of the page once packed; says so where it does."""
    if sum(map(len, texts)) <= TEXT_BUDGET_BYTES:
        return texts, ""
    for limit in (None, *TEXT_LIMITS):
        cut = texts if limit is None else [t if len(t) <= limit else t[:limit] + "…" for t in texts]
        if len(gzip.compress("\n".join(cut).encode(), 6)) * 4 / 3 <= TEXT_BUDGET_BYTES:
            break
    return (
        cut,
        f"Answers longer than {limit} characters are cut in this page; the results file holds them whole."
        if limit
        else "",
    )


def _browser_data(r: Results) -> tuple[str, str]:
    """Pairs, classes and texts for the pair browser: gzipped JSON in base64, and a note where texts were cut."""
    cond = r.conditions
    own = np.flatnonzero(cond["same_as"] == np.arange(len(cond)))
    place = {int(j): i for i, j in enumerate(own)}
    rows = r.included
    used = np.unique(r.answer[np.ix_(rows, own)])
    used = used[used >= 0]
    rank = np.zeros(len(r.answers) + 1, np.uint32)
    rank[used] = np.arange(len(used))
    texts = [r.answers[i] for i in used]
    texts, note = _fit_texts(texts)
    p = r.pairs
    wide = np.uint16 if len(texts) <= 65535 else np.uint32
    data = {
        "label": r.label,
        "pairs": [
            {
                "id": p["id"][i],
                "q": [p["clean_question"][i], p["corrupted_question"][i]],
                "a": [float(p["clean_answer"][i]), float(p["corrupted_answer"][i])],
                "t": [p["clean_text"][i], p["corrupted_text"][i]],
                "ok": [int(p["clean_correct"][i]), int(p["corrupted_correct"][i])],
            }
            for i in rows
        ],
        "excluded": [str(p["id"][i]) for i in np.flatnonzero(p["included"] == 0)],
        "conditions": [
            {
                "name": c.name,
                "role": c.role,
                "dead": int(c.dead),
                "own": place[int(c.same_as)],
                "copy": int(c.same_as != i),
            }
            for i, c in enumerate(cond.itertuples(index=False))
        ],
        "own": len(own),
        "cls": base64.b64encode(r.cls[np.ix_(rows, own)].astype(np.uint8).tobytes()).decode(),
        "changed": base64.b64encode(np.packbits(r.changed[np.ix_(rows, own)] == 1).tobytes()).decode(),
        "answer": base64.b64encode(
            rank[r.answer[np.ix_(rows, own)]].astype(wide).astype(f"<u{wide().itemsize}").tobytes()
        ).decode(),
        "width": wide().itemsize,
        "texts": texts,
    }
    packed = gzip.compress(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(), 6, mtime=0)
    return base64.b64encode(packed).decode(), note


def _file_section(key: str, a: Analysis, resamples: int, progress: Callable[[str], None]) -> FileSection:
    blocks, slugs = [], _panel_slugs(a.panels)
    for panel in a.panels.itertuples() if a.n else ():
        part = a.table[a.table["panel"] == panel.panel]
        block = Block(panel.title, panel.words, slugs[panel.panel], panel.role, _rows(a, part))
        if panel.donor != "self":
            names = CLASSES if panel.role == "effect" else (CLASSES[donor_class(panel.direction)],)
            for kind in part["kind"].unique():
                some = part[part["kind"] == kind]
                if (
                    kind != words.EDGE
                    and not charts.has_set_chart(some)
                    and len(some[["place", "steps"]].drop_duplicates()) > 1
                ):
                    block.heat.append((words.AXES.get(kind, kind), *_heat_maps(key, a, part, kind, names, block.slug)))
        if panel.role == "effect":
            block.lines = _share_lines(key, a, panel.panel, block.slug)
            block.metrics = _metric_maps(key, a, part, block.slug)
        blocks.append(block)
    progress(f"figures of {a.results.label}")
    data, note = _browser_data(a.results)
    found = effects(a.results, sources(a.results), resamples)
    provenance = [
        (k, v if isinstance(v, str) else json.dumps(v))
        for k, v in sorted(a.results.provenance.items())
        if k not in ("job", "identity", "keys")
    ]
    return FileSection(
        key,
        a,
        blocks,
        findings.write(a),
        charts.charts(key, a, found.joint) if a.n else [],
        _thresholds(key, a),
        _lens_maps(key, a.results),
        found,
        known(a.results),
        provenance,
        json.dumps(a.results.job, indent=2, ensure_ascii=False) if a.results.job else "",
        data,
        note,
    )


def _compare_section(key: str, c: Comparison, a: Analysis, b: Analysis) -> CompareSection:
    """a, b: of the files that are compared, whose class tables have the lines."""
    pictures = []
    if len(c.tests):
        effect = c.tests[(c.tests["role"] == "effect") & c.tests["steps"].str.startswith("first:")]
        for (*_, la, lb), part in effect.groupby([*PANEL_KEYS, "layer_a", "layer_b"], sort=True):
            direction, panel = part["direction"].iloc[0], panel_title(part.iloc[0])
            if len(part) < 2 or len(pictures) >= 36:
                continue
            outcome = CLASSES[donor_class(direction)]
            word, lines = LABELS[outcome], []
            for i, (analysis, name, layer) in enumerate(((a, "condition_a", la), (b, "condition_b", lb))):
                table = analysis.table
                rows = series_rows(table, table[table["name"] == part[name].iloc[0]].iloc[0])
                k, n = rows[outcome].to_numpy(), rows["n"].to_numpy()
                low, high = rows[f"{outcome}_low"], rows[f"{outcome}_high"]
                label = f"{short(analysis.results.label)} L{layer}"
                lines.append(
                    figures.Line(
                        label,
                        rows["n_steps"].tolist(),
                        (100 * k / n).tolist(),
                        low.tolist(),
                        high.tolist(),
                        [_point(label, *values) for values in zip(k, n, low, high, strict=True)],
                        figures.FILE_COLOURS[i],
                        figures.FILE_MARKS[i],
                        "-" if i == 0 else "--",
                    )
                )
            title = f"{word}: {panel.partition(': ')[2]}"
            pictures.append(
                figures.line_chart(
                    f"{key}-{_slug(title.replace('×-', '×minus '))}-{direction}-{la}-{lb}",
                    title,
                    lines,
                    [f"{word}, {words.steps(f'first:{x}')}" for x in sorted({x for line in lines for x in line.x})],
                    words.AXES["first"],
                    "% of pairs",
                )
            )
    return CompareSection(key, c, sentences(c), pictures)


def short(text: str, width: int = 22) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _md_table(frame: pd.DataFrame) -> str:
    def cell(value: object) -> str:
        if isinstance(value, float):
            return "-" if not np.isfinite(value) else f"{value:.4g}"
        return str(value).replace("|", "\\|").replace("\n", " ")

    head = "| " + " | ".join(map(str, frame.columns)) + " |\n|" + " --- |" * len(frame.columns)
    return "\n".join([head, *("| " + " | ".join(cell(v) for v in row) + " |" for row in frame.itertuples(index=False))])


def _p(value: float) -> str:
    return "" if value is None or not np.isfinite(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def build(
    results: list[Results],
    out: Path | str,
    resamples: int = 2000,
    original_dir: Path | str | None = None,
    title: str = "latentpatch report",
    progress: Callable[[str], None] = lambda text: None,
    max_comparisons: int = 6,
    long: Iterable[str] = (),
    inputs: Iterable[Path | str] = (),
) -> Path:
    """Writes report.html, report.md, figures/ and tables/ below `out`; returns the path of the page.

    long: `csv`, `parquet`: endings of the long format, written as well. inputs: files that no output may be.
    """
    out = Path(out)
    files = []
    for i, r in enumerate(results):
        progress(f"statistics of {r.label}")
        files.append(_file_section(f"f{i}", analyse(r, resamples), resamples, progress))
    some = [i for i, r in enumerate(results) if len(r.included)]
    pairs = [(i, j) for i in some for j in some if i < j][:max_comparisons]
    comparisons = []
    for i, j in pairs:
        progress(f"comparison of {results[i].label} and {results[j].label}")
        both = compare(results[i], results[j])
        comparisons.append(_compare_section(f"c{i}{j}", both, files[i].analysis, files[j].analysis))
    claims = original.claims(original_dir) if original_dir else []
    published = original.published_differences(original_dir) if original_dir else pd.DataFrame()

    pictures = [
        p
        for f in files
        for b in f.blocks
        for p in [*(q for _, group, _ in b.heat for q in group), *b.lines, *b.metrics]
    ]
    pictures += [p for f in files for p in [*f.lens, *f.thresholds, *(q for chart in f.charts for q in chart.pictures)]]
    pictures += [p for c in comparisons for p in c.pictures]
    written: dict[str, bytes | str] = {f"figures/{p.name}.svg": figures.standalone(p.svg) for p in pictures}
    written |= _tables(files, comparisons, claims, original_dir)
    for r in results:
        written |= {f"tables/{r.label}-long.{kind}": long_format(r, kind) for kind in long}

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("latentpatch"),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "p": _p,
        "pct1": lambda v: f"{v:.1f}",
        "svg": lambda p: Markup(p.svg),
        "md": _md_table,
        "short": short,
        "cell": lambda v: str(v).replace("|", "\\|").replace("\n", " "),
        "num": lambda v, digits=3: "-" if v is None or not np.isfinite(v) else f"{v:.{digits}g}",
    }
    context = {
        "title": title,
        "summary": _summary(files, comparisons),
        "files": files,
        "comparisons": comparisons,
        "claims": claims,
        "published": published,
        "labels": LABELS,
        "classes": CLASSES,
        "colours": figures.CLASS_COLOURS,
        "assumptions": stats.ASSUMPTIONS,
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "n_text": n_text,
        "n_range": n_range,
        "series_label": series_label,
        "max_flips": MAX_FLIPS_SHOWN,
        "max_compared": MAX_COMPARED_SHOWN,
        "metric_units": METRIC_UNITS,
        "quantities": QUANTITIES,
        "quantity": quantity,
        "donor_class": donor_class,
        "script": Markup(_template_text("report.js")),
        "style": Markup(_template_text("report.css")),
    }
    for name in ("report.html", "report.md"):
        written[name] = environment.get_template(name).render(context)
    read = [r.path for r in results]
    write_folder(out, written, [*inputs, *read, *([original_dir] if original_dir else [])])
    return out / "report.html"


def _template_text(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _tables(
    files: list[FileSection],
    comparisons: list[CompareSection],
    claims: list[original.Claim],
    original_dir: Path | str | None,
) -> dict[str, str]:
    """The tables by their names."""
    out = {}
    for f in files:
        a = f.analysis
        frames = {
            "classes": a.table.drop(columns=["panel", "kind"]),
            "tests": a.tests,
            "thresholds": a.thresholds,
            "metrics": a.metrics,
            "stability": a.stability,
            "power": a.power,
            "baseline": a.baseline,
            "steps": f.effects.steps.drop(columns="index", errors="ignore"),
            "stops": f.effects.stops.drop(columns="index", errors="ignore"),
            "joint": f.effects.joint,
            "findings": pd.DataFrame([vars(x) for x in f.findings]),
        }
        for name, frame in frames.items():
            if len(frame):
                out[f"{f.key}-{_slug(a.results.label)}-{name}.csv"] = frame.to_csv(index=False)
        for block in f.blocks:
            if block.role == "effect":
                caption = f"{a.results.label}, {block.title}: answers by class, 95 % intervals, p after Holm"
                out[f"{f.key}-{_slug(a.results.label)}-{block.slug}.tex"] = latex_table(block.rows, caption)
    for c in comparisons:
        for name, frame in (
            ("tests", c.comparison.tests),
            ("flips", c.comparison.flips),
            ("transitions", c.comparison.flip_counts),
            ("thresholds", c.comparison.thresholds),
        ):
            if len(frame):
                out[f"{c.key}-comparison-{name}.csv"] = frame.to_csv(index=False)
    if claims:
        out["published-claims.csv"] = pd.DataFrame([vars(c) for c in claims]).to_csv(index=False)
    if original_dir:
        out["published-recomputed.csv"] = original.recomputed_tables(original_dir).to_csv(index=False)
        out["published-differences.csv"] = original.published_differences(original_dir).to_csv(index=False)
    return {f"tables/{name}": text for name, text in out.items()}
