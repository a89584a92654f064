"""Files of others are not replaced, inputs are not overwritten, and what is written is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from latentpatch import cli, job, output


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_one_file(tmp_path):
    place = tmp_path / "a.txt"
    output.write(place, "one")
    output.write(place, b"one")
    with pytest.raises(output.OutputError, match=r"a\.txt: exists already with other contents, and is not replaced"):
        output.write(place, "two")
    assert place.read_text() == "one"
    output.write(place, "two", own=True)
    assert everything(tmp_path) == {"a.txt": b"two"}
    with pytest.raises(output.OutputError, match="expected a file, found a folder"):
        output.write(tmp_path, "x", own=True)
    with pytest.raises(output.OutputError, match="cannot write: No such file or directory"):
        output.write(tmp_path / "no" / "a.txt", "x")
    (tmp_path / "link").symlink_to("a.txt")
    output.write(tmp_path / "link", "three", own=True)
    assert (tmp_path / "link").is_symlink()
    assert place.read_text() == "three"


def test_no_second_names(tmp_path, monkeypatch):
    """A file system without hard links, as many of clusters' are."""

    def refuse(*_names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    output.write(tmp_path / "a", "one")
    with pytest.raises(output.OutputError, match="exists already"):
        output.write(tmp_path / "a", "two")
    assert everything(tmp_path) == {"a": b"one"}


def test_a_report_replaces_itself_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    output.write_folder(out, {"a.html": "1", "t/b.csv": "2"})
    output.write_folder(out, {"a.html": "3"})
    output.write_folder(out, {"t/b.csv": "4"})
    (out / "t" / "b.csv").write_text("a note of mine")
    before = everything(out)
    with pytest.raises(output.OutputError, match=r"t/b.csv: is no file of an earlier report, and is not replaced"):
        output.write_folder(out, {"a.html": "5", "t/b.csv": "6"})
    assert everything(out) == before
    (out / output.MANIFEST).write_text(json.dumps({"format": "other"}))
    with pytest.raises(output.OutputError, match=r"expected the list of a report's files .*, found another file"):
        output.write_folder(out, {"a.html": "5"})


def test_an_interrupted_report_is_made_again(tmp_path, monkeypatch):
    output.write_folder(tmp_path, {"a": "1", "b": "1"})
    real = output.write
    with monkeypatch.context() as patch:

        def fail_at_b(path, *rest, **how):
            if Path(path).name == "b":
                raise KeyboardInterrupt
            return real(path, *rest, **how)

        patch.setattr(output, "write", fail_at_b)
        with pytest.raises(KeyboardInterrupt):
            output.write_folder(tmp_path, {"a": "2", "b": "2", "c": "2"})
    assert (tmp_path / "a").read_text() == "2"
    output.write_folder(tmp_path, {"a": "3", "b": "3", "c": "3"})
    assert {p.read_text() for p in (tmp_path / n for n in "abc")} == {"3"}


def test_inputs_are_not_outputs(small, tmp_path, capsys):
    results = tmp_path / "report.html"
    results.write_bytes(Path(small[0]).read_bytes())
    before = everything(tmp_path)
    assert cli.main([str(results), "-o", str(tmp_path), "--quiet", "--resamples", "200"]) == 1
    assert "report.html: expected a file of its own, found the input" in capsys.readouterr().err
    assert everything(tmp_path) == before


def test_jobs_of_others_stay(tmp_path):
    place = tmp_path / "job.json"
    place.write_text("{}")
    made = job.Job(model={"base": "m"}, pairs="p.json")
    with pytest.raises(output.OutputError, match=r"job\.json: exists already with other contents"):
        made.write(place)
    made.write(place, replace=True)
    made.pairs.file = "q.json"
    made.write(place)
    assert json.loads(place.read_text())["pairs"]["file"] == "q.json"
