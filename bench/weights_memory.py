"""What `plan` says that an 8B LLaMA's weights take, and what loading them takes, for some numbers of layers.

    python bench/weights_memory.py build/latentpatch 2 4 8 32
    python bench/weights_memory.py build/latentpatch --codi 32

The checkpoints are sparse files of zeros in bf16: they take no disk. A layer takes 0.81 GiB, the rest 3.9 GiB. With
--codi a CODI checkpoint with LoRA is loaded over the base model. Memory counts wherever it is, in RAM or in swap.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "tests" / "golden" / "models" / "llama-bias" / "base"
V, D, FF, KV, RANK = 128256, 4096, 14336, 1024, 128
CONFIG = {
    "model_type": "llama",
    "vocab_size": V,
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
TOKENS = {"tokens": {"bot": 250, "eot": 251}}
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


def sparse_file(path: Path, shapes: dict[str, list[int]]) -> int:
    """A safetensors file of zeros in bf16, which takes no disk. Returns the bytes of its tensors."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at


def write_base(folder: Path, n_layers: int) -> None:
    """The base model, in four files with an index, as Llama-3.1-8B-Instruct has them."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": n_layers}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    shapes = {"model.embed_tokens.weight": [V, D]}
    shapes |= {f"model.layers.{k}.{n}.weight": shape for k in range(n_layers) for n, shape in BLOCK.items()}
    shapes |= {"model.norm.weight": [D], "lm_head.weight": [V, D]}
    names, where, total = list(shapes), {}, 0
    for k in range(4):
        file = f"model-{k + 1:05d}-of-00004.safetensors"
        part = names[k * len(names) // 4 : (k + 1) * len(names) // 4]
        total += sparse_file(folder / file, {n: shapes[n] for n in part})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_codi(folder: Path, n_layers: int) -> None:
    """The CODI checkpoint: a whole module with LoRA of rank 128 on each linear layer, and a projection."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model = "codi.base_model.model."
    shapes = {f"{model}model.embed_tokens.weight": [V + 3, D], f"{model}model.norm.weight": [D]}
    shapes |= {f"{model}lm_head.weight": [V + 3, D]}
    for k in range(n_layers):
        for n, shape in BLOCK.items():
            name = f"{model}model.layers.{k}.{n}"
            if len(shape) == 1:
                shapes[f"{name}.weight"] = shape
                continue
            shapes[f"{name}.base_layer.weight"] = shape
            shapes[f"{name}.lora_A.default.weight"] = [RANK, shape[1]]
            shapes[f"{name}.lora_B.default.weight"] = [shape[0], RANK]
    for k in ("1", "3"):
        shapes |= {f"prj.{k}.weight": [D, D], f"prj.{k}.bias": [D]}
    shapes |= {"prj.ln.weight": [D], "prj.ln.bias": [D]}
    sparse_file(folder / "model.safetensors", shapes)


def write_job(folder: Path, model: dict[str, object]) -> Path:
    """A job of one pair and one condition."""
    sides = {s: {"question": f"{n} pens, 4?", "answer": n + 4} for n, s in ((3, "clean"), (5, "corrupted"))}
    pairs = {"format": "latentpatch-pairs", "version": 1, "pairs": [{"id": "a"} | sides]}
    (folder / "pairs.json").write_text(json.dumps(pairs))
    condition = {"site": "resid_post", "layers": [0], "steps": "first:1", "donor": "clean"}
    job = {
        "model": model,
        "protocol": {"name": "codi" if "codi" in model else "coconut", "steps": 2} | TOKENS,
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
    """Memory of a process that is not pages of mapped files, in RAM or in swap."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1024 * int(x.split()[1]) for x in lines if x.startswith(("RssAnon:", "RssShmem:", "VmSwap:")))


def main() -> None:
    """Measure each number of layers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=Path)
    parser.add_argument("layers", type=int, nargs="+")
    parser.add_argument("--codi", action="store_true", help="with a CODI checkpoint over the base model")
    args = parser.parse_args()
    for n_layers in args.layers:
        with tempfile.TemporaryDirectory() as top:
            folder = Path(top)
            write_base(folder / "base", n_layers)
            model: dict[str, object] = {"base": str(folder / "base")}
            if args.codi:
                write_codi(folder / "codi", n_layers)
                model |= {"codi": str(folder / "codi"), "lora": {"rank": RANK, "alpha": 32}}
            job = write_job(folder, model)
            with subprocess.Popen([args.program.resolve(), "plan", job], stdout=subprocess.PIPE, text=True) as run:
                peak, start = 0, time.monotonic()
                while run.poll() is None:
                    peak = max(peak, own_bytes(run.pid))
                    time.sleep(0.02)
                out = run.stdout.read() if run.stdout else ""
            seconds = time.monotonic() - start
            stated = [line for line in out.splitlines() if "weights in memory" in line or "not loaded" in line]
            said = "; ".join(" ".join(line.split()) for line in stated)
            print(f"{n_layers} layers: {said}; {peak / 2**20:.1f} MiB at most, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
