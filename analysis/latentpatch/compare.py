"""Comparison of two results files: models, dtypes, protocols, with and without a defect.

Pairs are the same where id, both questions and both answers agree. Conditions are matched by name, or, where the
numbers of layers differ, by relative depth (mutually nearest layers). Where the files share at least half of their pairs
the paired comparison on those is the one that sentences use; its counts, difference, interval and test are of these pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from . import stats, words
from .analyse import PANEL_KEYS, class_table, cluster_sums, donor_class, find_series, panel_table, sources
from .load import CLASSES, NOT_RUN, Results

BOSCHLOO_CONDITIONS = 120  # Boschloo's test takes up to 0.1 s; above this many conditions only Fisher's is run


QUANTITIES = {  # of series over N
    "threshold": "N*",
    "plateau": "the N from which the share stays (plateau)",
    "area": "the mean share over N",
}


def quantity(name: str, value: float, n_max: float) -> str:
    """N*, plateau or mean share as text."""
    if name == "area":
        return f"{100 * value:.1f} %"
    return "not reached" if value > n_max else f"{value:.0f}"


@dataclass
class Comparison:
    """tests: one line per matched condition; flips: one line per (pair, condition) whose class differs."""

    a: Results
    b: Results
    matched_by: str
    shared_pairs: int
    tests: pd.DataFrame
    flips: pd.DataFrame
    flip_counts: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    thresholds: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def paired(self) -> bool:
        """Whether the pairs that both files have are enough to be what is compared."""
        return self.shared_pairs >= max(2, min(len(self.a.included), len(self.b.included)) / 2)


def shared_pairs(a: Results, b: Results) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a and of b that are the same pair and included in both."""
    keys = ["id", "clean_question", "corrupted_question", "clean_answer", "corrupted_answer"]
    left = {tuple(row): i for i, row in zip(a.included, a.pairs[keys].to_numpy()[a.included].tolist(), strict=True)}
    pairs = [
        (left[tuple(row)], i)
        for i, row in zip(b.included, b.pairs[keys].to_numpy()[b.included].tolist(), strict=True)
        if tuple(row) in left
    ]
    out = np.array(pairs, np.int64).reshape(-1, 2)
    return out[:, 0], out[:, 1]


def match_conditions(a: Results, b: Results, by: str = "auto") -> tuple[str, list[tuple[int, int]]]:
    """Index pairs of live, own conditions. by: 'name', 'depth' or 'auto' (name where the deepest layers agree)."""
    top = [int(max(r.conditions["layer"].max(), 0)) for r in (a, b)]
    layers = [int(r.provenance.get("n_layers", t + 1)) for r, t in zip((a, b), top, strict=True)]
    if by == "auto":
        by = "name" if layers[0] == layers[1] else "depth"
    sides = []
    for r in (a, b):
        cond = r.conditions
        sides.append(
            cond[(cond["dead"] == 0) & (cond["same_as"] == np.arange(len(cond))) & (cond["role"] != "unpatched")]
        )
    if by == "name":
        return by, _same_target(*sides)
    depths = [
        {v: (v + 1) / n for v in sorted(set(side["layer"]) - {-1})} for side, n in zip(sides, layers, strict=True)
    ]

    def nearest(source: dict[int, float], target: dict[int, float]) -> dict[int, int]:
        return {v: min(target, key=lambda w: abs(target[w] - d)) for v, d in source.items()} if target else {}

    there, back = nearest(*depths), nearest(depths[1], depths[0])
    partner = {v: w for v, w in there.items() if back[w] == v} | {-1: -1}
    keys = [k for k in PANEL_KEYS if k != "defects"] + ["steps", "layer", "from_layer"]
    sides = [side[~side.duplicated(keys, keep=False)] for side in sides]
    place = {tuple(row): i for i, row in zip(sides[1].index, sides[1][keys].to_numpy().tolist(), strict=True)}
    out = []
    for i, row in zip(sides[0].index, sides[0][keys].to_numpy().tolist(), strict=True):
        j = place.get((*row[:-2], *(partner.get(layer) for layer in row[-2:])))
        if j is not None:
            out.append((i, j))
    return by, out


def _same_target(a: pd.DataFrame, b: pd.DataFrame) -> list[tuple[int, int]]:
    """Conditions of equal name; else of equal target, so that a run with a defect switched on meets the one without."""
    place = dict(zip(b["name"], b.index, strict=True))
    out = {i: place[name] for i, name in zip(a.index, a["name"], strict=True) if name in place}
    keys = [k for k in PANEL_KEYS if k != "defects"] + ["layers", "from_layer", "steps"]
    rest = [side[~side.index.isin(list(used))] for side, used in ((a, out.keys()), (b, out.values()))]
    rest = [side[~side.duplicated(keys, keep=False)] for side in rest]
    place = {tuple(row): j for j, row in zip(rest[1].index, rest[1][keys].to_numpy().tolist(), strict=True)}
    for i, row in zip(rest[0].index, rest[0][keys].to_numpy().tolist(), strict=True):
        if tuple(row) in place:
            out[i] = place[tuple(row)]
    return sorted(out.items())


def compare(a: Results, b: Results, by: str = "auto", max_flips: int = 20_000, resamples: int = 2000) -> Comparison:
    """Compares the donor's answer by condition: unpaired over each file's pairs, paired over the shared ones."""
    matched_by, matches = match_conditions(a, b, by)
    rows_a, rows_b = shared_pairs(a, b)
    cluster = pd.factorize(a.pairs["source"].to_numpy()[rows_a])[0]
    units = (sources(a), sources(b))
    lines, flips, counts = [], [], []
    limit = 300 if len(matches) <= BOSCHLOO_CONDITIONS else 0
    for i, j in matches:
        cond = a.conditions.iloc[i]
        target = donor_class(cond["direction"])
        events, groups = [], []
        for r, k, unit in ((a, i, units[0]), (b, j, units[1])):
            classes = r.cls[r.included, k]
            events.append(classes[classes != NOT_RUN] == target)
            groups.append(pd.factorize(unit[classes != NOT_RUN])[0])
        if not all(map(len, events)):
            continue
        line = {
            "condition_a": cond["name"],
            "condition_b": b.conditions["name"][j],
            "role": cond["role"],
            **{k: cond[k] for k in PANEL_KEYS},
            "steps": cond["steps"],
            "layer_a": int(cond["layer"]),
            "layer_b": int(b.conditions["layer"][j]),
            "k_a": int(events[0].sum()),
            "n_a": len(events[0]),
            "k_b": int(events[1].sum()),
            "n_b": len(events[1]),
        }
        line |= stats.unpaired_clustered(*events, *groups, limit)
        if len(rows_a):
            ca, cb = a.cls[rows_a, i], b.cls[rows_b, j]
            both = (ca != NOT_RUN) & (cb != NOT_RUN)
            if both.any():
                paired = stats.paired_test(ca[both] == target, cb[both] == target, pd.factorize(cluster[both])[0])
                line |= {
                    "shared": int(both.sum()),
                    "shared_sources": paired.n,
                    "shared_k_a": int((ca[both] == target).sum()),
                    "shared_k_b": int((cb[both] == target).sum()),
                    "only_a": paired.gain,
                    "only_b": paired.loss,
                    "paired_difference": paired.difference,
                    "paired_low": paired.low,
                    "paired_high": paired.high,
                    "paired_p": paired.p,
                }
            differ = np.flatnonzero(both & (ca != cb))
            line["flips"] = len(differ)
            for q in differ:
                pa, pb = rows_a[q], rows_b[q]
                if len(flips) < max_flips:
                    flips.append(
                        {
                            "pair": a.pairs["id"][pa],
                            "condition": cond["name"],
                            "class_a": CLASSES[ca[q]],
                            "class_b": CLASSES[cb[q]],
                            "text_a": a.answers[a.answer[pa, i]],
                            "text_b": b.answers[b.answer[pb, j]],
                        }
                    )
            if len(differ):
                counts.append(pd.DataFrame({"from": ca[differ], "to": cb[differ]}))
        lines.append(line)
    tests = pd.DataFrame(lines)
    notes = []
    if not matches:
        notes.append("no condition of the two files matches")
    else:
        member = (tests["role"] == "effect").to_numpy()
        for column in ("unpaired_p", "boschloo_p", "paired_p"):
            if column in tests:
                tests[column.replace("_p", "_holm")] = stats.adjust(np.where(member, tests[column], np.nan))
    total = sum(len(c) for c in counts)
    if total > max_flips:
        notes.append(f"{total} outcomes differ; the list holds the first {max_flips}")
    transitions = (
        pd.concat(counts).value_counts().rename("count").reset_index()
        if counts
        else pd.DataFrame(columns=["from", "to", "count"])
    )
    if len(transitions):
        names = dict(enumerate(CLASSES)) | {NOT_RUN: "not run"}
        transitions["from"], transitions["to"] = transitions["from"].map(names), transitions["to"].map(names)
    out = Comparison(a, b, matched_by, len(rows_a), tests, pd.DataFrame(flips), transitions, notes)
    out.thresholds = threshold_differences(out, dict(matches), (rows_a, rows_b), resamples)
    if len(rows_a) and a.model != b.model:
        what = (
            "the paired comparison on those is the sharper one" if out.paired else "too few for the paired comparison"
        )
        notes.append(f"both models ran on {len(rows_a)} shared pairs: {what}")
    return out


def threshold_differences(
    c: Comparison, partner: dict[int, int], shared: tuple[np.ndarray, np.ndarray], resamples: int
) -> pd.DataFrame:
    """N*, plateau and area of both files for each layer's series, and their differences with bootstrap intervals.

    Sources are drawn with replacement: the same ones in both files where the comparison is paired. `adjusted` says whether
    the interval at Bonferroni's level over all these differences leaves out zero.
    """
    table = class_table(c.a)
    series = []
    for s in find_series(table, panel_table(table)):
        both = [(i, partner[i], n) for i, n in zip(s.index, s.n_values, strict=True) if i in partner]
        if len(both) >= 2:
            series.append((s, *map(list, zip(*both, strict=True))))
    if not series or not resamples:
        return pd.DataFrame()
    rows = shared if c.paired else (c.a.included, c.b.included)
    sums = []
    for r, side, where in ((c.a, 1, rows[0]), (c.b, 2, rows[1])):
        unit = pd.factorize(r.pairs["source"].to_numpy()[where])[0]
        columns = [np.ones((len(where), 1))]
        for entry in series:
            target = donor_class(table["direction"][entry[1][0]])
            part = r.cls[np.ix_(where, entry[side])]
            columns += [part == target, part == 1 - target]
        sums.append(cluster_sums(np.concatenate(columns, 1).astype(float), unit, int(unit.max()) + 1))

    def quantities(total: np.ndarray) -> np.ndarray:
        out, at = [], 1
        for _, _, _, n_values in series:
            k = len(n_values)
            donor, recipient = total[:, at : at + k] / total[:, :1], total[:, at + k : at + 2 * k] / total[:, :1]
            at += 2 * k
            out += [
                stats.threshold(donor, recipient, n_values),
                stats.plateau(donor, n_values),
                stats.area(donor, n_values),
            ]
        return np.stack(out, 1)

    rng = np.random.default_rng(20251020)
    found = [quantities(x.sum(0, keepdims=True))[0] for x in sums]
    weights = [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), resamples).astype(float) for x in sums]
    if c.paired:
        weights[1] = weights[0]
    draws = quantities(weights[0] @ sums[0]) - quantities(weights[1] @ sums[1])
    low, high = np.quantile(draws, [stats.ALPHA / 2, 1 - stats.ALPHA / 2], axis=0, method="inverted_cdf")
    strict = stats.ALPHA / draws.shape[1] / 2
    far = np.quantile(draws, [strict, 1 - strict], axis=0, method="inverted_cdf")
    lines = []
    for i, (s, first, second, n_values) in enumerate(series):
        for q, name in enumerate(("threshold", "plateau", "area")):
            at = 3 * i + q
            lines.append(
                {
                    "series": s.label,
                    "words": s.words,
                    "layer_a": int(c.a.conditions["layer"][first[0]]),
                    "layer_b": int(c.b.conditions["layer"][second[0]]),
                    "quantity": name,
                    "n_max": max(n_values),
                    "a": found[0][at],
                    "b": found[1][at],
                    "difference": found[0][at] - found[1][at],
                    "low": low[at],
                    "high": high[at],
                    "paired": c.paired,
                    "adjusted": bool(far[0][at] > 0 or far[1][at] < 0),
                }
            )
    return pd.DataFrame(lines)


def sentences(c: Comparison) -> list[tuple[str, str]]:
    """(strength, text) by fixed rules; the family is the matched effect conditions of this comparison."""
    if not len(c.tests):
        return [("none", "Nothing could be compared.")]
    effect = c.tests[c.tests["role"] == "effect"]
    out = []
    if not len(effect):
        return [("none", "No effect condition is in both files.")]
    if c.shared_pairs:
        cells = c.shared_pairs * len(c.tests)
        total = int(c.tests["flips"].sum())
        out.append(
            (
                "descriptive",
                f"On {c.shared_pairs} shared pairs x {len(c.tests)} matched conditions, {total} of {cells} outcomes "
                f"differ ({100 * total / cells:.2f} %).",
            )
        )
    varied = [
        k
        for k in ("model", "protocol", "dtype", "classifier", "executor", "device")
        if c.a.provenance.get(k) != c.b.provenance.get(k)
    ]
    caution = (
        f" The files differ in {', '.join(varied)}; the test does not say which of it matters."
        if len(varied) > 1
        else ""
    )
    defects = list(dict.fromkeys(c.a.defects() + c.b.defects()))
    if defects:
        caution += f" Defects of the published scripts were on ({', '.join(defects)}): the differences may owe to them."
    strength = "partial" if defects else "supported"
    kind, prefix = ("paired_holm", "paired_") if c.paired else ("unpaired_holm", "")
    one_each = (c.a.pairs["source"].nunique(), c.b.pairs["source"].nunique()) == (len(c.a.pairs), len(c.b.pairs))
    if c.paired:
        name = "exact McNemar test" if one_each else "sign-flip test over sources"
        name += " on the shared pairs"
    else:
        name = "Fisher's exact test" if one_each else "Welch's test over sources"
        name += ", unpaired"

    def places(layer_a: int, layer_b: int) -> str:
        if layer_a < 0 or layer_b < 0:
            return "in both files"
        if layer_a == layer_b:
            return f"at layer {layer_a} of both"
        return f"at layer {layer_a} of {c.a.label} and layer {layer_b} of {c.b.label}"

    def numbers(row: pd.Series) -> str:
        if c.paired:
            k = f"{int(row['shared_k_a'])} of {int(row['shared'])} against {int(row['shared_k_b'])} of {int(row['shared'])}"
        else:
            k = f"{int(row['k_a'])} of {int(row['n_a'])} against {int(row['k_b'])} of {int(row['n_b'])}"
        low, high = 100 * row[f"{prefix}low"], 100 * row[f"{prefix}high"]
        points = f"{100 * row[f'{prefix}difference']:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
        return f"{words.steps(row['steps'])} {places(row['layer_a'], row['layer_b'])}, {k}, difference {points}"

    hit = effect[effect[kind] <= stats.ALPHA]
    largest = (hit if len(hit) else effect)[f"{prefix}difference"].abs().idxmax()
    if len(hit):
        out.append(
            (
                strength,
                f"{len(hit)} of {len(effect)} matched effect conditions differ in the share of the donor's answer "
                f"({name}, Holm over {len(effect)} conditions). Largest: {numbers(effect.loc[largest])}.{caution}",
            )
        )
    else:
        out.append(
            (
                "none",
                f"No matched effect condition differs ({name}, Holm over {len(effect)} conditions). The largest "
                f"difference seen: {numbers(effect.loc[largest])}. The files do not settle whether there is a difference.",
            )
        )
    if len(c.thresholds):
        moved = c.thresholds[c.thresholds["adjusted"]]
        drawn = "the same sources drawn in both" if c.paired else "sources of each file drawn on their own"
        if len(moved):
            first = moved.sort_values("quantity", key=lambda q: q == "plateau", kind="stable").iloc[0]
            said = (
                f"{QUANTITIES[first['quantity']]} is {quantity(first['quantity'], first['a'], first['n_max'])} against "
                f"{quantity(first['quantity'], first['b'], first['n_max'])} {places(first['layer_a'], first['layer_b'])}"
            )
            text = (
                f"{c.a.label} against {c.b.label}: {len(moved)} of {len(c.thresholds)} differences in N*, plateau and mean "
                f"share over N exclude zero. For example, {said}"
            )
            out.append((strength, f"{text} (bootstrap, {drawn}, Bonferroni over all of them).{caution}"))
        else:
            out.append(
                (
                    "none",
                    f"None of {len(c.thresholds)} differences in N*, plateau and mean share over N excludes zero "
                    f"(bootstrap, {drawn}, "
                    "Bonferroni over all of them).",
                )
            )
    return out
