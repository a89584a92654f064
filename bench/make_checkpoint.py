"""Write a random-weight CODI checkpoint in the public layout, at any size.

    python bench/make_checkpoint.py --shape gpt2-124m|llama-3.2-1b|tiny-gpt2|tiny-llama OUT [OPTIONS]

OUT/base gets config.json, the tokenizer and, with --base-weights, weights; OUT/codi the state dict of the CODI module
(model.safetensors, written tensor by tensor, or pytorch_model.bin); OUT/lora.json rank and alpha. Answers have no
meaning. With --init spread block weights are scaled by their fan-in and embeddings kept small, so that what the blocks
compute, not the last token, decides the answer; the output matrix of the MLP is centred over its inputs, or the mean of
GELU would make all states alike. With --init library standard deviations are those with which transformers, peft and
torch.nn.Linear begin (LoRA's B, which peft begins at 0, has 0.02); norms and biases differ from 1 and 0, so that they
cannot be left out unnoticed. --init scaled is the same with LLaMA's o_proj and down_proj divided by the square root of
2L, as GPT-2 begins: without that a random LLaMA amplifies rounding errors hundreds of times.

Without --tokenizer a byte-level BPE of the shape's size is made: 256 bytes, then two- and three-byte tokens from
invented merges (ASCII first), then the special tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DTYPES = {"fp32": (torch.float32, "F32"), "fp16": (torch.float16, "F16"), "bf16": (torch.bfloat16, "BF16")}


Wanted = tuple[str, tuple[int, ...], float, float]  # name, shape, mean, standard deviation


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: D hidden, F inner width of the MLP, V base vocabulary."""

    arch: str
    layers: int
    d: int
    heads: int
    kv_heads: int
    f: int
    vocab: int
    context: int
    prj: int
    lora_r: int = 128
    lora_alpha: int = 32

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.d // self.heads


SHAPES = {
    "gpt2-124m": Shape("gpt2", 12, 768, 12, 12, 3072, 50257, 1024, 768),
    "llama-3.2-1b": Shape("llama", 16, 2048, 32, 8, 8192, 128256, 131072, 2048),
    "tiny-gpt2": Shape("gpt2", 3, 64, 4, 4, 256, 600, 256, 64, 8, 16),
    "tiny-llama": Shape("llama", 3, 64, 4, 2, 160, 600, 256, 64, 8, 16),
}


def model_of_job(folder: Path) -> dict[str, Any]:
    """The section `model` of a job for a checkpoint that was made in a folder."""
    lora = json.loads((folder / "lora.json").read_text())
    return {
        "base": str(folder / "base"),
        "codi": str(folder / "codi"),
        "lora": {"rank": lora["r"], "alpha": lora["alpha"]},
    }


def config(s: Shape, dtype: str, specials: dict[str, int]) -> dict[str, Any]:
    """config.json."""
    name = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype]
    if s.arch == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "n_ctx": s.context,
            "n_positions": s.context,
            "n_embd": s.d,
            "n_head": s.heads,
            "n_inner": s.f,
            "n_layer": s.layers,
            "vocab_size": s.vocab,
            "tie_word_embeddings": True,
            "bos_token_id": specials["eos"],
            "eos_token_id": specials["eos"],
            "torch_dtype": name,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": s.d,
        "intermediate_size": s.f,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "max_position_embeddings": s.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": min(8192, s.context),
        },
        "tie_word_embeddings": True,
        "vocab_size": s.vocab,
        "bos_token_id": specials["bos"],
        "eos_token_id": specials["eos"],
        "torch_dtype": name,
    }


def tensors(s: Shape) -> Iterator[Wanted]:
    """Name, shape, mean and standard deviation of every tensor of the CODI module, in the order of its state dict."""
    root = "codi.base_model.model."
    low = s.lora_r

    def linear(name: str, n_in: int, n_out: int, bias: bool) -> Iterator[Wanted]:
        shape = (n_in, n_out) if s.arch == "gpt2" else (n_out, n_in)
        gain = 1.5 if name.endswith(("c_attn", "q_proj", "k_proj")) else 1.0
        yield f"{name}.base_layer.weight", shape, 0.0, gain * n_in**-0.5
        if bias:
            yield f"{name}.base_layer.bias", (n_out,), 0.0, 0.02
        yield f"{name}.lora_A.default.weight", (low, n_in), 0.0, n_in**-0.5
        yield f"{name}.lora_B.default.weight", (n_out, low), 0.0, 0.5 * low**-0.5

    def norm(name: str, bias: bool) -> Iterator[Wanted]:
        yield f"{name}.weight", (s.d,), 1.0, 0.05
        if bias:
            yield f"{name}.bias", (s.d,), 0.0, 0.02

    if s.arch == "gpt2":
        t = root + "transformer."
        yield t + "wte.weight", (s.vocab + 3, s.d), 0.0, 0.05
        yield t + "wpe.weight", (s.context, s.d), 0.0, 0.1
        for k in range(s.layers):
            h = f"{t}h.{k}."
            yield from norm(h + "ln_1", True)
            yield from linear(h + "attn.c_attn", s.d, 3 * s.d, True)
            yield from linear(h + "attn.c_proj", s.d, s.d, True)
            yield from norm(h + "ln_2", True)
            yield from linear(h + "mlp.c_fc", s.d, s.f, True)
            yield from linear(h + "mlp.c_proj", s.f, s.d, True)
        yield from norm(t + "ln_f", True)
    else:
        t = root + "model."
        kv = s.kv_heads * s.head_dim
        yield t + "embed_tokens.weight", (s.vocab + 3, s.d), 0.0, 0.05
        for k in range(s.layers):
            h = f"{t}layers.{k}."
            for name, n_in, n_out in (
                ("self_attn.q_proj", s.d, s.d),
                ("self_attn.k_proj", s.d, kv),
                ("self_attn.v_proj", s.d, kv),
                ("self_attn.o_proj", s.d, s.d),
                ("mlp.gate_proj", s.d, s.f),
                ("mlp.up_proj", s.d, s.f),
                ("mlp.down_proj", s.f, s.d),
            ):
                yield from linear(h + name, n_in, n_out, False)
            yield from norm(h + "input_layernorm", False)
            yield from norm(h + "post_attention_layernorm", False)
        yield from norm(t + "norm", False)
    for index, n_in, n_out in (("1", s.d, s.prj), ("3", s.prj, s.d)):
        yield f"prj.{index}.weight", (n_out, n_in), 0.0, n_in**-0.5
        yield f"prj.{index}.bias", (n_out,), 0.0, 0.02
    yield from norm("prj.ln", True)


def is_added(name: str) -> bool:
    """True for LoRA and projection: they are float32 in the public checkpoints."""
    return "lora_" in name or name.startswith("prj.")


# Matrices that write into the residual stream; transformers scales GPT-2's alone.
SCALED = {
    "library": ("c_proj.base_layer.weight",),
    "scaled": ("c_proj.base_layer.weight", "o_proj.base_layer.weight", "down_proj.base_layer.weight"),
}


def library_std(name: str, shape: tuple[int, ...], s: Shape, init: str) -> float:
    """0.02 (initializer_range), those of SCALED by the square root of 2L; uniform within fan_in^-1/2 otherwise."""
    if "lora_A" in name or name in ("prj.1.weight", "prj.3.weight"):
        return (3 * shape[-1]) ** -0.5
    return 0.02 * (2 * s.layers) ** -0.5 if name.endswith(SCALED[init]) else 0.02


def library(wanted: Iterator[Wanted], s: Shape, init: str) -> Iterator[Wanted]:
    """The same tensors with --init library or scaled."""
    for name, shape, mean, std in wanted:
        yield name, shape, mean, library_std(name, shape, s, init) if len(shape) == 2 else std


def random_tensor(wanted: Wanted, dtype: torch.dtype, generator: torch.Generator, centred: bool = True) -> Tensor:
    """Normal numbers."""
    name, shape, mean, std = wanted
    value = torch.empty(shape).normal_(mean, std, generator=generator)
    if centred and name.endswith(("mlp.c_proj.base_layer.weight", "mlp.c_proj.weight")):
        value -= value.mean(dim=0)
    return value.to(dtype)


def write_safetensors(path: Path, wanted: list[Wanted], dtype: str, seed: int, centred: bool = True) -> None:
    """Header first, then one tensor at a time: memory for one tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape, _, _ in wanted:
        kind, word = DTYPES["fp32" if is_added(name) else dtype]
        size = torch.Size(shape).numel() * kind.itemsize
        header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    with path.open("wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for each in wanted:
            kind, _ = DTYPES["fp32" if is_added(each[0]) else dtype]
            value = random_tensor(each, kind, generator, centred)
            f.write(value.view(torch.uint8).numpy().data)


def write_binary(path: Path, wanted: list[Wanted], dtype: str, seed: int, centred: bool = True) -> None:
    """torch.save of the whole state dict; lm_head shares the embedding's storage."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for each in wanted:
        kind, _ = DTYPES["fp32" if is_added(each[0]) else dtype]
        state[each[0]] = random_tensor(each, kind, generator, centred)
    embedding = next(v for k, v in state.items() if k.endswith(("wte.weight", "embed_tokens.weight")))
    state["codi.base_model.model.lm_head.weight"] = embedding
    torch.save(state, path)


def make_tokenizer(s: Shape, folder: Path) -> dict[str, int]:
    """A byte-level BPE with exactly V entries; the ids of its special tokens."""
    names = {"eos": "<|endoftext|>"} if s.arch == "gpt2" else {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (not c.isascii(), c))
    symbols.remove("Ġ")
    symbols.insert(0, "Ġ")
    vocab = {c: k for k, c in enumerate(symbols)}
    wanted = s.vocab - len(vocab) - len(names)
    common = ["Ġ", *[c for c in symbols if c.isascii() and c.isalpha()]]
    pairs = [*product(common, common[1:])]
    pairs += [p for p in product(symbols, symbols) if p not in set(pairs)]
    longer = ((a + b, c) for a, b in pairs for c in common[1:])
    merges = list(islice(pairs, wanted))
    merges += list(islice(longer, wanted - len(merges)))
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=s.arch == "llama"))
    if s.arch == "gpt2":
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
            ]
        )
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names.values()])
    ids = {k: tok.token_to_id(n) for k, n in names.items()}
    if s.arch == "gpt2":
        tok.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        tok.post_processor = processors.TemplateProcessing(
            single=f"{names['bos']} $A",
            pair=f"{names['bos']} $A {names['bos']}:1 $B:1",
            special_tokens=[(names["bos"], ids["bos"])],
        )
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    write_tokenizer_config(folder, names)
    return ids


def write_tokenizer_config(folder: Path, names: dict[str, str]) -> None:
    """tokenizer_config.json."""
    settings = {f"{k}_token": v for k, v in names.items()}
    settings |= {"clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def copy_tokenizer(s: Shape, source: Path, folder: Path) -> dict[str, int]:
    """Take a tokenizer.json as it is; the ids of its special tokens."""
    if source.is_dir():
        source = source / "tokenizer.json"
    shutil.copyfile(source, folder / "tokenizer.json")
    tok = Tokenizer.from_file(str(source))
    if tok.get_vocab_size() > s.vocab:
        raise SystemExit(f"{source}: {tok.get_vocab_size()} tokens, the shape has {s.vocab}")
    known = {
        "bos": ("<|begin_of_text|>", "<|bos|>"),
        "eos": ("<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>"),
    }
    names = {}
    for key, spellings in known.items():
        found = next((x for x in spellings if tok.token_to_id(x) is not None), None)
        if found is not None:
            names[key] = found
    if "eos" not in names or (s.arch == "llama" and "bos" not in names):
        raise SystemExit(f"{source}: no special token for the end of a text that this script knows")
    write_tokenizer_config(folder, names)
    return {k: tok.token_to_id(v) for k, v in names.items()}


def arguments() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("out", type=Path)
    p.add_argument("--shape", choices=sorted(SHAPES), required=True)
    p.add_argument("--dtype", choices=sorted(DTYPES), default="bf16", help="of the base weights; LoRA and prj are fp32")
    p.add_argument("--format", choices=("safetensors", "bin"), default="safetensors")
    p.add_argument("--init", choices=("spread", *SCALED), default="spread", help="standard deviations: see above")
    p.add_argument("--base-weights", action="store_true", help="write base/model.safetensors too")
    p.add_argument("--tokenizer", type=Path, help="tokenizer.json or its folder, instead of an invented one")
    p.add_argument("--layers", type=int, help="other number of blocks")
    p.add_argument("--lora-r", type=int)
    p.add_argument("--lora-alpha", type=int)
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


def main() -> None:
    """Write one checkpoint."""
    a = arguments()
    torch.set_num_threads(1)
    given = {"layers": a.layers, "lora_r": a.lora_r, "lora_alpha": a.lora_alpha}
    s = replace(SHAPES[a.shape], **{k: v for k, v in given.items() if v is not None})
    base, codi = a.out / "base", a.out / "codi"
    base.mkdir(parents=True, exist_ok=True)
    codi.mkdir(exist_ok=True)
    ids = make_tokenizer(s, base) if a.tokenizer is None else copy_tokenizer(s, a.tokenizer, base)
    (base / "config.json").write_text(json.dumps(config(s, a.dtype, ids), indent=1) + "\n")
    spread = a.init == "spread"
    all_tensors = list(tensors(s) if spread else library(tensors(s), s, a.init))
    if a.base_weights:
        wanted = []
        for name, shape, mean, std in all_tensors:
            if not is_added(name):
                rows = (shape[0] - 3, *shape[1:]) if name.endswith(("wte.weight", "embed_tokens.weight")) else shape
                plain = name.removeprefix("codi.base_model.model.").replace(".base_layer", "")
                wanted.append((plain, rows, mean, std))
        write_safetensors(base / "model.safetensors", wanted, a.dtype, a.seed + 1, spread)
    if a.format == "bin":
        write_binary(codi / "pytorch_model.bin", all_tensors, a.dtype, a.seed, spread)
    else:
        write_safetensors(codi / "model.safetensors", all_tensors, a.dtype, a.seed, spread)
    (a.out / "lora.json").write_text(json.dumps({"r": s.lora_r, "alpha": s.lora_alpha}) + "\n")
    size = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file())
    print(f"{a.out}: {a.shape}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
