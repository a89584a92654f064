"""Comparison of two results files: models, dtypes, protocols, with and without a defect.

Pairs are the same where id, both questions and both answers agree. Conditions are matched by name, or, where the
numbers of layers differ, by relative depth (mutually nearest layers).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from . import stats
from .analyse import PANEL_KEYS, donor_class
from .load import CLASSES, NOT_RUN, Results

BOSCHLOO_CONDITIONS = 120  # Boschloo's test takes up to 0.1 s; above this many conditions only Fisher's is run


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


def compare(a: Results, b: Results, by: str = "auto", max_flips: int = 20_000) -> Comparison:
    """Compares the donor's answer by condition: unpaired over each file's pairs, paired over the shared ones."""
    matched_by, matches = match_conditions(a, b, by)
    rows_a, rows_b = shared_pairs(a, b)
    cluster = pd.factorize(a.pairs["source"].to_numpy()[rows_a])[0]
    first = [np.unique(pd.factorize(r.pairs["source"].to_numpy()[r.included])[0], return_index=True)[1] for r in (a, b)]
    lines, flips, counts = [], [], []
    limit = 300 if len(matches) <= BOSCHLOO_CONDITIONS else 0
    for i, j in matches:
        cond = a.conditions.iloc[i]
        target = donor_class(cond["direction"])
        events, firsts = [], []
        for r, k, one in ((a, i, first[0]), (b, j, first[1])):
            classes = r.cls[r.included, k]
            events.append(classes[classes != NOT_RUN] == target)
            firsts.append(classes[one][classes[one] != NOT_RUN] == target)
        if not all(map(len, firsts)):
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
        unit = firsts
        line |= stats.unpaired_test(int(unit[0].sum()), len(unit[0]), int(unit[1].sum()), len(unit[1]), limit)
        if len(rows_a):
            ca, cb = a.cls[rows_a, i], b.cls[rows_b, j]
            both = (ca != NOT_RUN) & (cb != NOT_RUN)
            paired = stats.paired_test(ca[both] == target, cb[both] == target, pd.factorize(cluster[both])[0])
            differ = np.flatnonzero(both & (ca != cb))
            line |= {
                "shared": int(both.sum()),
                "only_a": paired.gain,
                "only_b": paired.loss,
                "mcnemar_p": paired.p,
                "flips": len(differ),
            }
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
        for column in ("fisher_p", "boschloo_p", "mcnemar_p"):
            if column in tests:
                tests[column.replace("_p", "_holm")] = stats.adjust(np.where(member, tests[column], np.nan))
    total = sum(len(c) for c in counts)
    if total > max_flips:
        notes.append(f"{total} outcomes differ; the list holds the first {max_flips}")
    same_model = a.model == b.model
    if len(rows_a) and not same_model:
        notes.append(
            "both models ran on shared pairs: the paired test on those is the sharper one; the unpaired tests use all "
            "included pairs of each file and are not independent of it"
        )
    transitions = (
        pd.concat(counts).value_counts().rename("count").reset_index()
        if counts
        else pd.DataFrame(columns=["from", "to", "count"])
    )
    if len(transitions):
        names = dict(enumerate(CLASSES)) | {NOT_RUN: "not run"}
        transitions["from"], transitions["to"] = transitions["from"].map(names), transitions["to"].map(names)
    return Comparison(a, b, matched_by, len(rows_a), tests, pd.DataFrame(flips), transitions, notes)


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
    kind = "mcnemar_holm" if c.shared_pairs and c.a.model == c.b.model else "fisher_holm"
    name = "exact McNemar on the shared pairs" if kind == "mcnemar_holm" else "Fisher's exact test, unpaired"
    hit = effect[effect[kind] <= stats.ALPHA]
    if len(hit):
        row = hit.loc[hit["difference"].abs().idxmax()]
        out.append(
            (
                strength,
                f"{len(hit)} of {len(effect)} matched effect conditions differ in the share of the donor's answer "
                f"({name}, Holm over {len(effect)} conditions). Largest: {row['condition_a']}, {int(row['k_a'])} "
                f"of {int(row['n_a'])} against "
                f"{int(row['k_b'])} of {int(row['n_b'])}, difference {100 * row['difference']:+.1f} points "
                f"(Newcombe {100 * row['low']:+.1f} to {100 * row['high']:+.1f}).{caution}",
            )
        )
    else:
        widest = effect.loc[effect["difference"].abs().idxmax()]
        out.append(
            (
                "none",
                f"No matched effect condition differs ({name}, Holm over {len(effect)} conditions). The largest "
                f"difference seen, "
                f"{100 * widest['difference']:+.1f} points ({widest['condition_a']}: {int(widest['k_a'])} of "
                f"{int(widest['n_a'])} against "
                f"{int(widest['k_b'])} of {int(widest['n_b'])}), has the interval {100 * widest['low']:+.1f} to "
                f"{100 * widest['high']:+.1f}: the files do not settle whether there is a difference.",
            )
        )
    return out
