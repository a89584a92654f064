"""Make the golden files of tests/golden/data with transformers + peft.

    python make_golden.py [NAME ...] [--demo-lora R ALPHA] [--part PART ...]

NAME: a tiny model of tests/golden/models or `demo-gpt2`, `demo-llama` (jobs/demo); all that are there by default.
PART: states, patched, attention, subspace, donors, lens; all by default. The lens takes its questions from the states.
README.md says what the files hold.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "oracle"))
from codi_hf import WITHOUT_THOUGHTS, Loaded, Run, coconut_generate, load, run  # noqa: E402
from golden_cases import (  # noqa: E402
    attention_conditions,
    conditions,
    exact_run,
    layout_conditions,
    patched_file,
    state_error,
    subspace_conditions,
    token_conditions,
)
from golden_donors import donors_file  # noqa: E402
from golden_lens import lens_file  # noqa: E402

DATA = HERE / "data"
MARGIN = 1e-4  # a greedy choice closer than this (relative to the largest |logit|) proves nothing
MAX_ERROR = 1.5e-6  # of any state against float64: two correct float32 programs then agree within 1e-5
N_FULL, N_TOKENS = 2, 20
T3_MODEL = "llama-bf16"  # the model that thinks 3 times instead of 6


@dataclass
class Source:
    """A checkpoint and how its golden runs are made."""

    name: str
    folder: Path
    thoughts: int
    max_new_tokens: int
    protocols: tuple[str, ...]
    full_sites: tuple[int, ...]  # the questions whose every site is stored
    codi: Path
    is_layout: bool = False  # of another published code; the runs are fewer

    @property
    def demo(self) -> bool:
        """True for the trained models."""
        return self.name.startswith("demo-")

    def steps(self, protocol: str) -> int:
        """Thought steps under a protocol."""
        return 0 if protocol in WITHOUT_THOUGHTS else self.thoughts


def sources() -> list[Source]:
    """Every checkpoint there is."""
    found = []
    for folder in sorted((HERE / "models").iterdir()):
        thoughts = 3 if folder.name == T3_MODEL else 6
        given = json.loads((folder / "lora.json").read_text())
        protocols = tuple(given.get("protocols", ("codi", "codi-keep-eos", "bot-first")))
        full = (0,) if "protocols" in given else (0, 1)
        codi = folder / given.get("codi", "codi")
        found.append(Source(folder.name, folder, thoughts, 12, protocols, full, codi, "layout" in given))
    for arch in ("gpt2", "llama"):
        folder = ROOT / "jobs" / "demo" / arch
        if (folder / "codi").is_dir() and any((folder / "codi").iterdir()):
            found.append(Source(f"demo-{arch}", folder, 6, 16, ("codi", "bot-first"), (0,), folder / "codi"))
    return found


def demo_pairs() -> list[dict[str, Any]]:
    """The demo pair file."""
    return json.loads((ROOT / "jobs" / "demo" / "pairs.json").read_text())["pairs"]


def tiny_text(rng: random.Random, length: int) -> str:
    """A short odd question: letters, digits, blanks, punctuation, now and then other scripts."""
    words = ["Tom", "has", "pens", "12", "and", "7", "1.5", "x=3", "(how", "many?)", "don't", "  ", "$4", "A\tb", "20%"]
    wide = ["é", "naïve", "数", "Ω≈3", "🙂", "Ж", "½", "ﬁ"]
    text = ""
    while len(text.encode()) < length:
        text += rng.choice(wide if rng.random() < 0.25 else words) + rng.choice([" ", " ", "", "\n", ", "])
    return text.strip() or "?"


def candidates(source: Source) -> list[str]:
    """More questions than needed; the first ones are short."""
    if source.demo:
        pairs = demo_pairs()
        texts = [p[side]["question"] for p in pairs[:60] for side in ("clean", "corrupted")]
        short = sorted(texts[:40], key=len)[:3]
        return short + [t for t in texts if t not in short]
    rng = random.Random(source.name)
    return [tiny_text(rng, 8 + 2 * k if k < 4 else rng.randint(3, 26)) for k in range(60)]


def runs(m: Loaded, exact: Loaded, source: Source, protocol: str) -> list[tuple[str, Run]]:
    """N_TOKENS questions whose greedy choices are clear, led by N_FULL whose every state float32 settles."""
    how: dict[str, Any] = {"protocol": protocol, "thoughts": source.steps(protocol)}
    full: list[tuple[str, Run]] = []
    rest: list[tuple[str, Run]] = []
    for q in dict.fromkeys(candidates(source)):
        r = run(m, q, max_new_tokens=source.max_new_tokens, **how)
        if r.margin < MARGIN:
            continue
        settled = len(full) < N_FULL and state_error(r, exact_run(exact, q, r, how)) <= MAX_ERROR
        (full if settled else rest).append((q, r))
        if len(full) == N_FULL and len(full) + len(rest) >= N_TOKENS:
            return [*full, *rest][:N_TOKENS]
    raise SystemExit(f"{source.name} {protocol}: {len(full)} questions settled, {len(rest)} more with clear choices")


def full_tensors(r: Run, every_site: bool) -> dict[str, Tensor]:
    """All states of one question."""
    v = r.values
    out = {
        "prompt_ids": torch.tensor(r.prompt_ids),
        "answer_ids": torch.tensor(r.answer_ids, dtype=torch.int64),
        "hidden": torch.cat([v["resid_pre"], v["resid_post"][:, -1:]], dim=1),
        "final": v["latent_raw"],
        "latent_in": v["latent_in"],
        "logits": r.logits,
    }
    if every_site:
        out |= {site: v[site] for site in ("attn_out", "resid_mid", "mlp_out", "k", "v")}
    return {k: x.clone().contiguous() for k, x in out.items()}


def check_generation(m: Loaded, source: Source, kept: list[tuple[str, Run]]) -> None:
    """The same tokens by Coconut's own generation."""
    for question, r in kept:
        theirs = coconut_generate(m, question, source.thoughts, source.max_new_tokens)
        ours = r.answer_ids or [m.eos, *theirs[1:]]
        if theirs != ours:
            raise SystemExit(f"{source.name}: {question!r}: {ours} is not {theirs}")


def make_states(m: Loaded, exact: Loaded, source: Source) -> None:
    """Every state of some questions, the tokens of more."""
    asked: dict[str, Any] = {}
    for protocol in source.protocols:
        kept = runs(m, exact, source, protocol)
        if protocol == "coconut":
            check_generation(m, source, kept)
        tensors: dict[str, Tensor] = {}
        for i, (_, r) in enumerate(kept):
            if i < N_FULL:
                tensors |= {f"q{i}.{k}": x for k, x in full_tensors(r, i in source.full_sites).items()}
            tensors[f"t{i}.prompt_ids"] = torch.tensor(r.prompt_ids)
            tensors[f"t{i}.answer_ids"] = torch.tensor(r.answer_ids, dtype=torch.int64)
        about = {"model": source.name, "protocol": protocol, "thoughts": source.steps(protocol)}
        about["max_new_tokens"] = source.max_new_tokens
        path = DATA / f"{source.name}.{protocol}.safetensors"
        save_file(tensors, path, metadata={"about": json.dumps(about)})
        path.chmod(0o644)
        asked[protocol] = [{"question": q, "text": m.text(r.answer_ids)} for q, r in kept]
    head = {"model": source.name, "thoughts": source.thoughts, "max_new_tokens": source.max_new_tokens}
    path = DATA / f"{source.name}.questions.json"
    path.write_text(json.dumps(head | {"protocols": asked}, indent=1, ensure_ascii=False) + "\n")


def make_patched(m: Loaded, exact: Loaded, source: Source) -> None:
    """The patched runs."""
    for protocol in source.protocols:
        if protocol == "codi-keep-eos" or source.steps(protocol) == 0:
            continue
        pairs = demo_pairs()[:40] if source.demo else None
        sizes = (source.thoughts, source.max_new_tokens)
        make = layout_conditions if source.is_layout else conditions
        patched = patched_file(m, exact, source.name, protocol, *sizes, pairs, MARGIN, make)
        (DATA / f"{source.name}.{protocol}.patched.json").write_text(patched)


def make_attention(m: Loaded, exact: Loaded, source: Source) -> None:
    """Runs with changed queries, outputs of heads and attention edges, under the first protocol."""
    if source.is_layout:
        return
    protocol = source.protocols[0]
    sizes = (source.thoughts, source.max_new_tokens)
    pairs = demo_pairs()[:40] if source.demo else None
    text = patched_file(m, exact, source.name, protocol, *sizes, pairs, MARGIN, attention_conditions)
    (DATA / f"{source.name}.{protocol}.attention.json").write_text(text)


def make_subspaces(m: Loaded, exact: Loaded, source: Source) -> None:
    """Runs that are changed within a subspace; two models do."""
    if source.name not in ("demo-gpt2", "llama-gqa"):
        return
    pairs = demo_pairs()[:40] if source.demo else None
    sizes = (source.thoughts, source.max_new_tokens)
    text = patched_file(m, exact, source.name, "codi", *sizes, pairs, MARGIN, subspace_conditions)
    (DATA / f"{source.name}.codi.subspace.json").write_text(text)


def make_tokens(m: Loaded, exact: Loaded, source: Source) -> None:
    """Runs whose edits depend on the nearest tokens; three models do."""
    if source.name not in ("demo-gpt2", "demo-llama", "llama-rope3"):
        return
    pairs = demo_pairs()[:40] if source.demo else None
    sizes = (source.thoughts, source.max_new_tokens)
    text = patched_file(m, exact, source.name, "codi", *sizes, pairs, MARGIN, token_conditions)
    (DATA / f"{source.name}.codi.tokens.json").write_text(text)


def make_donors(m: Loaded, exact: Loaded, source: Source) -> None:
    """Runs whose donors are made of many pairs; the trained models do."""
    if source.demo:
        sizes = (source.thoughts, source.max_new_tokens)
        text = donors_file(m, exact, source.name, *sizes, demo_pairs()[:120], MARGIN)
        (DATA / f"{source.name}.codi.donors.json").write_text(text)


def make_lens(m: Loaded, exact: Loaded, source: Source) -> None:
    """The logit lens of the questions whose every state is kept."""
    asked = json.loads((DATA / f"{source.name}.questions.json").read_text())["protocols"]
    for protocol in source.protocols:
        if source.steps(protocol) == 0:
            continue
        about = {"model": source.name, "protocol": protocol, "thoughts": source.thoughts}
        questions = [entry["question"] for entry in asked[protocol][:N_FULL]]
        (DATA / f"{source.name}.{protocol}.lens.json").write_text(lens_file(m, exact, about, questions))


PARTS = {
    "states": make_states,
    "patched": make_patched,
    "attention": make_attention,
    "subspace": make_subspaces,
    "tokens": make_tokens,
    "donors": make_donors,
    "lens": make_lens,
}


def make(source: Source, lora: tuple[int, float] | None, parts: list[str]) -> None:
    """The files of one model."""
    sidecar = source.folder / "lora.json"
    if not sidecar.exists() and lora is None:
        raise SystemExit(f"{source.folder}: no lora.json; give --demo-lora")
    given = () if sidecar.exists() or lora is None else lora
    m = load(source.folder / "base", source.codi, *given)
    exact = load(source.folder / "base", source.codi, *given)
    exact.codi.double()
    for name, part in PARTS.items():
        if name in parts:
            part(m, exact, source)
    size = sum(f.stat().st_size for f in DATA.glob(f"{source.name}.*"))
    print(f"{source.name}: {size / 1000:.0f} kB")


def main() -> None:
    """Make the files of the models named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--demo-lora", nargs=2, metavar=("R", "ALPHA"), help="for demo models without lora.json")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    a = parser.parse_args()
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    lora = (int(a.demo_lora[0]), float(a.demo_lora[1])) if a.demo_lora else None
    known = sources()
    for name in a.names:
        if name not in [s.name for s in known]:
            raise SystemExit(f"{name}: not one of {[s.name for s in known]}")
    for source in known:
        if not a.names or source.name in a.names:
            make(source, lora, a.part)


if __name__ == "__main__":
    main()
