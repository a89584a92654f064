"""Sentences from numbers by fixed rules. A sentence is never stronger than the corrected tests of its family allow.

Strengths: `supported` (beats the shuffled donor, and the unpatched run where that is data; or damage that the test
finds), `partial` (beats the unpatched run only, or a defect of the published scripts was on), `none` (no corrected test
rejects), `warning` (the numbers must not be read as effects), `descriptive` (an estimate with its interval, no test
behind the sentence). Share, difference, interval and test of one sentence are of the same pairs with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from . import stats, words
from .analyse import Analysis, donor_class, matched_controls
from .load import CLASSES

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
    headline: str = ""  # the same in short, for the top of the page


def share(k: float, n: int, low: float | None = None, high: float | None = None) -> str:
    """'12 of 60 (20.0 %, 95 % interval 11.8 to 31.8 %)'; limits in %, Wilson's for independent pairs unless given."""
    if low is None or high is None:
        low, high = 100 * stats.proportion_interval(np.array(k), np.array(n))
    return f"{k:.4g} of {n} ({100 * k / n:.1f} %, 95 % interval {low:.1f} to {high:.1f} %)"


def _reference(row: pd.Series) -> str:
    """'12 of 60'; with several draws of the reference their mean."""
    if row.draws > 1:
        return f"{row.k_reference:.1f} of {int(row.n)} on average over {int(row.draws)} draws"
    return f"{row.k_reference:.4g} of {int(row.n)}"


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def write(a: Analysis) -> list[Finding]:
    """All findings of one file, warnings first."""
    if not a.n:
        return [Finding("empty", "warning", "file", f"{a.notes[-1]}.")]
    out = _warnings(a)
    if any(f.strength == "warning" and f.rule == "integrity" for f in out):
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
    for group in dict.fromkeys(f.group for f in effects if f.group and f.rule == "effect"):
        members = [f for f in effects if f.group == group and f.rule == "effect"]
        if len(members) <= 3:
            continue
        parts = []
        for strength, said in (
            ("supported", "more often than with another pair's activations in"),
            ("partial", "in part, or with a reservation, in"),
            ("descriptive", "without a control in"),
        ):
            layers = [f.layers for f in members if f.strength == strength]
            if layers:
                names = ", ".join(x.removeprefix("layer ") for x in layers)
                parts.append(f"{said} {len(layers)} {'layer' if len(layers) == 1 else 'layers'} ({names})")
        best = next(s for s in ("supported", "partial", "descriptive") if any(f.strength == s for f in members))
        out.append(
            Finding(
                "overview",
                best,
                group,
                f"{group}: the donor's answer appears {'; '.join(parts)}. The sentences layer by layer follow.",
                group,
            )
        )
    return out


def chance_rate(a: Analysis) -> tuple[float, str, int]:
    """The largest share of the donor's answer that a shuffled donor gives: (share, condition, how many conditions)."""
    t = a.table
    part = t[(t["role"] == "control") & (t["donor"] == "shuffled") & ~t["dead"] & (t["copy_of"] < 0) & (t["n"] > 0)]
    if not len(part):
        return float("nan"), "", 0
    counts = np.array([part[CLASSES[donor_class(d)]].iloc[i] for i, d in enumerate(part["direction"])])
    shares = counts / part["n"].to_numpy()
    worst = int(np.argmax(shares))
    return float(shares[worst]), str(part["name"].iloc[worst]), len(part)


def _chance(a: Analysis) -> list[Finding]:
    _, name, count = chance_rate(a)
    if not count:
        return []
    line = a.table[a.table["name"] == name].iloc[0]
    word = CLASSES[donor_class(line["direction"])]
    return [
        Finding(
            "chance",
            "descriptive",
            "shuffled donors",
            "Chance rate: with another pair's activations the donor's answer appears in at most "
            f"{share(int(line[word]), int(line['n']), line[f'{word}_low'], line[f'{word}_high'])} pairs "
            f"({words.condition(line['place'], line['steps'])}), over {count} control conditions. Effects that do not "
            "exceed it are not announced.",
        )
    ]


def _family(a: Analysis) -> str:
    return f"after Holm over the file's {int(a.tests['p'].notna().sum())} tests"


def _effects(a: Analysis) -> list[Finding]:
    out, tests = [], a.tests
    if not len(tests):
        return [Finding("family", "none", "file", "The file holds no live effect condition: nothing was tested.")]
    kinds = {test: part.set_index("index") for test, part in tests.groupby("test")}
    none = tests.iloc[:0].set_index("index")
    plain, control, damage = (kinds.get(test, none) for test in ("vs_unpatched", "vs_shuffled", "damage"))
    titles = dict(zip(a.panels["panel"], a.panels["words"], strict=True))
    chance = np.nan_to_num(chance_rate(a)[0], nan=-1.0)
    controls = matched_controls(a.results)
    spans: dict[str, list[str]] = {}
    silent = 0
    for (panel, at, kind), part in a.table[a.table["in_family"]].groupby(["panel", "place", "kind"], sort=False):
        ids = part["index"].tolist()
        edge = kind == words.EDGE and part["donor"].eq("").all()  # no donor: only damage can be asked for
        said = "" if edge else f", {words.KINDS.get(kind, kind)}"
        place, group = words.place(at), f"{titles[panel]}{said}"
        where = f"{titles[panel]}, {place}{said}"
        shares = {j: (plain if j in plain.index else control if j in control.index else none) for j in ids}
        loud = [j for j in ids if not len(shares[j]) or shares[j].loc[j, "k"] / shares[j].loc[j, "n"] > chance]
        specific = [j for j in loud if _verdict(control, j) > 0]
        tested = [j for j in ids if j in plain.index]
        up = [j for j in loud if _verdict(plain, j) > 0] if tested else specific
        down = [j for j in ids if _verdict(plain if tested else control, j) < 0]
        found: list[Finding] = []
        if up:
            confirmed = [j for j in up if j in specific]
            found.append(_positive(a, where, ids, up, confirmed, plain, control))
        elif not edge and not tested and not any(controls[j] for j in ids):
            found += _uncontrolled(a, where, ids)
        if down:
            less = "the unpatched run does" if tested else "a shuffled donor"
            found.append(
                Finding(
                    "effect",
                    "partial",
                    where,
                    f"{where}: {len(down)} of {len(ids)} conditions give the donor's answer less often than {less} "
                    f"({_family(a)}).",
                )
            )
        found += _damage(a, where, ids, damage)
        if not any(f.strength in ("supported", "partial") for f in found):
            silent += len(ids)
            spans.setdefault(group, []).append(place)
        out += [replace(f, group=group, layers=place) for f in found]
    if silent:
        names = "; ".join(f"{group} ({', '.join(places)})" for group, places in spans.items())
        smallest = stats.mcnemar_detectable(a.clusters, 0.0, stats.ALPHA / max(int(tests["p"].notna().sum()), 1))
        unit = "pairs" if a.clusters == a.n else "sources"
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
                f"In {sum(map(len, spans.values()))} series ({silent} conditions) no test finds an effect: {names}. This is "
                f"not evidence of no effect: with {a.clusters} {unit} and this family, {power}.",
            )
        )
    return out


def _against(row: pd.Series) -> str:
    """The difference of a test's line with interval, the test's own name and p."""
    over = f" over {int(row.units)} sources" if "over sources" in row.method else ""
    name = row.method.replace(" over sources", "")
    return (
        f"difference {100 * row.difference:+.1f} points, 95 % interval {100 * row.low:+.1f} to {100 * row.high:+.1f}; "
        f"{name}{over}, {p_text(row.holm)}"
    )


def _own_share(a: Analysis, j: int, row: pd.Series) -> str:
    line, word = a.table.loc[j], CLASSES[donor_class(a.table["direction"][j])]
    if int(line["n"]) == int(row.n):
        return share(int(row.k), int(row.n), line[f"{word}_low"], line[f"{word}_high"])
    return f"{int(row.k)} of {int(row.n)} ({100 * row.k / row.n:.1f} %)"


def _positive(
    a: Analysis,
    where: str,
    ids: list[int],
    up: list[int],
    confirmed: list[int],
    plain: pd.DataFrame,
    control: pd.DataFrame,
) -> Finding:
    """For a series in which the conditions `up` beat their first reference, and `confirmed` the shuffled donor."""
    tested = any(j in plain.index for j in up)
    first = plain if tested else control
    best = max(confirmed or up, key=lambda j: first.loc[j, "k"] / first.loc[j, "n"])
    row, steps = first.loc[best], a.table["steps"]
    word = ANSWER[donor_class(a.table["direction"][best])]
    reference = "without a patch" if tested else "with another pair's activations"
    most = (
        " There:"
        if len(up) == 1
        else " Most:"
        if best == max(up, key=lambda j: first.loc[j, "k"])
        else " For instance:"
    )
    conditions, verb = ("condition", "gives") if len(ids) == 1 else ("conditions", "gives" if len(up) == 1 else "give")
    said = "" if len(up) == 1 else f" {words.steps(steps[best])},"
    text = (
        f"{where}: {len(up)} of {len(ids)} {conditions} ({words.step_list([steps[j] for j in up])}) {verb} the "
        f"donor's ({word}) answer more often than {reference}.{most}{said} "
        f"{_own_share(a, best, row)} pairs, {reference} {_reference(row)}; {_against(row)} "
        f"({_family(a)})."
    )
    if confirmed and tested:
        c = control.loc[best]
        which = "All of them also beat"
        if len(up) == 1:
            which = "It also beats"
        elif len(confirmed) < len(up):
            which = f"{len(confirmed)} of them ({words.step_list([steps[j] for j in confirmed])}) also beat"
        text += (
            f" {which} the shuffled donor, which gives that answer at {words.steps(steps[best])} in "
            f"{_reference(c)} pairs; {_against(c)}."
        )
        if len(confirmed) < len(up):
            text += " For the other conditions the test does not show this."
    elif not confirmed and any(j in control.index for j in up):
        text += " The test does not tell it from the shuffled donor: an effect of the content is not shown."
    elif not confirmed:
        text += " The file has no shuffled-donor control for it: an effect of the content is not shown."
    if confirmed:
        text += " So the effect depends on whose activations they are."
    defects = a.results.defects(best)
    if defects:
        text += f" Defects of the published scripts were on ({', '.join(defects)}): the numbers may come from these defects."
    where_best = words.condition(a.table["place"][best], steps[best])
    headline = (
        f"{words.panel(a.table.loc[best])}: the donor's answer in {100 * row.k / row.n:.0f} % of the pairs at {where_best}, "
        f"{reference} in {100 * row.k_reference / row.n:.0f} % ({_against(row)})."
    )
    return Finding("effect", "supported" if confirmed and not defects else "partial", where, text, headline=headline)


def _uncontrolled(a: Analysis, where: str, ids: list[int]) -> list[Finding]:
    """The best condition of a series that has no reference which is data."""
    t = a.table.loc[ids]
    word = CLASSES[donor_class(t["direction"].iloc[0])]
    line = t.loc[t[f"{word}_pct"].idxmax()]
    if not line[word]:
        return []
    return [
        Finding(
            "effect",
            "descriptive",
            where,
            f"{where}: at most {share(int(line[word]), int(line['n']), line[f'{word}_low'], line[f'{word}_high'])} "
            f"pairs give the donor's answer ({words.steps(line['steps'])}). The file has no shuffled-donor control, "
            "and the filter fixes the unpatched share at zero: whether the content of the vectors matters is not tested.",
        )
    ]


def _damage(a: Analysis, where: str, ids: list[int], damage: pd.DataFrame) -> list[Finding]:
    """Conditions that cost the recipient's answer without giving the donor's."""
    hit = [j for j in ids if _verdict(damage, j) > 0]
    if not hit:
        return []
    best = max(hit, key=lambda j: damage.loc[j, "k"] / damage.loc[j, "n"])
    row, line = damage.loc[best], a.table.loc[best]
    if "difference" in row.method or row.k_reference == stats.ALPHA * row.n:
        claim = f"more than {100 * stats.ALPHA:.0f} % of the pairs"
        test = f"{row.method}, {p_text(row.holm)}"
    else:
        claim, test = "more pairs than without a patch", _against(row)
    gibberish = int(line["gibberish"])
    shown = f"{gibberish} of {int(row.n)} gibberish" if gibberish else "none of them gibberish"
    defects = a.results.defects(best)
    lost = share(int(row.k), int(row.n), 100 * row.low, 100 * row.high)
    return [
        Finding(
            "damage",
            "partial" if defects else "supported",
            where,
            f"Damage. {where}: in {len(hit)} of {len(ids)} conditions {claim} lose the recipient's answer and do not "
            f"give the donor's. Most: {words.steps(line['steps'])}, {lost} pairs, {gibberish or 'none'} of them with gibberish; "
            f"{test} ({_family(a)})."
            + (f" Defects of the published scripts were on ({', '.join(defects)})." if defects else ""),
            headline=f"Damage: at {words.condition(line['place'], line['steps'])}, {100 * row.k / row.n:.0f} % of the pairs "
            f"give neither answer (95 % interval {100 * row.low:.0f} to {100 * row.high:.0f} %), {shown} "
            f"({test}).",
        )
    ]


def _verdict(tests: pd.DataFrame, j: int) -> int:
    """+1 or -1 where the corrected test rejects, with the sign of the difference; 0 elsewhere."""
    if j not in tests.index or not tests.loc[j, "holm"] <= stats.ALPHA:
        return 0
    return 1 if tests.loc[j, "difference"] > 0 else -1


def _thresholds(a: Analysis) -> list[Finding]:
    out, strength = [], "partial" if a.results.defects() else "supported"
    for row in a.thresholds.itertuples():
        if not row.reached:
            continue
        low, high = _n(row.threshold_low, row.n_max), _n(row.threshold_high, row.n_max)
        head = (
            f"{row.words}: the donor's answer first outnumbers the recipient's at N* = {row.threshold:.0f} "
            f"(95 % {row.threshold_method} interval {low} to {high}, {row.n_pairs} pairs of {a.clusters} sources)"
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
                f"{a.series[row.index].words}: the share of the donor's answer is not the same at all N "
                f"({row.method}, {int(row.k_reference)} values of N, {p_text(row.holm)}, {_family(a)}). "
                "The test says nothing about the form of the dependence.",
            )
        )
    return out
