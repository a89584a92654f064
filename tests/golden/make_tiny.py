"""Write the tiny random-weight CODI checkpoints of tests/golden/models.

    python make_tiny.py [NAME ...]

Odd sizes on purpose, and between them every branch of the reader: see MODELS and README.md. The output of one
machine's run is committed; it need not be repeated bit by bit elsewhere, golden values are made from the files.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
from codi_hf import Codi

OUT = Path(__file__).resolve().parent / "models"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass
class Tiny:
    """One model."""

    seed: int
    config: PretrainedConfig
    specials: tuple[str, ...]  # the last one is eos; a first one called <|bos|> is put before each text
    lora: tuple[int, float]  # r, alpha; r = 0: none
    prj: tuple[int, bool]  # inner width, LayerNorm
    dtype: torch.dtype = torch.float32  # of the base weights in codi/
    binary: bool = False  # codi/pytorch_model.bin with a tied lm_head in it, else model.safetensors without
    base_weights: torch.dtype | None = None  # base/model.safetensors holds other weights than codi/, in this dtype
    merges: tuple[tuple[str, str], ...] = field(default=())
    protocols: tuple[str, ...] = ()  # of its golden runs; none: the three that the first models have
    layout: str = ""  # of another published code; empty: the CODI module
    rows: int = 3  # of the embedding beyond the config's vocabulary


MODELS = {
    # Projection with LayerNorm, n_inner not 4 D, a tokenizer with merges, weights in codi/ only.
    "gpt2-ln": Tiny(
        seed=1,
        config=GPT2Config(n_embd=20, n_head=5, n_layer=2, n_inner=44, n_positions=80, vocab_size=269),
        specials=("<|endoftext|>",),
        lora=(3, 6.0),
        prj=(12, True),
        merges=(*(("Ġ", d) for d in "0123456789"), ("1", "2"), ("2", "0")),
    ),
    # No LoRA, prj without LayerNorm, erf GELU, and a base/ with half-precision weights that codi/ overrides.
    "gpt2-plain": Tiny(
        seed=2,
        config=GPT2Config(
            n_embd=12, n_head=3, n_layer=3, n_positions=72, vocab_size=257, activation_function="gelu", n_inner=30
        ),
        specials=("<|endoftext|>",),
        lora=(0, 1.0),
        prj=(17, False),
        base_weights=torch.float16,
    ),
    # Grouped-query attention, head_dim given and not D / heads, plain RoPE.
    "llama-gqa": Tiny(
        seed=3,
        config=LlamaConfig(
            hidden_size=20,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=6,
            num_hidden_layers=2,
            intermediate_size=28,
            vocab_size=258,
            max_position_embeddings=96,
            rope_theta=500.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        ),
        specials=("<|bos|>", "<|eos|>"),
        lora=(2, 3.0),
        prj=(20, True),
    ),
    # llama3 scaling with a frequency in each of its three ranges, untied head, ids between tokenizer and vocabulary,
    # and a config.json whose eos_token_id is a list that does not begin with the tokenizer's eos.
    "llama-rope3": Tiny(
        seed=4,
        config=LlamaConfig(
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_hidden_layers=3,
            intermediate_size=22,
            vocab_size=262,
            max_position_embeddings=128,
            rope_theta=5000.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
        ),
        specials=("<|bos|>", "<|end_of_text|>", "<|eot|>"),
        lora=(4, 8.0),
        prj=(10, True),
        dtype=torch.float16,
    ),
    # One key/value head, bf16 base and fp32 LoRA in one pytorch_model.bin, linear RoPE scaling.
    "llama-bf16": Tiny(
        seed=5,
        config=LlamaConfig(
            hidden_size=18,
            num_attention_heads=3,
            num_key_value_heads=1,
            num_hidden_layers=3,
            intermediate_size=26,
            vocab_size=258,
            max_position_embeddings=96,
            rope_scaling={"rope_type": "linear", "factor": 2.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        ),
        specials=("<|bos|>", "<|eos|>"),
        lora=(5, 10.0),
        prj=(18, True),
        dtype=torch.bfloat16,
        binary=True,
    ),
}
SMALL = {"num_hidden_layers": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 96, "vocab_size": 258}
MODELS |= {
    # Biases on q, k and v alone, NFC and Qwen's pattern, tied head, no bos.
    "qwen2": Tiny(
        seed=6,
        config=Qwen2Config(
            hidden_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=28,
            rope_theta=1000.0,
            tie_word_embeddings=True,
            use_sliding_window=False,
            **SMALL,
        ),
        specials=("<|endoftext|>", "<|im_end|>"),
        lora=(3, 6.0),
        prj=(12, True),
        protocols=("codi",),
    ),
    # A norm on each head of q and of k, heads wider than D / heads, untied head.
    "qwen3": Tiny(
        seed=7,
        config=Qwen3Config(
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            intermediate_size=22,
            rope_theta=2000.0,
            tie_word_embeddings=False,
            use_sliding_window=False,
            **SMALL,
        ),
        specials=("<|endoftext|>", "<|im_end|>"),
        lora=(4, 8.0),
        prj=(24, True),
        protocols=("codi-eos",),
    ),
    # Without a window; no projection, as Coconut.
    "mistral": Tiny(
        seed=8,
        config=MistralConfig(
            hidden_size=18,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=26,
            sliding_window=None,
            tie_word_embeddings=False,
            **SMALL,
        ),
        specials=("<|bos|>", "<|eos|>"),
        lora=(0, 1.0),
        prj=(0, False),
        protocols=("coconut",),
    ),
    # Biases on q, k, v and o.
    "llama-bias": Tiny(
        seed=9,
        config=LlamaConfig(
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=24,
            attention_bias=True,
            tie_word_embeddings=True,
            **SMALL,
        ),
        specials=("<|bos|>", "<|eos|>"),
        lora=(2, 4.0),
        prj=(16, False),
        dtype=torch.bfloat16,
        protocols=("bot-first",),
    ),
}
LAYOUT = {"num_hidden_layers": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 96, "vocab_size": 258}
LAYOUT_GPT2 = {"n_embd": 12, "n_head": 3, "n_layer": 2, "n_inner": 20, "n_positions": 72}
LATENTS = ("<|latent|>", "<|start-latent|>", "<|end-latent|>")
# Checkpoints as other published codes save them (docs/checkpoints.md).
MODELS |= {
    # SIM-CoT: the CODI module beside a decoder and two projections for training; an empty config.json.
    "simcot": Tiny(
        seed=10,
        config=LlamaConfig(
            hidden_size=12,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=20,
            tie_word_embeddings=True,
            **LAYOUT,
        ),
        specials=("<|bos|>", "<|eos|>"),
        lora=(2, 4.0),
        prj=(12, True),
        protocols=("codi",),
        layout="simcot",
    ),
    # The fork whose tokens the tokenizer names: in the checkpoint's folder, fewer rows than the config's vocabulary.
    "named-tokens": Tiny(
        seed=11,
        config=Qwen3Config(
            hidden_size=12,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=6,
            intermediate_size=20,
            tie_word_embeddings=False,
            use_sliding_window=False,
            **(LAYOUT | {"vocab_size": 300}),
        ),
        specials=("<|endoftext|>", "<|im_end|>"),
        lora=(2, 4.0),
        prj=(8, True),
        protocols=("codi-eos",),
        layout="named-tokens",
    ),
    # Coconut: one file of torch.save without a suffix, with the embedding under two names.
    "coconut": Tiny(
        seed=12,
        config=GPT2Config(vocab_size=257, **LAYOUT_GPT2),
        specials=("<|endoftext|>",),
        lora=(0, 1.0),
        prj=(0, False),
        protocols=("coconut",),
        layout="coconut",
    ),
    # One checkpoint for three ways to answer; its two tokens come right after the vocabulary.
    "multimode": Tiny(
        seed=13,
        config=LlamaConfig(
            hidden_size=12,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=20,
            tie_word_embeddings=True,
            **(LAYOUT | {"vocab_size": 259}),
        ),
        specials=("<|bos|>", "<|eot_id|>", "<|end_of_text|>"),
        lora=(2, 4.0),
        prj=(12, True),
        binary=True,
        protocols=("multimode", "direct", "written"),
        layout="multimode",
        rows=2,
    ),
    # LatentTTS: one folder of from_pretrained with merged weights, an untied head, and the tokens' ids in config.json.
    "latent-tts": Tiny(
        seed=14,
        config=GPT2Config(vocab_size=260, tie_word_embeddings=False, **LAYOUT_GPT2),
        specials=(*LATENTS, "<|endoftext|>"),
        lora=(0, 1.0),
        prj=(10, True),
        protocols=("codi-open", "codi-barred"),
        layout="latent-tts",
        rows=0,
    ),
    # Full weights under the names of transformers, in shards.
    "plain": Tiny(
        seed=25,
        config=LlamaConfig(
            hidden_size=12,
            num_attention_heads=3,
            num_key_value_heads=3,
            intermediate_size=20,
            tie_word_embeddings=False,
            **LAYOUT,
        ),
        specials=("<|bos|>", "<|eos|>"),
        lora=(0, 1.0),
        prj=(0, False),
        dtype=torch.float16,
        protocols=("coconut",),
        layout="plain",
    ),
}


def make_tokenizer(t: Tiny, folder: Path) -> Tokenizer:
    """256 bytes, the merges, then the specials."""
    vocab = {c: k for k, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for a, b in t.merges:
        vocab[a + b] = len(vocab)
    qwen = t.config.model_type.startswith("qwen")
    llama = t.config.model_type in ("llama", "mistral")
    tok = Tokenizer(models.BPE(vocab=vocab, merges=list(t.merges), ignore_merges=llama))
    if qwen:
        tok.normalizer = normalizers.NFC()
    if llama or qwen:
        split = Regex(QWEN_SPLIT if qwen else LLAMA3_SPLIT)
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(split, behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
            ]
        )
    else:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in t.specials])
    settings = {"clean_up_tokenization_spaces": False, "eos_token": t.specials[-1]}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    if llama:
        bos = t.specials[0]
        tok.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tok.token_to_id(bos))]
        )
        settings["bos_token"] = bos
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return tok


def qwen_like(t: Tiny) -> bool:
    """True for models whose texts begin without a bos."""
    return t.config.model_type.startswith("qwen")


def fill(state: dict[str, Tensor], tok: Tokenizer, t: Tiny, generator: torch.Generator) -> None:
    """Random weights that give varied answers: no ties, digits and letters likelier than other bytes, eos at times."""
    gpt2 = t.config.model_type == "gpt2"
    for name, p in state.items():
        noise = torch.randn(p.shape, generator=generator)
        if "lora_A" in name or "lora_B" in name:
            scale = 0.5 / p.shape[1] ** 0.5
        elif name.endswith(("wte.weight", "embed_tokens.weight", "lm_head.weight")):
            scale = 0.12 if gpt2 else 0.35
        elif name.endswith("wpe.weight"):
            scale = 0.25
        elif p.dim() == 1:
            scale = 0.2
        else:
            conv = gpt2 and "prj" not in name
            scale = (2.0 if gpt2 else 1.3) / (p.shape[0] if conv else p.shape[1]) ** 0.5
        p.copy_(noise * scale)
        if p.dim() == 1 and name.endswith("weight"):
            p.add_(1.0)
    for name, p in state.items():
        if not name.endswith(("wte.weight", "embed_tokens.weight", "lm_head.weight")):
            continue
        for k in range(p.shape[0]):
            spelling = tok.id_to_token(k) or ""
            if any(c.isdigit() for c in spelling) and spelling.isascii():
                p[k] *= 2.0
            elif len(spelling) == 1 and spelling.isascii() and spelling.isalpha():
                p[k] *= 1.6
            elif spelling == t.specials[-1]:
                p[k] *= 1.9
            elif spelling == "Ġ":
                p[k] *= 1.7


def published(t: Tiny, state: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The tensors of a CODI module under the names of another code, with what that saves beside them."""
    if t.layout == "simcot":
        extra = {"pj_in.weight": (12, 12), "pj_in.bias": (12,), "pj_out.weight": (12, 12), "pj_out.bias": (12,)}
        extra |= {"decoder.model.norm.weight": (12,), "decoder.lm_head.weight": (258, 12)}
        return state | {k: torch.randn(shape, generator=generator) for k, shape in extra.items()}
    if t.layout == "coconut":
        out = {k.replace("codi.", "base_causallm."): v for k, v in state.items()}
        embedding = out["base_causallm.transformer.wte.weight"]
        return out | {"base_causallm.lm_head.weight": embedding, "embedding.weight": embedding}
    if t.layout == "multimode":
        return {f"model.{k[5:]}" if k.startswith("codi.") else k: v for k, v in state.items()}
    if t.layout == "latent-tts":
        names = {"prj.1": "projector.1", "prj.3": "projector.3", "prj.ln": "projector.4"}
        kind = {k: k.rsplit(".", 1)[0] for k in state}
        return {f"{names[kind[k]]}{k[len(kind[k]) :]}" if kind[k] in names else k[5:]: v for k, v in state.items()}
    return {k[5:]: v for k, v in state.items()} if t.layout == "plain" else state


def write_shards(state: dict[str, Tensor], folder: Path) -> None:
    """Two files and their index, as save_pretrained names them."""
    names = sorted(state)
    where = {}
    for k, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"model-{k + 1:05d}-of-00002.safetensors"
        save_file({n: state[n] for n in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(v.numel() * v.element_size() for v in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_layout(t: Tiny, folder: Path, state: dict[str, Tensor], generator: torch.Generator) -> dict[str, Any]:
    """Write the checkpoint as another code does; what lora.json says of it."""
    base, codi = folder / "base", folder / "codi"
    state = published(t, state, generator)
    about: dict[str, Any] = {"layout": t.layout}
    if t.layout == "latent-tts":
        save_file(state, base / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((base / "config.json").read_text())
        v = config["vocab_size"]
        ids = {"latent_id": v - 4, "latent_start_id": v - 3, "latent_end_id": v - 2}
        (base / "config.json").write_text(json.dumps(config | ids, indent=2) + "\n")
        codi.rmdir()
        return about | {"codi": "base", "tokens": {"bot": v - 3, "eot": v - 2}}
    if t.layout == "coconut":
        torch.save(state, folder / "checkpoint_5")
        codi.rmdir()
        return about | {"codi": "checkpoint_5"}
    if t.layout == "multimode":
        torch.save(state, codi / "pytorch_model.bin")
        v = t.config.vocab_size
        return about | {"tokens": {"bot": v, "eot": v + 1}}
    if t.layout == "plain":
        write_shards(state, codi)
        return about
    save_file(state, codi / "model.safetensors", metadata={"format": "pt"})
    if t.layout == "simcot":
        (codi / "config.json").write_text("{}\n")
    if t.layout == "named-tokens":
        return about | {"tokenizer": "codi", "tokens": {"bot": 258, "eot": 259}}
    return about


@torch.no_grad()
def make(name: str, t: Tiny) -> None:
    """Write models/NAME/{base,codi,lora.json}."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    base, codi = folder / "base", folder / "codi"
    base.mkdir(parents=True)
    codi.mkdir()
    tok = make_tokenizer(t, base)
    t.config.eos_token_id = tok.token_to_id(t.specials[-1])
    if len(t.specials) == 3 and not t.layout:
        t.config.eos_token_id = [tok.token_to_id(s) for s in t.specials[1:]]
    t.config.bos_token_id = None if qwen_like(t) else tok.token_to_id(t.specials[0])
    generator = torch.Generator().manual_seed(t.seed)
    lm = AutoModelForCausalLM.from_config(t.config)
    lm.config.architectures = [type(lm).__name__]
    lm.config.torch_dtype = str(t.dtype).removeprefix("torch.")
    lm.config.save_pretrained(base)
    if t.base_weights is not None:
        fill(lm.state_dict(), tok, t, generator)
        state = {k: v.detach().to(t.base_weights).contiguous() for k, v in lm.state_dict().items()}
        state.pop("lm_head.weight")
        save_file(state, base / "model.safetensors", metadata={"format": "pt"})

    if t.layout == "named-tokens":
        named = Tokenizer.from_file(str(base / "tokenizer.json"))
        named.add_tokens([AddedToken("<|bocot|>", normalized=False), AddedToken("<|eocot|>", normalized=False)])
        named.save(str(codi / "tokenizer.json"), pretty=False)
        shutil.copy(base / "tokenizer_config.json", codi)
        rows = named.get_vocab_size()
    else:
        rows = t.config.vocab_size + t.rows
    module = Codi(lm, t.lora[0], t.lora[1], *t.prj, rows)
    state = dict(module.state_dict())
    heads = [k for k in state if k.endswith("lm_head.weight")]
    if t.config.tie_word_embeddings:
        for key in heads:
            state.pop(key)
    fill(state, tok, t, generator)
    stored = {}
    for key, value in state.items():
        added = "lora_" in key or key.startswith("prj.")
        stored[key] = value.detach().to(torch.float32 if added else t.dtype).clone().contiguous()
    lora: dict[str, Any] = {"r": t.lora[0], "alpha": t.lora[1]}
    if t.layout:
        lora |= write_layout(t, folder, stored, generator)
    elif t.binary:
        embedding = next(v for k, v in stored.items() if k.endswith("embed_tokens.weight"))
        for key in heads:
            stored[key] = embedding
        torch.save(stored, codi / "pytorch_model.bin")
    else:
        save_file(stored, codi / "model.safetensors", metadata={"format": "pt"})
    if t.protocols:
        lora["protocols"] = list(t.protocols)
    (folder / "lora.json").write_text(json.dumps(lora) + "\n")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name}: {size / 1000:.1f} kB")


def main() -> None:
    """Make the models named, or all."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        make(name, MODELS[name])


if __name__ == "__main__":
    main()
