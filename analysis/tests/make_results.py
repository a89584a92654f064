"""Synthetic results files and stores in the layout of schemas/, with planted effects of known size.

Everything a test asserts about such a file follows from the arguments given here, never from the package under test.
Run as a program it writes one file: `python make_results.py OUT.results.h5 [--pairs 500] [--large]`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

CLASSES = ("clean_answer", "corrupted_answer", "other", "gibberish")
CLEAN, CORRUPTED, OTHER, GIBBERISH, NOT_RUN = 0, 1, 2, 3, 255
Effect = Callable[[int, int], float]


@dataclass
class Plan:
    """What the file shall hold. `effect(layer, n_steps)` is the share of pairs that answer with the donor's answer."""

    pairs: int = 60
    excluded: int = 4
    layers: int = 3
    steps: int = 6
    sites: Sequence[str] = ("resid_post",)
    directions: Sequence[str] = ("denoise",)
    donors: Sequence[str] = ("clean",)
    controls: Sequence[str] = ("shuffled", "self")
    step_sets: Sequence[str] = ("first", "single")
    effect: Effect = field(default=lambda layer, n: min(1.0, 0.15 * n * (layer + 1) / 3))
    control_effect: Effect = field(default=lambda layer, n: 0.02)
    gibberish: float = 0.0
    other: float = 0.1
    metrics: bool = True
    exact: bool = True  # True: exactly round(share * n) pairs; False: independent draws
    pairs_per_source: int = 1
    seed: int = 1
    model: str = "planted-gpt2"
    dtype: str = "float32"
    long_gibberish: bool = False


def _questions(p: int) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    clean_answer = np.array([10.0 + 3 * i for i in range(p)])
    corrupted_answer = clean_answer + 1
    clean = [f"Tom has {7 + i} pens, buys {3 + 2 * i} more and finds {3 * i} coins. How many pens?" for i in range(p)]
    corrupted = [
        f"Tom has {8 + i} pens, buys {3 + 2 * i} more and finds {3 * i} coins. How many pens?" for i in range(p)
    ]
    clean[0] += ' Ünïcode <b>&amp;</b> "quotes" </script>'
    return clean, corrupted, clean_answer, corrupted_answer


def conditions(plan: Plan) -> list[dict]:
    """The condition table: unpatched rows, then controls, then effects; dead cells and copies marked."""
    rows: list[dict] = []

    def add(name: str, role: str, direction: str, **rest: object) -> None:
        base = {
            "site": "",
            "operation": "",
            "donor": "",
            "layer": -1,
            "layers": "",
            "steps": "",
            "mask": 0,
            "n": 0,
            "dead": 0,
            "defects": "",
            "phase": "" if role == "unpatched" else "thought",
            "index": "",
            "head": -1,
            "vector": -1,
            "from_site": "",
            "from_layer": -1,
            "from_step": -1,
            "factor": 1.0,
            "stop_after": 0,
            "identity": int(rest.get("donor") == "self"),
        }
        rows.append({"name": name, "role": role, "direction": direction, **base, **rest, "same_as": len(rows)})

    for direction in plan.directions:
        add(f"unpatched/{direction}", "unpatched", direction)
    last = plan.layers - 1
    for direction in plan.directions:
        donors = [(d, "control") for d in plan.controls]
        donors += [(d if direction == "denoise" or d != "clean" else "corrupted", "effect") for d in plan.donors]
        for donor, role in donors:
            for site in plan.sites:
                for layer in range(plan.layers):
                    first_at: dict[int, int] = {}
                    for kind in plan.step_sets:
                        for i in range(plan.steps):
                            mask = {
                                "first": (1 << (i + 1)) - 1,
                                "single": 1 << i,
                                "last": ((1 << (i + 1)) - 1) << (plan.steps - i - 1),
                            }[kind]
                            label = f"{kind}:{i if kind == 'single' else i + 1}"
                            final_site = site == "resid_post" and layer == last
                            live = mask & ~(1 << (plan.steps - 1)) if final_site else mask
                            add(
                                f"{direction}/{donor}/replace/{site}/L{layer}/{label}",
                                role,
                                direction,
                                site=site,
                                operation="replace",
                                donor=donor,
                                layer=layer,
                                layers=str(layer),
                                steps=label,
                                mask=mask,
                                n=bin(mask).count("1"),
                                dead=int(live == 0),
                            )
                            rows[-1]["same_as"] = first_at.setdefault(live, rows[-1]["same_as"])
    return rows


def write_results(path: Path | str, plan: Plan | None = None) -> Plan:
    """Writes a whole results file. Returns the plan used."""
    plan = plan or Plan()
    rng = np.random.default_rng(plan.seed)
    p, table = plan.pairs + plan.excluded, conditions(plan)
    included = np.ones(p, np.uint8)
    included[plan.pairs :] = 0
    n, c = plan.pairs, len(table)
    clean_q, corrupted_q, clean_a, corrupted_a = _questions(p)
    cls = np.full((p, c), NOT_RUN, np.uint8)
    number = np.full((p, c), np.nan)
    changed = np.zeros((p, c), np.uint8)
    answer = np.full((p, c), -1, np.int32)
    texts: list[str] = []
    index: dict[str, int] = {}
    order = {}

    def text_of(pair: int, kind: int) -> tuple[str, float]:
        if kind == GIBBERISH:
            body = " ".join("".join(rng.choice(list("/,.=#"), 3)) for _ in range(60)) if plan.long_gibberish else "////"
            return body, np.nan
        value = {CLEAN: clean_a[pair], CORRUPTED: corrupted_a[pair]}.get(kind)
        value = float(rng.integers(500, 700)) if value is None else float(value)
        return f"The answer is: {value:g}", value

    for j, row in enumerate(table):
        recipient = CORRUPTED if row["direction"] == "denoise" else CLEAN
        donor_class = CLEAN if recipient == CORRUPTED else CORRUPTED
        if row["same_as"] != j:
            for array in (cls, number, changed, answer):
                array[:, j] = array[:, row["same_as"]]
            continue
        kind = np.full(n, recipient, np.uint8)
        if row["role"] != "unpatched" and row["donor"] != "self" and not row["dead"]:
            share = (plan.effect if row["role"] == "effect" else plan.control_effect)(row["layer"], row["n"])
            key = (row["layer"], row["role"])
            if key not in order:
                order[key] = rng.permutation(n)
            where = order[key] if plan.exact else rng.permutation(n)
            k = round(share * n) if plan.exact else int(rng.binomial(n, share))
            rest = n - k
            kind[where[:k]] = donor_class
            kind[where[k : k + round(plan.other * rest)]] = OTHER
            kind[where[k + round(plan.other * rest) : k + round((plan.other + plan.gibberish) * rest)]] = GIBBERISH
        cls[:n, j] = kind
        for i in range(n):
            text, number[i, j] = text_of(i, int(kind[i]))
            answer[i, j] = index.setdefault(text, len(index))
            if answer[i, j] == len(texts):
                texts.append(text)
        changed[:n, j] = kind != recipient

    with h5py.File(path, "w") as file:

        def fixed(name: str, values: Sequence[str]) -> None:
            raw = [v.encode() for v in values]
            width = max([len(v) for v in raw] + [1])
            file.create_dataset(name, data=np.array(raw, dtype=h5py.string_dtype("utf-8", width)))

        fixed("/pairs/id", [f"pair-{i:04d}" for i in range(p)])
        fixed("/pairs/source", [f"problem-{i // plan.pairs_per_source:04d}" for i in range(p)])
        fixed("/pairs/clean_question", clean_q)
        fixed("/pairs/corrupted_question", corrupted_q)
        file["/pairs/clean_answer"], file["/pairs/corrupted_answer"] = clean_a, corrupted_a
        fixed("/pairs/clean_text", [f"The answer is: {v:g}" for v in clean_a])
        fixed("/pairs/corrupted_text", [f"The answer is: {v if i < n else -1:g}" for i, v in enumerate(corrupted_a)])
        file["/pairs/clean_correct"] = np.ones(p, np.uint8)
        file["/pairs/corrupted_correct"] = included
        file["/pairs/included"] = included
        file.attrs["format"], file.attrs["version"] = "latentpatch-results", np.int32(2)
        for key in (
            *("name", "role", "direction", "phase", "site", "operation", "donor"),
            *("layers", "steps", "index", "from_site", "defects"),
        ):
            fixed(f"/conditions/{key}", [row[key] for row in table])
        for key in ("layer", "head", "vector", "from_layer", "from_step", "stop_after"):
            file[f"/conditions/{key}"] = np.array([row[key] for row in table], np.int32)
        file["/conditions/factor"] = np.array([row["factor"] for row in table], np.float32)
        file["/conditions/identity"] = np.array([row["identity"] for row in table], np.uint8)
        file["/conditions/step_mask"] = np.array([row["mask"] for row in table], np.uint64)
        file["/conditions/n_steps"] = np.array([row["n"] for row in table], np.int32)
        file["/conditions/dead"] = np.array([row["dead"] for row in table], np.uint8)
        file["/conditions/same_as"] = np.array([row["same_as"] for row in table], np.int32)
        file["/rows/class"] = cls
        file["/rows/class"].attrs["classes"] = ",".join(CLASSES)
        file["/rows/number"], file["/rows/answer"], file["/rows/changed"] = number, answer, changed
        if plan.metrics:
            centre = np.array([2.0, -2.0, 0.0, 0.0])[np.minimum(cls, 3)]
            diff = (centre + rng.normal(0, 0.3, cls.shape)).astype(np.float32)
            diff[cls == NOT_RUN] = np.nan
            file["/rows/logit_diff"] = diff
            kl = np.where(changed == 1, 1.5, 0.0).astype(np.float32)
            kl[cls == NOT_RUN] = np.nan
            file["/rows/kl"] = kl
        tokens = [np.arange(len(t.split()), dtype=np.int32) for t in texts]
        file["/answers/tokens"] = np.concatenate(tokens) if tokens else np.zeros(0, np.int32)
        file["/answers/offset"] = np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int64)
        file.create_dataset("/answers/text", data=texts, dtype=h5py.string_dtype("utf-8"))
        file["/counts"] = np.stack([(cls[:n] == k).sum(0) for k in range(4)], 1).astype(np.int64)
        provenance = file.create_group("/provenance")
        job = {"model": {"path": f"{plan.model}/"}, "protocol": "codi", "sweep": {"filter": "both_correct"}}
        for key, value in {
            "tool": "latentpatch 0.1.0 (synthetic)",
            "job": json.dumps(job),
            "model": plan.model,
            "protocol": "codi",
            "classifier": "seed",
            "executor": "engine",
            "device": "cpu",
            "dtype": plan.dtype,
            "filter": "both-correct",
            "store.model_sha256": "00" * 32,
        }.items():
            provenance.attrs[key] = value
    return plan


def write_store(
    path: Path | str,
    pairs: int = 40,
    layers: int = 3,
    steps: int = 4,
    hidden: int = 12,
    incomplete: int = 2,
    seed: int = 3,
) -> None:
    """Writes a store whose `resid_post` at (last layer, last step) carries the answer; other addresses are noise."""
    rng = np.random.default_rng(seed)
    clean_q, corrupted_q, clean_a, corrupted_a = _questions(pairs)
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"] = "latentpatch-store", np.int32(3)

        def fixed(name: str, values: Sequence[str]) -> None:
            raw = [v.encode() for v in values]
            width = max(len(v) for v in raw)
            file.create_dataset(name, data=np.array(raw, dtype=h5py.string_dtype("utf-8", width)))

        fixed("/pairs/id", [f"pair-{i:04d}" for i in range(pairs)])
        fixed("/pairs/source", [f"problem-{i // 2:04d}" for i in range(pairs)])
        fixed("/pairs/clean_question", clean_q)
        fixed("/pairs/corrupted_question", corrupted_q)
        file["/pairs/clean_answer"], file["/pairs/corrupted_answer"] = clean_a, corrupted_a
        direction = rng.normal(size=hidden)
        for run, values in (("clean", clean_a), ("corrupted", corrupted_a)):
            resid = rng.normal(size=(pairs, layers, steps, hidden)).astype(np.float32)
            resid[:, -1, -1] += np.outer(values / 20, direction).astype(np.float32)
            file[f"/runs/{run}/resid_post"] = resid
            file[f"/runs/{run}/resid_pre"] = rng.normal(size=(pairs, 1, steps, hidden)).astype(np.float32)
            file[f"/runs/{run}/resid_pre"].attrs["layers"] = np.array([0], np.int32)
            file[f"/runs/{run}/latent_in"] = rng.normal(size=(pairs, steps, hidden)).astype(np.float32)
            file[f"/runs/{run}/latent_raw"] = rng.normal(size=(pairs, steps, hidden)).astype(np.float32)
            file[f"/runs/{run}/prompt_tokens"] = np.full(pairs, 20, np.int32)
            file[f"/runs/{run}/answer_tokens"] = np.full((pairs, 4), 5, np.int32)
            file[f"/runs/{run}/answer_len"] = np.full(pairs, 4, np.int32)
            fixed(f"/runs/{run}/answer_text", [f"The answer is: {v:g}" for v in values])
            file[f"/runs/{run}/number"] = values
            file[f"/runs/{run}/outcome"] = np.full(pairs, CLEAN if run == "clean" else CORRUPTED, np.uint8)
        state = np.ones(pairs, np.uint8)
        state[pairs - incomplete :] = 0
        file["/journal/state"] = state
        file["/journal/checksum"] = np.zeros((pairs, 16), np.uint8)
        file.create_group("/provenance").attrs["model"] = "planted"


def large_plan(pairs: int = 500) -> Plan:
    """504 effect and 505 control or unpatched conditions: the size the report is measured at."""
    return Plan(
        pairs=pairs,
        excluded=20,
        layers=14,
        sites=("resid_post", "resid_mid", "mlp_out"),
        donors=("clean",),
        controls=("shuffled",),
        directions=("denoise",),
        step_sets=("first", "single"),
        gibberish=0.08,
        other=0.15,
        long_gibberish=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--large", action="store_true", help="the measured size: about 1,000 conditions")
    parser.add_argument("--store", action="store_true", help="write a store instead")
    args = parser.parse_args()
    if args.store:
        write_store(args.out, args.pairs)
    else:
        write_results(args.out, large_plan(args.pairs) if args.large else Plan(pairs=args.pairs))


if __name__ == "__main__":
    main()
