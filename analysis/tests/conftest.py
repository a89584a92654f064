"""Fixtures: synthetic files with planted effects, outside data, a browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import make_results
import pytest

from latentpatch import cli


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """A whole results file with the default planted effects, and the plan it was made from."""
    path = tmp_path_factory.mktemp("planted") / "planted.results.h5"
    return path, make_results.write_results(path, make_results.Plan(directions=("denoise", "noise"), gibberish=0.05))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A small whole results file, for tests that make a report of it."""
    path = tmp_path_factory.mktemp("small") / "small.results.h5"
    plan = make_results.Plan(pairs=20, layers=2, steps=3, step_sets=("first",), metrics=False)
    return path, make_results.write_results(path, plan)


@pytest.fixture(scope="session")
def report_dir(planted, tmp_path_factory):
    """The report of the planted file."""
    out = tmp_path_factory.mktemp("report")
    assert cli.main([str(planted[0]), "-o", str(out), "--quiet", "--resamples", "300"]) == 0
    return out


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "planted.store.h5"
    make_results.write_store(path)
    return path


@pytest.fixture(scope="session")
def original_dir() -> Path:
    """The published per-pair results, outside the repository."""
    root = Path(os.environ.get("LATENTPATCH_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    folder = root / "cot_exploration" / "results"
    if not folder.is_dir():
        pytest.skip("skipped: no outside data")
    return folder


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: the system's, else the one that playwright brought."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    with api.sync_playwright() as p:
        try:
            running = p.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield running
        running.close()
