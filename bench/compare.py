"""Run peer_hf.py, peer_batched.py, gemm_peak and latentpatch side by side and print the ratios; called by compare.sh.

Both sides get the same pairs, layers x first:1-6, one thread each, `--max-new-tokens` tokens. The peer runs only
`--peer-conditions` of the conditions, because all of them take hours; its time per condition is taken from those. Times
are processor time of the process (user + system) beside wall time: on a shared machine the former is what can be
compared. The peer's time per condition is the difference of two runs, of N + 1 conditions and of one: neither its
imports, nor loading, nor the pair's clean run (which 72 conditions share in a whole sweep, but few here) are charged to
it. From ours a run of `latentpatch plan` is taken away, which starts the program but merges no weights: that stays in.
The batched program (peer_batched.py) runs all conditions of `--batched-pairs` pairs, in one batch; its time is the
processor time of its sweep, without imports, loading and a first small batch.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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
    p.add_argument("--peer-conditions", type=int, default=12, help="timed ones, at most 71: those of one pair")
    p.add_argument("--max-new-tokens", type=int, default=16)
    p.add_argument("--batched-pairs", type=int, default=8, help="of the batched program; 0: it does not run")
    p.add_argument("--repeat", type=int, default=1, help="rounds of all three programs; the best of each counts")
    return p.parse_args()


def batched(a: argparse.Namespace) -> float:
    """Processor seconds of a condition of peer_batched.py."""
    model = a.work / "gpt2-124m"
    command = [sys.executable, "bench/peer_batched.py", "--base", str(model / "base"), "--codi", str(model / "codi")]
    command += ["--pairs", str(a.work / "pairs.json"), "--device", "cpu", "--threads", "1", "--group", "8"]
    command += ["--limit", str(a.batched_pairs), "--max-new-tokens", str(a.max_new_tokens)]
    out = run([*command, "--csv", str(a.work / "batched")]).out
    return number(out, r"rival\.fp32\.processor_seconds_per_condition: ([\d.e+-]+)")


def main() -> None:
    """Measure and print."""
    a = arguments()
    job = write_job(a.work, a)
    model = a.work / "gpt2-124m"
    peer_csv = a.work / "peer.csv"
    peer = [sys.executable, "bench/peer_hf.py", "--base", str(model / "base"), "--codi", str(model / "codi")]
    peer += ["--pairs", str(a.work / "pairs.json"), "--csv", str(peer_csv), "--max-new-tokens", str(a.max_new_tokens)]
    rounds = []
    n_conditions = LAYERS * STEPS * len(json.loads((a.work / "pairs.json").read_text())["pairs"])
    for k in range(a.repeat):
        clear(a.work)
        first = run([*peer, "--max-conditions", "1"])
        theirs = run([*peer, "--max-conditions", str(1 + a.peer_conditions)])
        walls = [number(r.out, r"seconds_conditions: ([\d.]+)") for r in (first, theirs)]
        run([str(a.program), "cache", str(job)])
        idle = run([str(a.program), "plan", str(job)])
        mine = run([str(a.program), "sweep", str(job), "--verbose"])
        peak = run([str(a.work / "gemm_peak"), "512", "4"])
        rows = our_rows(a.work)
        n, ties = agreement(peer_csv, rows)
        one = {
            "peer": (theirs.cpu - first.cpu) / a.peer_conditions,
            "peer_wall": (walls[1] - walls[0]) / a.peer_conditions,
            "ours": (mine.cpu - idle.cpu) / n_conditions,
            "ours_wall": (mine.wall - idle.wall) / n_conditions,
            "gflop": number(mine.out, r"([\d.]+) GFLOP in matrix products"),
            "rate": 0.0,
            "peak": number(peak.out, r"gemm_peak: ([\d.]+)"),
            "row_layers": number(mine.out, r"(\d+) row-layers"),
            "cpu": mine.cpu - idle.cpu,
        }
        one["rate"] = one["gflop"] / (mine.cpu - idle.cpu)
        rounds.append(one)
        print(
            f"round {k + 1}: {n} rows agree ({ties} ties); processor seconds a condition: peer {one['peer']:.3f}, "
            f"latentpatch {one['ours']:.4f}; wall: {one['peer_wall']:.3f}, {one['ours_wall']:.4f}; "
            f"{one['rate']:.1f} of {one['peak']:.1f} GFLOP/s",
            flush=True,
        )
    best = {key: min(r[key] for r in rounds) for key in ("peer", "ours", "peer_wall", "ours_wall")}
    kernels = re.search(r"executor on kernels (\w+)", mine.out)
    print(f"kernels: {kernels.group(1) if kernels else 'unknown'}")
    print(f"conditions_per_second: {1 / best['ours']:.1f}")
    print(f"row_layers_per_second: {max(r['row_layers'] / r['cpu'] for r in rounds):.0f}")
    print(f"conditions: {n_conditions}; the peer's time is extrapolated from {a.peer_conditions} of them")
    print(f"wall_ratio: {best['peer_wall'] / best['ours_wall']:.1f}")
    print(f"ratio: {best['peer'] / best['ours']:.1f}")
    if a.batched_pairs:
        rival = batched(a)
        print(f"batched_seconds: {rival:.4f}")
        print(f"batched_ratio: {rival / best['ours']:.2f}")
    print(f"gemm_share: {max(r['rate'] for r in rounds) / max(r['peak'] for r in rounds):.2f}")
    print(f"row_layer_saving: {scripts_row_layers(a.work, rows) / rounds[0]['row_layers']:.1f}")


if __name__ == "__main__":
    main()
