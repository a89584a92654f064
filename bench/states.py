"""How far the states of the thoughts are from float64, by site: ours in each dtype, and transformers' in float32.

    python3 bench/states.py --program latentpatch --work DIR [--dtypes fp32,fp32-tc,tf32,bf16] [--device cuda]
        [--shape llama-3.2-1b] [--questions 3]

A checkpoint with random weights (make_checkpoint.py --init scaled) is made in DIR. `cache` stores what each block, its
attention and its MLP give at every thought of the first questions; transformers computes the same in float64 and in
float32 from the same merged weights, one question at a time. A line has the largest error over the largest value, and
the root mean squares' ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "oracle"))
from transformers import DynamicCache  # noqa: E402

from codi_hf import Loaded, load  # noqa: E402
from make_checkpoint import model_of_job  # noqa: E402

STEPS = 6
SITES = {"resid_post": "", "attn_out": "self_attn", "mlp_out": "mlp"}  # and the block's part that gives it
States = dict[str, np.ndarray]  # of a site: [layers, steps, D]


def keep_last(into: dict[tuple[str, int], torch.Tensor], site: str, layer: int) -> Callable[..., None]:
    """A hook that keeps the last position's output."""

    def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        into[site, layer] = (output[0] if isinstance(output, tuple) else output).reshape(-1, output_width(output))[-1]

    return hook


def output_width(output: Any) -> int:
    """Numbers of a position."""
    return int((output[0] if isinstance(output, tuple) else output).shape[-1])


@torch.no_grad()
def reference(m: Loaded, question: str, dtype: torch.dtype, device: torch.device) -> States:
    """What transformers computes."""
    codi = m.codi.to(device).to(dtype)
    got: dict[tuple[str, int], torch.Tensor] = {}
    blocks = codi.blocks()
    hooks = [
        (block.get_submodule(part) if part else block).register_forward_hook(keep_last(got, site, layer))
        for layer, block in enumerate(blocks)
        for site, part in SITES.items()
    ]
    cache, steps = DynamicCache(), []
    settings: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "output_hidden_states": True}
    ids = torch.tensor([[*m.tok(question).input_ids, codi.bot_id]], device=device)
    state = codi.base()(input_ids=ids, logits_to_keep=1, **settings).hidden_states[-1][:, -1:]
    for _ in range(STEPS):
        out = codi.base()(inputs_embeds=codi.prj(state), logits_to_keep=1, **settings)
        state = out.hidden_states[-1][:, -1:]
        steps.append({key: value.double().cpu().numpy() for key, value in got.items()})
    for hook in hooks:
        hook.remove()
    return {site: np.stack([[step[site, layer] for step in steps] for layer in range(len(blocks))]) for site in SITES}


def distance(got: np.ndarray, want: np.ndarray) -> str:
    """Largest error and root mean square, each over that of the values."""
    error = got.astype(np.float64) - want
    return f"{np.abs(error).max() / np.abs(want).max():.2e} {np.sqrt(np.mean(error**2) / np.mean(want**2)):.2e}"


def ours(a: argparse.Namespace, model: Path, pairs: Path, dtype: str) -> States:
    """Of a store that `cache` makes."""
    store = a.work / f"states-{dtype}.h5"
    store.unlink(missing_ok=True)
    condition = {"site": "resid_post", "layers": "all", "steps": f"first:{STEPS}", "donor": "clean"}
    job = {
        "model": model_of_job(model),
        "protocol": {"name": "codi", "steps": STEPS},
        "pairs": {"file": str(pairs), "limit": a.questions},
        "store": {"file": str(store), "sites": [site for site in SITES if site != "resid_post"]},
        "sweep": {"filter": "all", "conditions": [condition]},
        "decode": {"max_new_tokens": 1},
        "results": {"file": str(a.work / f"states-{dtype}.results.h5")},
        "engine": {"device": a.device, "dtype": dtype},
    }
    path = a.work / f"states-{dtype}.json"
    path.write_text(json.dumps(job, indent=1) + "\n")
    subprocess.run([a.program, "cache", str(path)], check=True, timeout=300)
    with h5py.File(store) as f:
        return {site: f[f"runs/clean/{site}"][: a.questions] for site in SITES}


def main() -> None:
    """One line a site and way."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--program", required=True)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--dtypes", default="fp32,fp32-tc,tf32,bf16")
    p.add_argument("--device", default="cuda")
    p.add_argument("--shape", default="llama-3.2-1b")
    p.add_argument("--questions", type=int, default=3)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda" if a.device == "cuda" and torch.cuda.is_available() else "cpu")
    model, pairs = a.work / f"{a.shape}-scaled", a.work / "pairs-states.json"
    made = [sys.executable, str(HERE / "make_checkpoint.py"), "--shape", a.shape, "--init", "scaled", str(model)]
    if not (model / "lora.json").exists():
        subprocess.run(made, check=True, timeout=300)
    tokenizer = str(model / "base" / "tokenizer.json")
    made = [
        sys.executable,
        str(HERE / "make_pairs.py"),
        "--tokenizer",
        tokenizer,
        "--pairs",
        str(a.questions),
        str(pairs),
    ]
    subprocess.run(made, check=True, timeout=60)
    m = load(model / "base", model / "codi", attention="eager", merged=True)
    questions = [pair["clean"]["question"] for pair in json.loads(pairs.read_text())["pairs"][: a.questions]]
    rows = {}
    for name, dtype in (("transformers, fp32", torch.float32), ("float64", torch.float64)):
        each = [reference(m, question, dtype, device) for question in questions]
        rows[name] = {site: np.stack([one[site] for one in each]) for site in SITES}
    want = rows.pop("float64")
    rows |= {f"latentpatch, {dtype}": ours(a, model, pairs, dtype) for dtype in a.dtypes.split(",")}
    for name, states in rows.items():
        print(f"{name:22}" + "".join(f"  {site} {distance(states[site], want[site])}" for site in SITES))


if __name__ == "__main__":
    main()
