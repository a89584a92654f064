"""Writes tests/fixtures/model (tiny random CODI checkpoints and what peft makes of them) and the fuzz targets' seeds.

Run `python tests/model_fixtures.py` with torch 2.7.1, transformers 4.52.4 and peft 0.15.2 to write them anew. The
checkpoints are written by the libraries' own writers (save_pretrained, safetensors, torch.save); the expected weights
are those of peft's merge_and_unload. An .expected file is text lines `name rows columns`, an empty line, then the
matrices as little-endian float32, row-major, in that order; linear layers are [in, out], LLaMA's q|k|v and gate|up
fused.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save, save_file
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

FOLDER = Path(__file__).parent / "fixtures" / "model"
CORPUS = Path(__file__).parent / "fuzz" / "corpus"
RANK, ALPHA = 3, 5
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],
}


def gpt2_config() -> GPT2Config:
    """A GPT-2 of odd sizes."""
    return GPT2Config(vocab_size=19, n_embd=12, n_layer=2, n_head=3, n_positions=10, bos_token_id=18, eos_token_id=18, n_inner=20)


def llama_config(tied: bool) -> LlamaConfig:
    """A LLaMA with grouped queries and heads that do not add up to the hidden size."""
    return LlamaConfig(
        vocab_size=17,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=[2, 3],
    )


class Codi(nn.Module):
    """The tensors of the reference's CODI module, by its names."""

    def __init__(self, base: PreTrainedModel, prj_dim: int, norm: bool, lora: bool) -> None:
        super().__init__()
        config = base.config
        base.resize_token_embeddings(config.vocab_size + 3, mean_resizing=False)
        self.codi = base
        if lora:
            self.codi = get_peft_model(
                base,
                LoraConfig(
                    task_type=TaskType.CAUSAL_LM,
                    r=RANK,
                    lora_alpha=ALPHA,
                    lora_dropout=0.1,
                    target_modules=TARGETS[config.model_type],
                    fan_in_fan_out=config.model_type == "gpt2",
                ),
            )
        d = config.hidden_size
        self.prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(d, prj_dim), nn.GELU(), nn.Linear(prj_dim, d))
        if norm:
            self.prj.add_module("ln", nn.LayerNorm(d))


def randomise(module: nn.Module, seed: int) -> None:
    """Give every parameter, LoRA's B and the norms included, values of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def make(config: PretrainedConfig, seed: int, norm: bool = True, lora: bool = True) -> Codi:
    """A random CODI module."""
    base = GPT2LMHeadModel(config) if config.model_type == "gpt2" else LlamaForCausalLM(config)
    codi = Codi(base, 7, norm, lora).eval()
    randomise(codi, seed)
    return codi


def is_added(key: str) -> bool:
    """Whether a key is one of LoRA or the projection, not of the base model."""
    return "lora_" in key or key.startswith("prj.")


def cast_base(codi: Codi, cast: Callable[[Tensor], Tensor]) -> None:
    """Pass the base model's values through a narrower type; they stay float32."""
    with torch.no_grad():
        for key, parameter in codi.named_parameters():
            if not is_added(key):
                parameter.copy_(cast(parameter).float())


def fields(codi: Codi) -> dict[str, Tensor]:
    """What lp_model must hold. Merges LoRA in place: use a module once."""
    base = codi.codi.merge_and_unload() if hasattr(codi.codi, "merge_and_unload") else codi.codi
    out: dict[str, Tensor] = {}
    if base.config.model_type == "gpt2":
        body = base.transformer
        out["embedding"], out["positions"] = body.wte.weight, body.wpe.weight
        for k, h in enumerate(body.h):
            out[f"{k}.norm_attn.weight"], out[f"{k}.norm_attn.bias"] = h.ln_1.weight, h.ln_1.bias
            out[f"{k}.norm_mlp.weight"], out[f"{k}.norm_mlp.bias"] = h.ln_2.weight, h.ln_2.bias
            for name, layer in (
                ("qkv", h.attn.c_attn),
                ("attn_out", h.attn.c_proj),
                ("mlp_in", h.mlp.c_fc),
                ("mlp_out", h.mlp.c_proj),
            ):
                out[f"{k}.{name}"], out[f"{k}.{name}.bias"] = layer.weight, layer.bias
        out["final_norm.weight"], out["final_norm.bias"] = body.ln_f.weight, body.ln_f.bias
    else:
        body = base.model
        out["embedding"] = body.embed_tokens.weight
        for k, h in enumerate(body.layers):
            a, m = h.self_attn, h.mlp
            out[f"{k}.norm_attn.weight"] = h.input_layernorm.weight
            out[f"{k}.norm_mlp.weight"] = h.post_attention_layernorm.weight
            out[f"{k}.qkv"] = torch.cat([a.q_proj.weight.T, a.k_proj.weight.T, a.v_proj.weight.T], 1)
            out[f"{k}.attn_out"] = a.o_proj.weight.T
            out[f"{k}.mlp_in"] = torch.cat([m.gate_proj.weight.T, m.up_proj.weight.T], 1)
            out[f"{k}.mlp_out"] = m.down_proj.weight.T
        out["final_norm.weight"] = body.norm.weight
    out["head"] = base.lm_head.weight
    out["prj.in"], out["prj.in.bias"] = codi.prj[1].weight.T, codi.prj[1].bias
    out["prj.out"], out["prj.out.bias"] = codi.prj[3].weight.T, codi.prj[3].bias
    if hasattr(codi.prj, "ln"):
        out["prj.norm.weight"], out["prj.norm.bias"] = codi.prj.ln.weight, codi.prj.ln.bias
    return {k: v.detach().float() for k, v in out.items()}


def part_of(key: str) -> str:
    """The part of the model that `inspect` counts a parameter in."""
    words = (
        ("lora_", "lora"),
        ("prj.", "projection"),
        ("lm_head", "head"),
        ("wte", "embedding"),
        ("wpe", "embedding"),
        ("embed_tokens", "embedding"),
        ("norm", "norms"),
        ("ln_", "norms"),
        ("attn", "attention"),
        ("mlp", "mlp"),
    )
    return next(part for word, part in words if word in key)


def write_facts(name: str, codi: Codi) -> None:
    """Write NAME.facts.json: what inspect must say, from torch's named_parameters and peft's get_delta_weight."""
    counts: dict[str, int] = {}
    for key, parameter in codi.named_parameters():
        counts[part_of(key)] = counts.get(part_of(key), 0) + parameter.numel()
    squares: dict[int, float] = {}
    for key, module in codi.named_modules():
        if hasattr(module, "get_delta_weight"):
            layer = int(next(word for word in key.split(".") if word.isdigit()))
            norm = module.get_delta_weight("default").double().norm().item()
            squares[layer] = squares.get(layer, 0.0) + norm**2
    facts = {
        "parameters": {"total": sum(counts.values()), **counts},
        "update_norm_by_layer": [squares[k] ** 0.5 for k in sorted(squares)],
    }
    (FOLDER / f"{name}.facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def write_expected(name: str, values: dict[str, Tensor]) -> None:
    """Write NAME.expected."""
    lines, data = [], []
    for key, value in values.items():
        matrix = value if value.dim() == 2 else value[None]
        lines.append(f"{key} {matrix.shape[0]} {matrix.shape[1]}\n")
        data.append(matrix.contiguous().numpy().tobytes())
    (FOLDER / f"{name}.expected").write_bytes("".join(lines).encode() + b"\n" + b"".join(data))


def state(codi: Codi, dtype: torch.dtype = torch.float32, head: bool = False) -> dict[str, Tensor]:
    """The state dict, the base in `dtype`, LoRA and projection in float32."""
    return {
        k: v.detach().clone().to(torch.float32 if is_added(k) else dtype)
        for k, v in codi.state_dict().items()
        if head or not k.endswith("lm_head.weight")
    }


def write_base(config: PretrainedConfig, folder: Path, seed: int, shard: str = "5GB") -> None:
    """A base model folder as save_pretrained writes it (the vocabulary without CODI's tokens)."""
    base = GPT2LMHeadModel(config) if config.model_type == "gpt2" else LlamaForCausalLM(config)
    randomise(base, seed)
    base.save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)


def write_corpus(target: str, name: str, data: bytes) -> None:
    """Write one seed of a fuzz target."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def saved(values: object, protocol: int) -> bytes:
    """What torch.save writes."""
    out = io.BytesIO()
    torch.save(values, out, pickle_protocol=protocol)
    return out.getvalue()


def zip64(data: bytes) -> bytes:
    """The same archive with a zip64 end record and zip64 fields, and one entry at an odd address."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            info = zipfile.ZipInfo(entry.filename)
            with new.open(info, "w", force_zip64=True) as file:
                file.write(old.read(entry))
        new.comment = b"odd"
    return out.getvalue()


def write_seeds() -> None:
    """Write the seed corpora of the fuzz targets."""
    for target in ("safetensors", "torchzip", "pickle", "hfconfig"):
        shutil.rmtree(CORPUS / target, ignore_errors=True)
    values = {
        "codi.model.a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "codi.model.b": torch.arange(4, dtype=torch.bfloat16),
        "prj.1.bias": torch.ones(3, dtype=torch.float16),
        "mask": torch.ones(1, 1, 2, 2, dtype=torch.bool),
        "scalar": torch.tensor(3),
    }
    write_corpus("safetensors", "mixed", save(values, {"format": "pt"}))
    write_corpus("safetensors", "none", save({}))
    write_corpus("safetensors", "one", save({"w": torch.zeros(1)}))
    for name, text in (
        ("overflow", '{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
        (
            "overlap",
            '{"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        ),
        ("empty_dim", '{"w":{"dtype":"I64","shape":[0,9],"data_offsets":[0,0]}}'),
    ):
        write_corpus("safetensors", name, len(text).to_bytes(8, "little") + text.encode() + b"abc")
    views = {**values, "view": values["codi.model.a"].T[1:], "parameter": nn.Parameter(torch.zeros(2, 2))}
    for protocol in (2, 3, 4, 5):
        data = saved(OrderedDict(views), protocol)
        if protocol % 2 == 0:
            write_corpus("torchzip", f"protocol{protocol}", data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            write_corpus("pickle", f"protocol{protocol}", archive.read(entry))
    module = saved(nn.LayerNorm(2).state_dict(), 2)
    write_corpus("torchzip", "metadata", module)
    write_corpus("torchzip", "zip64", zip64(module))
    with zipfile.ZipFile(io.BytesIO(module)) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        write_corpus("pickle", "metadata", archive.read(entry))
    write_corpus("pickle", "system", b"cos\nsystem\n(S'true'\ntR.")
    write_corpus("pickle", "system2", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    write_corpus("pickle", "cycle", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")
    write_corpus("pickle", "far_memo", b"\x80\x02}r\xff\xff\xff\xff.")
    configs = {
        "gpt2": gpt2_config().to_dict(),
        "llama": llama_config(True).to_dict(),
        "linear": {**llama_config(False).to_dict(), "rope_scaling": {"type": "linear", "factor": 2.0}},
        "refused": {**gpt2_config().to_dict(), "reorder_and_upcast_attn": True},
    }
    for name, config in configs.items():
        write_corpus("hfconfig", name, json.dumps(config).encode())
    write_corpus("hfconfig", "pointer", b"version https://git-lfs.github.com/spec/v1\n")


def main() -> None:
    """Write everything."""
    write_seeds()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for arch, make_config in (("gpt2", gpt2_config), ("llama", lambda: llama_config(True))):
        write_base(make_config(), FOLDER / f"{arch}-base", seed=1, shard="6KB" if arch == "llama" else "5GB")

        # Everything in float32, safetensors; also what fp16 rounding of the base makes of it.
        save_file(state(make(make_config(), 2)), FOLDER / f"{arch}-f32.safetensors", metadata={"format": "pt"})
        write_facts(f"{arch}-f32", make(make_config(), 2))
        write_expected(f"{arch}-f32", fields(make(make_config(), 2)))
        rounded = make(make_config(), 2)
        cast_base(rounded, lambda x: x.half())
        write_expected(f"{arch}-fp16", fields(rounded))

        # As the public GPT-2 file: bf16 base, float32 LoRA and projection, a head that shares the embedding.
        mixed = make(make_config(), 3)
        values = state(mixed, torch.bfloat16)
        embedding = next(k for k in values if k.endswith(("wte.weight", "embed_tokens.weight")))
        values["codi.base_model.model.lm_head.weight"] = values[embedding]
        torch.save(values, FOLDER / f"{arch}-mixed.bin")
        cast_base(mixed, lambda x: x.bfloat16())
        write_expected(f"{arch}-mixed", fields(mixed))

    # Only what training changed (and the embedding, which has the three tokens): the rest comes from the base folder.
    config = gpt2_config()
    codi = make(config, 4)
    kept = {k: v for k, v in state(codi).items() if is_added(k) or "wte" in k}
    # The causal masks that older versions of transformers saved, and a tensor that nobody knows.
    kept["codi.base_model.model.transformer.h.0.attn.bias"] = torch.ones(1, 1, 10, 10, dtype=torch.bool).tril()
    kept["codi.base_model.model.transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    kept["codi.base_model.model.score.weight"] = torch.zeros(2, 12)
    save_file(kept, FOLDER / "gpt2-trained.safetensors")
    base = GPT2LMHeadModel.from_pretrained(FOLDER / "gpt2-base").state_dict()
    with torch.no_grad():
        for key, parameter in codi.named_parameters():
            plain = key.replace("codi.base_model.model.", "").replace("base_layer.", "")
            if plain in base and "wte" not in plain:
                parameter.copy_(base[plain])
    write_expected("gpt2-trained", fields(codi))

    # Without LoRA (full fine-tuning), fp16, a projection without LayerNorm, an untied head, views in the file.
    full = make(llama_config(False), 5, norm=False, lora=False)
    (FOLDER / "llama-untied-base").mkdir()
    llama_config(False).save_pretrained(FOLDER / "llama-untied-base")
    write_facts("llama-full", full)
    values = state(full, torch.float16, head=True)
    key = "codi.model.layers.1.mlp.down_proj.weight"
    values[key] = values[key].T.contiguous().T
    torch.save(values, FOLDER / "llama-full.bin", pickle_protocol=4)
    cast_base(full, lambda x: x.half())
    write_expected("llama-full", fields(full))
    for file in FOLDER.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
