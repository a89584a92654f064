"""The same two architectures as plain functions of a dict of weights, for training on few CPU cores.

The LoRA products are merged into the weights once per step (W + scale B A), which is several times faster than two
small products at each use. `train.py` checks that this agrees with transformers + peft before it writes anything.
Shapes: B problems, S new positions, K positions in all, d hidden size, V vocabulary rows, H heads, G KV heads, h head
size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

Weights = dict[str, Tensor]


@dataclass
class Cache:
    """Keys and values [B, G, K, h] of each block, and the mask bias [B, 1, 1, K] of padded positions."""

    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    bias: Tensor | None = None


class FastNet:
    """Forward passes of GPT-2 or LLaMA."""

    def __init__(self, arch: str, config: PretrainedConfig) -> None:
        self.arch = arch
        self.layers = config.num_hidden_layers
        self.heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        if arch == "gpt2":
            self.kv_heads = self.heads
            self.eps = config.layer_norm_epsilon
            self.embed_key = "transformer.wte.weight"
        else:
            self.kv_heads = config.num_key_value_heads
            self.eps = config.rms_norm_eps
            self.embed_key = "model.embed_tokens.weight"
            rope = LlamaRotaryEmbedding(config)
            where = torch.arange(config.max_position_embeddings).unsqueeze(0)
            cos, sin = rope(torch.zeros(1), where)
            self.cos, self.sin = cos[0], sin[0]

    def embed(self, w: Weights, ids: Tensor) -> Tensor:
        """Token embeddings [B, S, d]."""
        return F.embedding(ids, w[self.embed_key])

    def logits(self, w: Weights, hidden: Tensor) -> Tensor:
        """Logits [..., V] of final-norm hidden states [..., d]; the head is tied."""
        return hidden @ w[self.embed_key].t()

    def attend(self, q: Tensor, layer: int, k: Tensor, v: Tensor, bias: Tensor, c: Cache) -> Tensor:
        """Attention of q [B, H, S, h] over the cache and the new k, v [B, G, S, h]; returns [B, S, H h]."""
        if len(c.k) > layer:
            k = torch.cat([c.k[layer], k], 2)
            v = torch.cat([c.v[layer], v], 2)
            c.k[layer], c.v[layer] = k, v
        else:
            c.k.append(k)
            c.v.append(v)
        b, _, s, h = q.shape
        if self.kv_heads != self.heads:
            g = self.heads // self.kv_heads
            k = k.repeat_interleave(g, dim=1)
            v = v.repeat_interleave(g, dim=1)
        scores = torch.matmul(q * h**-0.5, k.transpose(2, 3)) + bias
        return torch.matmul(scores.softmax(-1), v).transpose(1, 2).reshape(b, s, self.heads * h)

    def forward(self, w: Weights, x: Tensor, pos: Tensor, pad: Tensor | None, c: Cache) -> list[Tensor]:
        """Hidden states as transformers gives them: [embedding, all but the last block, final norm], each [B, S, d].

        x: embeddings [B, S, d]. pos: [B, S]. pad: [B, S], true where padded, or None. c: extended in place.
        """
        b, s, _ = x.shape
        new = torch.zeros(b, 1, 1, s)
        if pad is not None:
            new = new.masked_fill(pad[:, None, None, :], -1e9)
        bias = new if c.bias is None else torch.cat([c.bias, new], 3)
        c.bias = bias
        if s > 1:
            bias = bias + torch.full((s, bias.shape[3]), -1e9).triu(bias.shape[3] - s + 1)
        block = self.gpt2_block if self.arch == "gpt2" else self.llama_block
        rope = None
        if self.arch == "gpt2":
            x = x + F.embedding(pos, w["transformer.wpe.weight"])
        else:
            rope = (self.cos[pos].unsqueeze(1), self.sin[pos].unsqueeze(1))
        states = [x]
        for layer in range(self.layers):
            x = block(w, layer, x, bias, c, rope)
            if layer < self.layers - 1:
                states.append(x)
        d = (x.shape[-1],)
        if self.arch == "gpt2":
            x = F.layer_norm(x, d, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"], self.eps)
        else:
            x = F.rms_norm(x, d, w["model.norm.weight"], self.eps)
        states.append(x)
        return states

    def split(self, x: Tensor, heads: int) -> Tensor:
        """[B, S, heads h] -> [B, heads, S, h]."""
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)

    def gpt2_block(self, w: Weights, layer: int, x: Tensor, bias: Tensor, c: Cache, _rope: None) -> Tensor:
        """One GPT-2 block, [B, S, d] -> [B, S, d]."""
        p = f"transformer.h.{layer}."
        d = x.shape[-1]

        def conv(y: Tensor, name: str) -> Tensor:
            out = torch.addmm(w[p + name + ".bias"], y.reshape(-1, y.shape[-1]), w[p + name + ".weight"])
            return out.view(*y.shape[:-1], -1)

        y = F.layer_norm(x, (d,), w[p + "ln_1.weight"], w[p + "ln_1.bias"], self.eps)
        q, k, v = (self.split(t, self.heads) for t in conv(y, "attn.c_attn").split(d, dim=2))
        x = x + conv(self.attend(q, layer, k, v, bias, c), "attn.c_proj")
        y = F.layer_norm(x, (d,), w[p + "ln_2.weight"], w[p + "ln_2.bias"], self.eps)
        return x + conv(F.gelu(conv(y, "mlp.c_fc"), approximate="tanh"), "mlp.c_proj")

    def llama_block(
        self, w: Weights, layer: int, x: Tensor, bias: Tensor, c: Cache, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        """One LLaMA block, [B, S, d] -> [B, S, d]."""
        p = f"model.layers.{layer}."
        cos, sin = rope

        def lin(y: Tensor, name: str) -> Tensor:
            return F.linear(y, w[p + name + ".weight"])

        def turn(t: Tensor) -> Tensor:
            a, b = t.chunk(2, dim=-1)
            return t * cos + torch.cat([-b, a], -1) * sin

        y = F.rms_norm(x, (x.shape[-1],), w[p + "input_layernorm.weight"], self.eps)
        q = turn(self.split(lin(y, "self_attn.q_proj"), self.heads))
        k = turn(self.split(lin(y, "self_attn.k_proj"), self.kv_heads))
        v = self.split(lin(y, "self_attn.v_proj"), self.kv_heads)
        x = x + lin(self.attend(q, layer, k, v, bias, c), "self_attn.o_proj")
        y = F.rms_norm(x, (x.shape[-1],), w[p + "post_attention_layernorm.weight"], self.eps)
        return x + lin(F.silu(lin(y, "mlp.gate_proj")) * lin(y, "mlp.up_proj"), "mlp.down_proj")
