"""The job of `latentpatch sweep` as one batch: what a good engineer would write in PyTorch in an afternoon.

    python bench/peer_batched.py --base DIR --codi DIR --pairs PAIRS.json --csv OUT.csv [OPTIONS]

All conditions (every block x first:1-T) of a group of pairs run together. Prompts are padded on the left and
prefilled once a pair. The cache is then repeated for every condition, and hooks write the clean values at the rows and
steps that want them. Answers are decoded greedily until every row has ended. LoRA is merged, attention is SDPA. This
program, and not the one of batch 1 (peer_hf.py), is the rival of a batched engine.

Writes one CSV row a (pair, condition), OUT.DTYPE.csv, and prints the seconds a condition.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracle"))
from codi_hf import Loaded, answer_start, load, prompt_tokens


@dataclass
class Rows:
    """Sequences that run side by side: what is cached of each, and where each stands."""

    cache: Any
    mask: Tensor  # [rows, positions], 1 where a position counts
    position: Tensor  # [rows, 1] of the last token

    def advance(self) -> dict[str, Any]:
        """One more position; the arguments of the model for it."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        self.position = self.position + 1
        return {
            "attention_mask": self.mask,
            "position_ids": self.position,
            "past_key_values": self.cache,
            "use_cache": True,
        }


def hidden_of(value: Any) -> Tensor:
    """The hidden states that a block returns."""
    return value[0] if isinstance(value, tuple) else value


class Rival:
    """The model, and the conditions of one pair: block and number of patched thoughts of each."""

    def __init__(self, m: Loaded, a: argparse.Namespace) -> None:
        self.m, self.a = m, a
        self.device = torch.device(a.device)
        self.blocks = list(m.codi.blocks())
        self.cells = [(layer, n) for layer in range(len(self.blocks)) for n in range(1, a.thoughts + 1)]
        self.layer = torch.tensor([layer for layer, _ in self.cells], device=self.device)
        self.count = torch.tensor([n for _, n in self.cells], device=self.device)

    def prefill(self, questions: list[str]) -> tuple[Rows, Tensor]:
        """The rows of the prompts, and what their first thought is fed."""
        prompts = [prompt_tokens(self.m, q, "codi") for q in questions]
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        position = (mask.cumsum(1) - 1).clamp(min=0)
        rows = Rows(DynamicCache(), mask, position[:, -1:])
        out = self.m.codi.codi(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=rows.cache,
            use_cache=True,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        return rows, self.m.codi.prj(out.hidden_states[-1][:, -1:])

    def think(self, rows: Rows, latent: Tensor, hook: Any) -> None:
        """All thoughts; hook(block, step, hidden) may return other hidden states."""
        for step in range(self.a.thoughts):

            def wrap(block: int, now: int = step) -> Any:
                def on_output(_module: nn.Module, _args: Any, value: Any) -> Any:
                    changed = hook(block, now, hidden_of(value))
                    if changed is None:
                        return value
                    return (changed, *value[1:]) if isinstance(value, tuple) else changed

                return on_output

            handles = [block.register_forward_hook(wrap(k)) for k, block in enumerate(self.blocks)]
            more = rows.advance()
            out = self.m.codi.codi(inputs_embeds=latent, output_hidden_states=True, logits_to_keep=1, **more)
            for handle in handles:
                handle.remove()
            latent = self.m.codi.prj(out.hidden_states[-1])

    def decode(self, rows: Rows) -> list[list[int]]:
        """Greedy answers, without the token that ends them."""
        n = len(rows.mask)
        chosen: list[Tensor] = []
        alive = torch.ones(n, dtype=torch.bool, device=self.device)
        inputs = [torch.full((n, 1), token, device=self.device) for token in answer_start(self.m, "codi")]
        for ids in inputs[:-1]:
            self.m.codi.codi(input_ids=ids, **rows.advance())
        ids = inputs[-1]
        for k in range(self.a.max_new_tokens):
            logits = self.m.codi.codi(input_ids=ids, **rows.advance()).logits[:, -1, : self.m.codi.vocab + 2]
            ids = logits.argmax(-1, keepdim=True)
            alive = alive & (ids[:, 0] != self.m.eos)
            chosen.append(torch.where(alive, ids[:, 0], -1))
            if k % 8 == 7 and not alive.any():  # asking is waiting
                break
        return [[t for t in row if t >= 0] for row in torch.stack(chosen, 1).tolist()]

    @torch.no_grad()
    def run(self, pairs: list[dict[str, Any]]) -> list[list[int]]:
        """Answers of all conditions of some pairs, pair by pair."""
        clean: dict[tuple[int, int], Tensor] = {}

        def keep(block: int, step: int, x: Tensor) -> None:
            clean[block, step] = x[:, -1]

        self.think(*self.prefill([p["clean"]["question"] for p in pairs]), keep)
        rows, latent = self.prefill([p["corrupted"]["question"] for p in pairs])
        n = len(self.cells)
        rows.cache.batch_repeat_interleave(n)
        rows.mask, rows.position = rows.mask.repeat_interleave(n, 0), rows.position.repeat_interleave(n, 0)
        first = torch.arange(len(pairs), device=self.device)[:, None] * n

        def write(block: int, step: int, x: Tensor) -> Tensor:
            cells = ((self.layer == block) & (self.count > step)).nonzero()[:, 0]
            changed = x.clone()
            changed[(first + cells).flatten(), 0] = clean[block, step].repeat_interleave(len(cells), 0)
            return changed

        self.think(rows, latent.repeat_interleave(n, 0), write)
        return self.decode(rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--base", type=Path, required=True, help="folder with config.json and tokenizer.json")
    p.add_argument("--codi", type=Path, required=True, help="CODI checkpoint, folder or file")
    p.add_argument("--lora-r", type=int, help="default: lora.json in the folder that holds --codi")
    p.add_argument("--lora-alpha", type=float)
    p.add_argument("--pairs", type=Path, required=True)
    p.add_argument("--group", type=int, default=16, help="pairs of one batch")
    p.add_argument("--limit", type=int, help="only the first N pairs")
    p.add_argument("--dtypes", default="fp32", help="fp32, tf32, bf16; bf16 last")
    p.add_argument("--device", default="cuda")
    p.add_argument("--threads", type=int, default=8)
    p.add_argument("--thoughts", type=int, default=6)
    p.add_argument("--max-new-tokens", type=int, default=16)
    p.add_argument("--csv", type=Path, required=True)
    return p.parse_args()


def measure(rival: Rival, pairs: list[dict[str, Any]], dtype: str) -> None:
    """One sweep in one arithmetic."""
    a = rival.a
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    if dtype == "bf16":  # not the buffers: rotary frequencies stay in fp32
        for weight in rival.m.codi.parameters():
            weight.data = weight.data.bfloat16()
    wait = torch.cuda.synchronize if rival.device.type == "cuda" else lambda: None
    rival.run(pairs[: 2 if rival.device.type == "cuda" else 1])  # warm
    wait()
    start, processor = time.perf_counter(), time.process_time()
    answers = [answer for k in range(0, len(pairs), a.group) for answer in rival.run(pairs[k : k + a.group])]
    wait()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    n = len(answers)
    print(f"rival.{dtype}.seconds: {seconds:.3f}  conditions: {n}")
    print(f"rival.{dtype}.seconds_per_condition: {seconds / n:.6g}", flush=True)
    print(f"rival.{dtype}.processor_seconds_per_condition: {processor / n:.6g}", flush=True)
    with Path(f"{a.csv}.{dtype}.csv").open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["pair", "condition", "text"])
        for row, tokens in enumerate(answers):
            layer, count = rival.cells[row % len(rival.cells)]
            name = f"denoise/clean/replace/resid_post/L{layer}/first:{count}"
            table.writerow([pairs[row // len(rival.cells)]["id"], name, rival.m.text(tokens)])


def main() -> None:
    """Measure each arithmetic."""
    a = arguments()
    torch.set_num_threads(a.threads)
    m = load(a.base, a.codi, a.lora_r, a.lora_alpha, attention="sdpa", merged=True)
    m.codi.to(torch.device(a.device))
    listed = json.loads(a.pairs.read_text())
    pairs = (listed["pairs"] if isinstance(listed, dict) else listed)[: a.limit]
    rival = Rival(m, a)
    for dtype in a.dtypes.split(","):
        measure(rival, pairs, dtype)


if __name__ == "__main__":
    main()
