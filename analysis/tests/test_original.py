"""Import of the published per-pair results (outside data)."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from latentpatch import LayoutError, analyse, original


def test_recomputed_tables_are_exact(original_dir):
    with open(original_dir / "recomputed_tables.csv", newline="") as file:
        expected = list(csv.reader(file))
    table = original.recomputed_tables(original_dir)
    found = [list(table.columns), *[[str(v) for v in row] for row in table.itertuples(index=False)]]
    assert found == expected


def test_report_tables_come_from_the_same_counts(original_dir):
    table = original.recomputed_tables(original_dir)
    for r, model, blocks in zip(
        original.load_original(original_dir), ("gpt2", "llama"), ((3, 6, 11), (4, 8, 14)), strict=True
    ):
        a = analyse.analyse(r, 0)
        mine = a.table.set_index(["layer", "n_steps", "donor"])
        for line in table[table["model"] == model].itertuples():
            n = int(line.result_file.split("_")[-1 if "all" not in line.result_file else 1][0])
            if model == "llama" and line.result_file == "both_correct_1tok":
                key = ({"early": 3, "middle": 6, "late": 11}[line.layer], 1, "clean (other blocks)")
            else:
                key = (dict(zip(original.DEPTHS, blocks, strict=True))[line.layer], n, "clean")
            row = mine.loc[key]
            assert (row["n"], row["clean_answer"], row["corrupted_answer"], row["other"], row["gibberish"]) == (
                line.n,
                line.clean,
                line.corrupted,
                line.other,
                line.gibberish,
            )


def test_differences_from_the_published_report(original_dir):
    found = original.published_differences(original_dir)
    assert found["what"].tolist() == [
        "both_correct_1tok, middle",
        "ablation_3tok, late",
        "baseline accuracy, corrupted",
    ]
    assert found["recomputed"].tolist() == ["0.0 / 94.7 / 5.3 / 0.0", "21.1 / 26.3 / 47.4 / 5.3", "46.67"]


def test_claims(original_dir):
    verdicts = {c.claim: c for c in original.claims(original_dir)}
    dominance = next(c for claim, c in verdicts.items() if "input dominance" in claim)
    assert dominance.verdict == "not shown at this n"
    assert "Fisher p = 0.384" in dominance.numbers
    wins = verdicts["LLaMA: clean wins at N = 5"]
    assert wins.verdict == "false"
    assert "6 clean against 11 corrupted of 23" in wins.numbers
    plateau = next(c for claim, c in verdicts.items() if "plateau" in claim)
    assert "early 19, middle 21, late 23 of 23" in plateau.numbers
    assert next(c for claim, c in verdicts.items() if "breaks" in claim).verdict == "an artefact of the script"


def test_broken_import(original_dir, tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(original_dir, copy)
    path = copy / "llama" / "ablation_3tok.json"
    data = json.loads(path.read_text())
    data["valid_results"][2]["patched"]["late"]["classification"] = "maybe"
    path.write_text(json.dumps(data))
    with pytest.raises(LayoutError, match=r"valid_results\[2\]\.patched\.late\.classification: expected clean_answer"):
        original.recomputed_tables(copy)
    path.write_text("{")
    with pytest.raises(LayoutError, match="expected JSON"):
        original.load_original(copy)
    path.unlink()
    with pytest.raises(LayoutError, match="no such file"):
        original.load_original(copy)
