"""What several conditions say together: effects from step to step, the curve over early stops, and joint effects.

These are the tables; charts.py draws them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from . import stats, words
from .load import CLASSES, NOT_RUN, Results

SAME = ("direction", "phase", "site", "head", "donor", "vector", "draw", "from_site", "from_layer", "from_step")
SAME = (*SAME, "operation", "factor", "defects")
MOST_SHOWN = 24


@dataclass
class Effects:
    """The tables of one file."""

    steps: pd.DataFrame = field(default_factory=pd.DataFrame)  # one line per condition and thought step
    stops: pd.DataFrame = field(default_factory=pd.DataFrame)  # one line per condition that stops early
    joint: pd.DataFrame = field(default_factory=pd.DataFrame)  # one line per pair of conditions with their union
    joint_rows: list[dict[str, str]] = field(default_factory=list)
    n_joint: int = 0


def _groups(cond: pd.DataFrame, more: tuple[str, ...] = ()) -> list[tuple[dict[str, object], pd.DataFrame]]:
    """Conditions that do the same at different places, in the order of the file."""
    keys = [k for k in (*SAME, *more) if k in cond]
    return [(dict(zip(keys, names, strict=True)), part) for names, part in cond.groupby(keys, sort=False)]


def step_table(r: Results) -> pd.DataFrame:
    """Means over the included pairs of how far thought j is from the unpatched one, for every condition."""
    cond, rows = r.conditions, r.included
    if not r.steps or not len(rows):
        return pd.DataFrame()
    lines = []
    for c in range(len(cond)):
        if cond["role"][c] == "unpatched":
            continue
        for j in range(r.steps["kl"].shape[2]):
            values = {name: of[rows, c, j].astype(float) for name, of in r.steps.items()}
            there = np.isfinite(values["kl"])
            n = int(there.sum())
            line = {"index": c, "condition": cond["name"][c], "patched": cond["steps"][c], "step": j, "n": n}
            lines.append(line | {name: float(x[there].mean()) if n else math.nan for name, x in values.items()})
    return pd.DataFrame(lines)


def stop_table(r: Results, cluster: np.ndarray) -> pd.DataFrame:
    """Shares of the classes after each number of thoughts, of conditions that only stop early or the same with edits."""
    cond, rows = r.conditions, r.included
    lines = []
    for c in np.flatnonzero((cond["stop_after"] > 0).to_numpy()) if len(rows) else ():
        kinds = r.cls[rows, c]
        n = int((kinds != NOT_RUN).sum())
        line = {"index": c, "condition": cond["name"][c], "direction": cond["direction"][c]}
        line |= {"donor": cond["donor"][c], "stop_after": int(cond["stop_after"][c]), "n": n}
        for kind, name in enumerate(CLASSES):
            k = int((kinds == kind).sum())
            counts = (np.bincount(cluster, weights=x)[:, None] for x in (kinds == kind, kinds != NOT_RUN))
            low, high = stats.clustered_interval(*counts)[0]
            line |= {name: k / n if n else math.nan, f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)


def _layer_set(text: str) -> frozenset[int]:
    first, _, last = text.partition("-")
    return frozenset(range(int(first), int(last or first) + 1)) if first else frozenset()


def find_joint(r: Results) -> list[tuple[int, int, int]]:
    """Triples (A, B, both): thoughts or layers of A and of B do not meet, and those of the third are theirs together."""
    cond = r.conditions
    chosen = cond[
        (cond["role"] == "effect") & (cond["phase"] == "thought") & (cond["stop_after"] == 0) & (cond["dead"] == 0)
    ]
    out = []
    for _, part in _groups(chosen):
        places = {}
        for index, layers, mask in zip(part.index, part["layers"], part["step_mask"], strict=True):
            places.setdefault((_layer_set(layers), int(mask)), int(index))
        for (layers, mask), both in places.items():
            for (other_layers, other_mask), a in places.items():
                rest = (
                    [(layers, mask & ~other_mask)] if other_layers == layers and other_mask & mask == other_mask else []
                )
                if other_mask == mask and other_layers < layers:
                    rest.append((layers - other_layers, mask))
                for place in rest:
                    b = places.get(place)
                    if place[1] and b is not None and a < b:
                        out.append((a, b, both))
    return out


def _interactions(
    r: Results, wins: np.ndarray, ran: np.ndarray, fours: np.ndarray, cluster: np.ndarray, resamples: int
) -> list[dict[str, object]]:
    """The lines of triples (both, A, B, and the unpatched run) that the same pairs were run on."""
    if not ran.any():
        return []
    used, place = np.unique(fours, return_inverse=True)
    place = place.reshape(fours.shape)
    _, source = np.unique(cluster[ran], return_inverse=True)
    sums = np.zeros((source.max() + 1, len(used) + 1))
    np.add.at(sums, source, np.column_stack([wins[ran][:, used], np.ones(int(ran.sum()))]))

    def interaction(s: np.ndarray) -> np.ndarray:
        joint, a, b, base = (s[:, place[:, k]] for k in range(4))
        return (joint - a - b + base) / s[:, -1:]

    boot = stats.cluster_bootstrap(sums if resamples else sums.sum(0, keepdims=True), interaction, min(resamples, 1000))
    share = sums.sum(0)[:-1] / sums[:, -1].sum()
    name = r.conditions["name"].to_numpy()
    return [
        {
            "a": name[four[1]],
            "b": name[four[2]],
            "joint": name[four[0]],
            "n": int(ran.sum()),
            "sources": len(sums),
            "share_a": share[at[1]],
            "share_b": share[at[2]],
            "share_joint": share[at[0]],
            "share_unpatched": share[at[3]],
            "sum_of_parts": share[at[1]] + share[at[2]] - share[at[3]],
            "interaction": float(boot.estimate[i]),
            "low": float(boot.low[i]),
            "high": float(boot.high[i]),
        }
        for i, (four, at) in enumerate(zip(fours, place, strict=True))
    ]


def joint_table(r: Results, cluster: np.ndarray, resamples: int) -> pd.DataFrame:
    """The interaction of A and B in the share of the donor's answer: both - A - B + unpatched, over the same pairs.

    Intervals are bootstrapped over sources (BCa, 95 %); they are not corrected for the number of lines.
    """
    cond, rows = r.conditions, r.included
    triples = find_joint(r) if len(rows) else []
    if not triples:
        return pd.DataFrame()
    base = {cond["direction"][c]: c for c in np.flatnonzero((cond["role"] == "unpatched").to_numpy())}
    wins = np.zeros((len(rows), len(cond)))
    for c in range(len(cond)):
        wins[:, c] = r.cls[rows, c] == (0 if cond["direction"][c] == "denoise" else 1)
    same_pairs: dict[bytes, list[list[int]]] = {}
    for a, b, both in triples:
        if cond["direction"][a] in base:
            four = [both, a, b, base[cond["direction"][a]]]
            ran = (r.cls[np.ix_(rows, four)] != NOT_RUN).all(1)
            same_pairs.setdefault(ran.tobytes(), []).append(four)
    lines = []
    for key, fours in same_pairs.items():
        lines += _interactions(r, wins, np.frombuffer(key, bool), np.array(fours), cluster, resamples)
    return pd.DataFrame(lines)


def _joint_rows(r: Results, table: pd.DataFrame) -> list[dict[str, str]]:
    """The largest interactions, as text."""
    if not len(table):
        return []
    order = table["interaction"].abs().sort_values(ascending=False, kind="stable").index[:MOST_SHOWN]
    rows, cond = [], r.conditions.set_index("name")
    for line in table.loc[order].itertuples():
        interval = "none (one source)" if math.isnan(line.low) else f"{100 * line.low:+.1f} to {100 * line.high:+.1f}"
        rows.append(
            {
                "what": words.panel(cond.loc[line.joint]),
                "a": words.condition(*cond.loc[line.a, ["layers", "steps"]]),
                "b": words.condition(*cond.loc[line.b, ["layers", "steps"]]),
                "shares": f"{100 * line.share_a:.1f} %, {100 * line.share_b:.1f} %",
                "joint": f"{100 * line.share_joint:.1f} %",
                "parts": f"{100 * line.sum_of_parts:.1f} %",
                "interaction": f"{100 * line.interaction:+.1f}",
                "interval": interval,
                "n": f"{line.n} ({line.sources})",
            }
        )
    return rows


def effects(r: Results, cluster: np.ndarray, resamples: int = 2000) -> Effects:
    """All of a file; cluster [n included]: source of each included pair."""
    joint = joint_table(r, cluster, resamples)
    return Effects(step_table(r), stop_table(r, cluster), joint, _joint_rows(r, joint), len(joint))
