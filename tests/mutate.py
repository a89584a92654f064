"""Damaged stores, results, archives and job folders: every command says what is wrong in one line, or does its work.

    mutate.py LATENTPATCH [--count 300] [--seed 1] [--only store,results,archive,job] [--driver MUTATION_DRIVER]

A sound file is changed in its structure (h5py: attributes, types, shapes, links, values, whole objects) or in its bytes,
and one command reads it. The command must end within 10 s with exit code 0, 1 or 2, in less than 1 GB, without a word of
a sanitizer, and an error must be its last line. The seed of a failure is printed: --count 1 --seed N --only KIND repeats it.

With --driver the files are read by tests/unit/mutation_driver.c, which is one process for all of them and a hundred times
faster. What needs MPI and an engine, cache, sweep and plan, is read by the program alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "jobs" / "demo"
LIMIT_S, LIMIT_BYTES = 10, 1 << 30
MOST_NODES = 50_000
BAD = re.compile(r"Sanitizer|runtime error:|Signal:|\*\*\* Process|Assertion|core dumped", re.IGNORECASE)

try:
    import h5py
    import numpy as np
except ImportError:
    print("skipped: the Python packages h5py and numpy were not found")
    sys.exit(77)


# ---- HDF5


def objects_of(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def change_attribute(file: h5py.File, draw: random.Random) -> str:
    holders = [name for name in ["/", *objects_of(file)] if len(file[name].attrs)]
    name = draw.choice(holders)
    attributes = file[name].attrs
    key = draw.choice(sorted(attributes))
    kind = draw.randrange(6)
    if kind == 0:
        del attributes[key]
    else:
        value = [
            np.int64(-1),
            np.bytes_(b"\xff\xfe" * draw.randrange(1, 40)),
            np.arange(draw.randrange(1, 2000), dtype="i4"),
            "x" * draw.randrange(3000),
            h5py.Empty("f4"),
        ][kind - 1]
        del attributes[key]
        attributes.create(key, value)
    return f"attribute {key} of {name}: {kind}"


def datasets_of(file: h5py.File) -> list[str]:
    return [name for name in objects_of(file) if isinstance(file[name], h5py.Dataset)]


def change_dataset(file: h5py.File, draw: random.Random) -> str:
    """Another type, shape or layout under the name of a dataset; its attributes are kept."""
    name = draw.choice(datasets_of(file))
    old = file[name]
    attributes, shape, dtype = dict(old.attrs), old.shape, old.dtype
    how = draw.choice(["type", "grow", "shrink", "empty", "scalar", "huge", "chunks", "string", "compound"])
    keywords: dict[str, object] = {"shape": shape, "dtype": dtype}
    if how == "type":
        keywords["dtype"] = draw.choice(["u1", "i2", "f4", "f8", "S3", ">i4", "c8"])
    elif how in ("grow", "shrink") and shape:
        axis = draw.randrange(len(shape))
        size = shape[axis] * 7 + 1 if how == "grow" else shape[axis] // 2
        keywords["shape"] = (*shape[:axis], size, *shape[axis + 1 :])
    elif how == "empty" and shape:
        keywords["shape"] = (0, *shape[1:])
    elif how == "scalar":
        keywords["shape"] = ()
    elif how == "huge" and shape:
        keywords |= {"shape": (2 ** draw.randrange(28, 44), *shape[1:]), "chunks": (1, *shape[1:])}
    elif how == "chunks" and shape:
        keywords |= {"chunks": True, "compression": "gzip"}
    elif how == "string":
        keywords["dtype"] = h5py.string_dtype()
    elif how == "compound":
        keywords["dtype"] = np.dtype([("a", "f4"), ("b", "S70000")])
    del file[name]
    try:
        made = file.create_dataset(name, **keywords)
        for key, value in attributes.items():
            made.attrs.create(key, value)
    except (ValueError, TypeError, OverflowError):
        how += " (left out)"
    return f"{name}: {how}"


def change_link(file: h5py.File, draw: random.Random) -> str:
    names = objects_of(file)
    name, other = draw.choice(names), draw.choice([*names, "/", "/nowhere"])
    how = draw.choice(["delete", "soft", "external", "hard", "group", "rename"])
    if how == "rename":
        file.move(name, name + "x")
        return f"{name}: {how}"
    kept = file[other] if how == "hard" and other != "/nowhere" else None
    del file[name]
    if how == "soft":
        file[name] = h5py.SoftLink(other)
    elif how == "external":
        file[name] = h5py.ExternalLink(draw.choice(["/dev/zero", "nowhere.h5", "/etc/passwd"]), other)
    elif how == "group":
        file.create_group(name)
    elif kept is not None:
        file[name] = kept
    return f"{name}: {how} {other}"


def change_values(file: h5py.File, draw: random.Random) -> str:
    name = draw.choice(datasets_of(file))
    data = file[name]
    if data.size == 0 or data.dtype.kind not in "iuf":
        return change_attribute(file, draw)
    index = tuple(draw.randrange(n) for n in data.shape)
    limits = np.finfo(data.dtype) if data.dtype.kind == "f" else np.iinfo(data.dtype)
    value = draw.choice([limits.min, limits.max, 0, 1])
    data[index] = value
    return f"{name}{list(index)} = {value}"


def change_bytes(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    how = draw.choice(["flip", "cut", "zero", "repeat", "grow"])
    at = draw.randrange(min(len(data), 1 << draw.randrange(6, 20)))
    length = 1 << draw.randrange(12)
    if how == "flip":
        for _ in range(draw.randrange(1, 9)):
            data[(at + draw.randrange(64)) % len(data)] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del data[draw.randrange(len(data)) :]
    elif how == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif how == "repeat":
        data[at:at] = data[at : at + length]
    else:
        data += draw.randbytes(length)
    path.write_bytes(data)
    return f"{path.name}: {how} at {at}"


def damage_hdf5(path: Path, draw: random.Random) -> str:
    if draw.random() < 0.25:
        return change_bytes(path, draw)
    told = []
    with h5py.File(path, "r+") as file:
        for _ in range(draw.choice([1, 1, 2, 5])):
            try:
                told.append(draw.choice([change_attribute, change_dataset, change_link, change_values])(file, draw))
            except (KeyError, ValueError, RuntimeError, OSError, TypeError, IndexError) as error:
                told.append(f"(not done: {error})")
    return "; ".join(told)


# ---- JSON and the folder of a job


def nodes_of(value: object, path: tuple = ()) -> list[tuple]:
    out = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        out += nodes_of(item, (*path, key))
    return out


STRANGE = [
    None, True, -1, 0, 1, 2**31, 2**63, 1e308, -1e-308, "", "x", "all", "0-9999999", "first:1-99999", "\u202e", "a" * 5000,
    [], {}, [[[[]]]], [1] * 3000, {"a": {"b": {}}}, "/dev/zero", "/", "../" * 50, "NaN", [None], -(2**63),
]  # fmt: skip


def damage_json(path: Path, draw: random.Random) -> str:
    value = json.loads(path.read_text())
    told = []
    for _ in range(draw.choice([1, 1, 2, 4])):
        where = draw.choice([node for node in nodes_of(value) if node] or [()])
        if not where:
            break
        holder = value
        for key in where[:-1]:
            holder = holder[key]
        how = draw.choice(["strange", "strange", "delete", "rename", "twice"])
        if how == "delete":
            del holder[where[-1]]
        elif how == "rename" and isinstance(holder, dict):
            holder[where[-1] + "x"] = holder.pop(where[-1])
        elif how == "twice" and isinstance(holder, list):
            # What is repeated is counted with all that it holds: lists of lists, repeated several times, take all memory here.
            times = min(draw.randrange(1, 50), MOST_NODES // len(nodes_of(holder)))
            holder.extend(copy.deepcopy(item) for item in holder[:] * times)
        else:
            holder[where[-1]] = copy.deepcopy(draw.choice(STRANGE))
        told.append(f"{'.'.join(map(str, where))}: {how}")
    path.write_text(json.dumps(value))
    return f"{path.name}: " + "; ".join(told)


# One small group for each kind of condition that a job can ask for.
EVERY_KEY = [
    {"site": "latent_in", "steps": "single:1",
     "donor": {"noise": {"sigma": [0.5, 1], "in": "rms", "around": "mean", "by": "answer"}}},
    {"site": "latent_in", "steps": "single:1", "donor": {"mean": {"by": "template", "value": "different", "least": 2}}},
    {"site": "resid_post", "layers": 0, "steps": "set:0,2", "donor": "clean", "operation": "swap", "subspace": 0},
    {"site": "resid_post", "layers": "together:all", "steps": "all", "operation": "remove", "subspace": 0},
    {"site": "resid_mid", "layers": 1, "phase": "prompt", "index": -1, "donor": "file", "operation": "add", "vector": 1},
    {"site": "z", "layers": 1, "heads": [0, 1], "steps": "single:0", "donor": "zero", "stop_after": 5},
    {"site": "k+v", "layers": "window:2", "steps": "complement:single:0", "donor": "clean", "from": {"step": 0}},
    {"layers": 0, "forbid": [
        {"from": {"phase": "answer"}, "to": {"steps": "subset:all"}, "heads": "together:0-1"},
        {"from": {"steps": "last:1"}, "to": {"phase": "prompt", "index": "together:-3--1"}, "kv_heads": 0}]},
]  # fmt: skip
NAMES = {"store": "a.store.h5", "results": "a.results.h5", "archive": "a.h5"}


class Lab:
    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.sound = folder / "sound"
        self.sound.mkdir()
        shutil.copytree(DEMO / "gpt2", self.sound / "gpt2")
        demo = json.loads((DEMO / "pairs.json").read_text())
        demo["pairs"] = demo["pairs"][:6]
        (self.sound / "pairs.json").write_text(json.dumps(demo))
        job = json.loads((DEMO.parent / "demo-gpt2.json").read_text())
        job["model"] |= {"base": "gpt2/base", "codi": "gpt2/codi"}
        job["pairs"] = {"file": "pairs.json"}
        job["store"] = {"file": "a.store.h5"}
        job["results"] = {"file": "a.results.h5"}
        width = json.loads((self.sound / "gpt2/base/config.json").read_text())["n_embd"]
        np.save(self.sound / "plane.npy", np.eye(2, width, dtype="f4"))
        np.save(self.sound / "vector.npy", np.ones(width, dtype="f4"))
        job["sweep"] |= {"filter": "all", "vectors": ["plane.npy", "vector.npy"], "shuffled_seeds": [1, 2]}
        job["sweep"]["conditions"] += EVERY_KEY
        job |= {"metrics": ["logits", "answer_logprob", "steps"], "readout": "logit_lens top 2"}
        (self.sound / "job.json").write_text(json.dumps(job))
        for words in (("run", "job.json"), ("store", "archive", "a.store.h5", "a.h5")):
            end = self.run(self.sound, *words, limit_s=300)
            if end.returncode != 0:
                sys.exit(f"the sound job fails: {end.stderr}")

    def run(self, where: Path, *words: str, limit_s: int = LIMIT_S) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        return subprocess.run(
            [self.program, *words], cwd=where, capture_output=True, text=True, errors="replace", timeout=limit_s,
            env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def damaged(self, kind: str, draw: random.Random, where: Path) -> tuple[str, tuple[str, ...]]:
        """Damages the copy at `where`: what was done, and the command that is to read it."""
        if kind == "job":
            path = draw.choice([where / "job.json", where / "pairs.json", *sorted((where / "gpt2").rglob("*.*"))])
            raw = path.suffix != ".json" or draw.random() < 0.3
            told = change_bytes(path, draw) if raw else damage_json(path, draw)
            inspect = ("inspect", "--base", "gpt2/base", "--codi", "gpt2/codi")
            commands = [("plan", "job.json"), ("cache", "job.json", "--set", "store.file=new.h5"), inspect]
            commands += [("tokenize", "--tokenizer", "gpt2/base", "Tom has 3"), ("pairs", "check", "pairs.json")]
            return told, draw.choice(commands)
        name = NAMES[kind]
        told = damage_hdf5(where / name, draw)
        if kind == "results":
            commands = [("summary", name), ("summary", name, "--all"), ("summary", name, "--lens"), ("plan", "job.json")]
        else:
            use = ("sweep", "job.json", "--set", f"store.file={name}", "--set", "results.file=new.h5")
            commands = [("store", "info", name), ("store", "info", name, "--json"), ("store", "verify", name)]
            commands += [("store", "archive", name, "n.h5"), ("store", "export", name, "ex"), use]
            commands += [("store", "merge", "n.h5", name, "a.store.h5" if kind == "archive" else "a.h5")]
            commands += [("cache", "job.json", "--set", f"store.file={name}")] if kind == "store" else []
        return told, draw.choice(commands)

    def attempt(self, kind: str, seed: int) -> str | None:
        """None, or what was wrong."""
        draw = random.Random(f"{kind} {seed}")
        where = self.folder / "damaged"
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(self.sound, where)
        told, words = self.damaged(kind, draw, where)
        shown = f"{kind} {seed}: {told}: {' '.join(words)}"
        try:
            end = self.run(where, *words)
        except subprocess.TimeoutExpired:
            return f"{shown}: did not end within {LIMIT_S} s"
        lines = [line for line in end.stderr.splitlines() if line]
        if end.returncode not in (0, 1, 2) or BAD.search(end.stderr):
            return f"{shown}: exit code {end.returncode}: {end.stderr[-1500:]}"
        quiet = words[:2] == ("store", "verify") or words[:2] == ("pairs", "check")
        if end.returncode and not quiet and not (lines and lines[-1].startswith("latentpatch: error: ")):
            return f"{shown}: exit code {end.returncode} without an error: {end.stderr[-500:]}"
        return None


class Driver:
    """The readers in one process, which is started again where it ended."""

    def __init__(self, program: str, log: Path) -> None:
        self.program, self.log = program, log
        self.process: subprocess.Popen[str] | None = None

    def ask(self, words: tuple[str, ...]) -> str | None:
        """None, or what was wrong."""
        if self.process is None:
            options = os.environ.get("ASAN_OPTIONS", "") + f":detect_leaks=0:hard_rss_limit_mb={LIMIT_BYTES >> 20}"
            self.process = subprocess.Popen(
                [self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True,
                errors="replace", env=os.environ | {"ASAN_OPTIONS": options},
            )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\t".join(words) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        told = self.log.read_text(errors="replace")
        if said == "0\n" or (said.startswith("1 ") and len(said) > 3 and not BAD.search(told)):
            return None
        self.process.kill()
        code = self.process.wait()
        self.process = None
        return f"answer {said!r}, exit code {code} (-27: {LIMIT_S} s of processor time): {told[-1500:]}"

    def end(self) -> None:
        if self.process is not None and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()


def attempt_in_driver(lab: Lab, driver: Driver, kind: str, seed: int) -> str | None:
    """None, or what was wrong."""
    draw = random.Random(f"{kind} {seed}")
    where = lab.folder / "damaged"
    shutil.rmtree(where, ignore_errors=True)
    if kind == "job":
        shutil.copytree(lab.sound, where)
    else:
        where.mkdir()
        shutil.copy(lab.sound / NAMES[kind], where)
    told, _ = lab.damaged(kind, draw, where)
    file, other = str(where / NAMES.get(kind, "")), str(lab.sound / NAMES["store" if kind == "archive" else "archive"])
    if kind == "job":
        model = (str(where / "gpt2/base"), str(where / "gpt2/codi"))
        commands = [("inspect", *model), ("tokenize", model[0])]
        commands += [("job", str(where / "job.json")), ("pairs", str(where / "pairs.json"))]
        # What was damaged is what is read.
        commands = {"job.json": commands[2:3], "pairs.json": commands[3:], "tokenizer": commands[1:2]}.get(
            told.split(":")[0].removesuffix("_config.json").replace("tokenizer.json", "tokenizer"), commands[:1]
        )
    elif kind == "results":
        commands = [("summary", file)]
    else:
        commands = [("info", file), ("verify", file), ("archive", file, str(where / "n.h5")), ("export", file, str(where / "ex"))]
        commands += [("merge", str(where / "n.h5"), file, other), ("merge", str(where / "n.h5"), file)]
    words = draw.choice(commands)
    wrong = driver.ask(words)
    return f"{kind} {seed}: {told}: {' '.join(words)}: {wrong}" if wrong else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="store,results,archive,job")
    parser.add_argument("--driver")
    arguments = parser.parse_args()
    kinds = arguments.only.split(",")
    folder = Path(tempfile.mkdtemp(prefix="latentpatch-mutate-"))
    failures = []
    try:
        lab = Lab(str(Path(arguments.program).resolve()), folder)
        driver = Driver(arguments.driver, folder / "driver.log") if arguments.driver else None
        for i in range(arguments.count):
            kind, seed = kinds[i % len(kinds)], arguments.seed + i
            wrong = attempt_in_driver(lab, driver, kind, seed) if driver else lab.attempt(kind, seed)
            if wrong:
                failures.append(wrong)
                print(wrong, flush=True)
        if driver:
            driver.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    most, own = (resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    if max(most, own) > LIMIT_BYTES:
        failures.append("memory")
    print(f"{arguments.count} mutations, {len(failures)} failures, the largest process had {most >> 20} MiB, this {own >> 20} MiB")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
