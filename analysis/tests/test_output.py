"""Files of others are not replaced, inputs are not overwritten, and what is written is whole."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latentpatch import agreement, cli, command, job, output


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
    with pytest.raises(output.OutputError, match=r"t/b.csv: is not a file of an earlier report, and is not replaced"):
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


def test_what_is_no_folder_or_file_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "note").write_text("mine")
    for name in ("pipe", "loop", "note"):
        with pytest.raises(
            output.OutputError, match=f"/{name}: expected a folder, found a file, a device, a pipe or a link"
        ):
            output.write_folder(tmp_path / name / "out", {"a": "1"})
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / output.MANIFEST)
    with pytest.raises(
        output.OutputError, match=r"latentpatch-report\.json: expected a file, found a folder, a device, a pipe"
    ):
        output.write_folder(out, {"a": "1"})
    (out / output.MANIFEST).unlink()
    (out / output.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(output.OutputError, match="expected the list of a report's files"):
        output.write_folder(out, {"a": "1"})
    assert [p.name for p in out.iterdir()] == [output.MANIFEST]


def test_a_folder_has_one_writer(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(output.OutputError, match="another process writes a report here"):
        output.write_folder(tmp_path, {"a": "1"})
    os.close(handle)
    output.write_folder(tmp_path, {"a": "1"})


def test_jobs_that_json_cannot_hold(tmp_path):
    for comment in (float("nan"), "\ud800"):
        with pytest.raises(job.JobError, match="expected values that JSON can hold"):
            job.Job(base="m", pairs="p.json", comment=comment)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(job.JobError, match="expected a JSON file, found a folder, a device or a pipe"):
        job.Job.read(tmp_path / "pipe.json")


def run(script: str, **how) -> subprocess.CompletedProcess[str]:
    code = f"import os, signal, sys\nfrom latentpatch import agreement, cli, command, output\n{script}"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **how)


def test_a_signal_leaves_no_half_written_file(tmp_path):
    """It comes while the file has its temporary name."""
    script = f"""
def sync(handle):
    assert len(os.listdir({str(tmp_path)!r})) == 1
    os.kill(os.getpid(), signal.SIGTERM)
os.fsync = sync
command.run("x", lambda: output.write({str(tmp_path / "a")!r}, "1") and 0)
"""
    end = run(script)
    assert (end.returncode, end.stderr) == (-signal.SIGTERM, "")
    assert list(tmp_path.iterdir()) == []


def test_standard_output_that_cannot_be_written(small):
    for script in ("cli.main(['--help'])", f"agreement.main([{str(small[0])!r}, {str(small[0])!r}])"):
        for unbuffered in ("", "1"):
            with open("/dev/full", "w") as full:
                end = run(f"sys.exit({script})", stdout=full, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
            assert end.returncode == 1
            assert end.stderr.endswith(": standard output could not be written: No space left on device\n")
            assert end.stderr.count("\n") == 1


def test_one_line_for_a_terminal(tmp_path, capsys):
    name = str(tmp_path / "a\n\x1b[31m.h5")
    for main in (cli.main, agreement.main):
        assert main([name, name]) == 1
        said = capsys.readouterr().err
        assert said.endswith("a\\n\\x1b[31m.h5: file: expected an HDF5 file, found no such file\n")
        assert said.count("\n") == 1
    assert command.printable("a\u202eb\udcff") == "a\\u202eb\\udcff"
