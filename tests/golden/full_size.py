"""Compare latentpatch with transformers + peft at the size of the public checkpoints. On demand: not in ctest.

    python tests/golden/full_size.py --latentpatch build/latentpatch --work DIR [--shapes NAME ...] [OPTIONS]

For each shape: a random-weight checkpoint by bench/make_checkpoint.py --init INIT (torch.save), the same tensors by
safetensors' save_file; parameters as `inspect --json` counts them against the public checkpoints' number; `cache` and
`sweep` of a few demo pairs with one rank and with two, `cache` from the .bin: what they leave must be the same bytes.
For --compare of these pairs every state of every thought, the answer tokens and the metrics against
tests/oracle/codi_hf.py in float32: every site within BOUND. How far two float32 programs may be apart depends on the
weights. With --float64 the truth is known, and the rule is: nowhere further from it than OWN_BOUND times transformers'
own float32; and within BOUND of transformers at each site where transformers itself is within half of BOUND. Prints
times and the memory of the ranks while they run; ends with `full size: ok` or exit code 1.

Needs up to 9 GB of memory (11 with --float64) and 7 GB below DIR for the larger shape, and minutes. What it makes below
DIR is removed at the end unless --keep.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "oracle"))
from codi_hf import (  # noqa: E402
    LAYER_SITES,
    POSITION_SITES,
    Loaded,
    Replacement,
    Run,
    load,
    metric_place,
    metrics,
    run,
)

PARAMETERS = {"gpt2-124m": 144_499_200, "llama-3.2-1b": 1_334_394_880}
BOUND = 1e-5  # largest absolute error over largest absolute value, for each site of a run
OWN_BOUND = 1.5  # our distance from float64 over that of transformers' float32; both are maxima over few runs
METRIC_BOUND = 1e-4  # absolute, of log-probabilities: sums over the vocabulary of logits of size 1 to 10
MARGIN = 1e-4  # a greedy choice closer than this (relative to the largest |logit|) proves nothing
MAX_BYTES = 12e9  # all ranks of the larger shape together
STEPS = 6
METRICS = ("logit_clean", "logit_corrupted", "logprob_clean", "logprob_corrupted", "kl")


@dataclass
class Report:
    """What went wrong so far."""

    failures: list[str] = field(default_factory=list)

    def check(self, fine: bool, what: str) -> None:
        """Print a line, and remember it where it is bad."""
        print(f"  {'ok  ' if fine else 'FAIL'} {what}", flush=True)
        if not fine:
            self.failures.append(what)


@dataclass
class Memory:
    """The largest sums over the ranks seen while they ran, in bytes; Pss counts a shared page once in all."""

    total: int = 0
    anonymous: int = 0
    shared: int = 0
    mapped: int = 0
    largest_rank: int = 0


def ranks_below(pid: int) -> list[int]:
    """The latentpatch processes among the descendants of a process."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, rest = (entry / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            except (OSError, IndexError):
                continue
            children.setdefault(int(rest.split()[1]), []).append((int(entry.name), name))
    found, waiting = [], [pid]
    while waiting:
        for child, name in children.get(waiting.pop(), []):
            waiting.append(child)
            if name == "latentpatch":
                found.append(child)
    return found


def sample(pid: int, memory: Memory) -> None:
    """One look at all ranks."""
    sums = dict.fromkeys(("Pss", "Pss_Anon", "Pss_Shmem", "Pss_File"), 0)
    for rank in ranks_below(pid):
        try:
            text = (Path("/proc") / str(rank) / "smaps_rollup").read_text()
        except OSError:
            continue
        values = {w[0].rstrip(":"): int(w[1]) * 1024 for w in map(str.split, text.splitlines()[1:])}
        memory.largest_rank = max(memory.largest_rank, values.get("Rss", 0))
        for key in sums:
            sums[key] += values.get(key, 0)
    if sums["Pss"] > memory.total:
        memory.total = sums["Pss"]
        memory.anonymous, memory.shared, memory.mapped = sums["Pss_Anon"], sums["Pss_Shmem"], sums["Pss_File"]


def latentpatch(a: argparse.Namespace, ranks: int, *words: Any) -> tuple[Memory, float, float]:
    """Run a command on a number of ranks; its memory, wall seconds and CPU seconds."""
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    environment |= {"OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    command = [
        a.mpiexec,
        "-n",
        str(ranks),
        "--oversubscribe",
        "--bind-to",
        "none",
        str(a.latentpatch),
        *map(str, words),
    ]
    memory = Memory()
    cpu, start = os.times(), time.perf_counter()
    log = a.work / "log.txt"
    with log.open("w") as f:
        process = subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            sample(process.pid, memory)
            time.sleep(0.1)
    end = os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{log.read_text()}")
    used = end.children_user + end.children_system - cpu.children_user - cpu.children_system
    return memory, time.perf_counter() - start, used


def inspect(a: argparse.Namespace, base: Path, codi: Path) -> dict[str, Any]:
    """`latentpatch inspect --json`."""
    command = [str(a.latentpatch), "inspect", "--base", str(base), "--codi", str(codi), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def make_checkpoint(shape: str, init: str, folder: Path) -> dict[str, Path]:
    """The same weights in both formats: {"bin": folder, "safetensors": folder}."""
    script = ROOT / "bench" / "make_checkpoint.py"
    subprocess.run(
        [sys.executable, str(script), "--shape", shape, "--format", "bin", "--init", init, str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    path = folder / "codi" / "pytorch_model.bin"
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    other = folder / "codi-safetensors"
    other.mkdir(exist_ok=True)
    tied = {k: v for k, v in state.items() if not k.endswith("lm_head.weight")}
    save_file(tied, str(other / "model.safetensors"), metadata={"format": "pt"})
    return {"bin": folder / "codi", "safetensors": other}


def make_pairs(a: argparse.Namespace) -> list[dict[str, Any]]:
    """The first demo pairs, by themselves in DIR/pairs.json."""
    demo = json.loads((ROOT / "jobs" / "demo" / "pairs.json").read_text())
    pairs = demo["pairs"][: a.pairs]
    (a.work / "pairs.json").write_text(json.dumps({"format": "latentpatch-pairs", "version": 1, "pairs": pairs}))
    return pairs


def make_job(
    a: argparse.Namespace, folder: Path, codi: Path, name: str, layers: list[int], executor: str = "batched"
) -> Path:
    """A job that keeps every site and patches three steps at a few layers."""
    lora = json.loads((folder / "lora.json").read_text())
    job = {
        "model": {
            "name": "full-size",
            "base": str(folder / "base"),
            "codi": str(codi),
            "lora": {"rank": lora["r"], "alpha": lora["alpha"]},
        },
        "protocol": {"name": "codi", "steps": STEPS},
        "pairs": {"file": str(a.work / "pairs.json")},
        "store": {"file": f"{name}.store.h5", "sites": [s for s in LAYER_SITES if s != "resid_post"]},
        "sweep": {
            "filter": "all",
            "controls": [],
            "conditions": [{"site": "resid_post", "layers": layers, "steps": "first:3", "donor": "clean"}],
        },
        "decode": {"max_new_tokens": a.max_new_tokens},
        "metrics": ["logits"],
        "results": {"file": f"{name}.results.h5"},
        "engine": {"device": "cpu", "threads": 1, "memory_limit": "1GiB", "executor": executor},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(job, indent=1))
    return path


def datasets(path: Path, groups: tuple[str, ...]) -> dict[str, Any]:
    """Every dataset below some groups of an HDF5 file: numbers as their bytes, texts as a list."""
    out: dict[str, Any] = {}
    with h5py.File(path) as f:
        for group in groups:

            def take(name: str, item: Any, group: str = group) -> None:
                if isinstance(item, h5py.Dataset):
                    value = item[()]
                    out[f"{group}/{name}"] = value.tolist() if value.dtype == object else value.tobytes()

            f[group].visititems(take)
    return out


def compare_files(report: Report, folder: Path, first: str, second: str, commands: tuple[str, ...]) -> None:
    """Two runs of these commands must have left the same values, to the bit."""
    made = {"cache": ("store", ("runs", "journal")), "sweep": ("results", ("rows", "answers", "conditions"))}
    for kind, groups in (made[c] for c in commands):
        x = datasets(folder / f"{first}.{kind}.h5", groups)
        y = datasets(folder / f"{second}.{kind}.h5", groups)
        odd = sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))
        report.check(
            not odd, f"{kind} of {second} = that of {first}: {len(x)} datasets{' but ' + str(odd) if odd else ''}"
        )


def compare_tokens(ours: list[int], theirs: Run) -> tuple[bool, str]:
    """Greedy answers are equal, or part at a choice that is a tie in float32."""
    if ours == theirs.answer_ids:
        return True, "equal"
    if theirs.margin < MARGIN:
        return True, f"part at a tie (margin {theirs.margin:.1e})"
    return False, f"{ours} here, {theirs.answer_ids} there (margin {theirs.margin:.1e})"


def choose_pairs(a: argparse.Namespace, path: Path) -> list[int]:
    """Which pairs to compare: those with metrics first (random weights seldom write a digit)."""
    with h5py.File(path) as f:
        found = np.isfinite(f["rows/logit_clean"][:, 0])
    return sorted(range(len(found)), key=lambda p: (not found[p], p))[: a.compare]


def thoughts(got: Run, site: str) -> Tensor:
    """The oracle's states as the store lays them out: [L, T, width], or [T, width] without layers."""
    first = len(got.prompt_ids)
    x = got.values[site][first : first + STEPS]
    return x.transpose(0, 1) if site in LAYER_SITES else x


def stored(group: h5py.Group, site: str, pair: int) -> Tensor:
    """The same from the store, where resid_pre[l] of l > 0 is resid_post[l-1]."""
    x = group[site][pair]
    if site == "resid_pre":
        x = np.concatenate((x[:1], group["resid_post"][pair][:-1]))
    return torch.from_numpy(x)


def distance(x: Tensor, y: Tensor) -> float:
    """Largest absolute error over the largest absolute value of y."""
    return float((x.double() - y.double()).abs().max() / y.double().abs().max())


def compare_store(
    report: Report, m: Loaded, pairs: dict[int, dict[str, Any]], path: Path, limit: int
) -> tuple[dict[int, dict[str, Run]], dict[str, float]]:
    """Every state of the thoughts and the answers of the unpatched runs; the oracle's runs, the distance by site."""
    worst = dict.fromkeys((*LAYER_SITES, *POSITION_SITES), 0.0)
    every: dict[int, dict[str, Run]] = {}
    n_answers = n_equal = 0
    with h5py.File(path) as f:
        report.check(bool((f["journal/state"][()] == 1).all()), "every pair is journalled")
        for p, pair in pairs.items():
            every[p] = {}
            for side in ("clean", "corrupted"):
                got = every[p][side] = run(m, pair[side]["question"], "codi", STEPS, limit)
                group = f[f"runs/{side}"]
                found, n_prompt = int(group["prompt_tokens"][p]), len(got.prompt_ids)
                report.check(found == n_prompt, f"pair {p} {side}: {found} prompt positions, expected {n_prompt}")
                for site in worst:
                    worst[site] = max(worst[site], distance(stored(group, site, p), thoughts(got, site)))
                ours = group["answer_tokens"][p][: group["answer_len"][p]].tolist()
                fine, how = compare_tokens(ours, got)
                n_answers, n_equal = n_answers + 1, n_equal + (how == "equal")
                if how != "equal":
                    report.check(fine, f"pair {p} {side}: answer tokens {how}")
    print(f"       {n_equal} of {n_answers} unpatched answers have equal tokens", flush=True)
    return every, worst


def patched(
    m: Loaded, donor: Run, pair: dict[str, Any], layer: int | None, limit: int, forced: list[int] | None
) -> Run:
    """A condition of the job; layer None: nothing is replaced."""
    reps = [] if layer is None else [
        Replacement("thought", t, "resid_post", layer, vector=donor.vector("thought", t, "resid_post", layer))
        for t in range(3)
    ]  # fmt: skip
    return run(m, pair["corrupted"]["question"], "codi", STEPS, limit, reps, forced, record=False)


def compare_results(
    report: Report,
    m: Loaded,
    pairs: dict[int, dict[str, Any]],
    every: dict[int, dict[str, Run]],
    path: Path,
    limit: int,
) -> None:
    """Tokens and metrics of every row of these pairs."""
    worst = dict.fromkeys(METRICS, 0.0)
    logits: list[float] = []
    rows = measured = n_equal = 0
    with h5py.File(path) as f:
        layers = f["conditions/layer"][()].tolist()
        answers, tokens, offset = (
            f["rows/answer"][()],
            f["answers/tokens"][()].tolist(),
            f["answers/offset"][()].tolist(),
        )
        values = {name: f[f"rows/{name}"][()] for name in METRICS}
    for p, pair in pairs.items():
        clean, corrupted = (float(pair[side]["answer"]) for side in ("clean", "corrupted"))
        place = metric_place(m, every[p]["corrupted"].answer_ids, clean, corrupted)
        baseline = None
        for c, number in enumerate(layers):
            layer = number if number >= 0 else None

            def forward(forced: list[int], p: int = p, layer: int | None = layer) -> Run:
                return patched(m, every[p]["clean"], pairs[p], layer, limit, forced)

            got = patched(m, every[p]["clean"], pair, layer, limit, None)
            at = int(answers[p, c])
            fine, how = compare_tokens(tokens[offset[at] : offset[at + 1]], got)
            rows, n_equal = rows + 1, n_equal + (how == "equal")
            if how != "equal":
                report.check(fine, f"pair {p} layer {number}: answer tokens {how}")
            if place is None:
                empty = all(np.isnan(values[name][p, c]) for name in METRICS)
                report.check(empty, f"pair {p} layer {number}: no number in the answer, so no metrics")
                continue
            measured += 1
            theirs, logp = metrics(m, place, forward, baseline)
            if baseline is None:
                baseline = logp
            want = {
                "logit_clean": theirs.logit_clean,
                "logit_corrupted": theirs.logit_corrupted,
                "logprob_clean": theirs.logit_clean - theirs.logsumexp,
                "logprob_corrupted": theirs.logit_corrupted - theirs.logsumexp,
                "kl": theirs.kl,
            }
            logits += [abs(theirs.logit_clean), abs(theirs.logit_corrupted), abs(theirs.logsumexp)]
            for name, value in want.items():
                error = abs(float(values[name][p, c]) - value)
                worst[name] = max(worst[name], error if np.isfinite(error) else float("inf"))
    print(f"       {n_equal} of {rows} rows of the sweep have equal tokens; {measured} have metrics", flush=True)
    if measured:
        print(f"       logits there up to {max(logits):.2f}")
        for name, error in worst.items():
            report.check(error < METRIC_BOUND, f"{name:<16} max abs error {error:.2e}")


@contextmanager
def in_float64(m: Loaded) -> Iterator[None]:
    """The model in float64 throughout: transformers' RMSNorm and softmax would still compute in float32."""
    softmax, norm = torch.nn.functional.softmax, LlamaRMSNorm.forward

    def wide_softmax(x: Tensor, *, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype)

    def wide_norm(self: LlamaRMSNorm, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    torch.nn.functional.softmax, LlamaRMSNorm.forward = wide_softmax, wide_norm
    m.codi.double()
    try:
        yield
    finally:
        m.codi.float()
        torch.nn.functional.softmax, LlamaRMSNorm.forward = softmax, norm


def float64_distances(
    m: Loaded, pairs: dict[int, dict[str, Any]], every: dict[int, dict[str, Run]], path: Path
) -> dict[str, tuple[float, float]]:
    """How far our states and the oracle's float32 are from its float64, by site."""
    out = dict.fromkeys((*LAYER_SITES, *POSITION_SITES), (0.0, 0.0))
    with in_float64(m), h5py.File(path) as f:
        for p, pair in pairs.items():
            for side, got in every[p].items():
                exact = run(m, pair[side]["question"], "codi", STEPS, forced=[])
                for site, (ours, theirs) in out.items():
                    truth = thoughts(exact, site)
                    ours = max(ours, distance(stored(f[f"runs/{side}"], site, p), truth))
                    out[site] = ours, max(theirs, distance(thoughts(got, site), truth))
    return out


def check_states(report: Report, apart: dict[str, float], truth: dict[str, tuple[float, float]]) -> None:
    """The rule at the top of this file."""
    for site, error in apart.items():
        ours, theirs = truth.get(site, (0.0, 0.0))
        fine = error < BOUND or theirs >= BOUND / 2
        line = f"{site:<11} max abs error / max abs value {error:.2e}"
        if truth:
            fine = fine and ours <= OWN_BOUND * theirs
            line += f"; from float64 {ours:.2e}, transformers {theirs:.2e}"
        report.check(fine, line)


def compare_reference(
    a: argparse.Namespace, report: Report, m: Loaded, job: Path, chosen: dict[int, dict[str, Any]]
) -> None:
    """The executor without batches, which sums in float64: the same by the same rule."""
    _, wall, cpu = latentpatch(a, 1, "cache", job, "--quiet")
    print(f"       reference executor, cache: {wall:.1f} s wall, {cpu:.1f} s CPU", flush=True)
    store = job.parent / "reference.store.h5"
    every, apart = compare_store(report, m, chosen, store, a.max_new_tokens)
    check_states(report, apart, float64_distances(m, chosen, every, store) if a.float64 else {})


def one_shape(a: argparse.Namespace, shape: str, report: Report) -> None:
    """Everything for one shape."""
    print(f"\n{shape}", flush=True)
    folder = a.work / shape
    start = time.perf_counter()
    codi = make_checkpoint(shape, a.init, folder)
    for kind, path in codi.items():
        size = sum(f.stat().st_size for f in path.iterdir())
        print(f"       {kind}: {size / 1e6:.1f} MB")
        found = inspect(a, folder / "base", path)
        total = found["parameters"]["total"]
        report.check(total == PARAMETERS[shape], f"{kind}: {total:,} parameters, expected {PARAMETERS[shape]:,}")
        report.check(not found["missing"], f"{kind}: missing tensors {found['missing']}")
    print(f"       made and inspected in {time.perf_counter() - start:.0f} s", flush=True)
    pairs = make_pairs(a)
    n_layers = found["layers"]
    layers = [1, n_layers // 2]
    both = ("cache", "sweep")
    ours = [
        ("safetensors-1", "safetensors", 1, both),
        ("safetensors-2", "safetensors", 2, both),
        ("bin-1", "bin", 1, both[:1]),
    ]
    for name, kind, ranks, commands in ours:
        job = make_job(a, folder, codi[kind], name, layers)
        for command in commands:
            memory, wall, cpu = latentpatch(a, ranks, command, job, "--quiet")
            print(
                f"       {name} {command}: {wall:.1f} s wall, {cpu:.1f} s CPU; peak of {ranks} rank(s) "
                f"{memory.total / 1e9:.2f} GB = own {memory.anonymous / 1e9:.2f} + shared window "
                f"{memory.shared / 1e9:.2f} + mapped files {memory.mapped / 1e9:.2f}; largest rank's RSS "
                f"{memory.largest_rank / 1e9:.2f} GB",
                flush=True,
            )
            report.check(0 < memory.total < MAX_BYTES, f"{name} {command}: below {MAX_BYTES / 1e9:.0f} GB in all")
    for name, _, _, commands in ours[1:]:
        compare_files(report, folder, ours[0][0], name, commands)
    start = time.perf_counter()
    m = load(folder / "base", codi["safetensors"], *lora_of(folder))
    print(f"       transformers + peft loaded it in {time.perf_counter() - start:.1f} s", flush=True)
    counted = sum(p.numel() for p in m.codi.parameters())
    report.check(counted == PARAMETERS[shape], f"transformers + peft: {counted:,} parameters")
    store, results = (folder / f"{ours[0][0]}.{kind}.h5" for kind in ("store", "results"))
    chosen = {p: pairs[p] for p in choose_pairs(a, results)}
    every, apart = compare_store(report, m, chosen, store, a.max_new_tokens)
    compare_results(report, m, chosen, every, results, a.max_new_tokens)
    check_states(report, apart, float64_distances(m, chosen, every, store) if a.float64 else {})
    print(f"       compared in {time.perf_counter() - start:.0f} s", flush=True)
    if a.reference:
        job = make_job(a, folder, codi["safetensors"], "reference", layers, "reference")
        compare_reference(a, report, m, job, chosen)
    del m, every
    gc.collect()
    if a.no_load_times:
        return
    load_times = ["bash", str(ROOT / "bench" / "load.sh"), str(a.latentpatch), str(folder / "base")]
    subprocess.run([*load_times, str(codi["safetensors"]), str(codi["bin"])], check=True)


def lora_of(folder: Path) -> tuple[int, float]:
    """Rank and alpha."""
    given = json.loads((folder / "lora.json").read_text())
    return int(given["r"]), float(given["alpha"])


def arguments() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--latentpatch", type=Path, required=True)
    p.add_argument("--work", type=Path, required=True, help="a folder that this may fill and empty")
    p.add_argument("--shapes", nargs="+", choices=sorted(PARAMETERS), default=sorted(PARAMETERS))
    p.add_argument("--init", choices=("library", "scaled"), default="library", help="see bench/make_checkpoint.py")
    p.add_argument("--pairs", type=int, default=8, help="that latentpatch runs")
    p.add_argument("--compare", type=int, default=2, help="that transformers + peft run too")
    p.add_argument("--max-new-tokens", type=int, default=12)
    p.add_argument("--float64", action="store_true", help="needs 11 GB for the larger shape")
    p.add_argument("--reference", action="store_true", help="also with the reference executor: minutes a pair")
    p.add_argument("--no-load-times", action="store_true", help="leave out bench/load.sh, which needs a quiet machine")
    p.add_argument("--mpiexec", default="mpiexec")
    p.add_argument("--keep", action="store_true", help="leave checkpoints and stores")
    return p.parse_args()


def main() -> None:
    """All shapes."""
    a = arguments()
    a.latentpatch, a.work = a.latentpatch.resolve(), a.work.resolve()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    report = Report()
    for shape in a.shapes:
        if (a.work / shape).exists():
            raise SystemExit(f"{a.work / shape}: expected nothing there")
        try:
            one_shape(a, shape, report)
        finally:
            if not a.keep:
                shutil.rmtree(a.work / shape, ignore_errors=True)
    if not a.keep:
        for name in ("pairs.json", "log.txt"):
            (a.work / name).unlink(missing_ok=True)
    if report.failures:
        print(f"\nfull size: {len(report.failures)} checks failed")
        sys.exit(1)
    print("\nfull size: ok")


if __name__ == "__main__":
    main()
