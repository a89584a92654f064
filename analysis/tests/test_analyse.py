"""The family, the thresholds and the findings on files with known structure."""

from __future__ import annotations

import gc
import shutil

import h5py
import make_results
import numpy as np
import pandas as pd
import pytest
import simulate

from latentpatch import analyse, compare, findings, load_results, stats
from latentpatch.load import LayoutError


@pytest.fixture(scope="module")
def planted_analysis(planted):
    return analyse.analyse(load_results(planted[0]), 400)


def test_counts_are_the_planted_ones(planted, planted_analysis):
    _, plan = planted
    table = planted_analysis.table.set_index("name")
    for layer in range(3):
        for n in range(1, 6):
            line = table.loc[f"denoise/clean/replace/resid_post/L{layer}/first:{n}"]
            assert line["clean_answer"] == round(plan.effect(layer, n) * plan.pairs)
            assert line["n"] == plan.pairs
            assert line["clean_answer_pct"] == pytest.approx(100 * line["clean_answer"] / 60)
            noise = table.loc[f"noise/corrupted/replace/resid_post/L{layer}/first:{n}"]
            assert noise["corrupted_answer"] == line["clean_answer"]


def test_family_excludes_dead_copies_and_controls(planted_analysis):
    table = planted_analysis.table
    family = table[table["in_family"]]
    assert len(family) == 2 * (
        18 + 18 - 3 - 1 - 1
    )  # single:0 = first:1 thrice; last layer: first:6 = first:5, single:5 dead
    assert not family["name"].str.contains("L2/first:6|L2/single:5|single:0").any()
    assert (family["role"] == "effect").all()
    tests = planted_analysis.tests
    assert set(tests["index"][tests["test"] != "cochran_q"]) == set(family["index"])
    assert (tests["test"].value_counts()[["vs_shuffled", "majority", "damage"]] == len(family)).all()
    # The filter fixes the unpatched share at zero: that is no data, said once.
    assert "vs_unpatched" not in set(tests["test"])
    assert sum("zero by construction" in note for note in planted_analysis.notes) == 2  # once a direction


def test_planted_effects_are_found_and_only_those(planted_analysis):
    found = findings.write(planted_analysis)
    supported = {f.subject for f in found if f.rule == "effect" and f.strength == "supported"}
    assert supported == {
        f"{d}, output of each block, layer {layer}, first N thoughts"
        for d in (
            "Clean activations written into the corrupted run",
            "Corrupted activations written into the clean run",
        )
        for layer in range(3)
    }
    assert not any("single" in f.subject for f in found if f.rule == "effect")
    text = next(
        f.text for f in found if f.rule == "effect" and "corrupted run, output of each block, layer 2" in f.text
    )
    assert "first 5 thoughts, 45 of 60 (75.0 %" in text
    assert "with another pair's activations 1 of 60; difference +73.3 points" in text
    assert "exact McNemar test, p < 0.001" in text


def test_thresholds(planted_analysis):
    lines = planted_analysis.thresholds.set_index("series")
    row = lines.loc["denoise: clean → resid_post, L2, first-N"]
    assert row["threshold"] == 4  # 27 against 30 at N = 3, 36 against 22 at N = 4 (planted 45 %, 60 %)
    assert row["threshold_low"] <= 4 <= row["threshold_high"]
    never = lines.loc["denoise: clean → resid_post, L0, first-N"]
    assert (never["threshold"], never["reached"]) == (7, False)
    assert row["area"] == pytest.approx(0.45)
    assert row["area_method"] == "BCa"


def test_recovery_is_a_ratio_of_means(planted_analysis):
    m = planted_analysis.metrics
    by = m[m["metric"] == "recovery"].set_index("condition")["mean"]
    r = planted_analysis.results
    diff = dict(zip(r.conditions["name"], np.nanmean(r.metrics["logit_diff"][r.included], 0), strict=True))
    low, high = diff["unpatched/denoise"], diff["unpatched/noise"]
    name = "denoise/clean/replace/resid_post/L2/first:4"
    assert by[name] == pytest.approx((diff[name] - low) / (high - low), rel=1e-5)
    name = "noise/corrupted/replace/resid_post/L2/first:4"
    # One formula for both directions, that of the summary: 0 at the corrupted run, 1 at the clean one.
    assert by[name] == pytest.approx((diff[name] - low) / (high - low), rel=1e-5)
    assert by["unpatched/denoise"] == pytest.approx(0.0)
    assert by["unpatched/noise"] == pytest.approx(1.0)


def test_recovery_is_over_the_pairs_that_have_it(planted, tmp_path):
    """A condition that some pairs lack is set between the unpatched runs of the pairs that have it."""
    path = tmp_path / "gaps.results.h5"
    shutil.copy(planted[0], path)
    name = "denoise/clean/replace/resid_post/L2/first:4"
    with h5py.File(path, "r+") as file:
        names = [text.decode() for text in file["conditions/name"][:]]
        values = file["rows/logit_diff"][:]
        included = np.flatnonzero(file["pairs/included"][:])
        low, high, column = (names.index(n) for n in ("unpatched/denoise", "unpatched/noise", name))
        gone = included[np.argsort(values[included, low])[: len(included) // 3]]
        values[gone, column] = np.nan
        file["rows/logit_diff"][...] = values
    metrics = analyse.analyse(load_results(path), 20).metrics
    found = metrics[(metrics["metric"] == "recovery") & (metrics["condition"] == name)].iloc[0]
    kept = np.setdiff1d(included, gone)
    patched, corrupted, clean = (values[kept, i].astype(float).mean() for i in (column, low, high))
    assert found["n"] == len(kept)
    assert found["mean"] == pytest.approx((patched - corrupted) / (clean - corrupted), rel=1e-6)


def test_a_failed_control_silences_everything_else(planted, tmp_path):
    path = tmp_path / "failed.results.h5"
    shutil.copy(planted[0], path)
    with h5py.File(path, "r+") as file:
        names = [n.decode() for n in file["/conditions/name"][:]]
        file["/rows/changed"][5, names.index("denoise/self/replace/resid_post/L1/first:2")] = 1
    a = analyse.analyse(load_results(path), 0)
    found = findings.write(a)
    assert [(f.rule, f.strength) for f in found] == [("integrity", "warning")]
    assert "self-patch controls, 72 conditions x 60 pairs, 1 rows changed" in found[0].text


def test_the_sweep_s_own_control_counts(planted, tmp_path):
    path = tmp_path / "counted.results.h5"
    shutil.copy(planted[0], path)
    with h5py.File(path, "r+") as file:
        file["/provenance"].attrs["control.self_differ"] = np.bytes_(b"3")
        file["/provenance"].attrs["control.unpatched_differ"] = np.bytes_(b"0")
    found = findings.write(analyse.analyse(load_results(path), 0))
    assert [f.subject for f in found] == ["self patches, as counted by the sweep"]
    assert "3 rows differed" in found[0].text


VARIANTS = {
    "factor": ({"operation": "add", "factor": 0.5}, {"operation": "add", "factor": 3.0}),
    "head": ({"head": 0}, {"head": 1}),
    "prompt": (
        {"phase": "prompt", "index": "-1", "steps": "prompt:-1", "step_mask": 0},
        {"phase": "prompt", "index": "-2", "steps": "prompt:-2", "step_mask": 0},
    ),
    "phase": (
        {"phase": "prompt", "index": "0", "steps": "prompt:0", "step_mask": 0},
        {"phase": "answer", "index": "0", "steps": "answer:0", "step_mask": 0},
    ),
    "from_site": ({"from_site": ""}, {"from_site": "attn_out"}),
    "from_layer": ({"from_layer": 1}, {"from_layer": 2}),
    "from_step": ({"from_step": 0}, {"from_step": 1}),
    "stop_after": ({"stop_after": 2}, {"stop_after": 0}),
}


def _two_variants(path, variants):
    """An effect and a shuffled control of each of two variants of one condition: 0, 1 controls, 2, 3 effects."""
    plan = make_results.Plan(pairs=12, layers=2, steps=1, controls=("shuffled",), directions=("denoise",))
    plan.step_sets = ("single",)
    make_results.write_results(path, plan)
    with h5py.File(path, "r+") as file:
        table = {key: file[f"/conditions/{key}"][:] for key in file["/conditions"]}
        texts = [key for key in table if table[key].dtype.kind in "OS"]
        for j in range(1, 5):
            change = {"layer": 0, "layers": "0", "dead": 0, "same_as": j, **variants[(j - 1) % 2]}
            for key, value in change.items():
                if key in texts:
                    table[key] = table[key].astype("S64")
                table[key][j] = value.encode() if isinstance(value, str) else value
        for key, values in table.items():
            del file[f"/conditions/{key}"]
            if key in texts:
                values = values.astype("S64").astype(h5py.string_dtype("utf-8", 64))
            file[f"/conditions/{key}"] = values


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_has_its_own_control_and_cell(tmp_path, name):
    path = tmp_path / "variants.results.h5"
    _two_variants(path, VARIANTS[name])
    r = load_results(path)
    assert r.conditions["donor"].tolist() == ["", "shuffled", "shuffled", "clean", "clean"]
    assert analyse.matched_controls(r)[3:] == [[1], [2]]
    a = analyse.analyse(r, 0)
    effects = a.table[a.table["role"] == "effect"]
    assert len(effects[["panel", "kind", "place", "steps"]].drop_duplicates()) == 2
    assert a.panels["title"].is_unique


def test_words_for_places():
    for place, words in (("2", "L2"), ("0-3 from L5", "L0-3 from L5"), ("from L5", "from L5"), ("", "no layer")):
        assert analyse.place_words(place) == words


def test_two_conditions_of_one_cell_are_an_error(tmp_path):
    path = tmp_path / "doubled.results.h5"
    _two_variants(path, ({"head": 1}, {"head": 1}))
    with pytest.raises(LayoutError, match="expected columns that differ, found a second condition like "):
        analyse.analyse(load_results(path), 0)


def test_without_shuffled_control_nothing_is_supported(tmp_path):
    path = tmp_path / "bare.results.h5"
    make_results.write_results(path, make_results.Plan(controls=(), metrics=False))
    a = analyse.analyse(load_results(path), 0)
    found = [f for f in findings.write(a) if f.rule == "effect"]
    assert found
    assert {f.strength for f in found} == {"descriptive"}
    assert all("no shuffled-donor control" in f.text for f in found)
    assert any("no shuffled-donor control" in note for note in a.notes)


def test_effect_that_a_shuffled_donor_has_as_well_is_not_announced(tmp_path):
    path = tmp_path / "unspecific.results.h5"
    make_results.write_results(
        path, make_results.Plan(effect=lambda layer, n: 0.5, control_effect=lambda layer, n: 0.5)
    )
    assert not [f for f in findings.write(analyse.analyse(load_results(path), 0)) if f.rule == "effect"]


def test_an_unpatched_run_that_is_data_is_tested(tmp_path):
    """Without the filter the unpatched run's donor answers are counted; the shuffled donor then says what is specific."""
    path = tmp_path / "all.results.h5"
    make_results.write_results(
        path, make_results.Plan(effect=lambda layer, n: 0.55, control_effect=lambda layer, n: 0.5, metrics=False)
    )
    with h5py.File(path, "r+") as file:
        file["provenance"].attrs["filter"] = "all"
        file["/pairs/corrupted_correct"][0] = 0
    a = analyse.analyse(load_results(path), 0)
    assert "vs_unpatched" in set(a.tests["test"])
    found = [f for f in findings.write(a) if f.rule == "effect"]
    assert {f.strength for f in found} == {"partial"}
    assert all("does not tell it from the shuffled donor" in f.text for f in found)


def test_damage_is_found_and_said(tmp_path):
    """A heat map of gibberish does not stand under 'no test rejects'."""
    path = tmp_path / "damage.results.h5"
    plan = make_results.Plan(
        effect=lambda layer, n: 0.0, control_effect=lambda layer, n: 0.0, other=0.0, gibberish=0.89, controls=()
    )
    make_results.write_results(path, plan)
    found = findings.write(analyse.analyse(load_results(path), 0))
    assert {f.rule for f in found if f.strength == "supported"} == {"damage"}
    assert all(
        "53 of them with gibberish; exact binomial test, p < 0.001" in f.text for f in found if f.rule == "damage"
    )
    assert not any(f.strength == "none" for f in found)


def test_one_sentence_has_one_estimand(tmp_path):
    """Sources of unequal size: counts, difference and test are of all pairs, and their sign cannot differ."""
    path = tmp_path / "unequal.results.h5"
    make_results.write_results(
        path, make_results.Plan(pairs=60, excluded=0, step_sets=("first",), controls=("shuffled",))
    )
    r = load_results(path)
    sizes = [30, *[3] * 10]
    r.pairs["source"] = np.repeat([f"s{i}" for i in range(11)], sizes)
    names = r.conditions["name"].tolist()
    j = names.index("denoise/clean/replace/resid_post/L1/first:2")
    i = names.index("denoise/shuffled/replace/resid_post/L1/first:2")
    r.cls[:, [i, j]] = 1
    r.cls[:30, j] = 0  # the large source: all pairs
    r.cls[30::3, i] = 0  # each small one: the first pair, the other way round
    row = analyse.analyse(r, 0).tests.set_index(["test", "subject"]).loc[("vs_shuffled", names[j])]
    assert (row["k"], row["k_reference"], row["n"], row["units"]) == (30, 10, 60, 11)
    assert row["difference"] == pytest.approx(20 / 60)
    assert (row["gain"], row["loss"]) == (1, 10)
    # Signs of ten ones and a thirty: the total is at least 20 with the large one positive only.
    assert row["p"] == pytest.approx(1.0)
    assert row["method"] == "sign-flip test over sources"


def test_several_draws_of_the_shuffled_donor(tmp_path):
    """Draws share their weight: the reference is their mean, and pairs are not counted twice."""
    path = tmp_path / "draws.results.h5"
    make_results.write_results(path, make_results.Plan(pairs=20, excluded=0, layers=1, steps=2, step_sets=("first",)))
    r = load_results(path)
    cond = r.conditions
    cond["draw"] = 0
    names = cond["name"].tolist()
    i = names.index("denoise/shuffled/replace/resid_post/L0/first:1")
    j = names.index("denoise/clean/replace/resid_post/L0/first:1")
    extra = cond.iloc[[i]].assign(name="another draw", draw=1, same_as=len(cond))
    r.conditions = pd.concat([cond, extra], ignore_index=True)
    for name in ("cls", "number", "answer", "changed"):
        array = getattr(r, name)
        setattr(r, name, np.concatenate([array, array[:, [i]]], 1))
    r.metrics = {}
    r.cls[:, [i, j, -1]] = 1
    r.cls[:12, j] = 0
    r.cls[:4, i] = 0
    r.cls[8:10, -1] = 0
    assert analyse.matched_controls(r)[j] == [i, len(cond)]
    row = analyse.analyse(r, 0).tests.set_index(["test", "index"]).loc[("vs_shuffled", j)]
    assert (row["k"], row["k_reference"], row["draws"], row["n"]) == (12, 3.0, 2, 20)
    assert row["difference"] == pytest.approx(9 / 20)


def test_pairs_of_one_source_are_not_independent(tmp_path):
    path = tmp_path / "clustered.results.h5"
    make_results.write_results(path, make_results.Plan(pairs=60, pairs_per_source=15, excluded=0))
    a = analyse.analyse(load_results(path), 0)
    assert a.clusters == 4
    found = findings.write(a)
    assert not any(
        f.rule in ("effect", "threshold") and f.strength != "descriptive" for f in found
    )  # 2 ^ -3 is not small
    assert any("60 included pairs come from 4 sources" in note for note in a.notes)


def _wrong_findings(tmp_path, files, seed):
    """How many of so many null files give a finding.

    Under the null every condition of a pair draws from one distribution, in which the donor's and the recipient's
    answer are equally likely and 5 % of the answers are damaged: the edge of all tests of the family.
    A sentence claims nothing where no corrected test rejects: that is seen on every fifth file, and the sentences of
    the others are written only where a test does reject.
    """
    path = tmp_path / "null.results.h5"
    plan = make_results.Plan(pairs=40, excluded=0, steps=4, step_sets=("first",), controls=("shuffled",), metrics=False)
    make_results.write_results(path, plan)
    r, rng = load_results(path), np.random.default_rng(seed)
    a, wrong = analyse.analyse(r, 0), 0
    gc.freeze()  # statsmodels' multipletests collects garbage at every call
    for i in range(files):
        r.cls = rng.choice(4, p=[0.475, 0.475, 0.04, 0.01], size=r.cls.shape).astype(np.uint8)
        a.tests = analyse.family_tests(r, a.table, a.series, a.cluster)
        rejected = bool((a.tests["holm"] <= stats.ALPHA).any())
        if rejected or i % 5 == 0:
            claimed = findings.claims_effect(findings.write(a))
            assert rejected or not claimed
            wrong += claimed
    gc.unfreeze()
    return wrong


def test_family_wise_error_over_null_files(tmp_path):
    """simulate.py takes 200 files, and pairs in sources."""
    wrong = _wrong_findings(tmp_path, 100, 20251020)
    assert wrong <= 5, f"{wrong} of 100 null files gave a finding"


def test_findings_on_pairs_in_sources(tmp_path, monkeypatch):
    """24 sources with an intra-cluster correlation of 0.2; simulate.py does the same for 0 to 0.3, at length."""
    monkeypatch.setattr(stats, "PERMUTATIONS", 999)
    wrong = simulate.wrong_files(tmp_path, 0.2, 24)
    assert wrong <= 3, f"{wrong} of 24 null files gave a finding"
    assert simulate.found_files(tmp_path, 0.2, 2) == (2, 2)


def test_the_simulation_notices_pairs_taken_as_independent(tmp_path, monkeypatch):
    monkeypatch.setattr(analyse, "sources", lambda r: np.arange(len(r.included)))
    assert simulate.wrong_files(tmp_path, 0.2, 10) >= 5


def test_the_simulation_notices_a_missing_correction(tmp_path, monkeypatch):
    monkeypatch.setattr(analyse.stats, "adjust", lambda p, method="holm": np.asarray(p))
    assert _wrong_findings(tmp_path, 20, 1) >= 8


def test_rows_that_were_not_run_are_in_no_denominator(tmp_path):
    """A condition whose position 20 of 60 pairs lack is tested over the other 40."""
    path = tmp_path / "missing.results.h5"
    make_results.write_results(path, make_results.Plan(excluded=0))
    name = "denoise/clean/replace/resid_post/L1/single:2"
    with h5py.File(path, "r+") as file:
        names = [n.decode() for n in file["/conditions/name"][:]]
        j = names.index(name)
        hits = int((file["/rows/class"][20:, j] == 0).sum())
        classes = file["/rows/class"][:]
        classes[:20, j] = 255
        file["/rows/class"][:] = classes
        answers = file["/rows/answer"][:]
        answers[:20, j] = -1
        file["/rows/answer"][:] = answers
        file["/counts"][j] = [(classes[:, j] == k).sum() for k in range(4)]
    r = load_results(path)
    tests = analyse.analyse(r, 0).tests
    own = tests[(tests["subject"] == name) & (tests["test"] != "cochran_q")]
    assert own["test"].tolist() == ["vs_shuffled", "majority", "damage"]
    assert own["n"].tolist() == [40, 40, 40]
    assert own["k"].tolist()[:2] == [hits, hits]
    assert (tests[tests["subject"] != name]["n"].isin([60])).all()
    lines = compare.compare(r, r).tests.set_index("condition_a")
    assert lines.loc[name, ["n_a", "n_b", "shared", "flips", "k_a"]].tolist() == [40, 40, 40, 0, hits]
