"""The patched golden runs: pairs, conditions, and the file that holds what came out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from nearest import Nearest, TokenRule
from torch import Tensor

from codi_hf import (
    HEAD_SITES,
    LAYER_SITES,
    Edge,
    Loaded,
    MetricPlace,
    Replacement,
    Run,
    answer_start,
    metric_place,
    metrics,
    run,
)


@dataclass(frozen=True)
class Donor:
    """Where a replacement's vector comes from."""

    run: str  # clean, corrupted, zero or vector
    phase: str = "thought"
    index: int = 0
    site: str = ""
    layer: int | None = None


@dataclass(frozen=True)
class Target:
    """One replacement as the file states it."""

    phase: str
    index: int | str
    site: str
    layer: int | None
    operation: str
    factor: float
    donor: Donor | None  # None for scale
    seed: int = 0  # of an explicit vector
    head: int | None = None  # KV head of k and v, query head of q and z, the donor's too; None: all
    seeds: tuple[int, ...] = ()  # of the directions of a subspace
    token: TokenRule | None = None

    def flat(self, width: int) -> dict[str, Any]:
        """As JSON."""
        out = {k: v for k, v in asdict(self).items() if k not in ("donor", "seed", "seeds", "token")}
        if self.token is not None:
            default = asdict(TokenRule())
            out["token"] = {k: v for k, v in asdict(self.token).items() if v != default[k]}
        if self.head is None:
            del out["head"]
        if self.donor is not None:
            out["donor"] = self.donor.run
            if self.donor.run in ("clean", "corrupted"):
                d = self.donor
                out |= {"donor_phase": d.phase, "donor_index": d.index, "donor_site": d.site, "donor_layer": d.layer}
            if self.seeds:
                out["directions"] = [list(map(float, x)) for x in directions(self.seeds, width).double()]
            if self.donor.run == "vector":
                out["vector"] = [round(float(x), 6) for x in explicit(self.seed, width)]
        return out


def explicit(seed: int, width: int) -> Tensor:
    """A vector that the file spells out: six decimals, so that it reads back the same."""
    noise = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([round(float(x), 6) for x in noise])


def directions(seeds: tuple[int, ...], width: int) -> Tensor:
    """Orthonormal rows, as near as float32 comes."""
    return torch.linalg.qr(torch.stack([explicit(s, width) for s in seeds]).double().T)[0].T.float()


@dataclass(frozen=True)
class Condition:
    """A set of replacements in one run of the pair."""

    name: str
    direction: str  # denoise: into the corrupted run; noise: into the clean run
    targets: tuple[Target, ...]
    edges: tuple[Edge, ...] = ()  # forbidden

    @property
    def recipient(self) -> str:
        """The run that is changed."""
        return "corrupted" if self.direction == "denoise" else "clean"


def same(
    phase: str, index: int, site: str, layer: int | None, donor: str, operation: str = "replace", factor: float = 1.0
) -> Target:
    """A target whose donor address is its own."""
    return Target(phase, index, site, layer, operation, factor, Donor(donor, phase, index, site, layer))


def constant(phase: str, index: int | str, site: str, layer: int | None, **how: Any) -> Target:
    """A target whose value does not come from a run: zero, an explicit vector, or a scaling."""
    seed = how.get("seed", 0)
    operation, factor = how.get("operation", "replace"), how.get("factor", 1.0)
    donor = None if operation == "scale" else Donor("vector" if seed else "zero")
    return Target(phase, index, site, layer, operation, factor, donor, seed)


def one_head(head: int, target: Target) -> Target:
    """The same for one KV head."""
    return replace(target, head=head)


def layout_conditions(n_layers: int, thoughts: int, n_heads: int, n_kv_heads: int) -> list[Condition]:
    """Every site once, and both directions."""
    wanted = ("latent_", *(f"{site} L" for site in LAYER_SITES), "resid_post every layer", "k+v every layer")
    out = [c for c in conditions(n_layers, thoughts, n_heads, n_kv_heads) if c.name.startswith(wanted)]
    for site in HEAD_SITES:
        targets = tuple(same("thought", t, site, n_layers - 1, "clean") for t in range(2))
        out.append(Condition(f"{site} L{n_layers - 1} first:2", "denoise", targets))
    return out


def conditions(n_layers: int, thoughts: int, _n_heads: int, n_kv_heads: int) -> list[Condition]:
    """Every site, phase and operation, both directions, several layers at once, single KV heads, and the published
    defects."""
    last_layer, last_step, mid = n_layers - 1, thoughts - 1, n_layers // 2
    steps = range(thoughts)
    out: list[Condition] = []

    def add(name: str, direction: str, *targets: Target) -> None:
        out.append(Condition(name, direction, targets))

    for k, site in enumerate(LAYER_SITES):
        layer = k % n_layers
        first = 2 + k % (thoughts - 1)
        add(
            f"{site} L{layer} first:{first}",
            "denoise",
            *(same("thought", t, site, layer, "clean") for t in range(first)),
        )
    add("latent_in all", "denoise", *(same("thought", t, "latent_in", None, "clean") for t in steps))
    add("latent_raw single:1", "denoise", same("thought", 1, "latent_raw", None, "clean"))
    add("latent_raw prompt:-1 noise", "noise", same("prompt", -1, "latent_raw", None, "corrupted"))
    add("resid_post L0 single:0 noise", "noise", same("thought", 0, "resid_post", 0, "corrupted"))
    add(
        "resid_post every layer first:2",
        "denoise",
        *(same("thought", t, "resid_post", layer, "clean") for t in (0, 1) for layer in range(n_layers)),
    )
    add(
        f"k+v every layer single:{last_step} noise",
        "noise",
        *(same("thought", last_step, s, layer, "corrupted") for layer in range(n_layers) for s in ("k", "v")),
    )
    add("zero resid_post all", "denoise", *(constant("thought", t, "resid_post", mid) for t in steps))
    add("zero latent_in first:1", "noise", constant("thought", 0, "latent_in", None))
    add("self resid_post first:3", "denoise", *(same("thought", t, "resid_post", mid, "corrupted") for t in range(3)))
    add(
        f"dead resid_post L{last_layer} single:{last_step}",
        "denoise",
        same("thought", last_step, "resid_post", last_layer, "clean"),
    )
    add(
        "add vector resid_mid", "denoise", constant("thought", 1, "resid_mid", mid, operation="add", factor=1.5, seed=7)
    )
    add("add clean mlp_out", "denoise", same("thought", 2, "mlp_out", 0, "clean", "add", -0.75))
    add(
        "scale attn_out all",
        "noise",
        *(constant("thought", t, "attn_out", last_layer, operation="scale", factor=2.5) for t in steps),
    )
    add("scale v prompt:0", "denoise", constant("prompt", 0, "v", 0, operation="scale", factor=-1.0))
    add("lerp resid_pre", "denoise", *(same("thought", t, "resid_pre", mid, "clean", "lerp", 0.6) for t in (0, 2)))
    add("prompt resid_post L0 -1", "denoise", same("prompt", -1, "resid_post", 0, "clean"))
    add("prompt attn_out -2 and k -1", "noise", same("prompt", -2, "attn_out", mid, "corrupted"),
        same("prompt", -1, "k", last_layer, "corrupted"))  # fmt: skip
    add("answer 0 resid_post", "denoise", same("answer", 0, "resid_post", mid, "clean"))
    add("answer * mlp_out vector", "noise", constant("answer", "*", "mlp_out", last_layer, operation="add", seed=9))
    add("answer 1 v zero", "denoise", constant("answer", 1, "v", mid))
    add("answer 0 latent_raw lerp", "denoise", same("answer", 0, "latent_raw", None, "clean", "lerp", 0.5))
    add("answer 1 latent_in vector", "denoise", constant("answer", 1, "latent_in", None, seed=11))

    def published(n: int, layer: int, off_by_one: bool, prefill: bool, decode: bool) -> tuple[Target, ...]:
        site = "resid_pre" if off_by_one else "resid_post"

        def target(phase: str, index: int | str, step: int) -> Target:
            return Target(
                phase, index, "resid_post", layer, "replace", 1.0, Donor("clean", "thought", step, site, layer)
            )

        targets = [target("thought", t, t) for t in range(n)]
        if prefill:
            targets.append(target("prompt", -1, 0))
        if decode:
            targets.append(target("answer", "*", n - 1))
        return tuple(targets)

    add("off_by_one first:2", "denoise", *published(2, mid, True, False, False))
    add("prefill_leak first:1", "denoise", *published(1, 0, False, True, False))
    add("decode_leak first:T", "denoise", *published(thoughts, mid, False, False, True))
    add("published first:T", "denoise", *published(thoughts, last_layer, True, True, True))
    if n_kv_heads == 1:
        return out
    last_head = n_kv_heads - 1
    add(
        f"k head {last_head} L{mid} all",
        "denoise",
        *(one_head(last_head, same("thought", t, "k", mid, "clean")) for t in steps),
    )
    add(
        "v head 0 every layer all noise",
        "noise",
        *(one_head(0, same("thought", t, "v", layer, "corrupted")) for t in steps for layer in range(n_layers)),
    )
    add(
        f"k head 0 and v head {last_head} L0",
        "denoise",
        *(one_head(0, same("thought", t, "k", 0, "clean")) for t in steps),
        *(one_head(last_head, same("thought", t, "v", 0, "clean")) for t in steps),
    )
    add(
        f"zero v head {last_head} all",
        "noise",
        *(one_head(last_head, constant("thought", t, "v", mid)) for t in steps),
    )
    add("prompt -1 k head 0 lerp", "denoise", one_head(0, same("prompt", -1, "k", last_layer, "clean", "lerp", 0.7)))
    add(
        f"answer * v head {last_head} scale",
        "denoise",
        one_head(last_head, constant("answer", "*", "v", mid, operation="scale", factor=-1.5)),
    )
    return out


def attention_conditions(n_layers: int, thoughts: int, n_heads: int, n_kv_heads: int) -> list[Condition]:
    """Queries, what heads attended to, and attention edges: by layer and head, in every phase, beside replacements."""
    last_layer, last_step, mid, last_head = n_layers - 1, thoughts - 1, n_layers // 2, n_heads - 1
    layers, steps, group = range(n_layers), range(thoughts), n_heads // n_kv_heads
    out: list[Condition] = []

    def add(name: str, direction: str, *targets: Target | Edge) -> None:
        edges = tuple(t for t in targets if isinstance(t, Edge))
        out.append(Condition(name, direction, tuple(t for t in targets if isinstance(t, Target)), edges))

    for site in HEAD_SITES:
        add(f"{site} L{mid} first:2", "denoise", *(same("thought", t, site, mid, "clean") for t in range(2)))
        add(f"{site} every layer all noise", "noise",
            *(same("thought", t, site, layer, "corrupted") for t in steps for layer in layers))  # fmt: skip
        add(f"{site} head {last_head} L0 all", "denoise",
            *(one_head(last_head, same("thought", t, site, 0, "clean")) for t in steps))  # fmt: skip
        add(f"self {site} head 0 L{last_layer}", "noise",
            *(one_head(0, same("thought", t, site, last_layer, "clean")) for t in steps))  # fmt: skip
        add(f"zero {site} prompt -1", "noise", constant("prompt", -1, site, mid))
        add(f"answer * {site} head 0 scale", "denoise",
            one_head(0, constant("answer", "*", site, mid, operation="scale", factor=-1.5)))  # fmt: skip
        add(f"answer 0 {site} vector", "noise", constant("answer", 0, site, last_layer, operation="add", seed=5))
        add(f"dead {site} L{last_layer} single:{last_step}", "denoise",
            same("thought", last_step, site, last_layer, "clean"))  # fmt: skip
    for layer in layers:
        add(f"answer * > thought * L{layer}", "denoise", Edge("answer", "*", layer, None, "thought", "*"))
    add("answer * > thought * every layer", "noise",
        *(Edge("answer", "*", layer, None, "thought", "*") for layer in layers))  # fmt: skip
    add("thought * > prompt * every layer", "denoise",
        *(Edge("thought", "*", layer, None, "prompt", "*") for layer in layers))  # fmt: skip
    add("answer * > prompt * every layer", "noise",
        *(Edge("answer", "*", layer, None, "prompt", "*") for layer in layers))  # fmt: skip
    add(f"thought {last_step} > thought 0 L0", "denoise", Edge("thought", last_step, 0, None, "thought", 0))
    add("thought 1 > thought 0 and itself every layer", "denoise",
        *(Edge("thought", 1, layer, None, "thought", t) for layer in layers for t in (0, 1)))  # fmt: skip
    for head in sorted({0, last_head}):
        add(f"answer * > thought * head {head} every layer", "denoise",
            *(Edge("answer", "*", layer, head, "thought", "*") for layer in layers))  # fmt: skip
    add(f"answer * > thought * KV head {n_kv_heads - 1} L{mid}", "noise",
        *(Edge("answer", "*", mid, (n_kv_heads - 1) * group + k, "thought", "*") for k in range(group)))  # fmt: skip
    add("prompt -1 > prompt 0 and 1", "noise",
        *(Edge("prompt", -1, layer, None, "prompt", p) for layer in layers for p in (0, 1)))  # fmt: skip
    add("prompt -1 > prompt -2 head 0", "denoise", Edge("prompt", -1, mid, 0, "prompt", -2))
    add(
        "answer 0 > prompt -1 every layer",
        "denoise",
        *(Edge("answer", 0, layer, None, "prompt", -1) for layer in layers),
    )
    add(
        "answer * > answer 0 every layer", "noise", *(Edge("answer", "*", layer, None, "answer", 0) for layer in layers)
    )
    add("dead thought 0 > thought 1", "denoise", *(Edge("thought", 0, layer, None, "thought", 1) for layer in layers))
    add(f"dead thought {last_step} > prompt * L{last_layer}", "noise",
        Edge("thought", last_step, last_layer, None, "prompt", "*"))  # fmt: skip
    add("one head more than the others", "denoise",
        *(Edge("answer", "*", layer, None, "thought", 0) for layer in layers),
        Edge("answer", "*", mid, 0, "thought", last_step))  # fmt: skip
    add("edges beside resid_post", "denoise", *(same("thought", t, "resid_post", 0, "clean") for t in range(2)),
        *(Edge("answer", "*", layer, None, "thought", 0) for layer in layers))  # fmt: skip
    add("edges beside z of a head", "noise", one_head(0, same("thought", 1, "z", mid, "corrupted")),
        Edge("thought", 1, mid, None, "prompt", "*"), Edge("thought", 2, mid, last_head, "thought", 0))  # fmt: skip
    return out


def subspace_conditions(n_layers: int, thoughts: int, _n_heads: int, n_kv_heads: int) -> list[Condition]:
    """The operations within a subspace, at each kind of site."""
    last_layer, mid = n_layers - 1, n_layers // 2
    steps = range(thoughts)
    out: list[Condition] = []

    def add(name: str, direction: str, *targets: Target) -> None:
        out.append(Condition(name, direction, targets))

    def within(operation: str, seeds: tuple[int, ...], target: Target) -> Target:
        return replace(target, operation=operation, seeds=seeds)

    def remove(seeds: tuple[int, ...], *at: Any) -> Target:
        return within("remove", seeds, constant(*at))

    add("remove one resid_post all", "denoise", *(remove((11,), "thought", t, "resid_post", mid) for t in steps))
    add("remove three latent_in", "noise", remove((11, 12, 13), "thought", 1, "latent_in", None))
    add(
        "keep six latent_raw",
        "denoise",
        within("keep", tuple(range(20, 26)), constant("thought", 0, "latent_raw", None)),
    )
    add("keep four resid_pre prompt", "noise", within("keep", (1, 2, 3, 4), constant("prompt", -1, "resid_pre", mid)))
    swapped = (within("swap", (30, 31), same("thought", t, "resid_post", 0, "clean")) for t in steps)
    add("swap two resid_post all", "denoise", *swapped)
    add("swap one mlp_out", "noise", within("swap", (32,), same("thought", 2, "mlp_out", last_layer, "corrupted")))
    head = n_kv_heads - 1
    add("swap v of a head", "denoise", one_head(head, within("swap", (33, 34), same("thought", 1, "v", mid, "clean"))))
    add("remove answer *", "denoise", remove((35, 36), "answer", "*", "resid_mid", mid))
    return out


def token_conditions(n_layers: int, thoughts: int, _n_heads: int, _n_kv_heads: int) -> list[Condition]:
    """Edits that depend on the nearest tokens: the published ones, and each kind of site, phase and operation."""
    last_layer, mid = n_layers - 1, n_layers // 2
    out: list[Condition] = []

    def nearest(operation: str, rule: TokenRule, *at: Any, donor: str = "nearest_token", factor: float = 1.0) -> Target:
        return Target(*at, operation, factor, None if operation == "scale" else Donor(donor), token=rule)

    def latents(operation: str, rule: TokenRule, donor: str = "nearest_token") -> list[Target]:
        places = [("prompt", -1), *(("thought", t) for t in range(thoughts))]
        return [nearest(operation, rule, *p, "latent_raw", None, donor=donor) for p in places]

    def add(name: str, direction: str, *targets: Target) -> None:
        out.append(Condition(name, direction, targets))

    published: list[tuple[str, str, TokenRule, str]] = [
        ("zero", "replace", TokenRule(), "zero"),
        ("remove", "remove", TokenRule(), "zero"),
        ("remove and along", "remove", TokenRule(add_along="5", factor=3), "zero"),
        ("embedding", "replace", TokenRule(keep_norm=True), "nearest_token"),
        ("normed embedding", "replace", TokenRule(keep_norm=True, layer_norm=True), "nearest_token"),
        ("keep one", "keep", TokenRule(), "zero"),
        ("keep five", "keep", TokenRule(top=5), "zero"),
        ("keep five at its norm", "keep", TokenRule(top=5, keep_norm=True), "zero"),
    ]
    for k, (name, operation, rule, donor) in enumerate(published):
        direction = ("denoise", "noise")[k % 2]
        if name != "zero":
            add(name, direction, *latents(operation, rule, donor))
        add(f"{name}, numbers only", direction, *latents(operation, replace(rule, only_numbers=True), donor))
    for shift in (1, -1):
        add(f"number {shift:+d}", "denoise", *latents("replace", TokenRule(shift=shift, keep_norm=True)))
    cosine = TokenRule(by="cosine")
    add(
        "cosine latent_in",
        "denoise",
        *(nearest("replace", cosine, "thought", t, "latent_in", None) for t in range(thoughts)),
    )
    add("cosine three resid_pre prompt", "noise",
        nearest("keep", replace(cosine, top=3), "prompt", -1, "resid_pre", mid, donor="zero"))  # fmt: skip
    add("lerp resid_post", "denoise", nearest("lerp", TokenRule(), "thought", 1, "resid_post", 0, factor=0.5))
    add("answer * mlp_out", "noise", nearest("add", cosine, "answer", "*", "mlp_out", last_layer, factor=-0.5))
    add("scale attn_out where a number", "denoise",
        *(nearest("scale", TokenRule(only_numbers=True), "thought", t, "attn_out", last_layer, factor=2.5)
          for t in range(thoughts)))  # fmt: skip
    add("self nearest_token prompt *", "noise", nearest("replace", cosine, "prompt", "*", "latent_in", None))
    return out


def head_width(m: Loaded) -> int:
    """Width of one head."""
    config = m.codi.base().config
    heads = config.n_head if m.codi.arch == "gpt2" else config.num_attention_heads
    return getattr(config, "head_dim", None) or config.hidden_size // heads


def width_of(target: Target, run_: Run) -> int:
    """Width of a site."""
    return run_.values[target.site].shape[-1]


def vector_of(target: Target, donors: dict[str, Run], width: int) -> Tensor | None:
    """The donor's vector."""
    d = target.donor
    if d is None:
        return None
    if d.run == "zero":
        return torch.zeros(width)
    if d.run == "vector":
        return explicit(target.seed, width)
    if d.run == "nearest_token":
        return None
    return donors[d.run].vector(d.phase, d.index, d.site, d.layer)


def replacements(condition: Condition, donors: dict[str, Run], m: Loaded, protocol: str) -> list[Replacement]:
    """The condition with its vectors."""
    out = []
    width_of_head = head_width(m)
    for t in condition.targets:
        vector = vector_of(t, donors, width_of(t, donors["clean"]))
        columns = None if t.head is None else slice(t.head * width_of_head, (t.head + 1) * width_of_head)
        width = width_of(t, donors["clean"]) if columns is None else width_of_head
        span = directions(t.seeds, width) if t.seeds else None
        if columns is not None and vector is not None:
            vector = vector[columns]
        rule = None
        if t.token is not None:
            rule = Nearest(m, m.n_candidates(protocol), t.token, t.operation, t.factor, vector)
        out.append(Replacement(t.phase, t.index, t.site, t.layer, t.operation, t.factor, vector, columns, span, rule))
    return out


def tiny_pairs(seed: str) -> list[dict[str, Any]]:
    """Pairs for a model without meaning: a number changed, answers of one to three digits, one not whole."""
    rng = random.Random(seed)
    answers = [(12, 7), (340, 12.5), (5, 20), (8, 15), (61, 6), (9, 33)]
    out = []
    for k in range(60):
        a, b = rng.sample(range(2, 60), 2)
        noun = rng.choice(["pens", "eggs", "cafés"])
        clean, corrupted = answers[k % len(answers)]
        out.append(
            {
                "id": f"tiny-{k}",
                "clean": {"question": f"{a} {noun}, {b}?", "answer": clean},
                "corrupted": {"question": f"{a + 1} {noun}, {b}?", "answer": corrupted},
            }
        )
    return out


@dataclass
class PairRuns:
    """The unpatched runs of a pair, and where each is measured."""

    pair: dict[str, Any]
    runs: dict[str, Run]
    places: dict[str, MetricPlace | None]


def unpatched(m: Loaded, pair: dict[str, Any], protocol: str, thoughts: int, max_new: int) -> PairRuns:
    """Run both questions of a pair."""
    runs = {s: run(m, pair[s]["question"], protocol, thoughts, max_new) for s in ("clean", "corrupted")}
    a, b = pair["clean"]["answer"], pair["corrupted"]["answer"]
    return PairRuns(pair, runs, {s: metric_place(m, r.answer_ids, a, b) for s, r in runs.items()})


def exact_run(exact: Loaded, question: str, r: Run, how: dict[str, Any]) -> Run:
    """The run r again in float64, its answer forced to the same tokens."""
    fed = r.logits.shape[0] - len(answer_start(exact, how["protocol"]))
    return run(exact, question, forced=r.answer_ids[:fed], **how)


def measured(
    m: Loaded,
    p: PairRuns,
    side: str,
    how: dict[str, Any],
    reps: list[Replacement],
    base: Tensor | None,
    edges: tuple[Edge, ...] = (),
) -> tuple[dict[str, float], Tensor]:
    """The metrics of a run of `side` with replacements."""
    place = p.places[side]
    if place is None:
        raise ValueError("this answer has no number")

    def forward(forced: list[int]) -> Run:
        return run(m, p.pair[side]["question"], replacements=reps, forced=forced, record=False, edges=edges, **how)

    got, logp = metrics(m, place, forward, base, how["protocol"])
    return asdict(got), logp


def compact(value: Any) -> Any:
    """Floats with nine significant digits, which is all a float32 holds."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {k: compact(v) for k, v in value.items()}
    return [compact(v) for v in value] if isinstance(value, list | tuple) else value


def lines(name: str, items: list[dict[str, Any]]) -> str:
    """A JSON member with one item a line."""
    rows = ",\n  ".join(json.dumps(compact(x), ensure_ascii=False) for x in items)
    return f' "{name}": [\n  {rows}\n ]'


def state_error(got: Run, exact: Run) -> float:
    """Largest error of any site, relative to the site's largest value."""
    pairs = [(got.values[k].double(), x) for k, x in exact.values.items() if k not in HEAD_SITES] + [
        (got.logits.double(), exact.logits)
    ]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def agree(got: dict[str, float], exact: dict[str, float]) -> bool:
    """True where metrics are known to a few units of the fifth decimal."""
    return all(abs(got[k] - x) <= 2e-5 + 2e-6 * abs(x) for k, x in exact.items())


def float32_error(got: dict[str, float], exact: dict[str, float]) -> float:
    """How far float32 is from float64: the largest error of a metric, of 1 + its size, rounded to two digits."""
    return float(f"{max(abs(got[k] - x) / (1 + abs(x)) for k, x in exact.items()):.1e}")


def patched_file(
    m: Loaded,
    exact: Loaded,
    name: str,
    protocol: str,
    thoughts: int,
    max_new: int,
    pairs: list[dict[str, Any]] | None,
    min_margin: float,
    make: Callable[[int, int, int, int], list[Condition]] = conditions,
) -> str:
    """The text of NAME.PROTOCOL.patched.json, or with other conditions.

    `exact` is the same model in float64, to tell what float32 can know.
    """
    how: dict[str, Any] = {"protocol": protocol, "thoughts": thoughts}
    kept: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    flat: list[dict[str, Any]] = []
    for pair in pairs or tiny_pairs(name):
        p = unpatched(m, pair, protocol, thoughts, max_new)
        usable = all(len(r.answer_ids) >= 2 and r.margin >= min_margin for r in p.runs.values())
        places = list(p.places.values())
        if not usable or any(x is None for x in places):
            continue
        if pairs is None and len(kept) < 2 and not all(x.prefix for x in places):
            continue
        truth = replace(p, runs={s: exact_run(exact, pair[s]["question"], r, how) for s, r in p.runs.items()})
        heads = [p.runs["clean"].values[site].shape[-1] // head_width(m) for site in ("q", "k")]
        all_conditions = make(m.n_layers, thoughts, *heads)
        base: dict[str, Tensor] = {}
        true_base: dict[str, Tensor] = {}
        entry: dict[str, Any] = {"id": pair["id"]}
        for side in ("clean", "corrupted"):
            own, base[side] = measured(m, p, side, how, [], None)
            true_own, true_base[side] = measured(exact, truth, side, how, [], None)
            place = p.places[side]
            entry[side] = pair[side] | {
                "answer_ids": p.runs[side].answer_ids,
                "text": m.text(p.runs[side].answer_ids),
                "metric_prefix": place.prefix,
                "metric_clean_ids": place.clean,
                "metric_corrupted_ids": place.corrupted,
                "metrics": own,
                "float32_error": float32_error(own, true_own),
            }
        pair_rows: list[dict[str, Any]] = []
        for k, c in enumerate(all_conditions):
            reps = replacements(c, p.runs, m, protocol)
            got = run(
                m,
                pair[c.recipient]["question"],
                max_new_tokens=max_new,
                replacements=reps,
                record=False,
                edges=c.edges,
                **how,
            )
            values, _ = measured(m, p, c.recipient, how, reps, base[c.recipient], c.edges)
            true_reps = replacements(c, truth.runs, exact, protocol)
            true_values, _ = measured(exact, truth, c.recipient, how, true_reps, true_base[c.recipient], c.edges)
            row = {"pair": len(kept), "condition": k, "answer_ids": got.answer_ids}
            margins = [got.margin, *(r.rule.margin for r in reps if isinstance(r.rule, Nearest))]
            row["clear"] = min(margins) >= min_margin
            row["settled"] = agree(values, true_values)
            row["float32_error"] = float32_error(values, true_values)
            pair_rows.append(row | values)
        if sum(not r["clear"] for r in pair_rows) > 2:
            continue
        if not flat:
            for c in all_conditions:
                widths = (
                    width_of(t, p.runs["clean"]) if not (t.seeds and t.head is not None) else head_width(m)
                    for t in c.targets
                )
                targets = [t.flat(w) for t, w in zip(c.targets, widths, strict=True)]
                flat.append({"name": c.name, "direction": c.direction, "replacements": targets})
                if c.edges:
                    flat[-1]["edges"] = [{k: v for k, v in asdict(e).items() if v is not None} for e in c.edges]
        kept.append(entry)
        rows += pair_rows
        if len(kept) == 3:
            break
    if len(kept) < 3:
        raise SystemExit(f"{name} {protocol}: only {len(kept)} usable pairs")
    head = {"model": name, "protocol": protocol, "thoughts": thoughts, "max_new_tokens": max_new}
    body = json.dumps(head)[1:-1]
    return (
        "{\n "
        + body
        + ",\n"
        + ",\n".join([lines("pairs", kept), lines("conditions", flat), lines("rows", rows)])
        + "\n}\n"
    )
