"""The report as files, the command, exports and the probe example."""

from __future__ import annotations

import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import h5py
import make_results
import numpy as np
import pandas as pd
import pytest

from latentpatch import analyse, cli, export, known, load_results

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))


def test_page_is_self_contained_and_well_formed(report_dir):
    page = (report_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("</script>") == page.count("<script")
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for reference in set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'<use href="#([^"]+)"', page)):
        assert reference in ids, reference

    class Check(HTMLParser):
        def __init__(self):
            super().__init__()
            self.stack = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "link", "br", "input", "image", "path", "use", "rect"):
                self.stack.append(tag)

        def handle_endtag(self, tag):
            if tag in ("path", "use", "rect", "image"):
                return
            assert self.stack.pop() == tag

    check = Check()
    check.feed(page)
    assert check.stack == []


def test_every_share_carries_its_denominator(report_dir):
    page = (report_dir / "report.html").read_text(encoding="utf-8")
    tips = re.findall(r'data-tip="([^"]+)"', page)
    assert len(tips) > 300
    assert all("n = " in tip or "not run" in tip for tip in tips)
    assert all("95 % interval" in tip for tip in tips)


def test_markdown_and_files(report_dir):
    text = (report_dir / "report.md").read_text(encoding="utf-8")
    pictures = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert len(pictures) > 10
    page = (report_dir / "report.html").read_text(encoding="utf-8")
    assert len(list((report_dir / "figures").glob("*.svg"))) == page.count("<svg ") - 1  # the summary repeats one
    assert all((report_dir / p).stat().st_size > 1000 for p in pictures)
    assert "| L2 first:5 | 60 | 45 (75.0 %, 62.8–84.2) |" in text
    tests = pd.read_csv(next((report_dir / "tables").glob("*-tests.csv")))
    assert {"p", "holm", "bh", "n", "units"} <= set(tests.columns)
    svg = next((report_dir / "figures").glob("*.svg")).read_text()
    assert svg.startswith("<?xml")
    assert "data-tip" not in svg


def test_families_of_conditions_known_beforehand(tmp_path):
    path = tmp_path / "x.results.h5"
    make_results.write_results(path, make_results.Plan(pairs=20, layers=2, steps=3, step_sets=("single",), metrics=False))
    told = (
        "dead, 1 condition: no later position reads what is changed\n"
        "equal, 7 conditions: the two name the same replacements or edges in different words\n"
    )
    with h5py.File(path, "r+") as file:
        names = list(file["conditions/name"].asstr()[()])
        file["conditions/dead"][...] = [int(i == 2) for i in range(len(names))]
        file["conditions/same_as"][...] = [1 if i == 3 else i for i in range(len(names))]
        file["rows/class"][:, 3] = file["rows/class"][:, 1]
    found = known.known(load_results(path))
    assert found.sentences == [
        "1 condition is dead, so it can change nothing: no later position reads what is changed.",
        "1 condition is equal to an earlier one, so its rows are copied: the two do the same.",
    ]
    with h5py.File(path, "r+") as file:
        file["provenance"].attrs["known_beforehand"] = told
    out = tmp_path / "report"
    assert cli.main([str(path), "-o", str(out), "--quiet", "--resamples", "200"]) == 0
    page, text = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    for sentence in (
        found.sentences[0],
        "7 conditions are each equal to an earlier one, so their rows are copied: "
        "the two name the same replacements or edges in different words.",
    ):
        assert f"<li>{sentence}</li>" in page
        assert f"- {sentence}" in text
    folded = page[page.index("These conditions by name") :]
    assert f"<b>Dead</b> (1): <code>{names[2]}</code>." in folded
    assert f"<code>{names[3]} = {names[1]}</code>" in folded


def test_every_family_of_the_program_has_words(planted):
    source = (Path(__file__).parents[2] / "src/patch/condition_effective.c").read_text(encoding="utf-8")
    found = re.findall(r'\[LP_FAMILY_\w+\] =\s*"([^":]+): ([^"]+)"', source)
    assert len(found) > 5
    assert {kind for kind, _ in found} == set(known.SAYS)
    r = load_results(planted[0])
    lines = [*(f"{kind}, 2 conditions: {reason}" for kind, reason in found), "odd, 1 condition: x"]
    r.provenance["known_beforehand"] = "\n".join(lines)
    told = known.known(r).sentences
    assert len(told) == len(found) + 1
    assert told[-1] == "1 condition is known beforehand (odd): x."


def test_latex_table(report_dir):
    tables = sorted((report_dir / "tables").glob("*.tex"))
    assert tables
    text = "\n".join(t.read_text(encoding="utf-8") for t in tables)
    assert r"L2 & first:5 & 60 &" in text
    assert r"75.0 {\scriptsize [62.8, 84.2]}" in text
    assert text.isascii()
    body = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {line.count(" & ") for line in body} == {8}
    assert not re.search(
        r"(?<!\\)[%_#](?!.*usepackage)", "\n".join(line for line in body if not line.startswith("Layer"))
    )
    assert export.tex_escape("a_b & 5 % {x}\\ → ~^") == (
        r"a\_b \& 5 \% \{x\}\textbackslash{} $\to$ \textasciitilde{}\textasciicircum{}"
    )


def test_report_is_reproducible(small, tmp_path):
    pages = []
    for name in ("one", "two"):
        assert cli.main([str(small[0]), "-o", str(tmp_path / name), "--quiet", "--resamples", "300"]) == 0
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        pages.append(re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page))
    assert pages[0] == pages[1]


def test_long_texts_are_cut_and_said_so(tmp_path, monkeypatch):
    from latentpatch import report

    plan = make_results.Plan(gibberish=0.5, long_gibberish=True, metrics=False, layers=1)
    make_results.write_results(tmp_path / "x.results.h5", plan)
    r = load_results(tmp_path / "x.results.h5")
    monkeypatch.setattr(report, "TEXT_BUDGET_BYTES", 4000)
    data, note = report._browser_data(r)
    assert "are cut in this page" in note
    monkeypatch.undo()
    whole, note = report._browser_data(r)
    assert note == ""
    assert len(data) < len(whole)


def test_two_files_and_original(small, original_dir, tmp_path):
    page = tmp_path / "out" / "report.html"
    arguments = [str(small[0]), "--original", str(original_dir), "-o", str(tmp_path / "out"), "--quiet"]
    assert cli.main([*arguments, "--resamples", "200"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "The published report of 2025-10-20" in text
    assert (tmp_path / "out" / "tables" / "published-recomputed.csv").is_file()
    assert text.count('<script type="application/octet-stream"') == 3


def test_command_errors(tmp_path, capsys, planted):
    assert cli.main([str(tmp_path / "no.results.h5")]) == 1
    place = f"{tmp_path / 'no.results.h5'}: file"
    assert capsys.readouterr().err == f"latentpatch-report: {place}: expected an HDF5 file, found no such file\n"
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        cli.main([str(planted[0]), "--resamples", "10"])
    assert cli.main(["--original", str(tmp_path), "-o", str(tmp_path / "o")]) == 1
    assert "expected gpt2/ and llama/" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_long_csv_and_parquet(planted, tmp_path):
    r = load_results(planted[0])
    csv = pd.read_csv(export.write_long(r, tmp_path / "x.csv"), keep_default_na=False, na_values=[""])
    assert len(csv) == 60 * len(r.conditions)
    assert (csv["class"] == "clean_answer").sum() == (r.cls[r.included] == 0).sum()
    pytest.importorskip("pyarrow")
    parquet = pd.read_parquet(export.write_long(r, tmp_path / "x.parquet"))
    assert parquet.columns.tolist() == csv.columns.tolist()
    assert parquet["text"].astype(str).tolist() == csv["text"].tolist()
    with pytest.raises(ValueError, match="expected a name ending in"):
        export.write_long(r, tmp_path / "x.xlsx")


def test_wandb_export_is_offline(planted, tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=lambda data: calls.append(data), finish=lambda: calls.append("finish"))

    def init(**arguments):
        calls.append(arguments)
        return run

    fake = types.SimpleNamespace(init=init, Table=lambda dataframe: len(dataframe))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    a = analyse.analyse(load_results(planted[0]), 0)
    export.write_wandb(a, tmp_path)
    assert calls[0]["mode"] == "offline"
    assert calls[-1] == "finish"
    assert len(calls) == 3 + int(a.table["in_family"].sum())
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RuntimeError, match=r"pip install 'latentpatch\[wandb\]'"):
        export.write_wandb(a, tmp_path)


def test_probe_example_finds_the_planted_address(store):
    pytest.importorskip("sklearn")
    import probe

    table = probe.probe_store(str(store))
    best = table.loc[table["r2"].idxmax()]
    assert (best["layer"], best["step"]) == (2, 3)
    assert best["r2"] > 0.9
    assert np.all(table.drop(index=table["r2"].idxmax())["r2"] < 0.3)
    assert len(probe.probe_store(str(store), "latent_raw")) == 4


def test_a_sweep_of_no_pairs_says_so(small, tmp_path):
    path = tmp_path / "empty.results.h5"
    make_results.write_results(path, make_results.Plan(pairs=0, excluded=5, layers=2, steps=2))
    out = tmp_path / "report"
    assert cli.main([str(path), str(small[0]), "-o", str(out), "--quiet", "--resamples", "200", "--long", "csv"]) == 0
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "- **warning**: NOT TESTED: no pair of 5 passes the filter both-correct." in text
    assert "## Comparison" not in text
    assert "NOT TESTED: no pair of 5" in (out / "report.html").read_text(encoding="utf-8")
