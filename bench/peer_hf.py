"""The job of `latentpatch sweep` the way it is done today: transformers + peft + forward hooks.

    python bench/peer_hf.py --base DIR --codi DIR --pairs PAIRS.json --csv OUT.csv [OPTIONS]

Batch 1, one condition at a time: for each pair the clean run once, with hooks that keep the output of every block at
every thought step; then for each condition a whole run of the corrupted question (prefill, thoughts, greedy decoding)
with a hook on one block that writes the clean values at the first n thought steps. (The published scripts ran the clean
question again for every condition; this one is kinder.)

Writes one CSV row a (pair, condition) and prints the seconds of each phase. `margin` is the smallest gap between the
best two candidates of any token, relative to the largest |logit|: rows that differ with a margin near the precision of
the arithmetic are ties, not errors.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracle"))
from codi_hf import PROTOCOLS, Loaded, answer_start, load, prompt_tokens
from outcome import classify


@dataclass
class Clock:
    """Seconds by phase, of wall and of processor time; synchronises the device at each border."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    processor: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        start, processor = self.now(), time.process_time()
        yield
        self.seconds[name] += self.now() - start
        self.processor[name] += time.process_time() - processor

    def now(self) -> float:
        """The time, with nothing left running on the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass
class Step:
    """What the hooks see: the thought step now running, -1 outside the thoughts."""

    now: int = -1


@dataclass
class Answer:
    """A generated answer."""

    tokens: list[int]  # without eos
    margin: float


@torch.no_grad()
def answer(m: Loaded, question: str, a: argparse.Namespace, clock: Clock, step: Step) -> Answer:
    """One run at batch 1, under whatever hooks are set."""
    codi = m.codi
    embed = codi.embedding()
    device = embed.weight.device

    def token(ids: list[int]) -> Tensor:
        return torch.tensor([ids], device=device)

    cache = DynamicCache()
    with clock.phase("prefill"):
        ids = token(prompt_tokens(m, question, a.protocol))
        out = codi.codi(input_ids=ids, past_key_values=cache, use_cache=True, output_hidden_states=True)
    with clock.phase("thoughts"):
        hidden = out.hidden_states[-1][:, -1:]
        latent = embed(token([codi.bot_id])) if a.protocol == "bot-first" else codi.prj(hidden)
        for t in range(a.thoughts):
            step.now = t
            out = codi.codi(inputs_embeds=latent, past_key_values=cache, use_cache=True, output_hidden_states=True)
            latent = codi.prj(out.hidden_states[-1][:, -1:])
        step.now = -1
    tokens: list[int] = []
    margins = [float("inf")]
    with clock.phase("decode"):
        ids = token(answer_start(m, a.protocol))
        for _ in range(a.max_new_tokens):
            out = codi.codi(input_ids=ids, past_key_values=cache, use_cache=True)
            row = out.logits[0, -1, : codi.vocab + 2]
            if a.margins:
                best = row.topk(2).values
                margins.append(float((best[0] - best[1]) / row.abs().max()))
            chosen = int(row.argmax())
            if chosen == m.eos:
                break
            tokens.append(chosen)
            ids = token([chosen])
    return Answer(tokens, min(margins))


def output(value: Any) -> Tensor:
    """The hidden states that a block returns."""
    return value[0] if isinstance(value, tuple) else value


@contextlib.contextmanager
def capture(m: Loaded, step: Step, into: dict[tuple[int, int], Tensor]) -> Iterator[None]:
    """Keep the output of every block at every thought step."""

    def make(layer: int) -> Any:
        def hook(_module: nn.Module, _args: Any, value: Any) -> None:
            if step.now >= 0:
                into[layer, step.now] = output(value)[0, -1].clone()

        return hook

    handles = [block.register_forward_hook(make(k)) for k, block in enumerate(m.codi.blocks())]
    try:
        yield
    finally:
        for h in handles:
            h.remove()


@contextlib.contextmanager
def patched(m: Loaded, step: Step, layer: int, n: int, donors: dict[tuple[int, int], Tensor]) -> Iterator[None]:
    """Write the donors into the output of one block at the first n thought steps."""

    def hook(_module: nn.Module, _args: Any, value: Any) -> Any:
        if not 0 <= step.now < n:
            return value
        x = output(value).clone()
        x[0, -1] = donors[layer, step.now]
        return (x, *value[1:]) if isinstance(value, tuple) else x

    handle = m.codi.blocks()[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def numbers(text: str, everything: range) -> list[int]:
    """`all`, `3`, `1-6` or `0,4-5`."""
    if text == "all":
        return list(everything)
    out: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        out += range(int(low), int(high or low) + 1)
    if not all(k in everything for k in out):
        raise SystemExit(f"{text}: expected numbers {everything.start} to {everything.stop - 1}")
    return out


def arguments() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--base", type=Path, required=True, help="folder with config.json and tokenizer.json")
    p.add_argument("--codi", type=Path, required=True, help="CODI checkpoint, folder or file")
    p.add_argument("--lora-r", type=int, help="default: lora.json in the folder that holds --codi")
    p.add_argument("--lora-alpha", type=float)
    p.add_argument("--pairs", type=Path, required=True)
    p.add_argument("--protocol", choices=PROTOCOLS, default="codi")
    p.add_argument("--layers", default="all", help="all, or 0-based: 3 or 0,4-5")
    p.add_argument("--steps", default="first:1-6", help="first:N or first:N-M")
    p.add_argument("--thoughts", type=int, default=6)
    p.add_argument("--max-new-tokens", type=int, default=200)
    p.add_argument("--limit", type=int, help="only the first N pairs")
    p.add_argument("--max-conditions", type=int, help="stop after so many (pair, condition) runs")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", choices=("fp32", "tf32", "bf16"), default="fp32")
    p.add_argument("--lora", choices=("peft", "merged"), default="peft", help="merged: added to the weights, no peft")
    p.add_argument("--no-margins", dest="margins", action="store_false", help="for timing: no second-best logits")
    p.add_argument("--warm-up", action="store_true", help="run the first condition once more before the clock starts")
    p.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--csv", type=Path, required=True)
    return p.parse_args()


def main() -> None:
    """Run all conditions, one after the other."""
    a = arguments()
    torch.set_num_threads(a.threads)
    device = torch.device(a.device)
    clock = Clock(device)
    with clock.phase("load"):
        m = load(a.base, a.codi, a.lora_r, a.lora_alpha, attention=a.attention, merged=a.lora == "merged")
        m.codi.to(device)
        if a.dtype == "bf16":  # not the buffers: rotary frequencies stay in fp32, as from_pretrained leaves them
            for weight in m.codi.parameters():
                weight.data = weight.data.bfloat16()
        torch.backends.cuda.matmul.allow_tf32 = a.dtype == "tf32"
    listed = json.loads(a.pairs.read_text())
    pairs = (listed["pairs"] if isinstance(listed, dict) else listed)[: a.limit]
    kind, _, counts = a.steps.partition(":")
    if kind != "first":
        raise SystemExit(f"--steps {a.steps}: expected first:N or first:N-M")
    cells = [
        (layer, n) for layer in numbers(a.layers, range(m.n_layers)) for n in numbers(counts, range(1, a.thoughts + 1))
    ]
    step = Step()
    done = 0
    budget = a.max_conditions if a.max_conditions is not None else len(pairs) * len(cells)
    with a.csv.open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["pair", "condition", "class", "text", "tokens", "margin"])
        for pair in pairs:
            if done >= budget:
                break
            donors: dict[tuple[int, int], Tensor] = {}
            with clock.phase("clean_runs"), capture(m, step, donors):
                answer(m, pair["clean"]["question"], a, Clock(device), step)
            if a.warm_up and done == 0:
                with patched(m, step, *cells[0], donors):
                    answer(m, pair["corrupted"]["question"], a, Clock(device), step)
            for layer, n in cells[: budget - done]:
                with clock.phase("conditions"), patched(m, step, layer, n, donors):
                    got = answer(m, pair["corrupted"]["question"], a, clock, step)
                text = m.text(got.tokens)
                outcome = classify(text, pair["clean"]["answer"], pair["corrupted"]["answer"])
                name = f"denoise/clean/replace/resid_post/L{layer}/first:{n}"
                tokens = " ".join(map(str, got.tokens))
                rows.writerow([pair["id"], name, outcome, text, tokens, f"{got.margin:.2e}"])
                done += 1
    print(f"pairs: {len(pairs)}  conditions a pair: {len(cells)}  runs: {done}  device: {device}  dtype: {a.dtype}")
    print(f"torch: {torch.__version__}  transformers: {transformers.__version__}  lora: {a.lora}")
    for name in ("load", "clean_runs", "conditions", "prefill", "thoughts", "decode"):
        print(f"seconds_{name}: {clock.seconds[name]:.3f}")
    print(f"processor_seconds_conditions: {clock.processor['conditions']:.3f}")
    total = clock.seconds["clean_runs"] + clock.seconds["conditions"]
    print(f"seconds_total: {total:.3f}")
    print(f"seconds_per_condition: {total / max(done, 1):.5f}")


if __name__ == "__main__":
    main()
