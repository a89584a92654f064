"""Sentences from numbers by fixed rules. A sentence is never stronger than the corrected tests of its family allow.

Strengths: `supported` (beats both the unpatched run and the shuffled donor), `partial` (beats the unpatched run only,
there is no control, or a defect of the published scripts was on), `none` (no corrected test rejects), `warning` (the
numbers must not be read as effects), `descriptive` (an estimate with its interval, no test behind the sentence).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from . import stats
from .analyse import Analysis, donor_class, place_words
from .load import CLASSES

STEP_WORDS = {
    "first": "first N",
    "last": "last N",
    "single": "single steps",
    "window": "windows",
    "set": "sets of steps",
}
ANSWER = {0: "clean", 1: "corrupted"}


@dataclass(frozen=True)
class Finding:
    """One sentence: which rule wrote it, how strong it is, and what it is about."""

    rule: str
    strength: str
    subject: str
    text: str
    group: str = ""
    layers: str = ""


def share(k: int, n: int) -> str:
    """'12 of 60 (20.0 %, 95 % interval 11.8 to 31.8 %)' with the Wilson interval."""
    low, high = 100 * stats.proportion_interval(np.array(k), np.array(n))
    return f"{k} of {n} ({100 * k / n:.1f} %, 95 % interval {low:.1f} to {high:.1f} %)"


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def write(a: Analysis) -> list[Finding]:
    """All findings of one file, warnings first."""
    if not a.n:
        return [Finding("empty", "warning", "file", f"{a.notes[-1]}.")]
    out = _warnings(a)
    blocked = any(f.strength == "warning" and f.rule == "integrity" for f in out)
    if blocked:
        return out
    effects = _effects(a)
    return out + _overview(effects) + effects + _chance(a) + _thresholds(a) + _steps(a)


def claims_effect(findings: list[Finding]) -> bool:
    """True where any sentence claims an effect (what the error rate of the family is about)."""
    return any(f.strength in ("supported", "partial") for f in findings)


def _warnings(a: Analysis) -> list[Finding]:
    return [
        Finding(
            "integrity",
            "warning",
            check.name,
            f"Rows that cannot change did change: {check.name}, {check.detail}. "
            "Nothing else in this file should be interpreted before this is explained.",
        )
        for check in a.checks
        if not check.ok
    ]


def _overview(effects: list[Finding]) -> list[Finding]:
    """One sentence per panel and kind of step set where more than three of its layers have a sentence of their own."""
    out = []
    for group in dict.fromkeys(f.group for f in effects if f.group):
        members = [f for f in effects if f.group == group]
        if len(members) <= 3:
            continue
        parts = []
        for strength, words in (
            ("supported", "beats the unpatched run and the shuffled donor in"),
            ("partial", "only part of that is shown in"),
        ):
            layers = [f.layers for f in members if f.strength == strength]
            if layers:
                parts.append(f"{words} {len(layers)} {'layer' if len(layers) == 1 else 'layers'} ({', '.join(layers)})")
        best = "supported" if any(f.strength == "supported" for f in members) else "partial"
        out.append(
            Finding(
                "overview",
                best,
                group,
                f"{group}: the donor's answer {'; '.join(parts)}. The sentences layer by layer follow.",
                group,
            )
        )
    return out


def _chance(a: Analysis) -> list[Finding]:
    """How often a shuffled donor gives the donor's answer: the chance rate of the classification."""
    out = []
    chance = a.table[
        (a.table["role"] == "control") & (a.table["donor"] == "shuffled") & ~a.table["dead"] & (a.table["copy_of"] < 0)
    ]
    if len(chance):
        targets = np.array([CLASSES[donor_class(d)] for d in chance["direction"]])
        counts = np.array([chance[t].iloc[i] for i, t in enumerate(targets)])
        worst = int(np.argmax(counts))
        out.append(
            Finding(
                "chance",
                "descriptive",
                "shuffled donors",
                "Chance rate: with another pair's activations the donor's "
                f"answer appears at most in {share(int(counts[worst]), int(chance['n'].iloc[worst]))} pairs "
                f"({chance['name'].iloc[worst]}), over {len(chance)} control conditions.",
            )
        )
    return out


def _family(a: Analysis) -> str:
    return f"Holm over the file's {int(a.tests['p'].notna().sum())} tests"


def _effects(a: Analysis) -> list[Finding]:
    out, tests = [], a.tests
    if not len(tests):
        return [Finding("family", "none", "file", "The file holds no live effect condition: nothing was tested.")]
    plain = tests[tests["test"] == "vs_unpatched"].set_index("index")
    control = tests[tests["test"] == "vs_shuffled"].set_index("index")
    titles = dict(zip(a.panels["panel"], a.panels["title"], strict=True))
    spans: dict[str, list[str]] = {}
    silent: list[tuple[str, int]] = []
    for (panel, at, kind), part in a.table[a.table["in_family"]].groupby(["panel", "place", "kind"], sort=False):
        ids = part["index"].tolist()
        place, group = place_words(at), f"{titles[panel]}, {STEP_WORDS.get(kind, kind)}"
        where = f"{titles[panel]}, {place}, {STEP_WORDS.get(kind, kind)}"
        base = {j: _verdict(plain, j) for j in ids}
        against = {j: _verdict(control, j) for j in ids}
        up = [j for j in ids if base[j] > 0]
        down = [j for j in ids if base[j] < 0]
        if not up and not down:
            specific = [j for j in ids if against[j]]
            if specific:
                j = specific[0]
                more = "more" if against[j] > 0 else "less"
                out.append(
                    Finding(
                        "effect",
                        "partial",
                        where,
                        f"{where}: no condition differs from the unpatched run, but "
                        f"{len(specific)} of {len(ids)} give the donor's answer {more} often than a shuffled donor "
                        f"({_family(a)}, alpha = 0.05).",
                        group,
                        place,
                    )
                )
            else:
                silent.append((where, len(ids)))
                spans.setdefault(group, []).append(place)
            continue
        if up:
            found = _positive(a, where, ids, up, [j for j in up if against[j] > 0], plain, control)
            out.append(replace(found, group=group, layers=place))
        if down:
            out.append(
                Finding(
                    "effect",
                    "partial",
                    where,
                    f"{where}: {len(down)} of {len(ids)} conditions give the donor's answer "
                    f"less often than the unpatched run does ({_family(a)}).",
                    group,
                    place,
                )
            )
    if silent:
        total = sum(k for _, k in silent)
        names = "; ".join(f"{group} ({', '.join(places)})" for group, places in spans.items())
        smallest = stats.mcnemar_detectable(a.clusters, 0.0, stats.ALPHA / max(int(tests["p"].notna().sum()), 1))
        power = (
            f"a true difference below {100 * smallest:.0f} percentage points would be missed more than one time in five"
            if np.isfinite(smallest)
            else "no difference, however large, would be found with 80 % power"
        )
        out.append(
            Finding(
                "null",
                "none",
                "family",
                f"In {len(silent)} series ({total} conditions) no test rejects: {names}. This is "
                f"not evidence of no effect: with n = {a.clusters} and this family, {power}.",
            )
        )
    return out


def _positive(
    a: Analysis,
    where: str,
    ids: list[int],
    up: list[int],
    confirmed: list[int],
    plain: pd.DataFrame,
    control: pd.DataFrame,
) -> Finding:
    """For a series in which the conditions `up` beat the unpatched run, and `confirmed` the shuffled donor as well."""
    best = max(confirmed or up, key=lambda j: plain.loc[j, "k"])
    row, steps = plain.loc[best], a.table["steps"]
    word = ANSWER[donor_class(a.table["direction"][best])]
    text = (
        f"{where}: {len(up)} of {len(ids)} tested conditions ({', '.join(steps[j] for j in up)}) give the donor's "
        f"({word}) answer more "
        f"often than the unpatched run does. "
        f"{'Most' if best == max(up, key=lambda j: plain.loc[j, 'k']) else 'For instance'}: "
        f"{steps[best]}, {share(int(row.k), int(row.n))}, unpatched {int(row.k_reference)} of {int(row.n)}; exact "
        f"McNemar {p_text(row.holm)} ({_family(a)}), Cohen's h = {row.cohen_h:.2f}."
    )
    if confirmed:
        c = control.loc[best]
        which = "All of them also beat"
        if len(up) == 1:
            which = "It also beats"
        elif len(confirmed) < len(up):
            which = f"{len(confirmed)} of them ({', '.join(steps[j] for j in confirmed)}) also beat"
        text += (
            f" {which} the shuffled donor, which gives that answer at {steps[best]} in "
            f"{share(int(c.k_reference), int(c.n))}, {p_text(c.holm)}: "
            "the effect depends on whose activations they are."
        )
        if len(confirmed) < len(up):
            text += " For the others that is not shown."
    elif any(j in control.index for j in up):
        text += " It is not told from the shuffled donor: an effect of the content is not shown."
    else:
        text += " The file has no shuffled-donor control for it: an effect of the content is not shown."
    defects = a.results.defects(best)
    if defects:
        text += f" Defects of the published scripts were on ({', '.join(defects)}): the numbers may owe to them."
    return Finding("effect", "supported" if confirmed and not defects else "partial", where, text)


def _verdict(tests: pd.DataFrame, j: int) -> int:
    """+1 or -1 where the corrected test rejects, with the sign of the difference; 0 elsewhere."""
    if j not in tests.index or not tests.loc[j, "holm"] <= stats.ALPHA:
        return 0
    return 1 if tests.loc[j, "gain"] > tests.loc[j, "loss"] else -1


def _thresholds(a: Analysis) -> list[Finding]:
    out, strength = [], "partial" if a.results.defects() else "supported"
    for row in a.thresholds.itertuples():
        if not row.reached:
            continue
        low, high = _n(row.threshold_low, row.n_max), _n(row.threshold_high, row.n_max)
        head = (
            f"{row.series}: the donor's answer first outnumbers the recipient's at N* = {row.threshold:.0f} "
            f"(95 % {row.threshold_method} interval {low} to {high}, n = {row.n_pairs})"
        )
        if np.isfinite(row.significant_from):
            text = f"{head}; the majority itself is significant at N = {row.significant_from:.0f} ({_family(a)})."
            out.append(Finding("threshold", strength, row.series, text))
        else:
            text = f"{head}, but at no N is that majority significant ({_family(a)}): a majority is not shown."
            out.append(Finding("threshold", "descriptive", row.series, text))
    return out


def _n(value: float, top: int) -> str:
    return "not reached" if value > top else f"{value:.0f}" if np.isfinite(value) else "undefined"


def _steps(a: Analysis) -> list[Finding]:
    out, strength = [], "partial" if a.results.defects() else "supported"
    for row in a.tests[(a.tests["test"] == "cochran_q") & (a.tests["holm"] <= stats.ALPHA)].itertuples():
        out.append(
            Finding(
                "dose",
                strength,
                row.subject,
                f"{row.subject}: the share of the donor's answer is not the same at all N "
                f"(Cochran's Q = {row.statistic:.1f} over {int(row.k_reference)} values of N, {p_text(row.holm)}, "
                f"{_family(a)}). "
                "The test says nothing about the form of the dependence.",
            )
        )
    return out
