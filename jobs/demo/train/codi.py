"""The genuine CODI module (transformers + peft): building, writing, reading, running.

Shapes: B problems, S prompt tokens, T thoughts, d hidden size, V base vocabulary, L blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

THOUGHTS = 6
LORA_R = 32
LORA_ALPHA = 64
PRJ_DIM = 192
ANSWER = "The answer is:"
LORA_TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
# What is stored: dtype of the base weights in base/ and in codi/, and whether codi/ holds lm_head.
STORED = {
    "gpt2": (torch.float32, torch.float32, False),
    "llama": (torch.bfloat16, torch.bfloat16, True),
}


def make_config(arch: str, tok: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The configuration of a demo model."""
    vocab = len(tok)
    if arch == "gpt2":
        return GPT2Config(
            vocab_size=vocab,
            n_positions=128,
            n_embd=96,
            n_layer=3,
            n_head=4,
            activation_function="gelu_new",
            bos_token_id=tok.eos_token_id,
            eos_token_id=tok.eos_token_id,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
        )
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        max_position_embeddings=256,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
    )


def make_base(arch: str, config: PretrainedConfig) -> PreTrainedModel:
    """A base model with random weights."""
    return GPT2LMHeadModel(config) if arch == "gpt2" else LlamaForCausalLM(config)


class Codi(nn.Module):
    """A language model with LoRA and the projection that turns its hidden state into a thought."""

    def __init__(self, base: PreTrainedModel, arch: str, r: int, alpha: int, prj_dim: int) -> None:
        super().__init__()
        vocab = base.config.vocab_size
        self.pad_id, self.bot_id, self.eot_id = vocab, vocab + 1, vocab + 2
        base.resize_token_embeddings(vocab + 3, mean_resizing=False)
        d = base.config.hidden_size
        lora = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=r,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=LORA_TARGETS[arch],
            fan_in_fan_out=arch == "gpt2",
            init_lora_weights=True,
        )
        self.codi = get_peft_model(base, lora)
        self.prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(d, prj_dim), nn.GELU(), nn.Linear(prj_dim, d))
        self.prj.add_module("ln", nn.LayerNorm(d))

    def embedding(self) -> nn.Embedding:
        """The input embedding."""
        return self.codi.get_base_model().get_input_embeddings()

    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        base = self.codi.get_base_model()
        return base.transformer.h if hasattr(base, "transformer") else base.model.layers


def save_base(base: PreTrainedModel, arch: str, folder: Path) -> None:
    """Write base/: config.json and model.safetensors (the tokenizer is already there)."""
    dtype = STORED[arch][0]
    base.config.architectures = [type(base).__name__]
    base.config.torch_dtype = str(dtype).removeprefix("torch.")
    base.config.save_pretrained(folder)
    state = {k: v.detach().to(dtype).contiguous() for k, v in base.state_dict().items() if k != "lm_head.weight"}
    write(state, folder)


def write(state: dict[str, Tensor], folder: Path) -> None:
    """Write model.safetensors so that a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.safetensors.part"
    save_file(state, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(folder / "model.safetensors")


def save_codi(codi: Codi, arch: str, folder: Path) -> None:
    """Write codi/model.safetensors: the state dict of the whole module."""
    _, dtype, keep_head = STORED[arch]
    state = {}
    for key, value in codi.state_dict().items():
        if key.endswith("lm_head.weight") and not keep_head:
            continue
        added = "lora_" in key or key.startswith("prj.")
        state[key] = value.detach().to(torch.float32 if added else dtype).clone().contiguous()
    write(state, folder)


def load(folder: Path, arch: str) -> tuple[Codi, PreTrainedTokenizerBase]:
    """Read base/ and codi/ below `folder` as a user of the public checkpoints would."""
    tok = AutoTokenizer.from_pretrained(str(folder / "base"))
    base = AutoModelForCausalLM.from_pretrained(
        str(folder / "base"), torch_dtype=torch.float32, attn_implementation="eager"
    )
    codi = Codi(base, arch, LORA_R, LORA_ALPHA, PRJ_DIM)
    state = load_file(str(folder / "codi" / "model.safetensors"))
    missing, unexpected = codi.load_state_dict(state, strict=False)
    if unexpected or any(not k.endswith("lm_head.weight") for k in missing):
        raise SystemExit(f"{folder}: missing {missing}, unexpected {unexpected}")
    codi.codi.get_base_model().tie_weights()
    codi.float().eval()
    return codi, tok


@dataclass
class Answers:
    """What a batch of runs gave."""

    tokens: list[list[int]]
    posts: Tensor | None  # [L, T, B, d], the output of each block at each thought
    resid_hidden: Tensor  # [T, B, d], final-norm hidden state of each thought


Patch = Callable[[int, int, Tensor], Tensor]


@contextlib.contextmanager
def block_hooks(codi: Codi, act: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Let `act(layer, output [B, S, d])` replace the output of each block."""

    def make(layer: int) -> Callable[..., object]:
        def hook(_module: nn.Module, _args: object, output: object) -> object:
            if isinstance(output, tuple):
                return (act(layer, output[0]), *output[1:])
            return act(layer, output)

        return hook

    handles = [b.register_forward_hook(make(k)) for k, b in enumerate(codi.blocks())]
    try:
        yield
    finally:
        for h in handles:
            h.remove()


@torch.no_grad()
def think(
    codi: Codi,
    ids: Tensor,
    eos: int,
    thoughts: int = THOUGHTS,
    zero: bool = False,
    patch: Patch | None = None,
    capture: bool = False,
    max_new: int = 12,
) -> Answers:
    """Run the `codi` protocol on prompts of equal length.

    ids: [B, S], the question's tokens and bot. `zero` feeds zeros in place of each thought. `patch(layer, step, x)`
    may replace the output x [B, d] of a block at a thought.
    """
    model = codi.codi
    cache = DynamicCache()
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, output_hidden_states=True)
    latent = codi.prj(out.hidden_states[-1][:, -1:])
    n_layers = len(codi.blocks())
    posts = torch.zeros(n_layers, thoughts, ids.shape[0], latent.shape[-1]) if capture else None
    hidden = []
    for step in range(thoughts):

        def act(layer: int, x: Tensor, step: int = step) -> Tensor:
            if patch is not None:
                x = patch(layer, step, x[:, 0]).unsqueeze(1)
            if posts is not None:
                posts[layer, step] = x[:, 0]
            return x

        with block_hooks(codi, act):
            out = model(
                inputs_embeds=torch.zeros_like(latent) if zero else latent,
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=True,
            )
        hidden.append(out.hidden_states[-1][:, 0])
        latent = codi.prj(out.hidden_states[-1][:, -1:])
    token = torch.full((ids.shape[0], 1), codi.eot_id)
    tokens: list[list[int]] = [[] for _ in range(ids.shape[0])]
    done = [False] * ids.shape[0]
    for _ in range(max_new):
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = out.logits[:, -1, : codi.eot_id].argmax(-1, keepdim=True)
        for k, value in enumerate(token[:, 0].tolist()):
            if not done[k] and value != eos:
                tokens[k].append(value)
            done[k] = done[k] or value == eos
        if all(done):
            break
    rest = torch.stack(hidden) if hidden else torch.zeros(0)
    return Answers(tokens, posts, rest)
