"""Each statistic against published or hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import simulate

from latentpatch import stats


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998) 857-872, table
# I.
@pytest.mark.parametrize(
    ("k", "n", "wilson", "exact"),
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_single_proportion_intervals(k, n, wilson, exact):
    assert stats.proportion_interval(np.array(k), np.array(n)) == pytest.approx(wilson, abs=5.1e-5)
    assert stats.proportion_interval(np.array(k), np.array(n), "beta") == pytest.approx(exact, abs=5.1e-5)


def test_interval_edges():
    assert stats.proportion_interval(np.array(7), np.array(7), "beta")[1] == 1.0
    assert stats.proportion_interval(np.array(0), np.array(0)).tolist() == [0.0, 1.0]


# Newcombe, "Interval estimation for the difference between independent proportions", Stat. in Med. 17 (1998) 873-890,
# table II,
# method 10.
@pytest.mark.parametrize(
    ("k1", "n1", "k2", "n2", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
    ],
)
def test_newcombe_difference(k1, n1, k2, n2, low, high):
    result = stats.unpaired_test(k1, n1, k2, n2)
    assert (result["low"], result["high"]) == pytest.approx((low, high), abs=6e-5)


def test_exact_mcnemar_by_hand():
    # 10 against 2 discordant: 2 * (C(12,0) + C(12,1) + C(12,2)) / 2^12 = 2 * 79 / 4096
    assert stats.mcnemar(10, 2, 100).p == pytest.approx(2 * 79 / 4096)
    assert stats.mcnemar(0, 0, 5).p == 1.0
    assert stats.mcnemar(3, 3, 9).p == 1.0
    assert stats.mcnemar(6, 0, 6).p == pytest.approx(2 / 64)


def test_paired_test_counts_a_source_once():
    a = np.array([1, 1, 1, 1, 0, 1, 1, 0], bool)
    b = np.array([0, 0, 0, 0, 0, 1, 0, 1], bool)
    alone = stats.paired_test(a, b, np.arange(8))
    assert (alone.gain, alone.loss, alone.n) == (5, 1, 8)
    # sources {0,1,2,3} +4, {4,5} 0, {6,7} +1-1 = 0
    grouped = stats.paired_test(a, b, np.array([0, 0, 0, 0, 1, 1, 2, 2]))
    assert (grouped.gain, grouped.loss, grouped.n, grouped.p) == (1, 0, 3, 1.0)


def test_majority_by_hand():
    donor = np.array([1] * 8 + [0] * 11, bool)
    recipient = np.array([0] * 8 + [1] * 3 + [0] * 8, bool)
    # P(X >= 8), X ~ Bin(11, 1/2) = (165 + 55 + 11 + 1) / 2048
    assert stats.majority_test(donor, recipient, np.arange(19)) == pytest.approx(232 / 2048)
    assert stats.majority_test(recipient, donor, np.arange(19)) == pytest.approx(1 - (1 + 11 + 55) / 2048)


def test_cochran_q_conover():
    # Conover, Practical Nonparametric Statistics, section 4.6 (three forecasters, 12 games): Q = 2.8, p = 0.2466.
    games = np.array(
        [
            [1, 1, 1],
            [1, 1, 1],
            [0, 1, 0],
            [1, 1, 0],
            [0, 0, 0],
            [1, 1, 1],
            [1, 1, 1],
            [1, 1, 0],
            [0, 0, 1],
            [0, 1, 0],
            [1, 1, 1],
            [1, 1, 1],
        ]
    )
    q, p, varying = stats.cochran_q(np.tile(games, (2, 1)))
    assert (q, varying) == (pytest.approx(5.6), 10)  # Q doubles with the data
    assert p == pytest.approx(math.exp(-2.8))
    q, p, varying = stats.cochran_q(games)
    assert varying == 5
    assert math.isnan(p)  # 5 x 3 < 24: not used


def test_boschloo_and_fisher():
    # scipy's documentation of boschloo_exact (Saari et al. 2004): one-sided p = 0.0355, doubled for two sides.
    result = stats.unpaired_test(74, 105, 43, 75)
    assert result["boschloo_p"] == pytest.approx(2 * 0.0355, abs=2e-4)
    assert result["boschloo_p"] <= result["fisher_p"]
    # Fisher's tea: 3 of 4 against 1 of 4, two-sided 34/70
    assert stats.unpaired_test(3, 4, 1, 4)["fisher_p"] == pytest.approx(34 / 70)
    assert math.isnan(stats.unpaired_test(100, 200, 90, 200)["boschloo_p"])


def test_odds_ratio_of_large_groups_with_an_empty_cell():
    result = stats.unpaired_test(0, 500, 30, 500)
    assert (result["odds_ratio"], result["or_low"], result["or_high"]) == (0.0, 0.0, math.inf)
    # 10/490 against 30/470: ratio of odds by hand
    assert stats.unpaired_test(10, 500, 30, 500)["odds_ratio"] == pytest.approx(10 * 470 / (30 * 490))


def test_effect_sizes():
    # Cohen 1988, table 6.2.2: phi(.50) = 1.571, phi(.70) = 1.982
    assert stats.cohen_h(0.7, 0.5) == pytest.approx(1.982 - 1.571, abs=1e-3)
    ratio, low, high = stats.paired_odds_ratio(10, 2)
    # Clopper-Pearson of 10/12: 0.5159 to 0.9791
    assert (ratio, low, high) == (
        5.0,
        pytest.approx(0.5159 / 0.4841, rel=1e-3),
        pytest.approx(0.9791 / 0.0209, rel=5e-3),
    )


def test_holm_and_benjamini_hochberg():
    assert stats.adjust(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Benjamini and Hochberg 1995, section 3.2: 15 p-values, 4 rejected at 0.05 (Bonferroni and Holm: 3)
    p = np.array(
        [
            0.0001,
            0.0004,
            0.0019,
            0.0095,
            0.0201,
            0.0278,
            0.0298,
            0.0344,
            0.0459,
            0.3240,
            0.4262,
            0.5719,
            0.6528,
            0.7590,
            1.0,
        ]
    )
    assert (stats.adjust(p, "fdr_bh") <= 0.05).sum() == 4
    assert (stats.adjust(p) <= 0.05).sum() == 3
    withnan = stats.adjust(np.array([0.01, np.nan, 0.02]))
    assert withnan[[0, 2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(withnan[1])


def test_power():
    # All discordant pairs on one side: rejects from 6 on (2 / 2^6), so power = P(Bin(n, p) >= 6).
    n, p = 20, 0.4
    by_hand = 1 - sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(6))
    assert stats.mcnemar_power(n, p, 0.0) == pytest.approx(by_hand)
    assert stats.mcnemar_power(5, 1.0, 0.0) == 0.0
    detectable = stats.mcnemar_detectable(20)
    assert stats.mcnemar_power(20, detectable, 0.0) == pytest.approx(0.8, abs=1e-3)
    needed = stats.mcnemar_pairs_needed(0.2)
    assert stats.mcnemar_power(needed, 0.2, 0) >= 0.8 > stats.mcnemar_power(needed - 1, 0.2, 0)
    assert math.isnan(stats.mcnemar_detectable(5))
    # One sample, 55.6 % against 50 %: 634 units, as the original project found after the fact.
    assert stats.unpaired_needed(0.556, 0.5, ratio=0) == pytest.approx(634, abs=12)
    # Cohen 1988, table 6.4.1: h = 0.50, alpha 0.05 two-sided, power 0.80: 63 per group
    p1 = math.sin((2 * math.asin(math.sqrt(0.5)) + 0.5) / 2) ** 2
    assert math.ceil(stats.unpaired_needed(p1, 0.5)) == 63
    assert stats.unpaired_detectable(63, 63, 0.5) == pytest.approx(p1, abs=2e-3)


def test_mcnemar_power_against_simulation():
    rng = np.random.default_rng(5)
    draws = rng.multinomial(40, [0.25, 0.05, 0.7], size=3000)
    table = {(b, c): stats.mcnemar(b, c, 40).p for b, c in {(int(b), int(c)) for b, c, _ in draws}}
    hit = np.mean([table[int(b), int(c)] <= 0.05 for b, c, _ in draws])
    assert stats.mcnemar_power(40, 0.25, 0.05) == pytest.approx(hit, abs=0.03)


def test_bootstrap_of_a_mean_meets_theory_and_sees_clusters():
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)

    def mean(total):
        return total[:, :1] / total[:, 1:]

    single = stats.cluster_bootstrap(np.stack([x, np.ones(400)], 1), mean)
    half = 1.96 * x.std(ddof=1) / 20
    assert (single.low[0], single.high[0]) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.012)
    assert single.method[0] == "BCa"
    # Every value four times, clustered: the same interval; as independent values it would be half as wide.
    four = stats.cluster_bootstrap(4 * np.stack([x, np.ones(400)], 1), mean)
    assert four.high[0] - four.low[0] == pytest.approx(single.high[0] - single.low[0], rel=1e-9)


def test_bootstrap_degenerate_is_marked():
    boot = stats.cluster_bootstrap(np.ones((10, 2)), lambda total: total[:, :1] / total[:, 1:])
    assert (boot.estimate[0], boot.low[0], boot.high[0], boot.method[0]) == (1.0, 1.0, 1.0, "percentile")


def test_threshold_plateau_area_by_hand():
    n = [1, 2, 3, 4]
    assert stats.threshold([0.1, 0.4, 0.6, 0.7], [0.9, 0.4, 0.3, 0.2], n) == 3  # a tie does not win
    assert stats.threshold([0.1, 0.2, 0.2, 0.2], [0.9, 0.4, 0.3, 0.2], n) == 5
    assert stats.plateau([0.1, 0.5, 0.52, 0.55], n) == 2
    assert stats.plateau([0.1, 0.2, 0.3, 0.9], n) == 4
    assert stats.area([0.0, 0.2, 0.4, 0.6], n) == pytest.approx(0.3)


def test_sign_flip_by_hand():
    # 3, -1, 4, 2, 2, -5, 7: of the 128 sign patterns 40 have a total of 12 or more away from zero.
    assert stats.sign_flip(np.array([3, -1, 4, 2, 2, -5, 7])) == pytest.approx((40 / 128, 20 / 128))
    assert stats.sign_flip(np.array([1, 1, 1, -1])) == pytest.approx((10 / 16, 5 / 16))
    assert stats.sign_flip(np.array([0, 0])) == (1.0, 1.0)
    # One pair a source: the exact McNemar test of statsmodels.
    found = stats.paired_test(np.array([1, 1, 1, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 0, 0, 0, 1, 0]), np.arange(8))
    assert found.p == pytest.approx(stats.mcnemar(6, 1, 8).p)
    assert (found.gain, found.loss, found.difference) == (6, 1, 5 / 8)


def test_design_effect_by_hand():
    # Whole sources agree, 5 pairs each: the pairs are worth as many as there are sources (up to G / (G - 1)).
    k, n = np.array([[5.0], [0], [5], [0]]), np.full((4, 1), 5.0)
    effect, rarer = stats.design_effect(k, n)
    assert (effect[0], rarer[0]) == (pytest.approx(5 * 4 / 3), 2)
    # All agree: Wilson with as many pairs as sources.
    assert stats.clustered_interval(n, n)[0] == pytest.approx(stats.proportion_interval(np.array(4), np.array(4)))
    # One pair a source: Wilson.
    k = np.array([[1.0], [0], [0]])
    assert stats.clustered_interval(k, np.ones((3, 1)))[0] == pytest.approx(
        stats.proportion_interval(np.array(1), np.array(3))
    )


def test_damage_test():
    assert stats.damage_test(np.ones(3), np.ones(3)) == pytest.approx(0.05**3)  # binomial
    assert stats.damage_test(np.zeros(4), np.full(4, 9)) == 1.0
    many = stats.damage_test(np.full(24, 4), np.full(24, 10))
    one = stats.damage_test(np.array([10] * 2 + [0] * 22), np.full(24, 10))  # 8 % of the pairs, but of two sources
    assert many < 1e-6 < 0.05 < one


@pytest.mark.parametrize("icc", [0.0, 0.1, 0.3])
def test_intervals_hold_the_truth(icc):
    """Over 2,000 draws of 24 sources; difference over 1,000."""
    for p in (0.3, 0.5, 0.76):
        assert simulate.share_coverage(p, icc, 2000) == pytest.approx(0.95, abs=0.015), p
    assert simulate.difference_coverage(0.5, 0.3, icc, 1000) == pytest.approx(0.95, abs=0.02)


def test_split_half():
    rng = np.random.default_rng(2)
    strong = (rng.random((200, 8)) < np.linspace(0.05, 0.95, 8)).astype(float)
    assert stats.split_half(strong, np.ones(200))[0] > 0.97
    flat = (rng.random((200, 8)) < 0.5).astype(float)
    assert stats.split_half(flat, np.ones(200))[0] < 0.7
    assert math.isnan(stats.split_half(strong[:3], np.ones(3))[0])
