"""latentpatch on a GPU beside the usual way (bench/peer_hf.py), on one random checkpoint and pairs, in one go.

    python bench/compare_cuda.py --program build/latentpatch --forward build/bench_forward --work DIR --out OUT

Needs no network. Makes checkpoint and pairs in DIR where they are missing; then, for each dtype: the rate of plain
matrix products of the same shapes (torch, random numbers), a sweep by latentpatch, and the peer on a few of its
conditions. Every figure is printed as soon as it is there and all are in OUT/compare.json, so that a run that was cut
short still tells what it measured. Times of latentpatch are wall seconds of its executor, weights on the device
excluded (a line of their own); those of the peer are of whole conditions, after a warm-up, loading excluded.
`--device cpu` runs the same on the cpu, for trying the script.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from make_checkpoint import model_of_job

STEPS = 6
TIE = 1e-4  # relative gap of the peer's best two logits under which another token is a tie
HERE = Path(__file__).resolve().parent


def run(command: list[str], seconds: float) -> str:
    """What a process prints; raises where it fails or takes too long."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:3])}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout + done.stderr


def number(text: str, pattern: str) -> float:
    """The number that a pattern finds."""
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"no {pattern} in: {text[-400:]}")
    return float(found.group(1))


class Report:
    """The figures so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}

    def add(self, name: str, value: Any) -> None:
        """Print and keep one."""
        self.values[name] = value
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", flush=True)
        self.path.write_text(json.dumps(self.values, indent=1) + "\n")


def prepare(a: argparse.Namespace) -> Path:
    """Checkpoint and pairs; the folder of the model."""
    model = a.work / a.shape
    if not (model / "lora.json").exists():
        run([sys.executable, str(HERE / "make_checkpoint.py"), "--shape", a.shape, str(model)], 300)
    for n in sorted({a.pairs, a.many_pairs} - {0}):
        path = a.work / f"pairs-{n}.json"
        if not path.exists():
            tokenizer = model / "base/tokenizer.json"
            command = [sys.executable, str(HERE / "make_pairs.py"), "--tokenizer", str(tokenizer)]
            run([*command, "--pairs", str(n), "--tokens", str(a.tokens), str(path)], 120)
    return model


def shapes(model: Path) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many a pass has) of the model's matrix products."""
    c = json.loads((model / "base/config.json").read_text())
    if c["model_type"] == "gpt2":
        d, f, layers = c["n_embd"], 4 * c["n_embd"], c["n_layer"]
        return [
            (d, 3 * d, layers),
            (d, d, layers),
            (d, f, layers),
            (f, d, layers),
            (d, c["vocab_size"] + 3, 1),
        ]
    d, f, layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    qkv = (c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * c["head_dim"]
    heads = c["num_attention_heads"] * c["head_dim"]
    return [
        (d, qkv, layers),
        (heads, d, layers),
        (d, 2 * f, layers),
        (f, d, layers),
        (d, c["vocab_size"] + 3, 1),
    ]


def gemm_rate(model: Path, device: torch.device, dtype: str, rows: int) -> float:
    """GFLOP/s over one pass of all of the model's matrix products, each the median of seven runs of ten."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    flops = seconds = 0.0
    repeats = 10 if device.type == "cuda" else 1  # starting and waiting would count
    for n_in, n_out, count in shapes(model):
        x = torch.randn(rows, n_in, device=device).to(kind)
        w = torch.randn(n_out, n_in, device=device).to(kind)
        taken = []
        for _ in range(9):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(repeats):
                x @ w.T
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append((time.perf_counter() - start) / repeats)
        flops += count * 2.0 * rows * n_in * n_out
        seconds += count * sorted(taken[2:])[3]
    return flops / seconds * 1e-9


def write_job(a: argparse.Namespace, model: Path, n_pairs: int, max_new: int, dtype: str) -> Path:
    """The sweep as a job."""
    name = f"{n_pairs}-{dtype}"
    job = {
        "model": model_of_job(model),
        "protocol": {"name": "codi", "steps": STEPS},
        "pairs": {"file": str(a.work / f"pairs-{n_pairs}.json")},
        "store": {"file": str(a.work / f"{name}.store.h5")},
        "sweep": {
            "filter": "all",
            "controls": False,
            "conditions": [{"site": "resid_post", "layers": "all", "steps": f"first:1-{STEPS}", "donor": "clean"}],
        },
        "decode": {"max_new_tokens": max_new},
        "results": {
            "file": str(a.work / f"{name}.results.h5"),
            "csv": str(a.work / f"{name}.csv"),
            "summary": str(a.work / f"{name}.summary.json"),
        },
        "engine": {"device": a.device, "dtype": dtype},
    }
    for key in ("store", "results"):
        Path(job[key]["file"]).unlink(missing_ok=True)
    path = a.work / f"{name}.json"
    path.write_text(json.dumps(job, indent=1) + "\n")
    return path


def ours(a: argparse.Namespace, r: Report, label: str, job: Path, conditions: int, seconds: float) -> float:
    """Run store and sweep; the seconds of a condition."""
    cache = run([str(a.program), "cache", str(job), "--verbose"], seconds)
    start = time.perf_counter()
    sweep = run([str(a.program), "sweep", str(job), "--verbose"], seconds)
    r.add(f"{label}.process_seconds", time.perf_counter() - start)
    r.add(f"{label}.cache_seconds", number(cache, r"all in ([\d.]+) s"))
    taken = number(sweep, r"all in ([\d.]+) s")
    r.add(f"{label}.weights_seconds", number(sweep, r"weights in ([\d.]+) s"))
    r.add(f"{label}.weights_mib", number(sweep, r"([\d.]+) MiB up"))
    r.add(f"{label}.first_unit_seconds", number(sweep, r"first unit after ([\d.]+) s"))
    r.add(f"{label}.seconds", taken)
    r.add(f"{label}.seconds_per_condition", taken / conditions)
    r.add(f"{label}.gflop_per_s", number(sweep, r"([\d.]+) GFLOP in matrix products") / taken)
    for what, pattern in (
        ("row_layers", r"(\d+) row-layers"),
        ("batches", r"in (\d+) batches"),
        ("mib_to_device", r"([\d.]+) MiB to the device"),
        ("mib_back", r"([\d.]+) MiB back"),
        ("host_waits", r"waited (\d+) times"),
    ):
        r.add(f"{label}.{what}", number(sweep, pattern))
    return taken / conditions


def peer(a: argparse.Namespace, r: Report, model: Path, dtype: str) -> float:
    """Time the peer on a few conditions; the seconds of one."""
    n = a.peer_conditions
    command = [sys.executable, str(HERE / "peer_hf.py"), "--base", str(model / "base"), "--codi", str(model / "codi")]
    command += ["--pairs", str(a.work / f"pairs-{a.pairs}.json"), "--device", a.device, "--dtype", dtype]
    command += ["--lora", a.lora, "--max-new-tokens", str(a.max_new_tokens), "--max-conditions", str(n), "--warm-up"]
    command += ["--threads", "8"] if a.device == "cuda" else []  # for loading
    out = run([*command, "--no-margins", "--csv", str(a.work / f"peer-{dtype}-timed.csv")], 150)
    one = number(out, r"seconds_conditions: ([\d.]+)") / n
    r.add(f"peer.{dtype}.seconds_per_condition", one)
    for phase, tokens in (("prefill", a.tokens), ("thoughts", STEPS), ("decode", a.max_new_tokens)):
        seconds = number(out, rf"seconds_{phase}: ([\d.]+)")
        r.add(f"peer.{dtype}.{phase}_tokens_per_s", n * tokens / seconds)
    return one


def rows_of(path: Path, wanted: dict[tuple[str, str], dict[str, str]]) -> dict[tuple[str, str], dict[str, str]]:
    """(pair, condition) -> row of a results table, of the wanted rows."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = (r for r in csv.DictReader(handle) if r["role"] == "effect")
        return {(r["pair"], r["condition"]): r for r in rows if (r["pair"], r["condition"]) in wanted}


def agreement(a: argparse.Namespace, r: Report, model: Path) -> None:
    """Classes and texts of the peer's first conditions beside ours, in fp32; compare.py compares tokens, on the cpu."""
    table = a.work / "peer-fp32.csv"
    command = [sys.executable, str(HERE / "peer_hf.py"), "--base", str(model / "base"), "--codi", str(model / "codi")]
    command += ["--pairs", str(a.work / f"pairs-{a.pairs}.json"), "--device", a.device, "--lora", a.lora]
    command += ["--max-new-tokens", str(a.max_new_tokens), "--max-conditions", str(a.peer_conditions)]
    command += ["--threads", "8"] if a.device == "cuda" else []
    run([*command, "--csv", str(table)], 150)
    with table.open(newline="", encoding="utf-8") as handle:
        theirs = {(row["pair"], row["condition"]): row for row in csv.DictReader(handle)}
    mine = rows_of(a.work / f"{a.pairs}-fp32.csv", theirs)
    others = [row for key, row in theirs.items() if key not in mine or mine[key]["text"] != row["text"].split("\0")[0]]
    same_class = sum(key in mine and mine[key]["class"] == row["class"] for key, row in theirs.items())
    r.add("agreement.rows", len(theirs))
    r.add("agreement.same_class", same_class)
    r.add("agreement.same_text", len(theirs) - len(others))
    r.add("agreement.ties", sum(float(row["margin"]) < TIE for row in others))


def forward(a: argparse.Namespace, r: Report, model: Path, dtype: str) -> None:
    """Tokens per second with nothing shared."""
    lora = json.loads((model / "lora.json").read_text())
    command = [str(a.forward), str(model / "base"), str(model / "codi"), str(lora["alpha"])]
    out = run([*command, str(a.forward_batch), str(a.tokens), str(a.max_new_tokens), a.device, dtype], 200)
    for phase in ("prefill", "thoughts", "decode"):
        r.add(f"forward.{dtype}.{phase}_tokens_per_s", number(out, rf"{phase}_tokens_per_s: ([\d.]+)"))


def arguments() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--program", type=Path, required=True)
    p.add_argument("--forward", type=Path, required=True, help="bench_forward")
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--shape", default="llama-3.2-1b")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--dtypes", default="fp32,tf32,bf16")
    p.add_argument("--pairs", type=int, default=64)
    p.add_argument("--many-pairs", type=int, default=500, help="a second sweep with 8 new tokens; 0: none")
    p.add_argument("--tokens", type=int, default=70)
    p.add_argument("--max-new-tokens", type=int, default=16)
    p.add_argument("--peer-conditions", type=int, default=10)
    p.add_argument("--forward-batch", type=int, default=256)
    p.add_argument("--lora", choices=("peft", "merged"), help="of the peer; default: peft where it is installed")
    everything = "gemm,sweep,peer,rival,agreement,forward,many"
    p.add_argument("--parts", default=everything, help="which of these, in this order")
    return p.parse_args()


def main() -> None:
    """Measure what was asked for; a part that fails is reported and the others go on."""
    a = arguments()
    a.work.mkdir(parents=True, exist_ok=True)
    a.out.mkdir(parents=True, exist_ok=True)
    r = Report(a.out / "compare.json")
    if a.lora is None:
        found = subprocess.run([sys.executable, "-c", "import peft"], capture_output=True, check=False)
        a.lora = "peft" if found.returncode == 0 else "merged"
    start = time.perf_counter()
    model = prepare(a)
    r.add("prepare_seconds", time.perf_counter() - start)
    device = torch.device(a.device)
    r.add("chip", torch.cuda.get_device_name(device) if a.device == "cuda" else "cpu")
    r.add("peer.lora", a.lora)
    layers = shapes(model)[0][2]
    dtypes = a.dtypes.split(",")
    cells = layers * STEPS
    jobs = {dtype: write_job(a, model, a.pairs, a.max_new_tokens, dtype) for dtype in dtypes}
    parts = {
        "gemm": lambda d: r.add(f"gemm.{d}.gflop_per_s", gemm_rate(model, device, d, a.gemm_rows)),
        "sweep": lambda d: ours(a, r, f"ours.{d}", jobs[d], a.pairs * cells, 400),
        "peer": lambda d: peer(a, r, model, d),
        "rival": lambda d: rival(a, r, model, d),
        "agreement": lambda d: agreement(a, r, model) if d == "fp32" else None,
        "forward": lambda d: forward(a, r, model, d),
        "many": lambda d: many(a, r, model, d, cells),
    }
    a.gemm_rows = 2048 if a.device == "cuda" else 512
    failed = 0
    for part in a.parts.split(","):
        for dtype in dtypes:
            try:
                parts[part](dtype)
            except (RuntimeError, subprocess.TimeoutExpired, OSError) as error:
                failed += 1
                r.add(f"failed.{part}.{dtype}", str(error)[:500])
    summary(r, dtypes)
    sys.exit(1 if failed else 0)


def many(a: argparse.Namespace, r: Report, model: Path, dtype: str, cells: int) -> None:
    """The sweep over many pairs with short answers."""
    if a.many_pairs and dtype != "tf32":
        job = write_job(a, model, a.many_pairs, 8, dtype)
        ours(a, r, f"many.{dtype}", job, a.many_pairs * cells, 300)


def rival(a: argparse.Namespace, r: Report, model: Path, dtype: str) -> None:
    """All conditions as one batch (peer_batched.py); its rows are in rival.DTYPE.csv."""
    command = [sys.executable, str(HERE / "peer_batched.py"), "--base", str(model / "base")]
    command += ["--codi", str(model / "codi"), "--pairs", str(a.work / f"pairs-{a.pairs}.json"), "--dtypes", dtype]
    command += ["--device", a.device, "--max-new-tokens", str(a.max_new_tokens), "--csv", str(a.work / "rival")]
    out = run(command, 150)
    r.add(f"rival.{dtype}.seconds_per_condition", number(out, r"\.seconds_per_condition: ([\d.e+-]+)"))


def summary(r: Report, dtypes: list[str]) -> None:
    """The ratios that the issue asks for."""
    for dtype in dtypes:
        mine, theirs = (r.values.get(f"{who}.{dtype}.seconds_per_condition") for who in ("ours", "peer"))
        batched = r.values.get(f"rival.{dtype}.seconds_per_condition")
        if mine and batched:
            r.add(f"batched_ratio.{dtype}", batched / mine)
        rate, peak = r.values.get(f"ours.{dtype}.gflop_per_s"), r.values.get(f"gemm.{dtype}.gflop_per_s")
        if mine and theirs:
            r.add(f"ratio.{dtype}", theirs / mine)
        if rate and peak:
            r.add(f"gemm_share.{dtype}", rate / peak)


if __name__ == "__main__":
    main()
