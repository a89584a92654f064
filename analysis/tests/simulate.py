"""Simulations with pairs that come in sources: error rate of the findings, power, coverage of the intervals.

    python analysis/tests/simulate.py        # 2,000 draws and 200 files for each correlation: the table of docs/statistics.md

A source has its own probabilities of the four outcomes, drawn around the mean ones so that two of its pairs have the intra-cluster
correlation `icc`. The 24 sources hold 6 to 18 pairs, 272 in all, as in the demo's pair file.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

import make_results
import numpy as np
import pandas as pd

from latentpatch import analyse, findings, load_results, stats

SIZES = np.array([6, 18, 14, 9, 8, 12, 15, 7, 10, 13, 11, 12, 16, 8, 9, 10, 14, 12, 11, 13, 10, 9, 12, 13])
CLUSTER = np.repeat(np.arange(len(SIZES)), SIZES)
NULL = (0.475, 0.475, 0.04, 0.01)  # donor's and recipient's answer equally likely, damage at its tolerance


def probabilities(rng: np.random.Generator, mean: tuple[float, ...], icc: float) -> np.ndarray:
    """[sources, outcomes]"""
    if icc == 0:
        return np.tile(mean, (len(SIZES), 1))
    return rng.dirichlet(np.array(mean) * (1 - icc) / icc, len(SIZES))


def outcomes(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """[pairs] from p [sources, outcomes]"""
    edges = p.cumsum(1)[CLUSTER]
    return np.minimum((rng.random(len(CLUSTER))[:, None] > edges).sum(1), 3).astype(np.uint8)


class Files:
    """Results files with drawn outcomes, analysed as a real one is."""

    def __init__(self, folder: Path) -> None:
        path = folder / "simulated.results.h5"
        plan = make_results.Plan(
            pairs=len(CLUSTER), excluded=0, steps=4, step_sets=("first",), controls=("shuffled",), metrics=False
        )
        make_results.write_results(path, plan)
        self.r = load_results(path)
        self.r.pairs["source"] = [f"template-{c}" for c in CLUSTER]
        self.a = analyse.analyse(self.r, 0)
        gc.freeze()  # statsmodels' multipletests collects garbage at every call

    def draw(
        self,
        rng: np.random.Generator,
        icc: float,
        effect: tuple[float, ...] = NULL,
        control: tuple[float, ...] = NULL,
        shared: bool = False,
    ) -> list[findings.Finding]:
        """The findings of one file. shared: a source has the same probabilities under every condition of a role."""
        r, roles = self.r, self.r.conditions["role"].to_numpy()
        common = {role: probabilities(rng, mean, icc) for role, mean in (("effect", effect), ("control", control))}
        if effect == control:
            common["control"] = common["effect"]
        for j, role in enumerate(roles):
            if role != "unpatched":
                mean = effect if role == "effect" else control
                r.cls[:, j] = outcomes(rng, common[role] if shared else probabilities(rng, mean, icc))
        self.a.table = analyse.class_table(r)
        self.a.tests = analyse.family_tests(r, self.a.table, self.a.series, self.a.cluster)
        return findings.write(self.a)


def wrong_files(folder: Path, icc: float, files: int, seed: int = 20251020) -> int:
    """How many of so many files without any effect give a finding; in every second one sources keep their habits."""
    made, rng = Files(folder), np.random.default_rng(seed)
    return sum(findings.claims_effect(made.draw(rng, icc, shared=bool(i % 2))) for i in range(files))


def found_files(folder: Path, icc: float, files: int, seed: int = 3) -> tuple[int, int]:
    """Of files with a planted effect (50 % against 5 %), and with planted damage (40 %): how many say so."""
    made, rng = Files(folder), np.random.default_rng(seed)
    effect = damage = 0
    for _ in range(files):
        text = made.draw(rng, icc, (0.5, 0.46, 0.03, 0.01), (0.05, 0.91, 0.03, 0.01))
        effect += any(f.rule == "effect" and f.strength == "supported" for f in text)
        text = made.draw(rng, icc, (0.02, 0.58, 0.05, 0.35), (0.02, 0.93, 0.04, 0.01))
        damage += any(f.rule == "damage" and f.strength == "supported" for f in text)
    return effect, damage


def share_coverage(p: float, icc: float, draws: int, seed: int = 1) -> float:
    """How often the interval of a share holds the true one."""
    rng = np.random.default_rng(seed)
    mean = (p, 1 - p)
    k = np.stack([rng.binomial(SIZES, probabilities(rng, mean, icc)[:, 0]) for _ in range(draws)], 1)
    low, high = stats.clustered_interval(k, np.tile(SIZES[:, None], (1, draws))).T
    return float(((low <= p) & (p <= high)).mean())


def difference_coverage(p: float, q: float, icc: float, draws: int, seed: int = 2) -> float:
    """How often the interval of a difference of two shares over the same pairs holds the true one."""
    rng, hit = np.random.default_rng(seed), 0
    for _ in range(draws):
        a, b = (
            (outcomes(rng, probabilities(rng, (x, 1 - x, 0, 0), icc)) == 0 for x in (p, q))
            if icc == 0
            else (rng.random(len(CLUSTER)) < probabilities(rng, (x, 1 - x), icc)[CLUSTER, 0] for x in (p, q))
        )
        found = stats.paired_test(a, b, CLUSTER)
        hit += found.low <= p - q <= found.high
    return hit / draws


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--files", type=int, default=200)
    args = parser.parse_args()
    start, lines = time.perf_counter(), []
    for icc in (0.0, 0.1, 0.2, 0.3):
        with tempfile.TemporaryDirectory() as folder:
            wrong = wrong_files(Path(folder), icc, args.files)
            effect, damage = found_files(Path(folder), icc, 20)
        line = {
            "ICC": icc,
            "false findings": f"{wrong} of {args.files}",
            "effect": f"{effect}/20",
            "damage": f"{damage}/20",
        }
        for p in (0.1, 0.3, 0.5, 0.76, 0.9):
            line[f"share {p:g}"] = f"{100 * share_coverage(p, icc, args.draws):.1f}"
        for p, q in ((0.3, 0.3), (0.5, 0.05)):
            line[f"{p:g} - {q:g}"] = f"{100 * difference_coverage(p, q, icc, args.draws):.1f}"
        lines.append(line)
        print(line, f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    frame = pd.DataFrame(lines)
    print("| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns))
    for row in frame.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
