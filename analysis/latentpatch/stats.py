"""Statistics: thin calls into scipy and statsmodels, with their sources and assumptions.

Nothing is estimated here by own formulas where a reference implementation exists. What is not in those libraries (exact
power of the paired test, cluster sums under a bootstrap, split-half reliability) is built from their distributions.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy import stats as sps
from scipy.stats.contingency import odds_ratio as scipy_odds_ratio
from statsmodels.stats.contingency_tables import cochrans_q as sm_cochrans_q
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, proportion_effectsize

ALPHA = 0.05
PERMUTATIONS = 9999

ASSUMPTIONS = {
    "Wilson interval": (
        "Wilson 1927, by statsmodels proportion_confint(method='wilson'). It assumes independent pairs with one success "
        "probability. Its coverage is approximate and good from small n on. It does not allow for many cells."
    ),
    "Clopper-Pearson interval": (
        "Clopper and Pearson 1934, by proportion_confint(method='beta'). It is exact: its coverage is at least the stated "
        "level, so it is wider."
    ),
    "Interval of a share, pairs in sources": (
        "Where several pairs come from one source (a template, a problem), this is the Wilson interval with n divided by the "
        "design effect (Kish 1965; Korn and Graubard 1998). The design effect is the cluster-robust variance of the share "
        "over the variance that independent pairs would have. What is known of that variance comes from the r sources that "
        "hold the rarer kind of answer. So its small-sample factor is r / (r - 1), and the quantile is Student's with 2 r "
        "degrees of freedom, at most sources - 1. Where all answers agree, n is the number of sources. docs/statistics.md "
        "says how often the interval holds the truth."
    ),
    "Sign-flip test over sources": (
        "Fisher 1935. It compares two conditions on the same pairs, exactly and two-sided. Each source has the sum of its "
        "pairs' differences. Under the null hypothesis each sum is as likely with the other sign. The statistic is the total, "
        "so that the test weighs pairs as the printed difference does. All sign patterns are counted, none are drawn. "
        "Where each pair has a source of its own this is the exact McNemar test (McNemar 1947)."
    ),
    "Interval of a difference": (
        "The interval is the difference of two shares over the same pairs, plus or minus Student's quantile times the "
        "cluster-robust standard error over sources. It has as many degrees of freedom as there are sources that differ "
        "between the two conditions, at most sources - 1."
    ),
    "Cochran's Q": (
        "Cochran 1950, by statsmodels cochrans_q. It compares the same pairs under k conditions by an asymptotic chi-squared "
        "with k-1 degrees of freedom, only where (pairs that vary) x k >= 24 (Tate and Brown 1970). Where several pairs "
        "come from one source, the permutation test takes its place: the conditions of each source are permuted "
        "together, 9,999 times, and the statistic is the spread of the conditions' totals."
    ),
    "Majority test": (
        "This is the one-sided sign-flip test over sources of the donor's answer against the recipient's answer within one "
        "condition. With one pair a source it is the exact binomial (sign) test. Pairs with any other outcome are ties and "
        "drop out."
    ),
    "Damage test": (
        "This one-sided test asks whether more than 5 % of the pairs lose the recipient's answer without giving the donor's. "
        "The unpatched share is zero by construction where the filter keeps only right answers, so the reference is a "
        "tolerance, not data. The test is the exact binomial test. Where several pairs come from one source, it is the score "
        "test with the design effect (at least 1) and Student's quantile."
    ),
    "Fisher's exact and Boschloo's test": (
        "Fisher 1935 and Boschloo 1970, by scipy fisher_exact and boschloo_exact, two-sided. They compare two independent "
        "groups of pairs with one pair a source. Where both models ran on the same pairs, the paired test is given beside "
        "them."
    ),
    "Welch's test over sources": (
        "Welch 1947, on cluster-robust variances. It compares two groups that do not share pairs and have several pairs a "
        "source. Its interval is of the same difference."
    ),
    "Differences of thresholds": (
        "This is a percentile bootstrap of the difference between two files in N*, plateau and area. The same sources are "
        "drawn in both where the files share at least half of their pairs. Sentences use Bonferroni's level over all "
        "differences."
    ),
    "Newcombe interval": (
        "Newcombe 1998, method 10 (hybrid Wilson), for a difference of two independent proportions, by statsmodels "
        "confint_proportions_2indep(method='newcomb')."
    ),
    "Cluster bootstrap, BCa": (
        "Efron 1987, by scipy bootstrap(method='BCa') over sources (over pairs where each has its own). It assumes that "
        "sources are independent and that the statistic is smooth enough. Where BCa is undefined (no spread, or a discrete "
        "quantity), the percentile interval is given and marked."
    ),
    "Cohen's h": (
        "Cohen 1988. It is the difference of arcsine-transformed shares. By his convention 0.2 is small, 0.5 medium and 0.8 "
        "large."
    ),
    "Odds ratio": (
        "For paired data it is the ratio of the discordant counts, with the exact interval of Clopper and Pearson. For "
        "unpaired data (scipy odds_ratio) it is estimated by conditional maximum likelihood, with an exact interval, up to "
        "300 units. Above that, and beyond 120 matched conditions, it is the sample odds ratio with its normal interval."
    ),
    "Holm and Benjamini-Hochberg": (
        "Holm 1979 limits the chance of any false finding. Benjamini and Hochberg 1995 limit the expected share of false "
        "findings, under positive dependence. Both are by statsmodels multipletests. The findings use Holm."
    ),
    "Power": (
        "For paired data it is the exact unconditional power of the two-sided exact McNemar test under multinomial sampling. "
        "For unpaired data it is the normal approximation on Cohen's h (statsmodels NormalIndPower)."
    ),
    "Stability": (
        "Split-half reliability is the correlation over conditions of the shares of the donor's answer in two random halves "
        "of the sources, with the correction of Spearman and Brown. The lines of subsamples say how often N* of a subsample "
        "equals N* of all pairs."
    ),
}


def proportion_interval(k: np.ndarray, n: np.ndarray, method: str = "wilson", alpha: float = ALPHA) -> np.ndarray:
    """Interval of a share, [..., 2]. method: 'wilson' or 'beta' (Clopper-Pearson)."""
    k, n = np.broadcast_arrays(np.asarray(k, float), np.asarray(n, float))
    low, high = proportion_confint(k, np.maximum(n, 1), alpha=alpha, method=method)
    out = np.stack([np.asarray(low, float), np.asarray(high, float)], -1)
    if method == "beta":
        out[..., 0] = np.where(k == 0, 0.0, out[..., 0])
        out[..., 1] = np.where(k == n, 1.0, out[..., 1])
    out = np.clip(out, 0.0, 1.0)
    out[n == 0] = (0.0, 1.0)
    return out


def design_effect(k: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of k [G, C] events among n [G, C] pairs a source: (design effect [C], sources that hold the rarer kind [C]).

    The design effect is NaN where all pairs agree.
    """
    k, n = np.asarray(k, float), np.asarray(n, float)
    groups, total = (n > 0).sum(0), n.sum(0)
    with np.errstate(all="ignore"):
        share = k.sum(0) / total
        variance = ((k - share * n) ** 2).sum(0) * groups / (groups - 1) / total**2
        effect = variance / (share * (1 - share) / total)
    effect = np.where((share > 0) & (share < 1), effect, np.nan)
    return effect, np.minimum((k > 0).sum(0), (k < n).sum(0))


def clustered_interval(k: np.ndarray, n: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """95 % intervals [C, 2] of the shares of k [G, C] events among n [G, C] pairs a source.

    Wilson's where every source has one pair; else Wilson's with the design effect. See ASSUMPTIONS.
    """
    k, n = np.asarray(k, float), np.asarray(n, float)
    total, groups = n.sum(0), (n > 0).sum(0)
    plain = proportion_interval(k.sum(0), total, "wilson", alpha)
    if (n <= 1).all():
        return plain
    effect, rarer = design_effect(k, n)
    agree = np.isnan(effect)
    with np.errstate(all="ignore"):  # few sources hold the rarer kind: r / (r - 1) in place of G / (G - 1)
        effect = effect * (groups - 1) / groups * np.where(rarer > 1, rarer / (rarer - 1), 2.0)
    size = np.where(agree, groups, total / np.maximum(np.where(agree, 1.0, effect), 0.2))
    freedom = np.clip(2 * rarer, 1, np.maximum(groups - 1, 1))
    z = np.where(agree, sps.norm.isf(alpha / 2), sps.t.isf(alpha / 2, freedom))
    with np.errstate(all="ignore"):
        share = k.sum(0) / total
        centre = (share + z * z / (2 * size)) / (1 + z * z / size)
        half = z / (1 + z * z / size) * np.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    out = np.clip(np.stack([centre - half, centre + half], -1), 0.0, 1.0)
    out[groups < 2] = (0.0, 1.0)
    return out


def clustered_mean(values: np.ndarray, cluster: np.ndarray, alpha: float = ALPHA) -> tuple[float, float, float]:
    """Mean of values [n] of pairs in sources with its interval: cluster-robust, Student's with sources - 1."""
    mean, groups = float(np.mean(values)), int(cluster.max()) + 1
    if groups < 2:
        return mean, float("nan"), float("nan")
    rest = np.bincount(cluster, weights=np.asarray(values, float) - mean)
    error = np.sqrt((rest**2).sum() * groups / (groups - 1)) / len(values)
    half = float(sps.t.isf(alpha / 2, groups - 1)) * error
    return mean, mean - half, mean + half


def damage_test(k: np.ndarray, n: np.ndarray, tolerance: float = ALPHA) -> float:
    """p of 'the share is at most `tolerance`' for k [G] events among n [G] pairs a source; one-sided."""
    k, n = np.asarray(k, np.int64), np.asarray(n, np.int64)
    total, groups = int(n.sum()), int((n > 0).sum())
    if (n <= 1).all():
        return float(sps.binomtest(int(k.sum()), total, tolerance, alternative="greater").pvalue) if total else 1.0
    if groups < 2 or k.sum() <= tolerance * total:
        return 1.0
    effect, rarer = design_effect(k[:, None], n[:, None])
    size = groups if np.isnan(effect[0]) else total / max(effect[0], 1.0)
    statistic = (k.sum() / total - tolerance) / np.sqrt(tolerance * (1 - tolerance) / size)
    freedom = groups - 1 if np.isnan(effect[0]) else np.clip(rarer[0], 1, groups - 1)
    return float(sps.t.sf(statistic, freedom))


@functools.lru_cache(maxsize=4096)
def _flip_distribution(sizes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """P(total = -T..T) of a sum of independent signs times sizes; sizes: ((size, how many), ...)."""
    out = np.ones(1)
    for size, count in sizes:
        step = np.zeros(2 * size * count + 1)
        step[:: 2 * size] = sps.binom.pmf(np.arange(count + 1), count, 0.5)
        out = np.convolve(out, step)
    return out


def sign_flip(sums: np.ndarray) -> tuple[float, float]:
    """(two-sided p, one-sided p of 'greater') of the total of integer sums, one a source. Exact."""
    sums = np.asarray(sums, np.int64)
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if not len(sizes):
        return 1.0, 1.0
    divisor = int(np.gcd.reduce(sizes))
    p = _flip_distribution(tuple(zip((sizes // divisor).tolist(), counts.tolist(), strict=True)))
    total, top = int(sums.sum()) // divisor, len(p) // 2
    upper = float(p[top + abs(total) :].sum())
    greater = upper if total >= 0 else 1.0 - float(p[top + abs(total) + 1 :].sum())
    return (1.0 if total == 0 else min(1.0, 2 * upper)), min(1.0, greater)


@dataclass(frozen=True)
class Paired:
    """Two shares over the same pairs. In `gain` sources the event is more frequent under the first, in `loss` under the
    second; `difference` (first less second), its interval and p are over all pairs, each pair with the same weight.
    """

    n: int
    gain: int
    loss: int
    p: float
    difference: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def mcnemar(gain: int, loss: int, n: int) -> Paired:
    """Exact two-sided McNemar test from the two discordant counts (McNemar 1947)."""
    rest = max(n - gain - loss, 0)
    p = 1.0 if gain + loss == 0 else float(sm_mcnemar([[rest, gain], [loss, 0]], exact=True).pvalue)
    return Paired(n, int(gain), int(loss), min(1.0, p))


def paired_test(a: np.ndarray, b: np.ndarray, cluster: np.ndarray, draws: int = 1) -> Paired:
    """Sign-flip test over sources. a, b [n]: the event under both conditions; cluster [n] int codes 0..G-1.

    b may be the number of events in `draws` draws of the second condition: each draw then has its part of the weight.
    """
    cluster = np.asarray(cluster)
    diff = draws * np.asarray(a, np.int64) - np.asarray(b, np.int64)
    sums = np.bincount(cluster, weights=diff).astype(np.int64)
    sizes = np.bincount(cluster)
    p, _ = sign_flip(sums)
    mean = float(diff.sum()) / (draws * len(diff))
    groups, moved = len(sums), int((sums != 0).sum())
    if groups < 2:
        low, high = -1.0, 1.0
    elif not moved:
        high = float(proportion_interval(np.array(0), np.array(groups))[1])
        low = -high
    else:
        rest = sums / draws - mean * sizes
        error = np.sqrt((rest**2).sum() * groups / (groups - 1)) / len(diff)
        half = float(sps.t.isf(ALPHA / 2, np.clip(moved, 1, groups - 1))) * error
        low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return Paired(groups, int((sums > 0).sum()), int((sums < 0).sum()), p, mean, float(low), float(high))


def majority_test(donor: np.ndarray, recipient: np.ndarray, cluster: np.ndarray) -> float:
    """One-sided sign-flip test over sources that the donor's answer is more frequent than the recipient's."""
    weights = np.asarray(donor, np.int64) - np.asarray(recipient, np.int64)
    return sign_flip(np.bincount(cluster, weights=weights).astype(np.int64))[1]


def permuted_q(events: np.ndarray, cluster: np.ndarray, seed: int = 5) -> tuple[float, float, int]:
    """Cochran's question for events [n, k] of pairs in sources: (spread of the totals, p, sources that vary).

    The conditions of a source are permuted together. p is NaN where fewer than four sources vary.
    """
    groups = int(cluster.max()) + 1
    sums = np.zeros((groups, events.shape[1]))
    np.add.at(sums, cluster, np.asarray(events, float))
    sums = sums[sums.min(1) != sums.max(1)]
    if len(sums) < 4:
        return float("nan"), float("nan"), len(sums)
    rng, found, reached = np.random.default_rng(seed), float(sums.sum(0).var()), 0
    for start in range(0, PERMUTATIONS, 500):
        b = min(500, PERMUTATIONS - start)
        shuffled = rng.permuted(np.broadcast_to(sums, (b, *sums.shape)), axis=2)
        reached += int((shuffled.sum(1).var(1) >= found - 1e-9).sum())
    return found, (1 + reached) / (1 + PERMUTATIONS), len(sums)


def cochran_q(events: np.ndarray) -> tuple[float, float, int]:
    """Cochran's Q over the columns of events [n, k] bool: (Q, p, number of rows that vary). p is NaN where invalid."""
    events = np.asarray(events, np.int64)
    varying = events[(events.sum(1) > 0) & (events.sum(1) < events.shape[1])]
    if len(varying) * events.shape[1] < 24:
        return float("nan"), float("nan"), len(varying)
    result = sm_cochrans_q(varying)
    return float(result.statistic), float(result.pvalue), len(varying)


def unpaired_test(k1: int, n1: int, k2: int, n2: int, boschloo_limit: int = 300) -> dict[str, float]:
    """Two independent shares: Fisher, Boschloo (NaN above `boschloo_limit` units), Newcombe interval, effect sizes."""
    table = [[k1, n1 - k1], [k2, n2 - k2]]
    low, high = confint_proportions_2indep(k1, n1, k2, n2, method="newcomb", compare="diff", alpha=ALPHA)
    out = {"difference": k1 / n1 - k2 / n2, "low": float(low), "high": float(high)}
    out["fisher_p"] = float(sps.fisher_exact(table).pvalue)
    same = k1 * n2 == k2 * n1
    small = n1 + n2 <= boschloo_limit
    out["boschloo_p"] = 1.0 if same else float(sps.boschloo_exact(table).pvalue) if small else float("nan")
    out["cohen_h"] = cohen_h(k1 / n1, k2 / n2)
    if k1 + k2 in (0, n1 + n2):
        out |= {"odds_ratio": float("nan"), "or_low": 0.0, "or_high": float("inf")}
    else:
        ratio = scipy_odds_ratio(np.array(table), kind="conditional" if small else "sample")
        with np.errstate(all="ignore"):
            interval = ratio.confidence_interval(1 - ALPHA)
        low = 0.0 if np.isnan(interval.low) else interval.low
        high = np.inf if np.isnan(interval.high) else interval.high
        out |= {"odds_ratio": float(ratio.statistic), "or_low": float(low), "or_high": float(high)}
    return out


def unpaired_clustered(
    a: np.ndarray, b: np.ndarray, cluster_a: np.ndarray, cluster_b: np.ndarray, boschloo_limit: int = 300
) -> dict[str, float]:
    """Two shares over different pairs. With one pair a source as `unpaired_test`; else Welch's test over sources.

    a, b: the event for each pair of either side; cluster_*: codes 0..G-1 of its source.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    exact = unpaired_test(int(a.sum()), len(a), int(b.sum()), len(b), boschloo_limit)
    exact["unpaired_p"] = exact.pop("fisher_p")
    if len(a) == int(cluster_a.max()) + 1 and len(b) == int(cluster_b.max()) + 1:
        return exact
    variance, freedom = [], []
    for x, cluster in ((a, cluster_a), (b, cluster_b)):
        rest = np.bincount(cluster, weights=x - x.mean())
        groups = len(rest)
        variance.append((rest**2).sum() * groups / max(groups - 1, 1) / len(x) ** 2)
        freedom.append(max(groups - 1, 1))
    difference, error = a.mean() - b.mean(), float(np.sqrt(sum(variance)))
    out = exact | {"difference": difference, "boschloo_p": float("nan"), "low": -1.0, "high": 1.0, "unpaired_p": 1.0}
    if error > 0 and min(freedom) > 1:
        df = sum(variance) ** 2 / sum(v**2 / f for v, f in zip(variance, freedom, strict=True))
        half = float(sps.t.isf(ALPHA / 2, df)) * error
        out |= {"low": max(-1.0, difference - half), "high": min(1.0, difference + half)}
        out["unpaired_p"] = float(2 * sps.t.sf(abs(difference) / error, df))
    for key in ("odds_ratio", "or_low", "or_high"):
        out[key] = float("nan")
    return out


def cohen_h(p1: float, p2: float) -> float:
    """Cohen's h = 2 asin(sqrt(p1)) - 2 asin(sqrt(p2)) (Cohen 1988, section 6.2)."""
    return float(proportion_effectsize(p1, p2))


def paired_odds_ratio(gain: int, loss: int) -> tuple[float, float, float]:
    """Ratio of discordant counts with its exact interval (Clopper-Pearson on gain / (gain + loss), transformed)."""
    if gain + loss == 0:
        return float("nan"), 0.0, float("inf")
    low, high = proportion_interval(np.array(gain), np.array(gain + loss), "beta")
    return (
        gain / loss if loss else float("inf"),
        low / (1 - low) if low < 1 else float("inf"),
        high / (1 - high) if high < 1 else float("inf"),
    )


def adjust(p: np.ndarray, method: str = "holm") -> np.ndarray:
    """Adjusted p-values over one family. method: 'holm' or 'fdr_bh'. NaN entries do not count and stay NaN."""
    p = np.asarray(p, float)
    out = np.full(p.shape, np.nan)
    member = ~np.isnan(p)
    if member.any():
        out[member] = multipletests(p[member], method=method)[1]
    return out


def mcnemar_power(n: int, gain: float, loss: float, alpha: float = ALPHA) -> float:
    """Exact power of the exact McNemar test (two-sided) with n pairs; gain, loss: probabilities of discordant cells."""
    disc = gain + loss
    if disc <= 0:
        return 0.0
    m = np.arange(n + 1)
    critical = sps.binom.ppf(alpha / 2, m, 0.5)
    critical = np.where(2 * sps.binom.cdf(critical, m, 0.5) <= alpha, critical, critical - 1)
    share = gain / disc
    reject = sps.binom.cdf(critical, m, share) + sps.binom.sf(m - critical - 1, m, share)
    reject[critical < 0] = 0.0
    return float(np.sum(sps.binom.pmf(m, n, disc) * np.minimum(reject, 1.0)))


@functools.lru_cache(maxsize=256)
def mcnemar_detectable(n: int, loss: float = 0.0, alpha: float = ALPHA, power: float = 0.8) -> float:
    """Smallest difference of shares that n pairs detect with the given power; NaN where none does."""
    top = 1.0 - 2 * loss
    if mcnemar_power(n, loss + top, loss, alpha) < power:
        return float("nan")
    return float(optimize.brentq(lambda d: mcnemar_power(n, loss + d, loss, alpha) - power, 1e-9, top, xtol=1e-5))


def mcnemar_pairs_needed(difference: float, loss: float = 0.0, alpha: float = ALPHA, power: float = 0.8) -> int:
    """Smallest n at which the exact McNemar test reaches the power for this difference; -1 above 100,000."""
    low, high = 1, 8
    while mcnemar_power(high, loss + difference, loss, alpha) < power:
        low, high = high, high * 2
        if high > 100_000:
            return -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if mcnemar_power(middle, loss + difference, loss, alpha) >= power else (middle, high)
    return high


def unpaired_needed(p1: float, p2: float, alpha: float = ALPHA, power: float = 0.8, ratio: float = 1.0) -> float:
    """Units per group for two independent shares (normal approximation, Cohen's h). ratio 0: one sample against p2."""
    return float(NormalIndPower().solve_power(abs(cohen_h(p1, p2)), alpha=alpha, power=power, ratio=ratio))


def unpaired_detectable(n1: int, n2: int, p2: float, alpha: float = ALPHA, power: float = 0.8) -> float:
    """Smallest share above p2 that groups of n1 and n2 tell from p2 with the given power; NaN where none does."""
    h = NormalIndPower().solve_power(None, nobs1=n1, alpha=alpha, power=power, ratio=n2 / n1)
    angle = 2 * np.arcsin(np.sqrt(p2)) + float(h)
    return float(np.sin(angle / 2) ** 2) if angle <= np.pi else float("nan")


@dataclass(frozen=True)
class Boot:
    """Estimates with bootstrap intervals, each [q]. method[q]: 'BCa' or 'percentile'."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    method: np.ndarray


def cluster_bootstrap(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], resamples: int = 2000, seed: int = 20251020
) -> Boot:
    """BCa intervals of functions of column sums, resampling clusters (scipy.stats.bootstrap).

    sums [G, K]: per-cluster sums (counts, sizes, totals). statistic maps column sums [B, K] to quantities [B, q].
    """
    groups = len(sums)
    estimate = np.asarray(statistic(sums.sum(0, keepdims=True)), float)[0]
    if groups < 2:
        nan = np.full(estimate.shape, np.nan)
        return Boot(estimate, nan, nan, np.full(estimate.shape, "none", object))

    def apply(index: np.ndarray, axis: int = -1) -> np.ndarray:
        index = np.moveaxis(np.asarray(index), axis, -1).astype(np.int64)
        lead = index.shape[:-1]
        index = index.reshape(-1, index.shape[-1])
        b = len(index)
        flat = (np.arange(b)[:, None] * groups + index).ravel()
        weights = np.bincount(flat, minlength=b * groups).reshape(b, groups).astype(float)
        return np.asarray(statistic(weights @ sums), float).T.reshape(-1, *lead)

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = sps.bootstrap(
            (np.arange(groups),),
            apply,
            n_resamples=resamples,
            batch=256,
            vectorized=True,
            method="BCa",
            confidence_level=1 - ALPHA,
            rng=np.random.default_rng(seed),
        )
    low = np.atleast_1d(np.asarray(result.confidence_interval.low, float)).copy()
    high = np.atleast_1d(np.asarray(result.confidence_interval.high, float)).copy()
    draws = np.asarray(result.bootstrap_distribution, float).reshape(len(estimate), -1)
    fallback = ~(np.isfinite(low) & np.isfinite(high)) | (low > estimate) | (high < estimate)
    usable = fallback & ~np.isnan(draws).any(1)
    if usable.any():
        low[usable] = np.quantile(draws[usable], ALPHA / 2, axis=1, method="inverted_cdf")
        high[usable] = np.quantile(draws[usable], 1 - ALPHA / 2, axis=1, method="inverted_cdf")
    low[fallback & ~usable] = np.nan
    high[fallback & ~usable] = np.nan
    return Boot(estimate, low, high, np.where(fallback, np.where(usable, "percentile", "none"), "BCa").astype(object))


def threshold(donor: np.ndarray, recipient: np.ndarray, n_values: np.ndarray) -> np.ndarray:
    """N*: the smallest N at which the donor's answer beats the recipient's; max(N) + 1 stands for 'not reached'.

    donor, recipient [..., K]: shares (or counts) over increasing N; n_values [K]. Returns [...] float.
    """
    n_values = np.asarray(n_values, float)
    wins = np.asarray(donor) > np.asarray(recipient)
    return np.where(wins.any(-1), n_values[np.argmax(wins, -1)], n_values[-1] + 1)


def plateau(share: np.ndarray, n_values: np.ndarray, tolerance: float = 0.05) -> np.ndarray:
    """The smallest N from which on every share lies within `tolerance` of the last one."""
    share = np.asarray(share, float)
    near = np.abs(share - share[..., -1:]) <= tolerance + 1e-12
    from_here = np.flip(np.cumprod(np.flip(near, -1), -1), -1).astype(bool)
    return np.asarray(n_values, float)[np.argmax(from_here, -1)]


def area(share: np.ndarray, n_values: np.ndarray) -> np.ndarray:
    """Mean share over N: trapezoid rule, divided by the range of N; the share itself where there is one N."""
    n_values = np.asarray(n_values, float)
    if len(n_values) == 1:
        return np.asarray(share, float)[..., 0]
    return np.trapezoid(share, n_values, axis=-1) / (n_values[-1] - n_values[0])


def split_half(sums: np.ndarray, sizes: np.ndarray, splits: int = 200, seed: int = 7) -> tuple[float, float, float]:
    """Spearman-Brown corrected split-half correlation of a profile: median, 2.5 % and 97.5 % over random splits.

    sums [G, K]: events per cluster and condition; sizes [G]: pairs per cluster. NaN where the profile is flat.
    """
    rng = np.random.default_rng(seed)
    groups = len(sums)
    if groups < 4 or sums.shape[1] < 3:
        return float("nan"), float("nan"), float("nan")
    half = np.zeros((splits, groups))
    for row in half:
        row[rng.permutation(groups)[: groups // 2]] = 1
    with np.errstate(all="ignore"):
        first = (half @ sums) / (half @ sizes)[:, None]
        second = ((1 - half) @ sums) / ((1 - half) @ sizes)[:, None]
        first -= first.mean(1, keepdims=True)
        second -= second.mean(1, keepdims=True)
        r = (first * second).sum(1) / np.sqrt((first**2).sum(1) * (second**2).sum(1))
        r = 2 * r / (1 + r)
    r = r[np.isfinite(r)]
    if not len(r):
        return float("nan"), float("nan"), float("nan")
    return float(np.median(r)), float(np.quantile(r, 0.025)), float(np.quantile(r, 0.975))


def subsample_curve(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], sizes: list[int], draws: int = 200, seed: int = 11
) -> np.ndarray:
    """Values of a statistic in subsamples of clusters without replacement: [len(sizes), draws, q]."""
    rng = np.random.default_rng(seed)
    groups = len(sums)
    out = []
    for size in sizes:
        weights = np.zeros((draws, groups))
        for row in weights:
            row[rng.permutation(groups)[:size]] = 1
        out.append(np.asarray(statistic(weights @ sums), float))
    return np.stack(out)
