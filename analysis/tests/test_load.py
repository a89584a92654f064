"""The readers: whole files, broken files, incomplete files."""

from __future__ import annotations

import os
import shutil

import h5py
import make_results
import numpy as np
import pytest

import latentpatch as lp
from latentpatch import analyse


def test_whole_file(planted):
    path, plan = planted
    r = lp.load(path)
    assert isinstance(r, lp.Results)
    assert len(r.included) == plan.pairs
    assert r.cls.shape == (plan.pairs + plan.excluded, len(make_results.conditions(plan)))
    assert r.pairs["clean_question"][0].endswith('Ünïcode <b>&amp;</b> "quotes" </script>')
    assert r.conditions["step_mask"].max() == 0b111111
    assert set(r.metrics) == {"logit_diff", "kl"}
    assert r.job["protocol"] == "codi"
    assert r.warnings == []


def test_long_frame_agrees_with_the_file(planted):
    path, _ = planted
    r = lp.load(path)
    frame = r.frame()
    assert list(frame.columns[:28]) == [
        *("pair", "source", "condition", "role", "direction", "phase", "site", "layer", "layers", "head", "steps"),
        *("n_steps", "index", "donor", "vector", "draw", "from_site", "from_layer", "from_step", "operation", "factor"),
        *("stop_after", "defects", "dead", "class", "number", "changed", "text"),
    ]
    assert len(frame) == len(r.included) * len(r.conditions)
    line = frame.iloc[7 * len(r.conditions) + 100]
    i, j = r.included[7], 100
    assert (line["pair"], line["condition"]) == (r.pairs["id"][i], r.conditions["name"][j])
    assert line["text"] == r.answers[r.answer[i, j]]
    assert line["class"] == ("clean_answer", "corrupted_answer", "other", "gibberish")[r.cls[i, j]]


def test_rows_not_run(planted, tmp_path):
    """Rows of included pairs without the position of a condition are in no count and in no test of it."""
    path = tmp_path / "short.results.h5"
    shutil.copy(planted[0], path)
    whole = lp.load(planted[0])
    table = analyse.class_table(whole)
    j = int(table["index"][table["in_family"]].iloc[0])
    out = whole.included[:3]
    with h5py.File(path, "r+") as file:
        for i in out:
            file["/counts"][j, file["/rows/class"][i, j]] -= 1
            file["/rows/class"][i, j], file["/rows/answer"][i, j], file["/rows/number"][i, j] = 255, -1, np.nan
    short = lp.load(path)
    assert any("3 rows were not run" in text for text in short.warnings)
    table = analyse.class_table(short)
    assert table["n"][j] == len(whole.included) - 3
    cluster = np.arange(len(short.included))
    tests = analyse.family_tests(short, table, [], cluster)
    own = tests[(tests["index"] == j) & (tests["test"] == "majority")].iloc[0]
    event = short.cls[short.included, j] == analyse.donor_class(table["direction"][j])
    assert (own["n"], own["units"], own["k"]) == (len(cluster) - 3, len(cluster) - 3, event.sum())


def test_xarray(planted):
    pytest.importorskip("xarray")
    data = lp.load(planted[0]).xarray()
    assert (data["class"].sel(pair="pair-0063") == 255).all()
    assert data.sizes["condition"] == data["layer"].sizes["condition"]


def _drop(name):
    def change(file):
        del file[name]

    return change


def _set(name, index, value):
    def change(file):
        file[name][index] = value

    return change


def _replace(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def _claim(name, size):
    """A dataset of so many values of which the file holds none."""

    def change(file):
        del file[name]
        file.create_dataset(name, (size,), "f8", chunks=(1000,))

    return change


def _attribute(name, key, value):
    def change(file):
        file[name].attrs[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("/rows/class"), "/rows/class: expected to be there, found nothing"),
        (_drop("/pairs/source"), "/pairs/source: expected to be there, found nothing"),
        (_drop("/counts"), "/counts: expected to be there"),
        (_set("/rows/class", (3, 2), 255), "pair pair-0003, condition denoise/shuffled"),
        (_set("/rows/class", (3, 2), 255), "the file is incomplete"),
        (_set("/rows/class", (3, 2), 9), "expected 0..3 or 255, found 9"),
        (_set("/rows/answer", (3, 2), 10**6), "expected 0.."),
        (_set("/counts", (5, 0), 61), "as counted from /rows/class, found [61,"),
        (
            _replace("/rows/number", np.zeros((2, 2))),
            "expected shape (64, 218) = pairs x conditions, found shape (2, 2)",
        ),
        (
            _attribute("/", "version", np.int32(1)),
            "/ attribute version: expected 2, found 1",
        ),
        (
            _replace("/pairs/included", np.ones(63, np.uint8)),
            "/pairs/included: expected 64 entries as in /pairs/id, found 63",
        ),
        (
            _set("/conditions/name", 4, b"unpatched/denoise"),
            "expected unique names, found 'unpatched/denoise' more than once",
        ),
        (
            _set("/conditions/role", 4, b"effekt"),
            "/conditions/role[4]: expected effect or control or unpatched, found 'effekt'",
        ),
        (_set("/conditions/same_as", 4, 7), "/conditions/same_as[4]: expected an index 0..4, found 7"),
        (_attribute("/rows/class", "classes", "clean_answer,other"), "/rows/class attribute classes"),
        (_attribute("/provenance", "job", "{"), "/provenance attribute job: expected JSON"),
        (_attribute("/provenance", "job", "[" * 100_000), "/provenance attribute job: expected JSON"),
        (_attribute("/provenance", "job", "[]"), "/provenance attribute job: expected a JSON object"),
        (_set("/pairs/id", 1, b"\xff\xfe"), "/pairs/id[1]: expected UTF-8"),
        (
            _replace("/pairs/clean_correct", np.full(64, b"yes")),
            "/pairs/clean_correct: expected numbers, found values of type |S3",
        ),
        (
            _claim("/pairs/clean_answer", 2**40),
            "/pairs/clean_answer: expected at most 0 bytes of values in 0 bytes of the file",
        ),
        (_replace("/counts", h5py.ExternalLink("none.h5", "/")), "file: expected a sound file of this layout, found "),
        (_drop("/rows"), "/: expected the groups of a results file"),
    ],
)
def test_broken_files(planted, tmp_path, change, message):
    path = tmp_path / "broken.results.h5"
    shutil.copy(planted[0], path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(lp.LayoutError) as caught:
        lp.load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_unreadable_files(planted, tmp_path):
    with pytest.raises(lp.LayoutError, match="no such file"):
        lp.load(tmp_path / "none.results.h5")
    cut = tmp_path / "cut.results.h5"
    cut.write_bytes(planted[0].read_bytes()[:5000])
    with pytest.raises(lp.LayoutError, match="expected a readable HDF5 file"):
        lp.load(cut)
    with pytest.raises(lp.LayoutError, match="the sweep has not ended"):
        lp.load_results(tmp_path / "x.results.h5.partial")
    os.mkfifo(tmp_path / "pipe.h5")
    for name in ("pipe.h5", "."):
        with pytest.raises(lp.LayoutError, match="expected an HDF5 file, found a folder, a device or a pipe"):
            lp.load(tmp_path / name)
    empty = tmp_path / "empty.h5"
    h5py.File(empty, "w").close()
    with pytest.raises(lp.LayoutError, match="expected the groups of a results file"):
        lp.load(empty)


def test_copies_that_differ_are_reported(planted, tmp_path):
    path = tmp_path / "copy.results.h5"
    shutil.copy(planted[0], path)
    with h5py.File(path, "r+") as file:
        j = int(np.flatnonzero(file["/conditions/same_as"][:] != np.arange(len(file["/conditions/same_as"])))[0])
        old = int(file["/rows/class"][0, j])
        file["/rows/class"][0, j] = 2
        file["/counts"][j, old] -= 1
        file["/counts"][j, 2] += 1
    assert "is marked as a copy of" in lp.load(path).warnings[0]


def test_store(store):
    with lp.load(store) as s:
        assert isinstance(s, lp.Store)
        assert len(s.pairs) == 38  # two pairs of 40 are not journalled
        assert s.sites() == ["latent_in", "latent_raw", "resid_post", "resid_pre"]
        assert s.activations("resid_post", "clean").shape == (38, 3, 4, 12)
        assert s.activations("resid_post", "clean", layer=2, step=3).shape == (38, 12)
        assert s.activations("latent_raw", "corrupted", step=-1).shape == (38, 12)
        assert s.layers("resid_pre") == [0]
        with pytest.raises(lp.LayoutError, match=r"expected a layer of \[0\], found 2"):
            s.activations("resid_pre", layer=2)
        assert s.column("number")[1] == 13.0


@pytest.mark.parametrize("version", [1, 4])
def test_store_of_another_version(store, tmp_path, version):
    path = shutil.copy(store, tmp_path / "other.store.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = version
    with pytest.raises(lp.LayoutError, match=rf"/ attribute version: expected 2 or 3, found {version}"):
        lp.load(path)
