"""A first-N sweep by transformers + peft + hooks, compared row by row with a results file of latentpatch.

    python run_oracle.py --base DIR --codi DIR --pairs PAIRS.json [--off-by-one] [--prefill-leak] [--decode-leak]
                         [--csv OUT.csv] [--against RESULTS.h5|RESULTS.csv] [OPTIONS]

For each pair that passes the filter: all layers x the first 1..T thought steps, clean values into the corrupted run,
at the output of the layer's block (resid_post). The switches add what the published scripts did:

off_by_one    the donor's value is the block's *input* (resid_pre) though its output is overwritten
prefill_leak  the last prompt position is overwritten too, with the donor's value of step 0
decode_leak   where the set holds the last step, its donor value is also written at every answer position

Ends with `rows: N  equal: N  different: N` and exit code 1 where anything differs: a class, a text, tokens (HDF5), a
row that is missing, or the set of pairs that pass the filter.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import torch

from codi_hf import PROTOCOLS, Loaded, Replacement, Run, load, run
from outcome import CLASSES, classify, extract, match

Key = tuple[str, int, str]  # pair, layer, steps


@dataclass
class Row:
    """The outcome of one condition on one pair."""

    outcome: str
    text: str
    tokens: list[int] | None
    margin: float = float("nan")


@dataclass
class Results:
    """What a results file holds of this sweep."""

    rows: dict[Key, Row]
    pairs: set[str] | None  # those that passed its filter; None: not said


def replacements(a: argparse.Namespace, donor: Run, layer: int, n: int) -> list[Replacement]:
    """First-n at a layer, with the defects asked for."""
    site = "resid_pre" if a.off_by_one else "resid_post"
    values = [donor.vector("thought", t, site, layer) for t in range(n)]
    out = [Replacement("thought", t, "resid_post", layer, vector=v) for t, v in enumerate(values)]
    if a.prefill_leak:
        out.append(Replacement("prompt", -1, "resid_post", layer, vector=values[0]))
    if a.decode_leak and n == a.thoughts:
        out.append(Replacement("answer", "*", "resid_post", layer, vector=values[-1]))
    return out


def sweep(m: Loaded, a: argparse.Namespace, pairs: list[dict[str, Any]]) -> tuple[dict[Key, Row], set[str]]:
    """Run everything; rows, and the ids of the pairs that pass the filter."""
    rows: dict[Key, Row] = {}
    passed: set[str] = set()
    layers = range(m.n_layers) if a.layers is None else a.layers

    def once(question: str, record: bool, reps: list[Replacement]) -> Run:
        return run(m, question, a.protocol, a.thoughts, a.max_new_tokens, reps, record=record)

    for pair in pairs:
        clean, corrupted = pair["clean"], pair["corrupted"]
        donor = once(clean["question"], True, [])
        plain = once(corrupted["question"], False, [])
        right = match(extract(m.text(donor.answer_ids)), clean["answer"])
        right = right and match(extract(m.text(plain.answer_ids)), corrupted["answer"])
        if a.filter == "both-correct" and not right:
            continue
        passed.add(str(pair["id"]))
        for layer in layers:
            for n in range(1, a.thoughts + 1):
                got = once(corrupted["question"], False, replacements(a, donor, layer, n))
                text = m.text(got.answer_ids)
                outcome = classify(text, clean["answer"], corrupted["answer"])
                rows[str(pair["id"]), layer, f"first:{n}"] = Row(outcome, text, got.answer_ids, got.margin)
    return rows, passed


def wanted(role: str, direction: str, donor: str, operation: str, site: str) -> bool:
    """True for a condition of this sweep."""
    return (role, direction, donor, operation, site) == ("effect", "denoise", "clean", "replace", "resid_post")


def read_csv(path: Path) -> Results:
    """The long format; it does not say which defects were on."""
    rows: dict[Key, Row] = {}
    with path.open(newline="", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            if wanted(r["role"], r["direction"], r["donor"], r["operation"], r["site"]):
                put(rows, (r["pair"], int(r["layer"]), r["steps"]), Row(r["class"], r["text"], None))
    return Results(rows, None)


def read_h5(path: Path, leaks: set[str]) -> Results:
    """The HDF5 file; only conditions with just these leaks."""
    rows: dict[Key, Row] = {}
    with h5py.File(path) as f:

        def words(name: str) -> list[str]:
            return [x.decode() for x in f[name][:]]

        c = {
            n: words(f"conditions/{n}") for n in ("role", "direction", "donor", "operation", "site", "steps", "defects")
        }
        layers = f["conditions/layer"][:].tolist()
        ids = words("pairs/id")
        included = f["pairs/included"][:]
        classes, answers = f["rows/class"][:], f["rows/answer"][:]
        texts, tokens, offsets = words("answers/text"), f["answers/tokens"][:].tolist(), f["answers/offset"][:].tolist()
        for k, layer in enumerate(layers):
            if not wanted(*(c[n][k] for n in ("role", "direction", "donor", "operation", "site"))):
                continue
            if {d for d in c["defects"][k].split(",") if d} - {"off_by_one"} != leaks:
                continue
            for p, pair in enumerate(ids):
                if included[p]:
                    at = int(answers[p, k])
                    row = Row(CLASSES[classes[p, k]], texts[at], tokens[offsets[at] : offsets[at + 1]])
                    put(rows, (pair, layer, c["steps"][k]), row)
        return Results(rows, {pair for p, pair in enumerate(ids) if included[p]})


def put(rows: dict[Key, Row], key: Key, row: Row) -> None:
    """Add a row that must be the only one of its kind."""
    if key in rows:
        raise SystemExit(f"{key}: two conditions of the results file fit; give a file with one sweep")
    rows[key] = row


def compare(ours: dict[Key, Row], passed: set[str], asked: set[str], theirs: Results) -> int:
    """Print the agreement; the number of differences."""
    different = 0
    if theirs.pairs is not None and passed != theirs.pairs & asked:
        odd = sorted(passed ^ (theirs.pairs & asked))
        print(f"pairs that pass one filter only: {odd}")
        different += len(odd)
    same_class = same_text = 0
    for key, row in ours.items():
        other = theirs.rows.get(key)
        if other is None:
            print(f"{key}: not in the results file")
            different += 1
            continue
        same_class += row.outcome == other.outcome
        same_text += row.text == other.text
        tokens = other.tokens is None or row.tokens == other.tokens
        if (row.outcome, row.text) != (other.outcome, other.text) or not tokens:
            different += 1
            print(
                f"{key}: here {row.outcome} {row.text!r} {row.tokens}, "
                f"there {other.outcome} {other.text!r} {other.tokens} (margin {row.margin:.1e})"
            )
    print(f"classes equal: {same_class}  texts equal: {same_text}")
    print(f"rows: {len(ours)}  equal: {len(ours) - min(different, len(ours))}  different: {different}")
    return different


def write_csv(path: Path, rows: dict[Key, Row]) -> None:
    """Our rows, in latentpatch's names."""
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.writer(f)
        out.writerow(["pair", "layer", "steps", "class", "text", "tokens", "margin"])
        for (pair, layer, steps), r in rows.items():
            out.writerow([pair, layer, steps, r.outcome, r.text, " ".join(map(str, r.tokens or [])), f"{r.margin:.2e}"])


def arguments() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--base", type=Path, required=True)
    p.add_argument("--codi", type=Path, required=True)
    p.add_argument("--lora-r", type=int, help="default: lora.json in the folder that holds --codi")
    p.add_argument("--lora-alpha", type=float)
    p.add_argument("--base-rounding", choices=("none", "fp16"), default="none")
    p.add_argument("--pairs", type=Path, required=True)
    p.add_argument("--protocol", choices=PROTOCOLS, default="codi")
    p.add_argument("--thoughts", type=int, default=6)
    p.add_argument("--max-new-tokens", type=int, default=200)
    p.add_argument("--layers", type=int, nargs="+", help="default: all")
    p.add_argument("--filter", choices=("both-correct", "all"), default="both-correct")
    p.add_argument("--limit", type=int, help="only the first N pairs of the file")
    p.add_argument("--off-by-one", action="store_true")
    p.add_argument("--prefill-leak", action="store_true")
    p.add_argument("--decode-leak", action="store_true")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--csv", type=Path, help="write our own rows")
    p.add_argument("--against", type=Path, help="results of latentpatch, .h5 or .csv")
    return p.parse_args()


def main() -> None:
    """Run, tabulate, compare."""
    a = arguments()
    torch.set_num_threads(a.threads)
    m = load(a.base, a.codi, a.lora_r, a.lora_alpha, a.base_rounding)
    listed = json.loads(a.pairs.read_text())
    pairs = (listed["pairs"] if isinstance(listed, dict) else listed)[: a.limit]
    rows, passed = sweep(m, a, pairs)
    print(f"pairs: {len(pairs)}  pass the filter: {len(passed)}")
    counts: dict[tuple[int, str], Counter[str]] = {}
    for (_, layer, steps), r in rows.items():
        counts.setdefault((layer, steps), Counter())[r.outcome] += 1
    for (layer, steps), c in counts.items():
        print(f"L{layer} {steps}: " + "  ".join(f"{k} {c[k]}" for k in CLASSES))
    if a.csv:
        write_csv(a.csv, rows)
    if a.against:
        leaks = {n for n in ("prefill_leak", "decode_leak") if getattr(a, n)}
        theirs = read_csv(a.against) if a.against.suffix == ".csv" else read_h5(a.against, leaks)
        asked = {str(p["id"]) for p in pairs}
        if compare(rows, passed, asked, theirs) or not rows:
            sys.exit(1)


if __name__ == "__main__":
    main()
