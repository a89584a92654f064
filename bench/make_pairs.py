"""Write random pairs for a checkpoint of make_checkpoint.py: questions of about N tokens that differ in one number.

    python bench/make_pairs.py --tokenizer BASE/tokenizer.json --pairs 8 --tokens 70 OUT.json
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer

NAMES = ("Tom", "Ben", "Ada", "Mia", "Leo", "Eve", "Sam", "Zoe")
THINGS = ("pens", "eggs", "cups", "nuts", "hats", "jars", "maps", "keys")
DOES = ("buys", "finds", "sells", "gives away", "packs", "counts")


def question(rng: random.Random, tokenizer: Tokenizer, tokens: int) -> str:
    """Sentences with a number each, cut where they reach that many tokens; `{}` is left for the number that changes."""
    name = rng.choice(NAMES)
    text = f"{name} has {{}} {rng.choice(THINGS)}."
    while len(tokenizer.encode(text, add_special_tokens=False).ids) < tokens - 8:
        text += f" {rng.choice(NAMES)} {rng.choice(DOES)} {rng.randint(2, 99)} {rng.choice(THINGS)}."
    return text + " How many?"


def main() -> None:
    """Write the file."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("out", type=Path)
    p.add_argument("--tokenizer", type=Path, required=True)
    p.add_argument("--pairs", type=int, default=8)
    p.add_argument("--tokens", type=int, default=70)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    rng = random.Random(a.seed)
    tokenizer = Tokenizer.from_file(str(a.tokenizer))
    pairs = []
    for k in range(a.pairs):
        text = question(rng, tokenizer, a.tokens)
        first = rng.randint(10, 80)
        sides = {
            "clean": {"question": text.format(first), "answer": first},
            "corrupted": {"question": text.format(first + 7), "answer": first + 7},
        }
        pairs.append({"id": f"bench-{k:04d}", **sides})
    about = {"format": "latentpatch-pairs", "version": 1, "source": "bench/make_pairs.py", "pairs": pairs}
    a.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
