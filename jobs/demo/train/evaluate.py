"""Measure a demo model with transformers + peft, from the files that are in the repository.

    python evaluate.py gpt2|llama [--folder FOLDER] [--json OUT.json]

Prints the accuracies on ../pairs.json (greedy, the whole answer text generated) and the first-N patching table: the
outputs of block l at thoughts 0..N-1 of the clean run are written into the corrupted run, for every l and N.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from codi import THOUGHTS, Answers, Codi, load, think

HERE = Path(__file__).resolve().parent
SIDES = ("clean", "corrupted")


def number(text: str) -> float | None:
    """The last number of a text, commas deleted, as CODI's own evaluation takes it."""
    found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return float(found[-1]) if found else None


class Bench:
    """A model, its tokenizer and the pairs, in groups whose prompts are equally long (so nothing is padded)."""

    def __init__(self, codi: Codi, tok: PreTrainedTokenizerBase, pairs: list[dict[str, Any]]) -> None:
        self.codi, self.tok, self.pairs = codi, tok, pairs
        self.ids = {s: [tok(p[s]["question"]).input_ids for p in pairs] for s in SIDES}
        self.groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for k in range(len(pairs)):
            self.groups[len(self.ids["clean"][k]), len(self.ids["corrupted"][k])].append(k)

    def batch(self, side: str, group: list[int]) -> Tensor:
        """[B, S] tokens of the questions and bot."""
        return torch.tensor([[*self.ids[side][k], self.codi.bot_id] for k in group])

    def numbers(self, got: Answers) -> list[float | None]:
        """The number in each answer."""
        return [number(self.tok.decode(t, skip_special_tokens=True)) for t in got.tokens]

    def right(self, side: str, **how: Any) -> list[bool]:
        """Whether each question of a side is answered correctly."""
        out = [False] * len(self.pairs)
        for group in self.groups.values():
            got = think(self.codi, self.batch(side, group), self.tok.eos_token_id, **how)
            for k, value in zip(group, self.numbers(got), strict=True):
                out[k] = value == self.pairs[k][side]["answer"]
        return out

    def first_n(self, only: list[int]) -> list[list[list[float]]]:
        """[2][L][T + 1]: share of clean (0) and corrupted (1) answers for layer l and N = 0..T over `only`."""
        wanted = set(only)
        n_layers = len(self.codi.blocks())
        hits = torch.zeros(2, n_layers, THOUGHTS + 1)
        for group in self.groups.values():
            part = [k for k in group if k in wanted]
            if not part:
                continue
            eos = self.tok.eos_token_id
            donor = think(self.codi, self.batch("clean", part), eos, capture=True, max_new=1).posts
            assert donor is not None
            for layer in range(n_layers):
                for n in range(THOUGHTS + 1):

                    def patch(at: int, step: int, x: Tensor, layer: int = layer, n: int = n) -> Tensor:
                        return donor[at, step] if at == layer and step < n else x

                    got = think(self.codi, self.batch("corrupted", part), eos, patch=patch)
                    for k, value in zip(part, self.numbers(got), strict=True):
                        for c, side in enumerate(SIDES):
                            hits[c, layer, n] += value == self.pairs[k][side]["answer"]
        return (hits / max(1, len(only))).tolist()


@torch.no_grad()
def base_accuracy(folder: Path, pairs: list[dict[str, Any]], max_new: int = 40) -> tuple[float, float]:
    """The base model alone on the clean questions: with its own chain of thought, and answering at once."""
    tok = AutoTokenizer.from_pretrained(str(folder / "base"))
    model = AutoModelForCausalLM.from_pretrained(str(folder / "base"), torch_dtype=torch.float32).eval()
    cue = tok("The answer is:", add_special_tokens=False).input_ids
    shares = []
    for extra in ([], cue):
        groups = defaultdict(list)
        for p in pairs:
            groups[len(tok(p["clean"]["question"]).input_ids)].append(p["clean"])
        good = 0
        for group in groups.values():
            ids = torch.tensor([tok(p["question"]).input_ids + extra for p in group])
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new,
                do_sample=False,
                pad_token_id=tok.eos_token_id,
            )
            for p, row in zip(group, out[:, ids.shape[1] :].tolist(), strict=True):
                good += number(tok.decode(row, skip_special_tokens=True)) == p["answer"]
        shares.append(good / len(pairs))
    return shares[0], shares[1]


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("arch", choices=("gpt2", "llama"))
    p.add_argument("--folder", type=Path, help="folder with base/ and codi/ (default: ../ARCH)")
    p.add_argument("--pairs", type=Path, default=HERE.parent / "pairs.json")
    p.add_argument("--json", type=Path, help="write the figures here as well")
    p.add_argument("--limit", type=int, default=0, help="use the first N pairs only")
    a = p.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    folder = a.folder or HERE.parent / a.arch
    pairs = json.loads(a.pairs.read_text())["pairs"]
    pairs = pairs[: a.limit] if a.limit else pairs
    codi, tok = load(folder, a.arch)
    bench = Bench(codi, tok, pairs)
    clean, corrupted = bench.right("clean"), bench.right("corrupted")
    both = [k for k in range(len(pairs)) if clean[k] and corrupted[k]]
    n = len(pairs)
    figures: dict[str, Any] = {
        "pairs": n,
        "clean_right": sum(clean) / n,
        "corrupted_right": sum(corrupted) / n,
        "both_right": len(both),
        "by_steps": {},
        "thoughts_zeroed": sum(bench.right("clean", zero=True)) / n,
        "no_thoughts": sum(bench.right("clean", thoughts=0)) / n,
    }
    for steps in sorted({q["steps"] for q in pairs}):
        own = [k for k in range(n) if pairs[k]["steps"] == steps]
        figures["by_steps"][str(steps)] = sum(clean[k] + corrupted[k] for k in own) / (2 * len(own))
    by_template: dict[str, list[bool]] = defaultdict(list)
    for k, q in enumerate(pairs):
        by_template[q["template"]] += [clean[k], corrupted[k]]
    figures["by_template"] = {t: sum(v) / len(v) for t, v in sorted(by_template.items())}
    figures["base_with_chain"], figures["base_without_chain"] = base_accuracy(folder, pairs)
    for key, value in figures.items():
        print(f"{key:20} {value if not isinstance(value, float) else round(value, 3)}")
    table = bench.first_n(both)
    figures["first_n"] = {"clean": table[0], "corrupted": table[1]}
    print(f"first-N, {len(both)} pairs with both sides right, % clean answers (corrupted answers):")
    print("layer " + "".join(f"{'N=' + str(k):>12}" for k in range(THOUGHTS + 1)))
    for layer, (c, d) in enumerate(zip(*table, strict=True)):
        cells = (f"{100 * x:.0f} ({100 * y:.0f})" for x, y in zip(c, d, strict=True))
        print(f"{layer:5} " + "".join(f"{x:>12}" for x in cells))
    print(f"{time.time() - start:.0f} s")
    if a.json:
        a.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
