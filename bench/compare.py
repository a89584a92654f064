"""Run peer_hf.py, peer_batched.py, gemm_peak and latentpatch side by side and print the ratios; called by compare.sh.

Each program runs the same pairs, layers x first:1-6, on one thread, with `--max-new-tokens` tokens. A round runs them
one after the other, and its ratios are of processor time (user + system) within the round. So other work on the machine
matters little: it slows the programs of a round alike. The last lines are medians over the rounds, with the least and
the largest. Wall time is printed beside them and means something on a quiet machine only.

peer_hf.py runs only `--peer-conditions` of the conditions, because all of them take hours. peer_batched.py runs all
conditions of `--batched-pairs` pairs in one batch. Imports, loading, the pair's clean run (peer_hf.py) and a first
small batch (peer_batched.py) are not counted. latentpatch's time is that of its process without what it takes until it
is ready, which is start and loading. Hashing the files stays in it as far as it goes on after that.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from tokenizers import Tokenizer

LAYERS = 12
STEPS = 6
TIE = 1e-5  # relative gap of the peer's best two logits under which a different token is a tie


@dataclass
class Run:
    """One finished process."""

    out: str
    wall: float
    cpu: float


def run(command: list[str]) -> Run:
    """Run one process on one thread and time it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(done.stdout + done.stderr, wall, cpu)


def number(text: str, pattern: str) -> float:
    """The number that a pattern finds."""
    found = re.search(pattern, text)
    if not found:
        raise SystemExit(f"no {pattern} in:\n{text}")
    return float(found.group(1))


def write_job(work: Path, a: argparse.Namespace) -> Path:
    """The sweep as a job."""
    lora = json.loads((work / "gpt2-124m/lora.json").read_text())
    job = {
        "model": {
            "base": "gpt2-124m/base",
            "codi": "gpt2-124m/codi",
            "lora": {"rank": lora["r"], "alpha": lora["alpha"]},
        },
        "protocol": {"name": "codi", "steps": STEPS},
        "pairs": {"file": "pairs.json"},
        "store": {"file": "bench.store.h5"},
        "sweep": {
            "filter": "all",
            "controls": False,
            "conditions": [{"site": "resid_post", "layers": "all", "steps": f"first:1-{STEPS}", "donor": "clean"}],
        },
        "decode": {"max_new_tokens": a.max_new_tokens},
        "results": {"file": "bench.results.h5", "csv": "bench.csv", "summary": "bench.summary.json"},
        "engine": {"threads": 1},
    }
    path = work / "bench.json"
    path.write_text(json.dumps(job, indent=1) + "\n")
    return path


def clear(work: Path) -> None:
    """Remove what an earlier run left."""
    for name in ("bench.store.h5", "bench.results.h5", "bench.csv", "bench.summary.json"):
        (work / name).unlink(missing_ok=True)


def our_rows(work: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(pair, condition) -> (answer tokens, class) of the effects."""
    with (work / "bench.csv").open(newline="", encoding="utf-8") as handle:
        classes = {(r["pair"], r["condition"]): r["class"] for r in csv.DictReader(handle) if r["role"] == "effect"}
    with h5py.File(work / "bench.results.h5") as f:
        pairs = [x.decode() for x in f["pairs/id"][:]]
        names = [x.decode() for x in f["conditions/name"][:]]
        offset, tokens, answer = f["answers/offset"][:], f["answers/tokens"][:], f["rows/answer"][:]
    out = {}
    for (pair, condition), outcome in classes.items():
        k = answer[pairs.index(pair), names.index(condition)]
        out[pair, condition] = " ".join(map(str, tokens[offset[k] : offset[k + 1]])), outcome
    return out


def agreement(peer: Path, ours: dict[tuple[str, str], tuple[str, str]]) -> tuple[int, int]:
    """Rows that both have, and how many of them are ties; ends the program where they disagree."""
    n = ties = 0
    with peer.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            got = ours.get((row["pair"], row["condition"]))
            if got is None:
                raise SystemExit(f"latentpatch has no row {row['pair']} {row['condition']}")
            n += 1
            if got == (row["tokens"], row["class"]):
                continue
            if float(row["margin"]) > TIE:
                raise SystemExit(f"{row['pair']} {row['condition']}: peer {row}, latentpatch {got}")
            ties += 1
    return n, ties


def scripts_row_layers(work: Path, ours: dict[tuple[str, str], tuple[str, str]]) -> int:
    """Of the published scripts' way: each condition runs the clean prompt and thoughts, then the whole patched run."""
    tokenizer = Tokenizer.from_file(str(work / "gpt2-124m/base/tokenizer.json"))
    total = 0
    for pair in json.loads((work / "pairs.json").read_text())["pairs"]:
        questions = [len(tokenizer.encode(pair[side]["question"]).ids) + 1 for side in ("clean", "corrupted")]
        answers = [len(tokens.split()) for (name, _), (tokens, _) in ours.items() if name == pair["id"]]
        total += len(answers) * (sum(questions) + 2 * STEPS) + sum(answers)
    return total * LAYERS


def arguments() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--program", type=Path, required=True)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--peer-conditions", type=int, default=12, help="of each round, at most 72: those of one pair")
    p.add_argument("--max-new-tokens", type=int, default=16)
    p.add_argument("--batched-pairs", type=int, default=8, help="of the batched program; 0: it does not run")
    p.add_argument("--batched-rounds", type=int, default=1, help="rounds that it takes part in, the first ones")
    p.add_argument("--repeat", type=int, default=1, help="rounds")
    return p.parse_args()


def batched(a: argparse.Namespace) -> float:
    """Processor seconds of a condition of peer_batched.py."""
    model = a.work / "gpt2-124m"
    command = [sys.executable, "bench/peer_batched.py", "--base", str(model / "base"), "--codi", str(model / "codi")]
    command += ["--pairs", str(a.work / "pairs.json"), "--device", "cpu", "--threads", "1", "--group", "8"]
    command += ["--limit", str(a.batched_pairs), "--max-new-tokens", str(a.max_new_tokens)]
    out = run([*command, "--csv", str(a.work / "batched")]).out
    return number(out, r"rival\.fp32\.processor_seconds_per_condition: ([\d.e+-]+)")


def hooks(a: argparse.Namespace) -> tuple[float, float]:
    """Processor and wall seconds of a condition of peer_hf.py."""
    model = a.work / "gpt2-124m"
    command = [sys.executable, "bench/peer_hf.py", "--base", str(model / "base"), "--codi", str(model / "codi")]
    command += ["--pairs", str(a.work / "pairs.json"), "--csv", str(a.work / "peer.csv"), "--warm-up"]
    command += ["--max-new-tokens", str(a.max_new_tokens), "--max-conditions", str(a.peer_conditions)]
    out = run(command).out
    names = ("processor_seconds_conditions", "seconds_conditions")
    processor, wall = (number(out, rf"(?m)^{name}: ([\d.]+)") / a.peer_conditions for name in names)
    return processor, wall


def sweep(a: argparse.Namespace, job: Path, n_conditions: int) -> dict[str, Any]:
    """What a sweep of latentpatch takes and says."""
    clear(a.work)
    run([str(a.program), "cache", str(job)])
    mine = run([str(a.program), "sweep", str(job), "--verbose"])
    ready = number(mine.out, r"ready after seconds: .*; ([\d.]+) of processor time")
    cpu = mine.cpu - ready
    kernels = re.search(r"executor on kernels (\w+)", mine.out)
    row_layers = number(mine.out, r"(\d+) row-layers")
    return {
        "kernels": kernels.group(1) if kernels else "unknown",
        "processor": cpu / n_conditions,
        "ready": ready,
        "wall": (mine.wall - number(mine.out, r"ready after seconds: .* prompts ([\d.]+)")) / n_conditions,
        "rate": number(mine.out, r"([\d.]+) GFLOP in matrix products") / cpu,
        "row_layers": row_layers,
        "row_layers_per_second": row_layers / cpu,
    }


def summary(name: str, values: list[float], digits: int) -> None:
    """The median, and how far the rounds lie apart."""
    print(f"{name}: {statistics.median(values):.{digits}f}")
    if len(values) > 1:
        print(f"{name}_least: {min(values):.{digits}f}\n{name}_largest: {max(values):.{digits}f}")


def main() -> None:
    """Measure and print."""
    a = arguments()
    job = write_job(a.work, a)
    n_conditions = LAYERS * STEPS * len(json.loads((a.work / "pairs.json").read_text())["pairs"])
    ratios: dict[str, list[float]] = {"wall_ratio": [], "ratio": [], "batched_ratio": [], "gemm_share": []}
    rounds = []
    for k in range(a.repeat):
        theirs, theirs_wall = hooks(a)
        ours = sweep(a, job, n_conditions)
        peak = number(run([str(a.work / "gemm_peak"), "512", "4"]).out, r"gemm_peak: ([\d.]+)")
        rows = our_rows(a.work)
        n, ties = agreement(a.work / "peer.csv", rows)
        rounds.append(ours)
        ratios["wall_ratio"].append(theirs_wall / ours["wall"])
        ratios["ratio"].append(theirs / ours["processor"])
        ratios["gemm_share"].append(ours["rate"] / peak)
        print(
            f"round {k + 1}: {n} rows agree ({ties} ties); processor seconds a condition: hooks {theirs:.3f}, "
            f"latentpatch {ours['processor']:.4f} (ready after {ours['ready']:.2f} s); "
            f"wall: {theirs_wall:.3f}, {ours['wall']:.4f}; {ours['rate']:.1f} of {peak:.1f} GFLOP/s",
            flush=True,
        )
        if a.batched_pairs and k < a.batched_rounds:
            rival = batched(a)
            ratios["batched_ratio"].append(rival / ours["processor"])
            print(f"round {k + 1}: processor seconds a condition: batched {rival:.4f}", flush=True)
    print(f"kernels: {rounds[0]['kernels']}")
    print(f"conditions: {n_conditions}; {a.peer_conditions} of them by hooks")
    summary("conditions_per_second", [1 / r["processor"] for r in rounds], 1)
    summary("row_layers_per_second", [r["row_layers_per_second"] for r in rounds], 0)
    for name, values in ratios.items():
        if values:
            summary(name, values, 2 if name in ("batched_ratio", "gemm_share") else 1)
    print(f"row_layer_saving: {scripts_row_layers(a.work, rows) / rounds[0]['row_layers']:.1f}")


if __name__ == "__main__":
    main()
