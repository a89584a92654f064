"""Comparison of two files."""

from __future__ import annotations

import make_results
import numpy as np
import pytest

from latentpatch import load_results
from latentpatch.analyse import analyse
from latentpatch.compare import compare, match_conditions, sentences, shared_pairs
from latentpatch.report import _compare_section


@pytest.fixture(scope="module")
def pair_of_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    make_results.write_results(folder / "a.results.h5", make_results.Plan(metrics=False, step_sets=("first",)))
    make_results.write_results(
        folder / "b.results.h5",
        make_results.Plan(metrics=False, step_sets=("first",), dtype="bfloat16", effect=lambda layer, n: 0.05),
    )
    return load_results(folder / "a.results.h5"), load_results(folder / "b.results.h5")


@pytest.fixture(scope="module")
def compared(pair_of_files):
    return compare(*pair_of_files)


def test_a_file_equals_itself(pair_of_files):
    a, _ = pair_of_files
    c = compare(a, a)
    assert c.shared_pairs == 60
    assert len(c.flips) == 0
    assert (c.tests["paired_p"] == 1).all()
    assert "0 of" in sentences(c)[0][1]
    assert sentences(c)[1][0] == "none"


def test_lines_reach_the_n_of_the_map_with_intervals_over_sources(pair_of_files, compared):
    a, b = (analyse(r, 20) for r in pair_of_files)
    effect = a.table[(a.table["role"] == "effect") & (a.table["layer"] == a.table["layer"].max())]
    assert (effect["copy_of"] >= 0).any()  # at the last layer, the last N is the run of the one before
    picture = _compare_section("c01", compared, a, b).pictures[-1]
    last = effect.sort_values("n_steps").iloc[-1]
    assert f">{last['n_steps']}</text>" in picture.svg
    assert f"{last['clean_answer_low']:.1f} to {last['clean_answer_high']:.1f} %" in picture.svg


def test_planted_difference(compared):
    c = compared
    assert c.matched_by == "name"
    line = c.tests.set_index("condition_a").loc["denoise/clean/replace/resid_post/L2/first:5"]
    assert (line["k_a"], line["k_b"], line["n_a"]) == (45, 3, 60)
    assert line["only_a"] - line["only_b"] == 42
    assert line["paired_holm"] < 0.001
    assert c.tests[c.tests["role"] == "control"]["paired_holm"].isna().all()
    assert len(c.flips) == c.tests["flips"].sum() == c.flip_counts["count"].sum()
    strength, text = sentences(c)[1]
    assert strength == "supported"
    assert "45 of 60 against 3 of 60" in text


def test_only_the_same_pairs_are_paired(pair_of_files):
    a, b = pair_of_files
    changed = b.pairs.copy()
    changed.loc[:9, "clean_question"] = "another question"
    other = type(b)(**{**vars(b), "pairs": changed})
    rows = shared_pairs(a, other)
    assert [len(r) for r in rows] == [50, 50]
    assert (a.pairs["id"].to_numpy()[rows[0]] == other.pairs["id"].to_numpy()[rows[1]]).all()


def test_depth_matching(tmp_path):
    for layers in (3, 6):
        make_results.write_results(
            tmp_path / f"{layers}.results.h5", make_results.Plan(layers=layers, metrics=False, controls=())
        )
    a, b = (load_results(tmp_path / f"{layers}.results.h5") for layers in (3, 6))
    by, matches = match_conditions(a, b)
    assert by == "depth"
    layers = {(int(a.conditions["layer"][i]), int(b.conditions["layer"][j])) for i, j in matches}
    assert layers == {(0, 1), (1, 3), (2, 5)}
    assert all(a.conditions["steps"][i] == b.conditions["steps"][j] for i, j in matches)


def test_pairs_in_other_order(pair_of_files):
    a, _ = pair_of_files
    order = np.arange(len(a.pairs))[::-1]
    turned = type(a)(
        **{
            **vars(a),
            "pairs": a.pairs.iloc[order].reset_index(drop=True),
            "cls": a.cls[order],
            "answer": a.answer[order],
            "number": a.number[order],
            "changed": a.changed[order],
        }
    )
    assert len(compare(a, turned, resamples=0).flips) == 0


def test_with_and_without_a_defect(pair_of_files, compared):
    a, b = pair_of_files
    conditions = b.conditions.copy()
    conditions["name"] += "/+prefill_leak"
    conditions["defects"] = "prefill_leak"
    leaky = type(b)(**{**vars(b), "conditions": conditions})
    c = compare(a, leaky, resamples=200)
    assert len(c.tests) == len(compared.tests)
    assert (c.tests["condition_b"] == c.tests["condition_a"] + "/+prefill_leak").all()
    strength, text = sentences(c)[1]
    assert strength == "partial"
    assert "Defects of the published scripts were on (prefill_leak)" in text
