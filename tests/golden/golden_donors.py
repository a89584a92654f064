"""The golden runs whose donors are made of many pairs: means, noise and zero, by transformers + peft + hooks.

Nothing here is the program's: means and deviations are of the states that the hooks recorded, and the noise is made
from the definition in docs/design.md ("Noise"). Conditions are written as groups of a job file, one condition each.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi_hf import Loaded, Replacement, Run, run
from golden_cases import exact_run, float32_error, head_width, lines, measured, unpatched

N_PAIRS = 8
SEED = 20260
SIDES = ("clean", "corrupted")
# The numbers that docs/design.md gives to phases and sites.
PHASES = {"prompt": 0, "thought": 1, "answer": 2}
SITES = {"latent_in": 0, "resid_pre": 1, "k": 2, "v": 3, "attn_out": 4, "resid_mid": 5, "mlp_out": 6, "resid_post": 7,
         "latent_raw": 8, "q": 9, "z": 10}  # fmt: skip
NOISE = 3


def groups(n_layers: int, thoughts: int) -> list[tuple[str, dict[str, Any]]]:
    """Direction and group of each condition: every kind of mean, noise and zero, at sites of each kind."""
    mid, last = n_layers // 2, n_layers - 1
    step = {"site": "latent_in", "steps": "single:1"}
    block = {"site": "resid_post", "layers": mid, "steps": "first:3"}
    head = {"site": "v", "layers": mid, "heads": 1, "steps": "all"}
    prompt = {"site": "attn_out", "layers": 0, "phase": "prompt", "index": -1}
    out: list[tuple[str, dict[str, Any]]] = []

    def add(place: dict[str, Any], donor: Any, direction: str = "denoise", **how: Any) -> None:
        out.append((direction, place | {"donor": donor} | how))

    for place in (step, block, head, prompt):
        add(place, "zero")
        add(place, "mean")
    add(block, "zero", "noise", operation="lerp", factor=0.25)
    add(block, "mean", "noise", operation="lerp", factor=0.5)
    add(step, {"mean": {"steps": "all"}})
    add(head, {"mean": {"steps": "all"}}, "noise")
    for by in ("answer", "source", "template", "steps", "change"):
        add(block, {"mean": {"by": by}}, "denoise" if by != "template" else "noise")
        add(block, {"mean": {"by": by, "value": "different"}}, "noise" if by == "answer" else "denoise")
    add(step, {"mean": {"by": "source", "least": 2, "steps": "all"}})
    for sigma in (0.1, 1, 4):
        add(step, {"noise": {"sigma": sigma}}, operation="add")
        add(block, {"noise": {"sigma": sigma, "around": "zero"}}, "noise")
    add(head, {"noise": {"sigma": 2}}, operation="add", factor=-1)
    add(prompt, {"noise": {"sigma": 1.5, "around": "mean"}}, "noise")
    add(step, {"noise": {"sigma": 0.5, "in": "rms"}}, operation="add")
    add(step, {"noise": {"sigma": 0.5, "in": "rms", "around": "zero"}})
    add(step, {"noise": {"sigma": 0.5, "in": "rms", "around": "mean"}})
    add(step, {"noise": {"sigma": 0.5, "around": "mean", "steps": "all"}}, "noise")
    add(block, {"noise": {"sigma": 0.7, "around": "mean", "by": "source"}})
    late = {"site": "resid_mid", "layers": last, "steps": f"single:{thoughts - 2}"}
    add(late, {"noise": {"sigma": 3}}, operation="add")
    return out


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox-4x32-10."""
    low = 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & low, (a >> 32) ^ counter[3] ^ key[1], a & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return counter


def normal(stream: int, pair: int, place: int, n: int) -> Tensor:
    """n standard normal numbers of a stream, by Box and Muller."""
    out: list[float] = []
    for block in range((n + 1) // 2):
        b = philox([block, stream, pair, place], [SEED & 0xFFFFFFFF, SEED >> 32])
        u = ((b[0] << 21 ^ b[1] >> 11) + 1) * 2.0**-53
        v = (b[2] << 21 ^ b[3] >> 11) * 2.0**-53
        radius = math.sqrt(-2 * math.log(u))
        out += [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
    return torch.from_numpy(np.array(out[:n]).astype(np.float32).astype(np.float64))


@dataclass(frozen=True)
class Place:
    """One position that a condition changes."""

    phase: str
    index: int
    site: str
    layer: int | None
    head: int | None


def places(group: dict[str, Any], thoughts: int) -> list[Place]:
    """The positions of a group's one condition."""
    at = (group["site"], group.get("layers"), group.get("heads"))
    if group.get("phase", "thought") != "thought":
        return [Place(group["phase"], group["index"], *at)]
    words = group["steps"]
    kind, _, number = words.partition(":")
    steps = range(thoughts) if words == "all" else range(int(number)) if kind == "first" else [int(number)]
    return [Place("thought", t, *at) for t in steps]


@dataclass
class Store:
    """The unpatched runs of all pairs, in one precision."""

    pairs: list[dict[str, Any]]
    runs: list[dict[str, Run]]
    head_width: int
    thoughts: int

    def vector(self, pair: int, side: str, at: Place) -> Tensor:
        """A value of a run, in double precision."""
        x = self.runs[pair][side].vector(at.phase, at.index, at.site, at.layer).double()
        return x if at.head is None else x[at.head * self.head_width : (at.head + 1) * self.head_width]

    def samples(self, pair: int, side: str, at: Place, steps: str) -> Tensor:
        """What a mean takes of a pair, [1 or T, width]."""
        indices = range(self.thoughts) if steps == "all" else [at.index]
        return torch.stack([self.vector(pair, side, replace(at, index=t)) for t in indices])

    def label(self, pair: int, side: str, by: str) -> Any:
        """The value of a field, as a side has it; None: it has none."""
        p = self.pairs[pair]
        if by == "answer":
            return p[side]["answer"]
        if by == "change":
            return p.get("change", {}).get("from" if side == "clean" else "to")
        return p.get(by)

    def mean(self, pair: int, side: str, at: Place, how: dict[str, Any]) -> Tensor | None:
        """The mean over the other pairs, or over some of them; None where these are too few."""
        others = [k for k in range(len(self.pairs)) if k != pair]
        by = how.get("by")
        if by:
            own = self.label(pair, side, by)
            if own is None:
                return None
            same = how.get("value", "same") == "same"
            others = [k for k in others if (self.label(k, side, by) == own) == same]
        if len(others) < how.get("least", 1):
            return None
        return torch.cat([self.samples(k, side, at, how.get("steps", "each")) for k in others]).mean(0)

    def donor(self, pair: int, side: str, at: Place, donor: Any) -> Tensor | None:
        """The vector of a donor for a pair; `side` is the run that the direction takes values from."""
        if donor == "zero":
            return torch.zeros_like(self.vector(pair, side, at))
        if donor == "mean" or "mean" in donor:
            return self.mean(pair, side, at, {} if donor == "mean" else donor["mean"])
        how = donor["noise"]
        around = how.get("around", "own")
        recipient = self.vector(pair, SIDES[1 - SIDES.index(side)], at)
        centre = self.mean(pair, side, at, how) if around == "mean" else torch.zeros_like(recipient)
        if centre is None:
            return None
        if how.get("in") == "rms":
            size = (centre if around == "mean" else recipient).square().mean().sqrt()
        else:
            every = [self.samples(k, side, at, how.get("steps", "each")) for k in range(len(self.pairs))]
            size = torch.cat(every).var(0, correction=0).mean().sqrt()
        stream = NOISE | PHASES[at.phase] << 8 | SITES[at.site] << 12
        layer = at.layer or 0
        head = 0 if at.head is None else at.head + 1
        where = (layer << 16 ^ at.index ^ head << 26) & 0xFFFFFFFF
        return centre + how["sigma"] * size * normal(stream, pair, where, recipient.numel())

    def replacements(self, pair: int, side: str, group: dict[str, Any], dtype: torch.dtype) -> list[Replacement] | None:
        """A condition with its vectors; None where it is not run."""
        out = []
        for at in places(group, self.thoughts):
            vector = self.donor(pair, side, at, group["donor"])
            if vector is None:
                return None
            columns = None if at.head is None else slice(at.head * self.head_width, (at.head + 1) * self.head_width)
            how = (group.get("operation", "replace"), float(group.get("factor", 1)))
            out.append(Replacement(at.phase, at.index, at.site, at.layer, *how, vector.to(dtype), columns))
        return out


def chosen(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs in the order in which they are tried: those first whose answer many others have, too."""
    answers = Counter(p["clean"]["answer"] for p in listed)
    return sorted(listed, key=lambda p: (-answers[p["clean"]["answer"]], p["clean"]["answer"], p["id"]))


def donors_file(
    m: Loaded, exact: Loaded, name: str, thoughts: int, max_new: int, listed: list[dict[str, Any]], margin: float
) -> str:
    """The text of NAME.codi.donors.json."""
    how: dict[str, Any] = {"protocol": "codi", "thoughts": thoughts}
    found = []
    for pair in chosen(listed):
        p = unpatched(m, pair, "codi", thoughts, max_new)
        if all(len(r.answer_ids) >= 2 and r.margin >= margin for r in p.runs.values()) and all(p.places.values()):
            n = len(found)
            found.append(replace(p, pair=pair | {"source": f"source {n % 3}", "template": f"template {n // 3}"}))
        if len(found) == N_PAIRS:
            break
    for key in ("template", "change"):
        del found[5].pair[key]
    pairs = [p.pair for p in found]
    exact_runs = [{s: exact_run(exact, p.pair[s]["question"], r, how) for s, r in p.runs.items()} for p in found]
    truth = [replace(p, runs=runs) for p, runs in zip(found, exact_runs, strict=True)]
    store = Store(pairs, [p.runs for p in found], head_width(m), thoughts)
    true_store = replace(store, runs=[p.runs for p in truth])
    all_groups = groups(m.n_layers, thoughts)
    rows: list[dict[str, Any]] = []
    for i, (p, true_p) in enumerate(zip(found, truth, strict=True)):
        base = {side: measured(m, p, side, how, [], None) for side in SIDES}
        true_base = {side: measured(exact, true_p, side, how, [], None) for side in SIDES}
        for k, (direction, group) in enumerate(all_groups):
            donor_side, side = SIDES if direction == "denoise" else SIDES[::-1]
            row: dict[str, Any] = {"pair": i, "condition": k}
            rows.append(row)
            reps = store.replacements(i, donor_side, group, torch.float32)
            true_reps = true_store.replacements(i, donor_side, group, torch.float64)
            if reps is None or true_reps is None:
                row["not_run"] = True
                continue
            question = p.pair[side]["question"]
            got = run(m, question, max_new_tokens=max_new, replacements=reps, record=False, **how)
            values, _ = measured(m, p, side, how, reps, base[side][1])
            true_values, _ = measured(exact, true_p, side, how, true_reps, true_base[side][1])
            unpatched_error = float32_error(base[side][0], true_base[side][0])
            row |= {"answer_ids": got.answer_ids, "clear": got.margin >= margin}
            row["float32_error"] = max(float32_error(values, true_values), unpatched_error)
            row |= values
    head = {"model": name, "protocol": "codi", "thoughts": thoughts, "max_new_tokens": max_new, "seed": SEED}
    conditions = [{"direction": d, "group": g} for d, g in all_groups]
    body = [lines("pairs", pairs), lines("conditions", conditions), lines("rows", rows)]
    return "{\n " + json.dumps(head)[1:-1] + ",\n" + ",\n".join(body) + "\n}\n"
