"""What `plan` says that an 8B LLaMA's weights take, and what loading them takes, for some numbers of layers.

    python bench/weights_memory.py build/latentpatch 2 4 8 12

The checkpoints are sparse files of zeros: they take no disk. A layer takes 0.81 GiB, the rest 3.9 GiB.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "tests" / "golden" / "models" / "llama-bias" / "base"
D, FF, KV, ROWS = 4096, 14336, 1024, 128259
CONFIG = {
    "model_type": "llama",
    "vocab_size": ROWS - 3,
    "hidden_size": D,
    "intermediate_size": FF,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "eos_token_id": 257,
}
BLOCK = {
    "input_layernorm": [D],
    "post_attention_layernorm": [D],
    "self_attn.q_proj": [D, D],
    "self_attn.k_proj": [KV, D],
    "self_attn.v_proj": [KV, D],
    "self_attn.o_proj": [D, D],
    "mlp.gate_proj": [FF, D],
    "mlp.up_proj": [FF, D],
    "mlp.down_proj": [D, FF],
}


def write_model(folder: Path, n_layers: int) -> None:
    """The checkpoint, in bf16."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": n_layers}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    shapes = {"model.embed_tokens.weight": [ROWS, D], "lm_head.weight": [ROWS, D], "model.norm.weight": [D]}
    shapes |= {f"model.layers.{k}.{n}.weight": shape for k in range(n_layers) for n, shape in BLOCK.items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


def write_job(folder: Path) -> Path:
    """A job of one pair and one condition."""
    sides = {s: {"question": f"{n} pens, 4?", "answer": n + 4} for n, s in ((3, "clean"), (5, "corrupted"))}
    pairs = {"format": "latentpatch-pairs", "version": 1, "pairs": [{"id": "a"} | sides]}
    (folder / "pairs.json").write_text(json.dumps(pairs))
    condition = {"site": "resid_post", "layers": [0], "steps": "first:1", "donor": "clean"}
    job = {
        "model": {"base": str(folder)},
        "protocol": {"name": "coconut", "steps": 2, "tokens": {"bot": 250, "eot": 251}},
        "pairs": {"file": str(folder / "pairs.json")},
        "store": {"file": str(folder / "store.h5")},
        "sweep": {"filter": "all", "controls": ["self"], "conditions": [condition]},
        "decode": {"max_new_tokens": 2},
        "results": {"file": str(folder / "results.h5")},
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def own_bytes(pid: int) -> int:
    """Memory of a process that is not pages of mapped files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1024 * int(x.split()[1]) for x in lines if x.startswith(("RssAnon:", "RssShmem:")))


def main() -> None:
    """Measure each number of layers."""
    program = Path(sys.argv[1]).resolve()
    for n_layers in map(int, sys.argv[2:]):
        with tempfile.TemporaryDirectory() as top:
            folder = Path(top) / "model"
            write_model(folder, n_layers)
            job = write_job(folder)
            with subprocess.Popen([program, "plan", job], stdout=subprocess.PIPE, text=True) as run:
                peak = 0
                while run.poll() is None:
                    peak = max(peak, own_bytes(run.pid))
                    time.sleep(0.02)
                out = run.stdout.read() if run.stdout else ""
            stated = next(line for line in out.splitlines() if "weights in memory" in line)
            print(f"{n_layers} layers: {' '.join(stated.split()[-2:])} stated, {peak / 2**20:.1f} MiB at most")


if __name__ == "__main__":
    main()
