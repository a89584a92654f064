"""From a results file to tables: class shares, the declared family of tests, thresholds, metrics, stability, power.

The declared family of a file: for every condition of role `effect` that is neither dead nor a copy of another one,
  1. donor's answer against the shuffled-donor control with the same target (where the file has it),
  2. donor's answer against the unpatched run (where the sweep's filter does not fix that share at zero),
  3. donor's answer against recipient's answer (majority, one-sided),
  4. damage: more than 5 % of the pairs lose the recipient's answer without giving the donor's (one-sided);
and for every layer's series over N, 5. Cochran's Q or its permutation test. All of them are corrected together.
The unit is the source (`source` of a pair: the template or problem that it was made from).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from . import stats, words
from .load import CLASSES, NOT_RUN, LayoutError, Results

# Conditions of one panel differ in target layers (and the donor's), in steps or positions, and in nothing else.
PANEL_KEYS = [
    *("direction", "donor", "vector", "operation", "factor", "site", "head"),
    *("from_site", "from_step", "stop_after", "defects"),
]
SERIES_KINDS = ("first", "last")


@dataclass
class Check:
    """An invariant of the sweep: rows that must not have changed."""

    name: str
    ok: bool
    detail: str


@dataclass
class Series:
    """Conditions of one panel and one layer over N = 1, 2, ... (only rows that are neither dead nor copies)."""

    panel: int
    place: str
    layer: int
    kind: str
    index: list[int]
    n_values: list[int]
    label: str
    words: str = ""


@dataclass
class Analysis:
    """Everything the report prints about one file."""

    results: Results
    n: int
    cluster: np.ndarray
    clusters: int
    table: pd.DataFrame
    panels: pd.DataFrame
    series: list[Series]
    tests: pd.DataFrame
    thresholds: pd.DataFrame
    metrics: pd.DataFrame
    stability: pd.DataFrame
    power: pd.DataFrame
    baseline: pd.DataFrame
    checks: list[Check]
    notes: list[str] = field(default_factory=list)


def donor_class(direction: str) -> int:
    """Index of the class 'answered as the donor run would': clean for denoise, corrupted for noise."""
    return 0 if direction == "denoise" else 1


def step_kind(steps: str) -> tuple[str, str]:
    """('first', '3') from 'first:3'; ('all', '') from 'all'."""
    kind, _, value = steps.partition(":")
    return kind, value


def unpatched_classes(r: Results, direction: str) -> np.ndarray | None:
    """Classes of the unpatched recipient over the included pairs; from the rows, else from the filter, else None."""
    cond, rows = r.conditions, r.included
    found = np.flatnonzero((cond["role"] == "unpatched") & (cond["direction"] == direction))
    if len(found):
        return r.cls[rows, found[0]]
    side = "corrupted" if direction == "denoise" else "clean"
    if r.pairs[f"{side}_correct"].to_numpy()[rows].all():
        return np.full(len(rows), 1 - donor_class(direction), np.uint8)
    return None


def sources(r: Results) -> np.ndarray:
    """The source of each included pair as codes 0..G-1 (int)."""
    return pd.factorize(r.pairs["source"].to_numpy()[r.included])[0]


def reference_is_fixed(r: Results, direction: str) -> bool:
    """The sweep's filter lets in only pairs whose unpatched recipient gives its own right answer."""
    side = "corrupted" if direction == "denoise" else "clean"
    chosen = str(r.provenance.get("filter", "")).replace("_", "-")
    right = r.pairs[f"{side}_correct"].to_numpy()[r.included]
    return chosen in ("both-correct", f"{side}-correct") or bool(right.all())


def class_table(r: Results) -> pd.DataFrame:
    """One line per condition: counts, n, shares, intervals over sources, whether it is in the family."""
    cond, rows = r.conditions, r.included
    cls, cluster = r.cls[rows], sources(r)
    groups = int(cluster.max()) + 1 if len(rows) else 0
    sizes = cluster_sums((cls != NOT_RUN).astype(float), cluster, groups)
    out = cond[["name", "role", *PANEL_KEYS, "layer", "layers", "from_layer", "steps", "n_steps"]].copy()
    out["place"] = [_place(*row) for row in zip(cond["layers"], cond["from_layer"], strict=True)]
    out.insert(0, "index", np.arange(len(cond)))
    out["draw"] = cond.get("draw", 0)
    out["dead"] = cond["dead"].astype(bool)
    out["copy_of"] = np.where(cond["same_as"] == np.arange(len(cond)), -1, cond["same_as"])
    out["n"] = (cls != NOT_RUN).sum(0)
    out["sources"] = (sizes > 0).sum(0)
    for k, name in enumerate(CLASSES):
        count = (cls == k).sum(0)
        out[name] = count
        out[f"{name}_pct"] = 100 * count / np.maximum(out["n"], 1)
        part = cluster_sums((cls == k).astype(float), cluster, groups)
        interval = 100 * stats.clustered_interval(part, sizes) if groups else np.tile((0.0, 100.0), (len(cond), 1))
        out[f"{name}_low"], out[f"{name}_high"] = interval[:, 0], interval[:, 1]
    out["changed"] = (r.changed[rows] == 1).sum(0)
    out["in_family"] = (out["role"] == "effect") & ~out["dead"] & (out["copy_of"] < 0) & (out["n"] > 0)
    keys = out[PANEL_KEYS].astype(str).agg("|".join, axis=1)
    order = {key: i for i, key in enumerate(dict.fromkeys(keys[out["role"] != "unpatched"]))}
    out["panel"] = [order.get(k, -1) if role != "unpatched" else -1 for k, role in zip(keys, out["role"], strict=True)]
    out["kind"] = [words.EDGE if ">" in s else step_kind(s)[0] for s in out["steps"]]
    twice = out[(out["panel"] >= 0) & out.duplicated(["role", *PANEL_KEYS, "place", "steps", "draw"])]
    if len(twice):
        found = f"a second condition like {twice['name'].iloc[0]}"
        raise LayoutError(r.path, "/conditions", "columns that differ", found)
    return out


def _place(layers: str, from_layer: int) -> str:
    """The target's layers, and the donor's where it is another."""
    return layers if from_layer < 0 else f"{layers} from L{from_layer}".strip()


def place_words(place: str) -> str:
    """'L2', 'L2 from L5', 'from L5' where the target has no layer, 'no layer'."""
    return f"L{place}" if place[:1].isdigit() else place or "no layer"


def panel_title(first: pd.Series) -> str:
    """What the conditions of a panel have in common, in words."""
    vector = f" {first['vector']}" if first["vector"] >= 0 else ""
    title = f"{first['direction']}: {first['donor']}{vector} → {first['site']}"
    if first["head"] >= 0:
        title += f" head {first['head']}"
    if words.bracket(first["operation"])[0] in words.OPERATIONS:
        title += f" ({first['operation']} ×{str(np.float32(first['factor'])).removesuffix('.0')})"
    elif first["operation"] not in ("", "replace"):
        title += f" ({first['operation']})"
    if first["from_site"] or first["from_step"] >= 0:
        title += " from" + (f" {first['from_site']}" if first["from_site"] else "")
        title += f" step {first['from_step']}" if first["from_step"] >= 0 else ""
    if first["stop_after"] > 0:
        title += f" stop after {first['stop_after']}"
    if first["defects"]:
        title += f" [{first['defects']}]"
    return title


def panel_table(table: pd.DataFrame) -> pd.DataFrame:
    """The panels (groups of equal PANEL_KEYS) with a title, effects first."""
    lines = []
    for panel, part in table[table["panel"] >= 0].groupby("panel", sort=True):
        first = part.iloc[0]
        keys = {k: first[k] for k in PANEL_KEYS}
        named = {"title": panel_title(first), "words": words.panel(first)}
        lines.append({"panel": panel, **named, "role": first["role"], **keys})
    out = pd.DataFrame(lines, columns=["panel", "title", "words", "role", *PANEL_KEYS])
    return out.sort_values("role", key=lambda s: s.map({"effect": 0, "control": 1}), kind="stable", ignore_index=True)


def find_series(table: pd.DataFrame, panels: pd.DataFrame) -> list[Series]:
    """Series over N of the effect panels."""
    out = []
    titles = dict(zip(panels["panel"], panels["title"], strict=True))
    said = dict(zip(panels["panel"], panels["words"], strict=True))
    own = table[table["in_family"] & table["kind"].isin(SERIES_KINDS)]
    for (panel, kind, place), part in own.groupby(["panel", "kind", "place"], sort=False):
        part = part.sort_values("n_steps")
        if len(part) < 2:
            continue
        layer = int(part["layer"].iloc[0])
        where = place_words(place)
        out.append(
            Series(
                int(panel),
                str(place),
                layer,
                str(kind),
                part["index"].tolist(),
                part["n_steps"].tolist(),
                f"{titles[panel]}, {where}, {kind}-N",
                f"{said[panel]}, {words.place(str(place))}, {words.KINDS[kind]}",
            )
        )
    return sorted(out, key=lambda s: (s.panel, s.kind, s.layer, s.place))


def series_rows(table: pd.DataFrame, s: Series | pd.Series) -> pd.DataFrame:
    """The conditions of a series (or of the series of a line of the table) by N, also those that equal another one:
    lines reach the same N as the map."""
    part = table[(table["panel"] == s.panel) & (table["kind"] == s.kind) & (table["place"] == s.place)]
    return part[part["n"] > 0].sort_values("n_steps")


def axes(part: pd.DataFrame, kind: str) -> tuple[list[str], list[str]]:
    """Rows (places) and columns (steps) of the map of conditions of one panel and kind."""
    rows = list(part.sort_values(["layer", "from_layer"], kind="stable")["place"].drop_duplicates())
    order = part.sort_values("n_steps", kind="stable") if kind in ("first", "last") else part
    labels = [words.column(kind, s, n) for s, n in zip(order["steps"], order["n_steps"], strict=True)]
    columns = list(dict.fromkeys(labels))
    if kind == "single" and all(c.isdigit() for c in columns):
        columns.sort(key=int)
    return rows, columns


def matched_controls(r: Results, donor: str = "shuffled") -> list[list[int]]:
    """For each condition the controls that do the same with another donor: one index for each draw of that donor."""
    cond = r.conditions
    same = [
        *("direction", "phase", "site", "layers", "head", "steps", "step_mask", "index", "operation", "factor"),
        *("from_site", "from_layer", "from_step", "stop_after", "defects"),
    ]
    draws = cond["draw"] if "draw" in cond else np.zeros(len(cond), int)
    keys = list(zip(*(cond[name] for name in same), strict=True))
    controls: dict[tuple, dict[int, int]] = {}
    for j in np.flatnonzero((cond["donor"] == donor) & (cond["role"] != "unpatched") & (cond["dead"] == 0)):
        controls.setdefault(keys[j], {}).setdefault(int(draws[j]), int(cond["same_as"][j]))
    return [list(dict.fromkeys(controls.get(key, {}).values())) for key in keys]


def integrity(r: Results) -> list[Check]:
    """Checks of rows that cannot change: dead cells, self patches, the unpatched run itself."""
    cond, rows = r.conditions, r.included
    out = []
    for name, mask in (
        ("dead cells", cond["dead"] == 1),
        ("self-patch controls", cond["identity"] == 1),
        ("unpatched rows", cond["role"] == "unpatched"),
    ):
        columns = np.flatnonzero(mask)
        if len(columns):
            bad = (r.changed[np.ix_(rows, columns)] == 1).sum(0)
            worst, plural = int(np.argmax(bad)), "condition" if len(columns) == 1 else "conditions"
            detail = f"{len(columns)} {plural} x {len(rows)} pairs, {int(bad.sum())} rows changed"
            if bad.any():
                detail += f" (most: {cond['name'][columns[worst]]}, {int(bad[worst])} of {len(rows)})"
            out.append(Check(name, not bad.any(), detail))
    for key, what in (("control.self_differ", "self patches"), ("control.unpatched_differ", "unpatched runs")):
        if key in r.provenance:
            count = int(r.provenance[key])
            out.append(Check(f"{what}, as counted by the sweep", count == 0, f"{count} rows differed"))
    return out


TEST_COLUMNS = (
    *("test", "method", "subject", "index", "against", "n", "units", "k", "k_reference", "draws", "gain", "loss"),
    *("difference", "low", "high", "statistic", "p", "cohen_h"),
)


def _paired_line(event: np.ndarray, other: np.ndarray, cluster: np.ndarray, draws: int = 1) -> dict[str, object]:
    """One test of two shares: everything in it is of the same pairs with the same weights."""
    units = pd.factorize(cluster)[0]
    result = stats.paired_test(event, other, units, draws)
    return {
        "method": "sign-flip test over sources" if len(event) > result.n else "exact McNemar test",
        "n": len(event),
        "units": result.n,
        "k": int(event.sum()),
        "k_reference": float(other.sum()) / draws,
        "draws": draws,
        "gain": result.gain,
        "loss": result.loss,
        "difference": result.difference,
        "low": result.low,
        "high": result.high,
        "p": result.p,
        "cohen_h": stats.cohen_h(event.mean(), other.mean() / draws),
    }


def family_tests(r: Results, table: pd.DataFrame, series: list[Series], cluster: np.ndarray) -> pd.DataFrame:
    """The declared family with raw, Holm and Benjamini-Hochberg p-values."""
    lines: list[dict[str, object]] = []
    cls = r.cls[r.included]
    base = {d: unpatched_classes(r, d) for d in table["direction"].unique()}
    fixed = {d: reference_is_fixed(r, d) for d in table["direction"].unique() if d}
    controls = matched_controls(r)
    for line in table[table["in_family"]].itertuples():
        j, target = line.index, donor_class(line.direction)
        reference, ran = base[line.direction], cls[:, line.index] != NOT_RUN
        # A pair whose runs lack the position has no row: neither here nor there.
        drawn = cls[:, controls[j]]
        both = ran & (drawn != NOT_RUN).all(1)
        if controls[j] and both.any():
            found = _paired_line(
                cls[both, j] == target, (drawn[both] == target).sum(1), cluster[both], len(controls[j])
            )
            lines.append({"test": "vs_shuffled", "subject": line.name, "index": j, "against": controls[j][0], **found})
        if reference is not None and not fixed[line.direction]:
            both = ran & (reference != NOT_RUN)
            if both.any():
                found = _paired_line(cls[both, j] == target, reference[both] == target, cluster[both])
                lines.append({"test": "vs_unpatched", "subject": line.name, "index": j, "against": -1, **found})
        units = pd.factorize(cluster[ran])[0]
        found = _paired_line(cls[ran, j] == target, cls[ran, j] == 1 - target, cluster[ran])
        found["p"] = stats.majority_test(cls[ran, j] == target, cls[ran, j] == 1 - target, units)
        found["method"] = "one-sided " + (
            "sign test" if found["units"] == found["n"] else "sign-flip test over sources"
        )
        lines.append({"test": "majority", "subject": line.name, "index": j, "against": -1, **found})
        lost = cls[ran, j] > 1
        if fixed[line.direction]:
            per_source = np.bincount(units, weights=lost), np.bincount(units)
            p = stats.damage_test(*per_source)
            limits = stats.clustered_interval(*(x[:, None] for x in per_source))[0]
            one_each = found["units"] == found["n"]
            lines.append(
                {
                    "test": "damage",
                    "method": "exact binomial test" if one_each else "score test with design effect",
                    "subject": line.name,
                    "index": j,
                    "against": -1,
                    "n": len(lost),
                    "units": found["units"],
                    "k": int(lost.sum()),
                    "k_reference": stats.ALPHA * len(lost),
                    "draws": 1,
                    "difference": lost.mean() - stats.ALPHA,
                    "low": limits[0],
                    "high": limits[1],
                    "p": p,
                }
            )
        elif reference is not None and (ran & (reference != NOT_RUN)).any():
            both = ran & (reference != NOT_RUN)
            found = _paired_line(cls[both, j] > 1, reference[both] > 1, cluster[both])
            lines.append({"test": "damage", "subject": line.name, "index": j, "against": -1, **found})
    clustered = len(cluster) and int(cluster.max()) + 1 < len(cluster)
    for i, s in enumerate(series):
        if len(s.index) < 3:
            continue
        target = donor_class(table["direction"][s.index[0]])
        whole = (cls[:, s.index] != NOT_RUN).all(1)
        if not whole.any():
            continue
        events, units = cls[np.ix_(whole, s.index)] == target, pd.factorize(cluster[whole])[0]
        q, p, varying = stats.permuted_q(events, units) if clustered else stats.cochran_q(events)
        lines.append(
            {
                "test": "cochran_q",
                "method": "permutation test over sources" if clustered else "Cochran's Q",
                "subject": s.label,
                "index": i,
                "against": -1,
                "n": len(events),
                "units": int(units.max()) + 1,
                "k": varying,
                "k_reference": len(s.index),
                "statistic": q,
                "p": p,
            }
        )
    tests = pd.DataFrame(lines, columns=list(TEST_COLUMNS))
    p = tests["p"].to_numpy(float)
    tests["holm"], tests["bh"] = stats.adjust(p), stats.adjust(p, "fdr_bh")
    return tests


def cluster_sums(values: np.ndarray, cluster: np.ndarray, groups: int) -> np.ndarray:
    """Sums over the pairs of each cluster: values [n, k] -> [groups, k]."""
    out = np.zeros((groups, values.shape[1]))
    np.add.at(out, cluster, values)
    return out


def threshold_table(
    r: Results, table: pd.DataFrame, series: list[Series], tests: pd.DataFrame, cluster: np.ndarray, resamples: int
) -> pd.DataFrame:
    """N*, plateau and area of every series with cluster-bootstrap intervals."""
    if not series:
        return pd.DataFrame()
    cls = r.cls[r.included]
    blocks, sums, start = [], [], 0
    for s in series:
        target = donor_class(table["direction"][s.index[0]])
        part = cls[:, s.index]
        sums.append(np.concatenate([part == target, part == 1 - target], 1).astype(float))
        blocks.append(slice(start, start + 2 * len(s.index)))
        start += 2 * len(s.index)
    groups = int(cluster.max()) + 1
    stacked = np.concatenate([*sums, np.ones((len(cls), 1))], 1)

    def statistic(total: np.ndarray) -> np.ndarray:
        share = total[:, :-1] / total[:, -1:]
        out = []
        for s, block in zip(series, blocks, strict=True):
            half = len(s.index)
            donor, recipient = share[:, block][:, :half], share[:, block][:, half:]
            out += [
                stats.threshold(donor, recipient, s.n_values),
                stats.plateau(donor, s.n_values),
                stats.area(donor, s.n_values),
            ]
        return np.stack(out, 1)

    boot = stats.cluster_bootstrap(cluster_sums(stacked, cluster, groups), statistic, resamples)
    majority = tests[tests["test"] == "majority"].set_index("index")["holm"]
    lines = []
    for i, s in enumerate(series):
        row = {
            "series": s.label,
            "words": s.words,
            "layer": s.layer,
            "kind": s.kind,
            "n_pairs": len(cls),
            "n_max": max(s.n_values),
        }
        for q, name in enumerate(("threshold", "plateau", "area")):
            k = 3 * i + q
            row |= {
                name: boot.estimate[k],
                f"{name}_low": boot.low[k],
                f"{name}_high": boot.high[k],
                f"{name}_method": boot.method[k],
            }
        row["reached"] = bool(row["threshold"] <= max(s.n_values))
        significant = [n for n, j in zip(s.n_values, s.index, strict=True) if majority.get(j, 1.0) <= stats.ALPHA]
        row["significant_from"] = min(significant) if significant else np.nan
        best = int(np.argmax([(cls[:, j] == donor_class(table["direction"][j])).sum() for j in s.index]))
        row["best_n"] = s.n_values[best]
        lines.append(row)
    return pd.DataFrame(lines)


def metric_table(r: Results, table: pd.DataFrame, cluster: np.ndarray, resamples: int) -> pd.DataFrame:
    """Means of the continuous metrics and the recovery (ratio of means) per condition, with intervals."""
    use = table[(table["copy_of"] < 0) & (table["n"] > 0)]["index"].to_numpy()
    if not r.metrics or not len(use):
        return pd.DataFrame()
    rows, groups, k = r.included, int(cluster.max()) + 1, len(use)
    columns = []
    for values in r.metrics.values():
        part = values[np.ix_(rows, use)].astype(float)
        finite = np.isfinite(part)
        columns += [
            cluster_sums(np.where(finite, part, 0.0), cluster, groups),
            cluster_sums(finite.astype(float), cluster, groups),
        ]
    names = list(r.metrics)
    ends = {}
    for direction, end in (("denoise", "corrupted"), ("noise", "clean")):
        found = np.flatnonzero((table["role"] == "unpatched") & (table["direction"] == direction))
        if len(found):
            ends[end] = int(np.searchsorted(use, found[0]))
    recovery = "logit_diff" in names and len(ends) == 2
    if recovery:
        # Over the pairs that have the condition and both ends: of others, only some of the three means would know.
        part = r.metrics["logit_diff"][np.ix_(rows, use)].astype(float)
        low, high = part[:, [ends["corrupted"]]], part[:, [ends["clean"]]]
        have = np.isfinite(part) & np.isfinite(low) & np.isfinite(high)
        columns += [cluster_sums(np.where(have, x, 0.0), cluster, groups) for x in (part, low, high, 1.0)]
    sums = np.concatenate(columns, 1)

    def statistic(total: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            means = [
                total[:, 2 * i * k : (2 * i + 1) * k] / total[:, (2 * i + 1) * k : (2 * i + 2) * k]
                for i in range(len(names))
            ]
            if recovery:
                first = 2 * len(names) * k
                patched, low, high = (total[:, first + i * k : first + (i + 1) * k] for i in range(3))
                means.append((patched - low) / (high - low))
        return np.concatenate(means, 1)

    boot = stats.cluster_bootstrap(sums, statistic, resamples)
    lines = []
    for i, name in enumerate([*names, "recovery"] if recovery else names):
        part = slice(i * k, (i + 1) * k)
        counts = (2 * len(names) + 3) * k if name == "recovery" else (2 * i + 1) * k
        lines.append(
            pd.DataFrame(
                {
                    "index": use,
                    "condition": table["name"][use].to_numpy(),
                    "metric": name,
                    "n": sums[:, counts : counts + k].sum(0).astype(int),
                    "mean": boot.estimate[part],
                    "low": boot.low[part],
                    "high": boot.high[part],
                    "interval": boot.method[part],
                }
            )
        )
    return pd.concat(lines, ignore_index=True)


def stability_table(r: Results, table: pd.DataFrame, series: list[Series], cluster: np.ndarray) -> pd.DataFrame:
    """Split-half reliability of each effect panel and agreement of N* in subsamples."""
    cls, groups, lines = r.cls[r.included], int(cluster.max()) + 1, []
    sizes = np.bincount(cluster, minlength=groups).astype(float)
    for panel, part in table[table["in_family"] & (table["n"] == len(cls))].groupby("panel"):
        target = donor_class(part["direction"].iloc[0])
        sums = cluster_sums((cls[:, part["index"]] == target).astype(float), cluster, groups)
        median, low, high = stats.split_half(sums, sizes)
        lines.append(
            {
                "what": "split-half reliability",
                "panel": panel,
                "series": "",
                "sources": groups // 2,
                "value": median,
                "low": low,
                "high": high,
            }
        )
    fractions = sorted({max(4, round(groups * f)) for f in (0.25, 0.5, 0.75)} - {groups})
    fractions = [f for f in fractions if f < groups]
    for s in series:
        target = donor_class(table["direction"][s.index[0]])
        part = cls[:, s.index]
        sums = cluster_sums(np.concatenate([part == target, part == 1 - target], 1).astype(float), cluster, groups)
        half = len(s.index)

        def statistic(total: np.ndarray, half: int = half, n_values: list[int] = s.n_values) -> np.ndarray:
            return stats.threshold(total[:, :half], total[:, half:], n_values)[:, None]

        full = statistic(sums.sum(0, keepdims=True))[0, 0]
        if fractions:
            values = stats.subsample_curve(sums, statistic, fractions, draws=100)[:, :, 0]
            for size, row in zip(fractions, values, strict=True):
                lines.append(
                    {
                        "what": "N* agrees with all pairs",
                        "panel": s.panel,
                        "series": s.label,
                        "sources": size,
                        "value": float((row == full).mean()),
                        "low": float(np.quantile(row, 0.025)),
                        "high": float(np.quantile(row, 0.975)),
                    }
                )
    return pd.DataFrame(lines, columns=["what", "panel", "series", "sources", "value", "low", "high"])


def power_table(n: int, tests: int) -> pd.DataFrame:
    """What this n can show: smallest detectable differences, and pairs needed for round differences."""
    lines = []
    for what, alpha in (
        ("one test", stats.ALPHA),
        (f"first step of Holm over {tests} tests", stats.ALPHA / max(tests, 1)),
    ):
        for loss in (0.0, 0.05):
            lines.append(
                {
                    "correction": what,
                    "alpha": alpha,
                    "reference_share": loss,
                    "n": n,
                    "smallest_detectable": stats.mcnemar_detectable(n, loss, alpha),
                    **{
                        f"pairs_for_{round(100 * d)}pp": stats.mcnemar_pairs_needed(d, loss, alpha)
                        for d in (0.05, 0.1, 0.2)
                    },
                }
            )
    return pd.DataFrame(lines)


def baseline_table(r: Results) -> pd.DataFrame:
    """Unpatched accuracy over all pairs of the file, and the filter."""
    lines, cluster = [], pd.factorize(r.pairs["source"].to_numpy())[0]
    sizes = np.bincount(cluster)[:, None]
    for name, column in (
        ("clean question right", "clean_correct"),
        ("corrupted question right", "corrupted_correct"),
        ("both right", None),
        ("included by the sweep's filter", "included"),
    ):
        hit = (r.pairs["clean_correct"] & r.pairs["corrupted_correct"]) if column is None else r.pairs[column]
        k, n = int((hit != 0).sum()), len(r.pairs)
        low, high = 100 * stats.clustered_interval(np.bincount(cluster, weights=hit != 0)[:, None], sizes)[0]
        lines.append(
            {
                "what": name,
                "k": k,
                "n": n,
                "pct": 100 * k / n,
                "sources": len(sizes),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(lines)


def _nothing_included(r: Results) -> Analysis:
    """A sweep whose filter lets no pair in: the baseline, and nothing else."""
    table, tests = class_table(r), family_tests(r, class_table(r), [], np.zeros(0, int))
    none = pd.DataFrame()
    note = f"NOT TESTED: no pair of {len(r.pairs)} passes the filter {r.provenance.get('filter', 'of the sweep')}"
    panels, base = panel_table(table), baseline_table(r)
    return Analysis(
        r, 0, np.zeros(0, int), 0, table, panels, [], tests, none, none, none, none, base, [], [*r.warnings, note]
    )


def analyse(r: Results, resamples: int = 2000, progress: Callable[[str], None] = lambda text: None) -> Analysis:
    """Runs everything. resamples = 0 leaves out the bootstrap, stability and power (simulations)."""
    rows = r.included
    if not len(rows):
        return _nothing_included(r)
    cluster = sources(r)
    table = class_table(r)
    panels = panel_table(table)
    series = find_series(table, panels)
    progress("tests")
    tests = family_tests(r, table, series, cluster)
    thresholds = metrics = stability = power = pd.DataFrame()
    if resamples:
        progress("bootstrap")
        thresholds = threshold_table(r, table, series, tests, cluster, resamples)
        metrics = metric_table(r, table, cluster, min(resamples, 1000))
        progress("stability and power")
        stability = stability_table(r, table, series, cluster)
        power = power_table(int(cluster.max()) + 1, int(tests["p"].notna().sum()))
    notes = list(r.warnings)
    groups = int(cluster.max()) + 1
    if groups < len(rows):
        notes.append(
            f"the {len(rows)} included pairs come from {groups} sources: a source is the independent unit of every "
            "test and interval"
        )
    for direction in r.conditions["direction"][r.conditions["role"] == "effect"].unique():
        if reference_is_fixed(r, direction):
            side = "corrupted" if direction == "denoise" else "clean"
            notes.append(
                f"the filter keeps only pairs whose unpatched {side} run is right: without a patch the donor's answer "
                "and other answers have a share of zero by construction, so nothing is tested against that share"
            )
        elif unpatched_classes(r, direction) is None:
            notes.append(
                f"no unpatched row for direction {direction}, and the filter does not fix it: no test against it"
            )
    if "logit_diff" in r.metrics and resamples and not (metrics["metric"] == "recovery").any():
        notes.append(
            "normalised recovery needs the unpatched rows of both directions: only means of logit_diff are given"
        )
    controls = matched_controls(r)
    if not any(controls[j] for j in table["index"][table["in_family"]]):
        notes.append("no shuffled-donor control in the file: whether the content of the vectors matters is not tested")
    if r.defects():
        notes.append(
            f"defects of the published scripts were on ({', '.join(r.defects())}): no finding is 'supported' "
            f"where one is"
        )
    return Analysis(
        r,
        len(rows),
        cluster,
        groups,
        table,
        panels,
        series,
        tests,
        thresholds,
        metrics,
        stability,
        power,
        baseline_table(r),
        integrity(r),
        notes,
    )
