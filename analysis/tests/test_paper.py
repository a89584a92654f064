"""The figure for a paper: sizes, fonts, and that it draws the numbers of the file."""

from __future__ import annotations

import re

import make_results
import numpy as np
import pytest

from latentpatch import load_results, paper


@pytest.fixture(scope="module")
def panels(small):
    return [paper.panel(load_results(small[0]), 200)]


def test_the_command_writes_both_widths_with_their_fonts(small, tmp_path, capsys):
    name = tmp_path / "made" / "figure"
    assert paper.main([str(small[0]), "-o", str(name), "--resamples", "200"]) == 0
    paths = [tmp_path / "made" / f"figure-{width}.{kind}" for width in ("single", "double") for kind in ("pdf", "svg")]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    for path, inches in zip(paths, (3.35, 3.35, 6.95, 6.95), strict=True):
        if path.suffix == ".pdf":
            data = path.read_bytes()
            box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", data)
            assert float(box[1]) == pytest.approx(72 * inches, abs=0.5)
            fonts = len(re.findall(rb"/Type /FontDescriptor", data))
            assert fonts == len(re.findall(rb"/FontFile2 ", data)) >= 1
        else:
            text = path.read_text(encoding="utf-8")
            assert float(re.search(r'width="([\d.]+)pt"', text)[1]) == pytest.approx(72 * inches, abs=0.5)
            assert "<text" not in text
            assert "<image" not in text.split("<defs", 1)[0]


def test_figures_of_others_stay(small, tmp_path, capsys):
    """The command replaces what it made. Another file stays, one of its own that somebody has changed too, and then nothing
    is written."""
    name = tmp_path / "fig"
    words = [str(small[0]), "-o", str(name), "--width", "single", "--resamples", "200"]
    assert paper.main(words) == 0
    (tmp_path / "fig-single.pdf").unlink()
    made = (tmp_path / "fig-single.svg").read_bytes()
    earlier = paper._sealed(b"of other results\n", "svg")
    for there, code in (
        (made, 0),
        (earlier, 0),
        (made.replace(b"<svg", b"<svg id='mine'"), 1),
        (b"latentpatch-figure", 1),
    ):
        (tmp_path / "fig-single.svg").write_bytes(there)
        assert paper.main(words) == code
        assert (tmp_path / "fig-single.svg").read_bytes() == (there if code else made)
        assert (tmp_path / "fig-single.pdf").exists() == (code == 0)
        (tmp_path / "fig-single.pdf").unlink(missing_ok=True)
        said = capsys.readouterr().err
        assert not code or "fig-single.svg: exists already with other contents, and is not replaced" in said


def test_it_draws_the_numbers_of_the_file(small, panels):
    _, plan = small
    figure = paper.draw(panels, "double")
    map_axes, line_axes = figure.axes[:2]
    shown = map_axes.collections[0].get_array().reshape(plan.layers, plan.steps)
    expected = [[100 * round(plan.effect(y, n) * 20) / 20 for n in (1, 2, 3)] for y in range(plan.layers)]
    expected[-1][2] = expected[-1][1]  # the last step of the last layer changes nothing
    assert np.asarray(shown) == pytest.approx(np.array(expected))
    line = line_axes.get_lines()[0]
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata().tolist() == pytest.approx(expected[-1])


def test_n_star_is_outlined(panels):
    thresholds = panels[0].analysis.thresholds
    figure = paper.draw(panels, "single")
    assert len(figure.axes[0].patches) == int(thresholds["reached"].sum())


def test_deep_models_keep_a_label_for_every_readable_row(tmp_path):
    path = tmp_path / "deep.results.h5"
    plan = make_results.Plan(pairs=6, excluded=0, layers=32, steps=2, step_sets=("first",), controls=(), metrics=False)
    make_results.write_results(path, plan)
    figure = paper.draw([paper.panel(load_results(path), 200)], "single")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [str(layer) for layer in range(32)]
    assert figure.get_size_inches()[1] >= 32 * paper.ROW


def test_nothing_to_draw_is_said(tmp_path, capsys):
    path = tmp_path / "one.results.h5"
    make_results.write_results(
        path, make_results.Plan(pairs=4, layers=1, steps=1, step_sets=("single",), metrics=False)
    )
    assert paper.main([str(path), "-o", str(tmp_path / "x")]) == 1
    message = "expected two or more conditions of one effect, found none that was run"
    assert capsys.readouterr().err == f"latentpatch-figure: {path}: /conditions: {message}\n"
    assert not list(tmp_path.glob("x*"))
