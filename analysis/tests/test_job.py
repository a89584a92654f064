"""Jobs built in Python: the schema is their only source, their JSON twins are the same, the program runs them."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import pickle
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import latentpatch as lp
from latentpatch import job as job_module
from latentpatch import program

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "jobs" / "demo"
SCHEMA = json.loads((ROOT / "schemas" / "job.schema.json").read_text())
JOBS = sorted((ROOT / "jobs").glob("*.json"))


def load_cases() -> Any:
    """The jobs that the program's reader and the schema judge alike (tests/test_schemas.py)."""
    spec = importlib.util.spec_from_file_location("test_schemas", ROOT / "tests" / "test_schemas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = load_cases()


def resolved(node: Any) -> dict[str, Any]:
    if node is True:
        return {}
    if "$ref" in node:
        return {**SCHEMA["$defs"][node["$ref"].removeprefix("#/$defs/")], **node}
    return node


def filled(data: Any, node: Any = SCHEMA) -> Any:
    """What a job means: null is left out, defaults are written down, comments are gone."""
    node = resolved(node)
    if isinstance(data, list) and "items" in node:
        return [filled(entry, node["items"]) for entry in data]
    if not isinstance(data, dict) or "properties" not in node:
        return data
    out = {}
    for key, part in node["properties"].items():
        part, value = resolved(part), data.get(key)
        if key in ("comment", "$schema"):
            continue
        if value is None:
            value = {} if "properties" in part and not part.get("required") else part.get("default")
        if value is not None:
            out[key] = filled(value, part)
    return out


def from_json(data: dict[str, Any]) -> lp.Job:
    return lp.Job(**{key.lstrip("$"): value for key, value in data.items()})


def twin(folder: Path, **keys: Any) -> lp.Job:
    """jobs/demo-gpt2.json with two pairs and files of its own."""
    model = DEMO / "gpt2"
    return lp.Job(
        **{
            "model": {"name": "demo-gpt2", "base": model / "base", "codi": model / "codi"},
            **{"rank": 32, "alpha": 64, "protocol": "codi", "pairs": DEMO / "pairs.json", "limit": 2},
            "conditions": [lp.patch("resid_post", layers="all", steps="first:1-6", donor=("clean", "self"))],
            **{"max_new_tokens": 16, "store": folder / "s.store.h5", "results": folder / "r.results.h5"},
            **keys,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def built_program():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTPATCH", os.environ.get("LATENTPATCH", str(ROOT / "build" / "latentpatch")))
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[lp.Job, lp.Results]:
    job = twin(tmp_path_factory.mktemp("ran"))
    return job, job.run(ranks=2)


# ---- the schema


def test_every_key_of_the_schema_is_a_field_with_its_default():
    seen = []

    def look(node: dict[str, Any], section: type, place: str) -> None:
        for key, part in node["properties"].items():
            part = resolved(part)
            name = {"from": "from_", "$schema": "schema"}.get(key, key)
            own = {f.name: f for f in fields(section)}[name]
            seen.append(f"{place}.{key}")
            if "default" in part:
                default = own.default_factory() if isinstance(part["default"], list) else own.default
                assert default == part["default"], seen[-1]
            inner = part if "properties" in part else resolved(part.get("items", {}))
            if "properties" in inner:
                look(inner, section._sections[name], seen[-1])

    look(SCHEMA, lp.Job, "$")
    assert {"$.model.lora.alpha", "$.engine.hang_limit", "$.sweep.conditions.steps"} <= set(seen)
    assert len(seen) > 60


@pytest.mark.parametrize(
    ("section", "key", "kind", "default"),
    [
        ("Protocol", "steps", int | None, 6),
        ("Lora", "alpha", float | None, 32),
        ("Pairs", "equal_answers", Literal["refuse", "allow", None], "refuse"),
        ("Sweep", "filter", Literal["both-correct", "clean-correct", "all", None], "both-correct"),
        ("Decode", "max_new_tokens", int | None, 200),
        ("Engine", "device", Literal["auto", "cpu", "cuda", None], "auto"),
        ("Model", "codi", str | None, None),
    ],
)
def test_types_and_defaults(section, key, kind, default):
    own = {f.name: f for f in fields(getattr(job_module, section))}[key]
    assert (own.type, own.default) == (kind, default)


@pytest.mark.parametrize("data", CASES.GOOD, ids=lambda data: None)
def test_a_good_job_is_accepted_and_keeps_its_meaning(data, tmp_path):
    job = from_json(data)
    written = json.loads(job.write(tmp_path / "job.json").read_text())
    assert filled(written) == filled(data)
    assert lp.Job.read(tmp_path / "job.json") == job


@pytest.mark.parametrize("data", [bad for bad, _ in CASES.BAD], ids=lambda data: None)
def test_a_bad_job_is_refused(data, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(lp.JobError, match=r"bad\.json: \$"):
        lp.Job.read(tmp_path / "bad.json")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_shipped_jobs_keep_their_meaning(path, tmp_path):
    data = json.loads(path.read_text())
    job = lp.Job.read(path)
    assert job == from_json(data)
    assert job == pickle.loads(pickle.dumps(job))
    assert filled(json.loads(job.write(tmp_path / "job.json").read_text())) == filled(data)


# ---- building


def test_a_job_built_in_python_equals_its_twin():
    built = lp.Job(
        model={"name": "demo-gpt2", "base": "demo/gpt2/base", "codi": "demo/gpt2/codi"},
        lora={"rank": 32, "alpha": 64},
        pairs=Path("demo/pairs.json"),
        conditions=(lp.patch("resid_post", layers="all", steps="first:1-6", donor=("clean", "self")),),
        max_new_tokens=np.int64(16),
        store="../out/demo-gpt2.store.h5",
        results="../out/demo-gpt2.results.h5",
    )
    assert built == lp.Job.read(ROOT / "jobs" / "demo-gpt2.json")
    assert built.engine.threads == 0
    assert "engine" not in built.to_dict()
    assert repr(built).endswith("results=Results(file='../out/demo-gpt2.results.h5'))")


def test_objects_inside_a_group():
    group = lp.patch(["k", "v"], layers=[1, 2], steps="all", from_={"layers": [0, 1]}, heads=range(2))
    assert group.to_dict() == {
        **{"site": ["k", "v"], "layers": [1, 2], "steps": "all", "heads": [0, 1]},
        "from": {"layers": [0, 1]},
    }
    assert group.from_.layers == [0, 1]


def test_donors_and_edges_that_are_objects():
    noise = {"noise": {"sigma": [0.5, 1]}}
    edge = {"from": {"phase": "answer"}, "to": {"steps": "single:0-5"}}
    groups = [lp.patch("k", layers="all", steps="all", donor=["clean", noise]), lp.patch(forbid=edge, layers="all")]
    job = lp.Job(base="x", pairs="p", conditions=groups)
    assert job.to_dict()["sweep"]["conditions"] == [
        {"site": "k", "layers": "all", "steps": "all", "donor": ["clean", noise]},
        {"layers": "all", "forbid": edge},
    ]
    with pytest.raises(lp.JobError, match=r"conditions\[0\]"):
        lp.Job(base="x", pairs="p", conditions=[lp.patch(forbid={"from": {"phase": "answer"}}, layers="all")])


def test_keys_of_a_section_that_has_a_file_name_already():
    job = lp.Job(base="x", pairs="p", sites=["k"])
    assert job.to_dict()["store"]["sites"] == ["k"]
    assert job.to_dict()["store"]["file"].startswith("out/x-")


def test_files_are_named_after_the_experiment():
    job = lp.Job(base="a/gpt 2", pairs="p.json", conditions=[lp.patch("resid_post", layers=0, steps="all")])
    first = job.to_dict()
    assert first["results"]["file"].startswith("out/gpt-2-")
    job.engine.threads = 4
    assert job.to_dict()["results"] == first["results"]
    other = replace(job, metrics=["logits"])
    assert other.to_dict()["results"] != first["results"]


@pytest.mark.parametrize(
    ("keys", "kind", "message"),
    [
        ({"bse": "x"}, TypeError, "no key 'bse'; did you mean 'base'"),
        ({"name": "x"}, TypeError, "several sections"),
        ({"base": "x"}, lp.JobError, r"^\$: the key 'pairs' is missing$"),
        ({"base": "x", "pairs": "p", "steps": "6"}, lp.JobError, r"^\$\.protocol\.steps: '6' is not of type"),
        ({"pairs": "p"}, lp.JobError, r"^\$: the key 'model' is missing$"),
        ({"base": "x", "pairs": {"limit": 2}}, lp.JobError, r"^\$\.pairs: the key 'file' is missing$"),
        ({"base": "x", "pairs": "p", "store": 3}, lp.JobError, r"^\$\.store"),
        ({"base": "x", "pairs": "p", "engine": 3}, lp.JobError, r"^\$\.engine"),
        ({"base": "x", "pairs": "p", "remove_eos": 1}, lp.JobError, r"^\$\.protocol\.remove_eos"),
        ({"base": "x", "pairs": "p", "conditions": [{"site": "k"}]}, lp.JobError, r"^\$\.sweep\.conditions\[0\]"),
        (
            {"base": "x", "pairs": "p", "conditions": [{"site": "resid_pst", "layers": "all", "steps": "all"}]},
            lp.JobError,
            r"site: expected latent_in, .* or different sites .*, found 'resid_pst'; did you mean 'resid_post'\?$",
        ),
        (
            {"base": "x", "pairs": "p", "conditions": [{"site": "k", "layers": "all", "steps": "firs:1"}]},
            lp.JobError,
            r"steps: expected first:N, last:N, .*, found 'firs:1'$",
        ),
        ({"base": "x", "pairs": "p", "executor": "fast"}, lp.JobError, r"executor: expected .*, found 'fast'"),
    ],
)
def test_mistakes_are_named(keys, kind, message):
    with pytest.raises(kind, match=message):
        lp.Job(**keys)


def test_a_misspelt_key_of_a_group_is_named():
    with pytest.raises(TypeError, match=r"a group has no key 'layer'; did you mean 'layers'\?$"):
        lp.patch("resid_post", layer="all")


def test_a_misspelt_attribute_is_refused():
    job = lp.Job(base="x", pairs="p")
    with pytest.raises(AttributeError, match="thread"):
        job.engine.thread = 3


# ---- running


def test_run_gives_what_the_command_gives(ran, tmp_path):
    results = ran[1]
    command = [
        program.find_program(),
        "run",
        str(ROOT / "jobs" / "demo-gpt2.json"),
        "--quiet",
        "--set",
        "pairs.limit=2",
    ]
    files = [f"store.file={tmp_path}/s.store.h5", f"results.file={tmp_path}/r.results.h5"]
    subprocess.run([*command, "--set", files[0], "--set", files[1]], check=True, stdout=subprocess.DEVNULL)
    assert Path(results.path).with_name("r.csv").read_bytes() == (tmp_path / "r.csv").read_bytes()
    assert len(results.frame()) == 2 * 55
    assert dict(results.xarray().sizes) == {"pair": 2, "condition": 55}


def test_a_second_run_is_complete_already(ran, capfd):
    job = ran[0]
    assert len(job.run().conditions) == 55
    shown = capfd.readouterr().err
    assert "complete already" in shown
    assert not list(Path().glob(".latentpatch-*"))


def test_activations_have_named_dimensions(ran):
    job, _ = ran
    with lp.load(job.store.file) as store:
        x = store.xarray("resid_post", "corrupted")
        assert dict(x.sizes) == {"pair": 2, "layer": 3, "step": 6, "hidden": 96}
        assert x.sel(pair="demo-0002", layer=2, step=5).equals(x[1, 2, 5])
        assert (x.sel(layer=1).to_numpy() == store.activations("resid_post", "corrupted", layer=1)).all()
        assert store.xarray("latent_in").dims == ("pair", "step", "hidden")
        assert list(store.xarray("resid_pre").layer) == [0]
        assert repr(store).endswith(".store.h5', 2 of 2 pairs, sites " + ", ".join(store.sites()) + ")")
        with pytest.raises(lp.LayoutError, match=r"expected one of the sites .*resid_post.*, found 'resid_pst'"):
            store.xarray("resid_pst")
        with pytest.raises(lp.LayoutError, match="expected clean or corrupted, found 'patched'"):
            store.activations("resid_post", "patched")
    assert repr(store).endswith("closed)")


def test_a_notebook_shows_the_heat_map_and_the_table(ran):
    html = ran[1]._repr_html_()
    assert html.count("<svg") == 1
    assert "<table" in html
    assert "2 of 2 pairs, 55 conditions" in html
    assert "data-tip" not in html
    assert repr(ran[1]).endswith(".results.h5', 2 of 2 pairs, 55 conditions)")


def test_the_progress_stays_in_one_line_of_a_narrow_terminal(tmp_path):
    lines = ["sweep: 0 of 1000 pairs (1.0%), about 10 min 30 s left", "latentpatch: warning: x", "sweep: 1 of 1000 pairs"]
    child = "import sys; sys.stderr.write(sys.argv[1]); sys.exit(1)"
    script = (
        "import sys; from latentpatch import program\n"
        f"try: program.run([sys.executable, '-c', {child!r}, {chr(10).join(lines)!r}])\n"
        "except program.ProgramError: sys.stderr.write('error')"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=theirs, cwd=ROOT / "analysis")
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait() == 0
    first, last = (f"\r{line[:39]:<39}" for line in (lines[0], lines[2]))
    assert shown.decode() == f"{first}\r\n{lines[1]}\r\n{last}\r\nerror"


def test_plan_says_what_the_command_says(tmp_path):
    job = twin(tmp_path)
    assert str(job.plan()).startswith("demo-gpt2, protocol codi, 2 pairs, 55 conditions\n")
    assert not list(tmp_path.iterdir())


def test_a_written_job_is_run_as_it_stands(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(program, "run", lambda command, progress: seen.append(command[-1]) or "")
    job = twin(tmp_path)
    path = job.write(tmp_path / "job.json")
    job.plan()
    job.pairs.limit = 1
    job.plan()
    assert seen[0] == str(path)
    assert Path(seen[1]).parent == tmp_path
    assert seen[1] != seen[0]


def test_the_message_of_the_program_is_the_exception(tmp_path):
    job = twin(tmp_path, codi=tmp_path / "nowhere")
    with pytest.raises(
        lp.ProgramError, match=rf"^{tmp_path}/nowhere: cannot open: No such file or directory$"
    ) as caught:
        job.run(ranks=2)
    assert caught.value.returncode == 1
    # Of a job that has no file the message names none.
    with pytest.raises(lp.ProgramError, match=r"^job: \$\.sweep\.conditions\[0\]\.layers: .* found 99$"):
        twin(tmp_path, conditions=[lp.patch("resid_post", layers=99, steps="all")]).plan()


def script(folder: Path, text: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_stop_and_an_end_without_a_message(tmp_path, monkeypatch):
    job = twin(tmp_path)
    monkeypatch.setenv("LATENTPATCH", script(tmp_path, "echo 'asked to stop' >&2; exit 75"))
    with pytest.raises(lp.Stopped, match="asked to stop"):
        job.run()
    monkeypatch.setenv("LATENTPATCH", script(tmp_path, "exit 3"))
    with pytest.raises(lp.ProgramError, match="exit code 3"):
        job.run()
    monkeypatch.setenv("LATENTPATCH", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        job.run()


def test_an_interrupted_run_asks_the_program_to_stop(tmp_path):
    stopped = tmp_path / "stopped"
    child = script(tmp_path, f"trap 'touch {stopped}; exit 75' USR1\necho ready >&2\nwhile :; do sleep 0.1; done")
    # Started by a shell's `&`, Python inherits that SIGINT is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"from latentpatch import program; program.run([{child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr.readline() == "ready\n"
        running.send_signal(2)
        assert "KeyboardInterrupt" in running.stderr.read()
    assert stopped.exists()


def test_the_launcher_is_found_or_given(tmp_path, monkeypatch):
    for name in ("srun", "mpirun"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert program.find_launcher(1) == []
    assert program.find_launcher(2) == ["mpirun", "-n", "2"]
    assert program.find_launcher(4, "srun --mpi=pmix") == ["srun", "--mpi=pmix", "-n", "4"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert program.find_launcher(8) == ["srun", "-n", "8"]
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FileNotFoundError, match="2 ranks need a launcher"):
        program.find_launcher(2)


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "latentpatch", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "latentpatch")
    done = subprocess.run([sys.executable, "-m", "latentpatch", "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "latentpatch")
