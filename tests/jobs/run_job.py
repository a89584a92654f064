"""One job of jobs/ on one demo model with few pairs: the batched engine against the reference executor, row by row, and
the controls.

    python run_job.py LATENTPATCH JOB.json MODEL LIMIT

MODEL is gpt2 or llama; LIMIT is the number of pairs. Both executors read one store, which the job's own `run` makes.
Texts, classes and numbers must be equal; metrics within a bound. Jobs for the public checkpoints run with a demo model
too; those that name layers which it does not have, with its blocks repeated up to the public one's depth. Needs nothing
but the standard library.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
# fp32 sums in another order, at logits of size 20.
METRIC_BOUND = 2e-3
EXACT = (
    "pair source condition role direction phase site layer layers head steps n_steps index donor vector from_site from_layer "
    "from_step operation factor stop_after defects dead class number changed text"
).split()

DEPTH = {"gpt2": 12, "llama": 16}
BLOCK = re.compile(r"(.*\.(?:h|layers)\.)(\d+)(\..*)")

Row = dict[str, str]


def run(program: str, *arguments: str) -> str:
    """Standard output of the program; ends the test where it fails."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=500, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def rows_of(path: Path) -> list[Row]:
    """All lines of a results CSV."""
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def close(a: str, b: str) -> bool:
    """Two metric fields agree."""
    if a == "" or b == "":
        return a == b
    x, y = float(a), float(b)
    return math.isclose(x, y, rel_tol=METRIC_BOUND, abs_tol=METRIC_BOUND)


def compare(here: list[Row], there: list[Row]) -> list[str]:
    """What differs, in words."""
    problems = []
    if len(here) != len(there) or not here:
        return [f"{len(here)} rows batched, {len(there)} rows reference"]
    metrics = [key for key in here[0] if key not in EXACT]
    for a, b in zip(here, there, strict=True):
        for key in EXACT:
            if a[key] != b[key]:
                problems.append(f"pair {a['pair']} {a['condition']}: {key}: batched {a[key]!r}, reference {b[key]!r}")
        for key in metrics:
            if not close(a[key], b[key]):
                problems.append(f"pair {a['pair']} {a['condition']}: {key}: batched {a[key]}, reference {b[key]}")
    return problems


def controls(rows: list[Row]) -> list[str]:
    """Rows that must be unpatched answers and are not."""
    problems = []
    for row in rows:
        must = row["role"] == "unpatched" or row["dead"] == "1"
        must = must or (row["donor"] == "self" and "/stop:" not in row["condition"])
        if must and row["changed"] != "0":
            problems.append(f"pair {row['pair']} {row['condition']}: changed")
    return problems


def deepen(source: Path, target: Path, n_layers: int) -> None:
    """A safetensors file with block i % (its own number of blocks) as block i."""
    data = source.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    own = 1 + max(int(m[2]) for m in map(BLOCK.fullmatch, header) if m)
    new, body = {}, bytearray()
    for name, entry in header.items():
        block = BLOCK.fullmatch(name)
        begin, end = entry["data_offsets"]
        for layer in range(int(block[2]), n_layers, own) if block else (None,):
            key = name if block is None else f"{block[1]}{layer}{block[3]}"
            new[key] = entry | {"data_offsets": [len(body), len(body) + end - begin]}
            body += data[8 + length + begin : 8 + length + end]
    text = json.dumps(new).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(struct.pack("<Q", len(text)) + text + body)


def public_settings(job_file: str, model: str, folder: Path) -> dict[str, str]:
    """Settings by which a job for a public checkpoint uses the demo model; seed jobs one as deep as theirs."""
    settings = {
        "model.base": os.fspath(JOBS / "demo" / model / "base"),
        "model.codi": os.fspath(JOBS / "demo" / model / "codi"),
        "model.lora": '{"rank": 32, "alpha": 64}',
        "pairs.file": os.fspath(JOBS / "demo" / "pairs.json"),
        "sweep.filter": "all",
        "decode.max_new_tokens": "6",
    }
    for part in ("base", "codi") if job_file.startswith("seed-") else ():
        source, target = JOBS / "demo" / model / part, folder / part
        target.mkdir()
        for file in source.iterdir():
            if file.suffix == ".safetensors":
                deepen(file, target / file.name, DEPTH[model])
            elif file.name == "config.json":
                config = json.loads(file.read_text())
                config["n_layer" if model == "gpt2" else "num_hidden_layers"] = DEPTH[model]
                (target / file.name).write_text(json.dumps(config))
            else:
                (target / file.name).symlink_to(file)
        settings[f"model.{part}"] = os.fspath(target)
    return settings


def main() -> None:
    """Runs, compares, reports."""
    program, job_file, model, limit = sys.argv[1:5]
    job = json.loads((JOBS / job_file).read_text())
    other = {
        "name": f"demo-{model}",
        "base": f"demo/{model}/base",
        "codi": f"demo/{model}/codi",
        "lora": {"rank": 32, "alpha": 64},
    }
    with tempfile.TemporaryDirectory(prefix="latentpatch-jobs-") as folder:
        if job_file.startswith("demo-"):
            settings = {"model": json.dumps(job["model"] if job["model"]["name"] == other["name"] else other)}
        else:
            settings = public_settings(job_file, model, Path(folder))
        settings |= {
            "pairs.limit": limit,
            "store.file": f"{folder}/a.store.h5",
            "engine.memory_limit": "256MiB",
            "engine.threads": "1",
        }
        tables = {}
        for executor in ("batched", "reference"):
            settings |= {"engine.executor": executor, "results.file": f"{folder}/{executor}.results.h5"}
            words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            out = run(program, "run", os.fspath(JOBS / job_file), "--quiet", *words)
            tables[executor] = rows_of(Path(folder) / f"{executor}.csv")
            if "NOT SOUND" in out:
                raise SystemExit(f"{job_file}, {executor}: {out}")
    problems = compare(tables["batched"], tables["reference"]) + controls(tables["batched"])
    changed = sum(row["changed"] == "1" for row in tables["batched"])
    if not changed:
        problems.append("no condition changed any answer")
    for line in problems[:20]:
        print(line)
    print(f"{job_file} on {model}: rows {len(tables['batched'])}  changed {changed}  problems {len(problems)}")
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
