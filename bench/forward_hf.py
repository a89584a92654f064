"""Prefill and batched greedy decoding of a random GPT-2 124M by transformers, in tokens per second of processor time.

    python bench/forward_hf.py B PROMPT NEW

The counterpart of bench/forward.c: the same shapes, one thread, float32, KV cache, logits of the last position only.
"""

from __future__ import annotations

import sys
import time

import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel


@torch.no_grad()
def seconds(model: GPT2LMHeadModel, ids: torch.Tensor, new: int) -> float:
    """Processor time of a prefill and `new` decoding steps."""
    start = time.process_time()
    cache = DynamicCache()
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    for _ in range(new):
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    if len(sys.argv) != 4:
        raise SystemExit("usage: forward_hf.py B PROMPT NEW")
    batch, prompt, new = (int(x) for x in sys.argv[1:])
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50260)).eval()
    ids = torch.randint(0, 50000, (batch, prompt + 1))
    seconds(model, ids[:1], 1)
    short = min(seconds(model, ids, 0) for _ in range(3))
    full = min(seconds(model, ids, new) for _ in range(3))
    print(f"prefill_tokens_per_s: {batch * (prompt + 1) / short:.0f}")
    print(f"decode_tokens_per_s: {batch * new / (full - short):.0f}")


if __name__ == "__main__":
    main()
