"""The logit lens: read whole, refused where broken, drawn in the report."""

from __future__ import annotations

import re
import shutil

import h5py
import numpy as np
import pytest

import latentpatch as lp
from latentpatch import report

POSITIONS, LAYERS, TOP = 7, 3, 2
TEXTS = {3: " 45", 7: "é", 11: "\\n", 500: "<bot>"}


def add_lens(path, planted_token: int = 3) -> None:
    """Everywhere token 7 at 25 % first, then 11; at layer 1 of thought 2 the planted one at 50 %."""
    with h5py.File(path, "r+") as f:
        included = f["/pairs/included"][:].astype(bool)
        shape = (len(included), POSITIONS, LAYERS, TOP)
        for run in ("clean", "corrupted"):
            tokens = np.empty(shape, np.int32)
            tokens[...] = (7, 11)
            values = np.empty(shape, np.float32)
            values[...] = np.log((0.25, 0.125))
            tokens[:, 3, 1] = (planted_token, 500)
            values[:, 3, 1] = np.log((0.5, 0.25))
            tokens[~included], values[~included] = -1, np.nan
            f[f"/readout/logit_lens/{run}/token"] = tokens
            f[f"/readout/logit_lens/{run}/log_probability"] = values
        f["/readout/logit_lens/token_id"] = np.array(list(TEXTS), np.int32)
        f["/readout/logit_lens/token_text"] = np.array([t.encode() for t in TEXTS.values()])


@pytest.fixture
def with_lens(tmp_path, planted):
    path = tmp_path / "lens.results.h5"
    shutil.copy(planted[0], path)
    add_lens(path)
    return path


def test_read(with_lens, planted):
    assert lp.load(planted[0]).lens is None
    r = lp.load(with_lens)
    assert r.lens.texts == TEXTS
    assert set(r.lens.tokens) == {"clean", "corrupted"}
    assert r.lens.tokens["clean"].shape == (len(r.pairs), POSITIONS, LAYERS, TOP)
    assert (r.lens.tokens["corrupted"][r.included, 3, 1, 0] == 3).all()
    first = np.exp(r.lens.log_probability["clean"][r.included, 0, 0])
    np.testing.assert_allclose(first, [[0.25, 0.125]] * len(r.included))


def fill(dataset, value) -> None:
    dataset[...] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lens: lens.__delitem__("corrupted/token"), "/readout/logit_lens/corrupted/token: expected"),
        (lambda lens: fill(lens["clean/token"], 12), "found 12"),
        (lambda lens: fill(lens["clean/log_probability"], 1), "logarithms of probabilities"),
        (lambda lens: fill(lens["token_id"], 3), "4 different ids"),
    ],
)
def test_broken(with_lens, change, message):
    with h5py.File(with_lens, "r+") as f:
        assert f["/readout/logit_lens/clean/token"].shape == (64, POSITIONS, LAYERS, TOP)
        change(f["/readout/logit_lens"])
    with pytest.raises(lp.LayoutError, match=re.escape(message)):
        lp.load(with_lens)


def test_report(with_lens, tmp_path):
    r = lp.load(with_lens)
    page = report.build([r], tmp_path / "out", resamples=20).read_text(encoding="utf-8")
    n = len(r.included)
    tips = [t for t in re.findall(r'data-tip="([^"]+)"', page) if "most often first" in t]
    assert len(tips) == 2 * POSITIONS * LAYERS
    planted = [t for t in tips if "“ 45”" in t]
    assert len(planted) == 2
    for tip in planted:
        assert tip.startswith(f"thought 2, layer 1, n = {n}\n")
        assert tip.endswith("mean probability of the first of these: 50 %")
    for run in ("clean", "corrupted"):
        assert (tmp_path / "out" / "figures" / f"f0-lens-{run}.svg").exists()
    assert "Logit lens of the unpatched runs" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
