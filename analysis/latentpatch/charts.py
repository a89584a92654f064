"""Charts of what is not layers by steps: attention edges, from step to step, early stops, sets of thoughts.

Each function gives the pictures that one file has of its kind, an empty list where it has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import figures, stats, words
from .analyse import PANEL_KEYS, Analysis, donor_class
from .load import CLASSES, LABELS

MOST_JOINT = 16
LEAST_SETS = 8  # fewer sets of thoughts stay a heat map
STEP_NUMBERS = {  # what the steps metric gives: title, digits, colours, ends of the scale (NaN: of the data)
    "kl": ("KL of what the head says, nats", 2, (0.0, np.nan)),
    "cosine": ("cosine with the unpatched thought", 2, (np.nan, 1.0)),
    "change": ("length of the change / length of the thought", 2, (0.0, np.nan)),
}


@dataclass
class Chart:
    """A part of the page: pictures under a heading, with a note."""

    title: str
    note: str
    pictures: list[figures.Picture]


def has_set_chart(part: pd.DataFrame) -> bool:
    """Whether conditions of one panel and kind are so many sets of thoughts that they have a chart of their own."""
    return part["kind"].iloc[0] in ("set", "subset") and part["steps"].nunique() >= LEAST_SETS


def charts(key: str, a: Analysis, joint: pd.DataFrame) -> list[Chart]:
    """All of one file. joint: its table of joint effects (effects.py)."""
    found = [_edges(key, a), _step_matrix(key, a), _early_stops(key, a), _sets(key, a), _joint(key, a, joint)]
    return [chart for chart in found if chart and chart.pictures]


def _lost(line: pd.Series, direction: str) -> tuple[float, float, float, int]:
    """Share of the pairs that do not give the recipient's answer, with its interval, in %, and their number."""
    word = CLASSES[1 - donor_class(direction)]
    return (
        *(100 - line[f"{word}_{x}"] for x in ("pct", "high", "low")),
        int(line["n"] - line[word]),
    )


def _edges(key: str, a: Analysis) -> Chart | None:
    """Attention edges: query by key for each layer and head; layers and heads by the other end where one end is fixed."""
    t = a.table
    part = t[(t["kind"] == words.EDGE) & (t["role"] == "effect")]
    # Of several edges at once, or edges beside replacements, there is no one query and key.
    part = part[(part["steps"].str.count(">") == 1) & ~part["steps"].str.contains("without")]
    ends = [text.split(">") for text in part["steps"]]
    part = part.assign(query=[e[0] for e in ends], to=[e[1] for e in ends])
    part["where"] = [f"{p}{f' h{h}' if h >= 0 else ''}" for p, h in zip(part["place"], part["head"], strict=True)]
    part["phases"] = [f"{words.phase(q)}>{words.phase(k)}" for q, k in ends]
    several = part["direction"].nunique() > 1
    drawn: list[
        tuple[str, str, pd.DataFrame, str, str]
    ] = []  # name, title, conditions, column of the rows, of the columns
    for (direction, phases), whole in part.groupby(["direction", "phases"], sort=False):
        run, name = f", {words.RUNS[direction]}" if several else "", f"{direction}-{phases}"
        for where, some in whole.groupby("where", sort=False):
            if some["query"].nunique() > 1 and some["to"].nunique() > 1:
                head = some["head"].iloc[0]
                title = words.place(some["place"].iloc[0]) + (f", head {head}" if head >= 0 else "") + run
                drawn.append((f"{name}-{where}", title, some, "query", "to"))
                whole = whole[whole["where"] != where]
        fixed, other, said = (
            ("query", "to", "from {}")
            if whole["query"].nunique() <= whole["to"].nunique()
            else ("to", "query", "to {}")
        )
        for end, some in whole.groupby(fixed, sort=False):
            if len(some) > 1:
                title = f"Edges {said.format(words.position(end))}{run}"
                drawn.append((f"{name}-{fixed}-{end}", title, some, "where", other))
    pictures = [_edge_map(key, a, *entry, figures.fit(min(len(drawn), 4))) for entry in drawn]
    note = (
        "The numbers are the pairs, in %, that no longer give the recipient's own answer when a position may not attend to "
        "another one. In hatched cells nothing can change, because the position that is attended to comes later."
    )
    return Chart("Attention edges that are forbidden", note, pictures)


def _ordered(positions: pd.Series) -> list[str]:
    """Different positions, those of one phase by number."""

    def rank(text: str) -> tuple[int, int, str]:
        phase, _, value = text.rpartition(":")
        number = value.lstrip("-")
        order = {"prompt": 0, "single": 1, "answer": 3}.get(phase, 2)
        return order, int(value) if number.isdigit() else 10**6, text

    return sorted(dict.fromkeys(positions), key=rank)


def _edge_map(
    key: str, a: Analysis, name: str, title: str, part: pd.DataFrame, down: str, right: str, width: int
) -> figures.Picture:
    sides = []
    for column in (down, right):
        if column == "where":
            order = part.sort_values(["layer", "place", "head"], kind="stable")
            sides.append(list(order[column].drop_duplicates()))
        else:
            sides.append(_ordered(part[column]))
    rows, columns = sides
    cells = {}
    for line in part.itertuples():
        value, low, high, k = _lost(a.table.loc[line.index], line.direction)
        tip = f"{line.name}\nnot run"
        if line.n:
            tip = (
                f"{line.name}\nthe recipient's answer is lost: {k} of n = {line.n} ({value:.1f} %)\n"
                f"95 % interval {low:.1f} to {high:.1f} %"
            )
        where = rows.index(getattr(line, down)), columns.index(getattr(line, right))
        text, link = f"{value:.0f}" if line.n else "", f"{key}:{line.index}"
        shown = value if line.n else np.nan
        cells[where] = figures.Cell(shown, tip, text, bool(line.dead), line.copy_of >= 0 and not line.dead, link)
    labels = {"where": "layer", "query": "may not attend (query)", "to": "is not attended to (key)"}
    return figures.heat_map(
        f"{key}-edges-{_file_name(name)}",
        title,
        rows if down == "where" else [words.position(r, short=True) for r in rows],
        [words.position(c, short=True) for c in columns],
        cells,
        labels[right],
        ylabel=labels[down],
        width=width,
    )


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


def _step_matrix(key: str, a: Analysis) -> Chart | None:
    """Single thoughts patched (i) against the change at each thought (j), for each layer, by what is measured."""
    t, r = a.table, a.results
    part = t[(t["kind"] == "single") & (t["role"] == "effect") & (t["n"] > 0)]
    if not r.steps or not len(part):
        return None
    out = []
    for name, (title, digits, ends) in STEP_NUMBERS.items():
        if name not in r.steps:
            continue
        values = r.steps[name][r.included].astype(float)
        maps = []
        for (panel, place), some in part.groupby(["panel", "place"], sort=False):
            if len(some) < 2:
                continue
            rows = sorted({int(s.partition(":")[2]) for s in some["steps"]})
            cells = {}
            for line in some.itertuples():
                i = int(line.steps.partition(":")[2])
                j_own = line.copy_of if line.copy_of >= 0 else line.index
                for j in range(values.shape[2]):
                    one = values[:, j_own, j]
                    have = np.isfinite(one)
                    if not have.any():
                        continue
                    mean, low, high = stats.clustered_mean(one[have], pd.factorize(a.cluster[have])[0])
                    tip = (
                        f"{line.name}\nat thought {j}: {title} {mean:.3f}, n = {int(have.sum())}\n"
                        f"95 % interval {low:.3f} to {high:.3f}"
                    )
                    text = f"{mean:.{digits}f}" if j >= i else ""
                    link = f"{key}:{line.index}"
                    cells[rows.index(i), j] = figures.Cell(mean, tip, text, bool(line.dead), line.copy_of >= 0, link)
            if cells:
                maps.append((panel, place, rows, cells))
        shown = [c.value for _, _, _, cells in maps for c in cells.values()]
        if not shown:
            continue
        limits = tuple(e if np.isfinite(e) else f(shown) for e, f in zip(ends, (min, max), strict=True))
        panels = {panel for panel, *_ in maps}
        for panel, place, rows, cells in maps:
            where = words.place(place)
            if len(panels) > 1:
                where += f", {words.panel(t[t['panel'] == panel].iloc[0])}"
            out.append(
                figures.heat_map(
                    f"{key}-steps-{name}-{panel}-{place or 'none'}",
                    f"{title}: {where}",
                    [str(i) for i in rows],
                    [str(j) for j in range(values.shape[2])],
                    cells,
                    "seen at thought",
                    limits if limits[0] < limits[1] else (limits[0], limits[0] + 1),
                    unit="",
                    ylabel="patched thought",
                    width=figures.fit(len(maps)),
                )
            )
    note = (
        "Each row is a run in which one thought is patched. Each column compares a thought of that run with the same thought "
        "of the unpatched run. Before the patched thought nothing can change."
    )
    return Chart("From step to step", note, out)


def _early_stops(key: str, a: Analysis) -> Chart | None:
    """Shares of the outcomes over the number of thoughts that the run makes before it answers."""
    t = a.table
    part = t[(t["stop_after"] > 0) & (t["n"] > 0) & (t["draw"] == 0)]
    total = a.results.n_steps
    keys = [k for k in PANEL_KEYS if k != "stop_after"] + ["place", "steps"]
    out, seen = [], set()
    for _, some in part.groupby(keys, sort=False):
        some = some.drop_duplicates("stop_after").sort_values("stop_after")
        first = some.iloc[0]
        plain = first["donor"] == "self"  # the run as it is: one curve, whatever was replaced by itself
        if len(some) < 2 or first["donor"] == "shuffled" or (plain and first["direction"] in seen):
            continue
        if plain:
            seen.add(first["direction"])
        if total and some["stop_after"].max() < total:
            same = np.logical_and.reduce([t[k] == first[k] for k in keys])
            whole = (
                (t["role"] == "unpatched") & (t["direction"] == first["direction"])
                if plain
                else same & (t["stop_after"] == 0)
            )
            if whole.any():
                some = pd.concat([some, t[whole].head(1).assign(stop_after=total)])
        lines = []
        for name in CLASSES:
            k, low, high = (some[f"{name}{x}"].tolist() for x in ("", "_low", "_high"))
            tips = [
                f"{LABELS[name]}: {x} of n = {n} ({100 * x / n:.1f} %), 95 % interval {a:.1f} to {b:.1f} %"
                for x, n, a, b in zip(k, some["n"], low, high, strict=True)
            ]
            style = (figures.CLASS_COLOURS[name], figures.CLASS_MARKS[name], figures.CLASS_LINES[name])
            shares = some[f"{name}_pct"].tolist()
            lines.append(figures.Line(LABELS[name], some["stop_after"].tolist(), shares, low, high, tips, *style))
        run = words.RUNS[first["direction"]]
        what = f"Unpatched, {run}" if plain else f"{words.panel(first.to_dict() | {'stop_after': 0})}, "
        title = what if plain else what + words.condition(first["place"], first["steps"])
        heads = [f"answer after {n} {'thought' if n == 1 else 'thoughts'}" for n in some["stop_after"]]
        out.append((f"{key}-early-{len(out)}", title, lines, heads))
    pictures = [
        figures.line_chart(*entry, "thoughts before the answer", "% of pairs", width=figures.fit(len(out)))
        for entry in out
    ]
    return Chart(
        "Answers after fewer thoughts", "The run answers after so many thoughts. Bands: 95 % intervals.", pictures
    )


def _sets(key: str, a: Analysis) -> Chart | None:
    """Sets of thoughts, each with its own bar: which thoughts are patched together, and how often the donor's answer comes."""
    out = []
    for (_, place), part in a.table[a.table["role"] == "effect"].groupby(["panel", "place"], sort=False):
        part = part[part["kind"].isin(["set", "subset"]) & (part["n"] > 0)]
        if len(part) < LEAST_SETS:
            continue
        word = CLASSES[donor_class(part["direction"].iloc[0])]
        bars = []
        for line in part.itertuples():
            members = tuple(int(x) for x in line.steps.partition(":")[2].split(","))
            value, low, high = (getattr(line, f"{word}_{x}") for x in ("pct", "low", "high"))
            tip = (
                f"{line.name}\n{LABELS[word]}: {getattr(line, word)} of n = {line.n} ({value:.1f} %), "
                f"95 % interval {low:.1f} to {high:.1f} %"
            )
            bars.append(figures.Bar(members, value, low, high, tip, f"{key}:{line.index}", bool(line.dead)))
        several = a.panels["role"].eq("effect").sum() > 1
        title = (f"{words.panel(part.iloc[0])}, " if several else "") + words.place(place)
        bars.sort(key=lambda b: (len(b.members), b.members))
        out.append(figures.set_chart(f"{key}-sets-{len(out)}", title, bars, f"% {LABELS[word]}"))
    note = (
        "The dots below each bar are the thoughts that are patched together. The sets are in order of their size. The lines "
        "are 95 % intervals."
    )
    return Chart("Sets of thoughts", note, out)


def _joint(key: str, a: Analysis, joint: pd.DataFrame) -> Chart | None:
    """The largest interactions with their intervals."""
    if not len(joint):
        return None
    cond = a.results.conditions.set_index("name")
    order = joint["interaction"].abs().sort_values(ascending=False, kind="stable").index[:MOST_JOINT]
    rows = []
    for line in joint.loc[order].itertuples():
        first, second = (words.condition(*cond.loc[name, ["layers", "steps"]]) for name in (line.a, line.b))
        value, low, high = (100 * x for x in (line.interaction, line.low, line.high))
        tip = (
            f"{line.joint}\ndonor's answer: both {100 * line.share_joint:.1f} %, the sum of the parts "
            f"{100 * line.sum_of_parts:.1f} %, n = {line.n}\n"
            f"interaction {value:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        )
        rows.append((f"{first} with {second}", value, low, high, tip))
    title = "Both together, less the sum of the parts" + (
        f" (the {len(rows)} largest of {len(joint)})" if len(joint) > len(rows) else ""
    )
    label = "interaction in points of the donor's answer"
    picture = figures.forest(f"{key}-joint", title, rows, label, zero=0.0, width=figures.WIDE)
    note = (
        "Each line is about two conditions and a third one that patches what both of them patch. Above zero, the two do more "
        "together than the sum of what each does alone. The intervals are over sources and not corrected for their number."
    )
    return Chart("Joint effects", note, [picture])
