"""The notebook analysis/examples/tour.ipynb runs, cell after cell, with two pairs."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import matplotlib as mpl
import pytest

import latentpatch as lp

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "analysis" / "examples" / "tour.ipynb"


def shown(source: str, names: dict[str, object]) -> object:
    """Runs a cell and gives the value of its last expression, which a notebook shows."""
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(TOUR), "exec"), names)
    return eval(compile(last, str(TOUR), "eval"), names) if last else None


@pytest.fixture(scope="module")
def toured():
    """The names after the last cell, and what each code cell showed."""
    cells = [cell for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch, mpl.rc_context({"backend": "agg"}):
        patch.setenv("LATENTPATCH", os.environ.get("LATENTPATCH", str(ROOT / "build" / "latentpatch")))
        patch.chdir(TOUR.parent)
        values = [shown("".join(cell["source"]).replace("limit=40", "limit=2"), names) for cell in cells]
    return cells, names, values


def test_the_tour_ends_with_a_figure_and_a_page(toured):
    _, names, values = toured
    assert (names["out"] / "tour.pdf").read_bytes().startswith(b"%PDF")
    assert names["page"].is_file()
    results = next(value for value in values if isinstance(value, lp.Results))
    assert len(results.included) == 2
    assert "<svg" in results._repr_html_()


def test_the_tour_shows_what_was_computed(toured):
    _, names, values = toured
    assert names["shares"].shape == (3, 6)
    store = lp.load(names["out"] / names["job"].to_dict()["store"]["file"])
    with store:
        clean, corrupted = (store.activations(run=run) for run in ("clean", "corrupted"))
    expected = (((clean - corrupted) ** 2).sum(-1) / (clean**2).sum(-1)).mean(0) ** 0.5
    distances = [value for value in values if getattr(value, "shape", None) == (3, 6)][1]
    assert abs(distances.to_numpy() - expected.round(2)).max() < 0.011


def test_the_tour_is_kept_without_outputs(toured):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in toured[0])
