"""Charts of attention edges, steps, early stops and sets: the numbers in them are those of the rows."""

from __future__ import annotations

import html
import re

import h5py
import make_results
import numpy as np
import pytest

from latentpatch import analyse, charts, figures, load_results, stats, words
from latentpatch import effects as effects_of


@pytest.fixture
def results(tmp_path):
    """20 pairs; 12 effect conditions (layers 0 and 1, six single thoughts) whose columns a test changes; no controls."""
    path = tmp_path / "x.results.h5"
    plan = make_results.Plan(pairs=20, excluded=0, layers=2, steps=6, step_sets=("single",), controls=(), metrics=False)
    make_results.write_results(path, plan)
    r = load_results(path)
    r.conditions["same_as"] = np.arange(len(r.conditions))
    r.conditions["dead"] = 0
    return r


def effects(r):
    return np.flatnonzero(r.conditions["role"] == "effect")


def drawn(r):
    a = analyse.analyse(r, 0)
    return charts.charts("f0", a, effects_of.joint_table(r, a.cluster, 200))


def cells(picture):
    """(hover text, link) of every mark of a picture."""
    found = re.findall(r'data-tip="([^"]*)"(?: data-cell="([^"]*)")?', picture.svg)
    return [(html.unescape(tip), link) for tip, link in found]


def test_attention_edges(results):
    r, own = results, effects(results)
    for n, j in enumerate(own):
        query, key = divmod(n % 6, 2)
        change = {"site": "attn_edge", "operation": "forbid", "donor": "", "steps": f"single:{query}>single:{key}"}
        for column, value in change.items():
            r.conditions.loc[j, column] = value
        r.cls[:, j] = 1
        r.cls[:n, j] = 2  # n of 20 pairs lose the recipient's answer
    (chart,) = drawn(r)
    assert chart.title == "Attention edges that are forbidden"
    assert [p.title for p in chart.pictures] == ["layer 0", "layer 1"]
    for layer, picture in enumerate(chart.pictures):
        found = cells(picture)
        assert len(found) == 6
        for n, (tip, link) in enumerate(found):
            assert f"lost: {6 * layer + n} of n = 20 ({5 * (6 * layer + n)}.0 %)" in tip
            assert link == f"f0:{own[6 * layer + n]}"


def test_edges_of_one_query_are_layers_by_keys(results):
    r, own = results, effects(results)
    for n, j in enumerate(own):
        change = {"site": "attn_edge", "operation": "forbid", "donor": "", "steps": f"answer:all>single:{n % 6}"}
        for column, value in change.items():
            r.conditions.loc[j, column] = value
    (chart,) = drawn(r)
    (picture,) = chart.pictures
    assert picture.title == "Edges from the answer"
    assert len(cells(picture)) == 12


def test_from_step_to_step(results, tmp_path):
    path = results.path
    rng = np.random.default_rng(3)
    values = rng.random((len(results.pairs), len(results.conditions), 6)).astype(np.float32)
    with h5py.File(path, "r+") as file:
        for j in range(6):
            for name in ("kl", "cosine", "change"):
                file[f"/rows/step{j}_{name}"] = values[:, :, j]
    r = load_results(path)
    assert (r.steps["kl"] == values).all()
    frame = r.frame()
    assert frame["step4_kl"].to_numpy() == pytest.approx(values[:, :, 4].ravel())
    (chart,) = drawn(r)
    assert [p.title for p in chart.pictures[:2]] == [f"KL of what the head says, nats: layer {n}" for n in (0, 1)]
    assert len(chart.pictures) == 6  # and the cosine and the change
    own = effects(r)
    found = dict(zip([(i, j) for i in range(6) for j in range(6)], cells(chart.pictures[0]), strict=True))
    tip, link = found[2, 5]
    assert link == f"f0:{own[2]}"
    assert f"at thought 5: KL of what the head says, nats {values[:, own[2], 5].mean():.3f}, n = 20" in tip


def test_early_stops_end_at_the_whole_run(results):
    r, own = results, effects(results)
    r.job = {"protocol": {"steps": 6}}
    for n, j in enumerate(own[:3]):
        r.conditions.loc[j, ["steps", "stop_after", "donor", "role"]] = ["single:0", n + 1, "self", "control"]
        r.cls[:, j] = 1
        r.cls[: 15 - 5 * n, j] = 2
    (chart,) = drawn(r)
    (picture,) = chart.pictures
    tips = [tip for tip, _ in cells(picture)]
    assert [tip.splitlines()[0] for tip in tips] == [
        f"answer after {n}" for n in ("1 thought", "2 thoughts", "3 thoughts", "6 thoughts")
    ]
    assert ["other: 15 of n = 20" in tips[0], "other: 5 of n = 20" in tips[2], "other: 0 of n = 20" in tips[3]] == [
        True
    ] * 3


def test_sets_of_thoughts(results):
    r, own = results, effects(results)
    sets = ["0", "1", "2", "0,1", "0,2", "1,2", "0,1,2", "0,1,2,3", "3", "0,3", "4", "5"]
    for n, (j, members) in enumerate(zip(own, sets, strict=True)):
        r.conditions.loc[j, ["steps", "layer", "layers"]] = [f"set:{members}", 0, "0"]
        r.cls[:, j] = 1
        r.cls[:n, j] = 0
    (chart,) = drawn(r)
    (picture,) = chart.pictures
    shown = [int(re.search(r"clean answer: (\d+) of n = 20", tip)[1]) for tip, _ in cells(picture)]
    assert shown == [0, 1, 2, 8, 10, 11, 3, 4, 9, 5, 6, 7]  # by size, then by members
    assert picture.svg.count("<circle") == sum(s.count(",") + 1 for s in sets)


def test_words_for_edges():
    assert words.steps("single:3>single:0") == "thought 3 to thought 0"
    assert words.steps("answer:all>prompt:-1") == "the answer to question position -1"
    assert words.steps("first:2 without L0.single:3>single:1") == "first 2 thoughts without L0 thought 3 to thought 1"
    assert words.steps("L1.h3.single:2>single:0+L1.single:2>single:1") == (
        "L1.h3 thought 2 to thought 0 and L1 thought 2 to thought 1"
    )


def test_words_for_several_step_sets():
    assert words.site("k+v") == "keys and values"
    cell = {
        "direction": "denoise",
        "donor": "zero",
        "vector": -1,
        "factor": 1.0,
        "site": "latent_raw",
        "head": -1,
        "from_site": "",
    }
    cell |= {"from_step": -1, "stop_after": 0, "defects": "", "operation": "keep(nearest_token top 5, numbers only)"}
    where = "the corrupted run, where the nearest token is a number, final hidden state before the projection"
    assert words.panel(cell) == f"Only the part in the span of nearest_token top 5 kept in {where}"
    cell |= {"donor": "nearest_token(cosine, +1)", "operation": "replace(numbers only)"}
    assert words.panel(cell) == f"Nearest token embedding (cosine, +1) written into {where}"
    cell |= {"operation": "remove(0)", "donor": "zero"}
    assert words.panel(cell).startswith("Part in the span of directions of file 0 removed in the corrupted run, final")
    assert words.step_list(["first:4", "first:5", "first:6"]) == "first 4 to 6 thoughts"
    assert words.step_list(["first:4", "first:6"]) == "first 4 thoughts, first 6 thoughts"
    assert words.step_list(["single:2"]) == "thought 2"


def test_clustered_mean_by_hand():
    # Two sources of two pairs, means 1 and 3: residual sums -2 and 2, variance (4 + 4) * 2 / 1 / 16 = 1, t(1) = 12.706.
    mean, low, high = stats.clustered_mean(np.array([0.0, 2, 2, 4]), np.array([0, 0, 1, 1]))
    assert (mean, low, high) == (2.0, pytest.approx(2 - 12.706, abs=1e-3), pytest.approx(2 + 12.706, abs=1e-3))


def test_joint_effects(results):
    r, own = results, effects(results)
    for j, (steps, mask, k) in zip(own, (("single:0", 1, 4), ("single:1", 2, 6), ("set:0,1", 3, 18)), strict=False):
        r.conditions.loc[j, ["steps", "step_mask"]] = [steps, mask]
        r.cls[:, j] = 1
        r.cls[:k, j] = 0
    (chart,) = drawn(r)
    ((tip, _),) = cells(chart.pictures[0])
    assert "both 90.0 %, the sum of the parts 50.0 %, n = 20" in tip
    assert "interaction +40.0 points, 95 % interval " in tip
    label = " ".join(re.findall(r'text-anchor="end">([^<]+)<', chart.pictures[0].svg))
    assert label == "layer 0, thought 0 with layer 0, thought 1"
    # On a phone of 390 px, figures of this width need no scrolling, and nothing is cut at their edges.
    assert chart.pictures[0].width <= figures.WIDE
    middles = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([^<]+)</text>', chart.pictures[0].svg)
    assert "interaction in points of the donor's answer" in [html.unescape(text) for _, text in middles]
    for x, text in middles:
        half = figures.text_width(html.unescape(text)) / 2
        assert half <= float(x) <= chart.pictures[0].width - half


def test_a_deep_map_has_every_label_inside():
    rows, columns = [f"{n} from L{n + 1}" for n in range(32)], [str(n) for n in range(1, 7)]
    map_cells = {(i, j): figures.Cell(50.0, "tip", "50") for i in range(32) for j in range(6)}
    picture = figures.heat_map("x", "clean answer", rows, columns, map_cells, "first N thoughts patched")
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', picture.svg).groups())
    shown = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="end">([^<]+)</text>', picture.svg)
    assert [text for _, _, text in shown] == rows
    for x, y, text in shown:
        assert float(x) - figures.text_width(text) >= 0
        assert 0 < float(y) < height
    assert height > 32 * figures.ROW
    assert width >= figures.NARROW
