"""A CODI model run by transformers + peft: the independent implementation that golden values come from.

The checkpoint is read the way its authors read it (AutoModelForCausalLM, get_peft_model, load_state_dict, tie_weights),
in float32 with eager attention. One question at a time (batch 1), every value of a run recorded and, where asked,
replaced by forward hooks.

Shapes: P prompt positions, T thoughts, A answer positions, N = P + T + A, L blocks, D hidden size, KV width of the
keys of one position (all KV heads), V base vocabulary.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

try:
    from transformers.modeling_utils import no_init_weights
except ImportError:  # transformers 5
    from transformers.initialization import no_init_weights

transformers.logging.set_verbosity_error()
# The argument's name since 4.56.
DTYPE = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"

LORA_GPT2 = ["c_attn", "c_proj", "c_fc"]
LORA_LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYER_SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "k", "v")
HEAD_SITES = ("q", "z")  # of query heads: before RoPE; the input of the output projection
POSITION_SITES = ("latent_in", "latent_raw")


@dataclass(frozen=True)
class Protocol:
    """How a thought run goes: roles of tokens, or a text."""

    after: tuple[str, ...]  # after the question; a text in front is tokenized with it
    first: str  # what step 0 is fed: the last prompt position's state, or the embedding of a token
    projected: bool  # what is fed back goes through prj
    start: tuple[str, ...]  # what opens the answer
    never: tuple[str, ...] = ("eot",)  # never chosen


PROTOCOLS = {
    "codi": Protocol(("bot",), "prompt", True, ("eot",)),
    "codi-keep-eos": Protocol(("eos", "bot"), "prompt", True, ("eot", "eos")),  # `codi` with remove_eos false
    "bot-first": Protocol((), "bot", True, ("eot",)),
    "codi-eos": Protocol(("eos", "bot"), "prompt", True, ("eot",)),
    "coconut": Protocol(("\n", "bot"), "prompt", False, ("eot",), ()),
    # Tokens by their spelling; ids that are never chosen in the middle of the vocabulary.
    "codi-open": Protocol(("bot",), "prompt", True, ("eot",), ()),
    "codi-barred": Protocol(("bot",), "prompt", True, ("eot",), ("<|latent|>", "q", "c")),
    # One checkpoint that answers with latents, directly, or with written thoughts (no thought steps).
    "multimode": Protocol(("<|eot_id|>", "bot"), "prompt", True, ("eot",), ()),
    "direct": Protocol(("<|eot_id|>",), "prompt", True, ("eot",), ()),
    "written": Protocol(("<|eot_id|>",), "prompt", True, ("bot",), ()),
}
WITHOUT_THOUGHTS = ("direct", "written")
DIGIT = re.compile("[0-9]")


class Codi(nn.Module):
    """The module whose state dict a CODI checkpoint is."""

    def __init__(
        self, base: nn.Module, lora_r: int, lora_alpha: float, prj_dim: int, prj_norm: bool, rows: int = 0
    ) -> None:
        """prj_dim 0: no projection; rows: of the embedding, V+3 by default."""
        super().__init__()
        arch, vocab, d = base.config.model_type, base.config.vocab_size, base.config.hidden_size
        self.arch, self.vocab = arch, vocab
        self.pad_id, self.bot_id, self.eot_id = vocab, vocab + 1, vocab + 2
        base.resize_token_embeddings(rows or vocab + 3, mean_resizing=False)
        self.codi = base
        if lora_r > 0:
            from peft import LoraConfig, TaskType, get_peft_model

            lora = LoraConfig(
                task_type=TaskType.CAUSAL_LM,
                r=lora_r,
                lora_alpha=lora_alpha,
                lora_dropout=0.1,
                target_modules=LORA_GPT2 if arch == "gpt2" else LORA_LLAMA,
                fan_in_fan_out=arch == "gpt2",
                init_lora_weights=True,
            )
            self.codi = get_peft_model(base, lora)
        if prj_dim:
            self.prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(d, prj_dim), nn.GELU(), nn.Linear(prj_dim, d))
        if prj_dim and prj_norm:
            self.prj.add_module("ln", nn.LayerNorm(d))

    def base(self) -> nn.Module:
        """The causal language model under the LoRA wrapper."""
        return self.codi.get_base_model() if hasattr(self.codi, "get_base_model") else self.codi

    def embedding(self) -> nn.Embedding:
        """The input embedding, V+3 rows."""
        return self.base().get_input_embeddings()

    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        base = self.base()
        return base.transformer.h if self.arch == "gpt2" else base.model.layers

    def final_norm(self) -> nn.Module:
        """The norm after the last block."""
        base = self.base()
        return base.transformer.ln_f if self.arch == "gpt2" else base.model.norm


@dataclass
class Loaded:
    """A model and its tokenizer."""

    codi: Codi
    tok: PreTrainedTokenizerBase
    tokens: dict[str, int] | None = None  # ids of roles, where they are not V, V+1, V+2

    def token(self, role: str, protocol: str = "codi") -> int:
        """The id of a role: eos, pad, bot, eot, latent."""
        if role == "eos":
            return self.eos
        if role not in ("pad", "bot", "eot", "latent"):
            return int(self.tok.convert_tokens_to_ids(role))
        v = self.codi.vocab
        usual = (
            {"bot": v, "eot": v + 1, "latent": v + 2}
            if protocol == "coconut"
            else {"pad": v, "bot": v + 1, "eot": v + 2}
        )
        return {**usual, **(self.tokens or {})}[role]

    def n_candidates(self, protocol: str) -> int:
        """Greedy decoding chooses among the ids below."""
        rows = self.codi.embedding().weight.shape[0]
        never = {self.token(role, protocol) for role in PROTOCOLS[protocol].never}
        while rows - 1 in never:
            rows -= 1
        return rows

    def candidates(self, logits: Tensor, protocol: str) -> Tensor:
        """logits [..., rows] of the ids that greedy decoding chooses among; -inf where an id among them is barred."""
        n = self.n_candidates(protocol)
        barred = [t for t in (self.token(role, protocol) for role in PROTOCOLS[protocol].never) if t < n]
        out = logits[..., :n].clone()
        out[..., barred] = float("-inf")
        return out

    @property
    def n_layers(self) -> int:
        """L."""
        return len(self.codi.blocks())

    @property
    def eos(self) -> int:
        """The tokenizer's eos: the one that ends an answer."""
        return int(self.tok.eos_token_id)

    def text(self, ids: Iterable[int]) -> str:
        """Decode an answer."""
        return self.tok.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a CODI checkpoint: a folder with model.safetensors or pytorch_model.bin, or such a file."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        files = set(json.loads(index.read_text())["weight_map"].values())
        return {k: v for name in sorted(files) for k, v in load_file(str(path / name)).items()}
    if path.is_dir():
        names = ("model.safetensors", "pytorch_model.bin")
        path = next((path / n for n in names if (path / n).exists()), path / names[0])
    if path.suffix == ".safetensors":
        return load_file(str(path))
    return torch.load(path, map_location="cpu", weights_only=True)


def module_state(state: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The state dict of the module `Codi`, of what another published code saved."""
    if layout == "simcot":  # beside the module, a decoder and two projections for training
        return {k: v for k, v in state.items() if not k.startswith(("decoder.", "pj_in.", "pj_out."))}
    if layout == "coconut":  # its embedding is a second name of the language model's
        return {k.replace("base_causallm.", "codi.", 1): v for k, v in state.items() if k != "embedding.weight"}
    if layout == "multimode":  # the language model is called `model`
        return {k.replace("model.", "codi.", 1) if k.startswith("model.") else k: v for k, v in state.items()}
    if layout == "plain":
        return {f"codi.{k}": v for k, v in state.items()}
    if layout == "latent-tts":  # a merged model with a projection in the same file
        names = {"projector.1": "prj.1", "projector.3": "prj.3", "projector.4": "prj.ln"}
        return {f"{names[k[:11]]}{k[11:]}" if k[:11] in names else f"codi.{k}": v for k, v in state.items()}
    return state


def merge_lora(state: dict[str, Tensor], lora_r: int, lora_alpha: float, transposed: bool) -> dict[str, Tensor]:
    """The state dict of a CODI module without LoRA that computes the same; transposed: weights are [in, out]."""
    out = {}
    for key, value in state.items():
        name = key.replace("codi.base_model.model.", "codi.")
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            low, high = (state[key.replace("base_layer", f"lora_{side}.default")].float() for side in "AB")
            change = (high @ low) * (lora_alpha / lora_r)
            value = value.float() + (change.T if transposed else change)
        out[name.replace(".base_layer.", ".")] = value
    return out


def load(
    base: Path,
    codi: Path,
    lora_r: int | None = None,
    lora_alpha: float | None = None,
    base_rounding: str = "none",
    attention: str = "eager",
    merged: bool = False,
) -> Loaded:
    """Load a checkpoint in float32.

    lora_r / lora_alpha default to lora.json in the folder that holds `codi`. base_rounding "fp16" rounds the base
    weights to half precision first, as the published scripts did. merged: LoRA is added to the weights and peft is not
    needed; for timing, not for golden values.
    """
    sidecar = codi.parent / "lora.json"
    if lora_r is None or lora_alpha is None:
        given = json.loads(sidecar.read_text())
        lora_r, lora_alpha = int(given["r"]), float(given["alpha"])
    dtype = torch.float16 if base_rounding == "fp16" else torch.float32
    if any(base.glob("*.safetensors")) or any(base.glob("*.bin")):
        lm = AutoModelForCausalLM.from_pretrained(str(base), **{DTYPE: dtype}, attn_implementation=attention)
    else:
        with no_init_weights():
            config = AutoConfig.from_pretrained(str(base))
            lm = AutoModelForCausalLM.from_config(config, **{DTYPE: dtype}, attn_implementation=attention)
    given = json.loads(sidecar.read_text()) if sidecar.exists() else {}
    state = module_state(read_state(codi), given.get("layout", "codi"))
    if merged:
        state = merge_lora(state, lora_r, lora_alpha, lm.config.model_type == "gpt2")
        lora_r = 0
    rows = next(v for k, v in state.items() if k.endswith(("wte.weight", "embed_tokens.weight"))).shape[0]
    prj_dim = state["prj.1.weight"].shape[0] if "prj.1.weight" in state else 0
    module = Codi(lm, lora_r, lora_alpha, prj_dim, "prj.ln.weight" in state, rows)
    missing, unexpected = module.load_state_dict(state, strict=False)
    tied = bool(lm.config.tie_word_embeddings)
    missing = [k for k in missing if not (tied and k.endswith("lm_head.weight"))]
    if missing or unexpected:
        raise SystemExit(f"{codi}: missing {missing}, unexpected {unexpected}")
    module.base().tie_weights()
    module.float().eval()
    words = codi.parent / given.get("tokenizer", "base")
    tokenizer = AutoTokenizer.from_pretrained(str(words if sidecar.exists() else base))
    return Loaded(module, tokenizer, given.get("tokens"))


@dataclass(frozen=True)
class Replacement:
    """One value of a run replaced while it runs.

    replace: x = v; add: x = x + factor v; scale: x = factor x; lerp: x = (1 - factor) x + factor v.
    With P, the projection onto the span of `directions`: remove: x = x - P x; keep: x = P x; swap: x = x + P (v - x).
    """

    phase: str  # prompt, thought or answer
    index: int | str  # within the phase; negative from the end (not for answers); "*": all
    site: str
    layer: int | None  # None for latent_in and latent_raw
    operation: str = "replace"
    factor: float = 1.0
    vector: Tensor | None = None  # [width], or as many as there are columns
    columns: slice | None = None  # of the vector: one KV head; None: all
    directions: Tensor | None = None  # [k, width]
    rule: Callable[[Tensor], Tensor] | None = None  # makes the new value instead

    def apply(self, x: Tensor) -> Tensor:
        """The new value for x [width]."""
        if self.rule is not None:
            return self.rule(x)
        if self.columns is not None:
            x[self.columns] = replace(self, columns=None).apply(x[self.columns].clone())
            return x
        if self.operation == "scale":
            return self.factor * x
        if self.operation in ("remove", "keep"):
            return self.project(x) if self.operation == "keep" else x - self.project(x)
        if self.vector is None:
            raise ValueError("a replacement without a vector")
        if self.operation == "replace":
            return self.vector
        if self.operation == "add":
            return x + self.factor * self.vector
        if self.operation == "lerp":
            return (1 - self.factor) * x + self.factor * self.vector
        if self.operation == "swap":
            return x + self.project(self.vector - x)
        raise ValueError(f"operation {self.operation}")

    def project(self, x: Tensor) -> Tensor:
        """x's part in the span of the directions, by least squares."""
        if self.directions is None:
            raise ValueError("a subspace without directions")
        basis = self.directions.to(x.dtype).T
        return basis @ torch.linalg.lstsq(basis, x[:, None]).solution[:, 0]


@dataclass(frozen=True)
class Edge:
    """Attention that a row does not pay: to a position, or to all of a phase."""

    phase: str  # of the row
    index: int | str  # within the phase; negative from the end (not for answers); "*": all
    layer: int
    head: int | None  # query head; None: all
    to_phase: str
    to_index: int | str


@dataclass
class Run:
    """All that happened to one question."""

    prompt_ids: list[int]
    thoughts: int
    answer_ids: list[int] = field(default_factory=list)  # without the final eos
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))  # [A, V+3]
    values: dict[str, Tensor] = field(default_factory=dict)  # site: [N, L, width], or [N, width] without layers
    margin: float = float("inf")  # smallest gap between the best two candidates, relative to the largest |logit|

    def position(self, phase: str, index: int) -> int:
        """The row of an address in `values`."""
        p, t = len(self.prompt_ids), self.thoughts
        size = {"prompt": p, "thought": t, "answer": self.logits.shape[0]}[phase]
        start = {"prompt": 0, "thought": p, "answer": p + t}[phase]
        if not -size <= index < size:
            raise IndexError(f"{phase} {index} of {size}")
        return start + index % size

    def vector(self, phase: str, index: int, site: str, layer: int | None) -> Tensor:
        """The recorded value at an address, [width]."""
        x = self.values[site][self.position(phase, index)]
        return x if layer is None else x[layer]


class Probe:
    """The hooks: record every site, and replace where the current forward is asked to."""

    def __init__(
        self, codi: Codi, record: bool, sites: set[tuple[str, int | None]], masked_layers: Iterable[int] = ()
    ) -> None:
        self.record = record
        self.masks: dict[int, Tensor] = {}
        self.wanted = sites
        self.active: dict[tuple[str, int | None], list[tuple[int, Replacement]]] = {}
        self.seen: dict[tuple[str, int | None], list[Tensor]] = defaultdict(list)
        self.handles: list[Any] = []
        gpt2 = codi.arch == "gpt2"
        for layer, block in enumerate(codi.blocks()):
            self.on_input(block, "resid_pre", layer)
            attention = block.attn if gpt2 else block.self_attn
            if layer in masked_layers:
                self.on_mask(attention, layer)
            self.on_output(attention, "attn_out", layer)
            self.on_input(attention.c_proj if gpt2 else attention.o_proj, "z", layer)
            self.on_input(block.ln_2 if gpt2 else block.post_attention_layernorm, "resid_mid", layer)
            self.on_output(block.mlp, "mlp_out", layer)
            self.on_output(block, "resid_post", layer)
            if gpt2:
                d = codi.base().config.hidden_size
                self.on_output(block.attn.c_attn, "q", layer, slice(0, d))
                self.on_output(block.attn.c_attn, "k", layer, slice(d, 2 * d))
                self.on_output(block.attn.c_attn, "v", layer, slice(2 * d, 3 * d))
            else:
                # Qwen3 norms each head of q and k: the site is what comes out of that.
                self.on_output(getattr(block.self_attn, "q_norm", block.self_attn.q_proj), "q", layer)
                self.on_output(getattr(block.self_attn, "k_norm", block.self_attn.k_proj), "k", layer)
                self.on_output(block.self_attn.v_proj, "v", layer)
        self.on_output(codi.final_norm(), "latent_raw", None)

    def close(self) -> None:
        """Remove the hooks."""
        for h in self.handles:
            h.remove()

    def skip(self, site: str, layer: int | None) -> bool:
        """True where nobody wants this point."""
        return not self.record and (site, layer) not in self.wanted

    def touch(self, site: str, layer: int | None, x: Tensor) -> None:
        """Replace in place and record x [1, n, width]."""
        for row, r in self.active.get((site, layer), []):
            x[0, row] = r.apply(x[0, row].clone())
        if self.record:
            self.seen[site, layer].append(x[0].clone())

    def on_mask(self, attention: nn.Module, layer: int) -> None:
        """Add this forward's mask of the layer, [1, heads, n, positions], to what the model made."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            mask = self.masks.get(layer)
            if mask is not None:
                given = kwargs.get("attention_mask")
                kwargs["attention_mask"] = mask if given is None else given[..., : mask.shape[-1]] + mask
            return args, kwargs

        self.handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))

    def on_input(self, module: nn.Module, site: str, layer: int) -> None:
        """Hook the first argument of a module.

        It is changed in place: after the attention the same tensor is also the residual of the block.
        """
        if self.skip(site, layer):
            return

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.touch(site, layer, args[0] if args else kwargs["hidden_states"])

        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def on_output(self, module: nn.Module, site: str, layer: int | None, part: slice | None = None) -> None:
        """Hook what a module returns, or `part` of its columns."""
        if self.skip(site, layer):
            return

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            x = (output[0] if isinstance(output, tuple) else output).clone()
            flat = x.view(*x.shape[:2], -1)
            self.touch(site, layer, flat if part is None else flat[..., part])
            return (x, *output[1:]) if isinstance(output, tuple) else x

        self.handles.append(module.register_forward_hook(hook))


def prompt_tokens(m: Loaded, question: str, protocol: str) -> list[int]:
    """The tokens of the prompt phase; LLaMA's tokenizer adds its bos."""
    after = PROTOCOLS[protocol].after
    text = after[0] if after[:1] == ("\n",) else ""
    return [*m.tok(question + text).input_ids, *(m.token(role, protocol) for role in after if role != "\n")]


def answer_start(m: Loaded, protocol: str) -> list[int]:
    """The tokens whose embeddings open the answer phase."""
    return [m.token(role, protocol) for role in PROTOCOLS[protocol].start]


def masks(
    edges: list[Edge], phase: str, first: int, n: int, n_prompt: int, thoughts: int, heads: int, dtype: torch.dtype
) -> dict[int, Tensor]:
    """The additive masks, by layer, of the rows first .. first+n-1 of a phase."""
    begin = {"prompt": 0, "thought": n_prompt, "answer": n_prompt + thoughts}
    size = {"prompt": n_prompt, "thought": thoughts}
    n_keys = begin[phase] + first + n
    out: dict[int, Tensor] = {}

    def places(of: str, index: int | str) -> range:
        at = begin[of]
        if index == "*":
            return range(at, at + size[of] if of in size else n_keys)
        where = at + int(index) + (size[of] if int(index) < 0 else 0)
        return range(where, where + 1)

    for e in edges:
        if e.phase != phase:
            continue
        rows = [p - begin[phase] - first for p in places(phase, e.index)]
        keys = [p for p in places(e.to_phase, e.to_index) if p < n_keys]
        for row in rows:
            if 0 <= row < n and keys:
                mask = out.setdefault(e.layer, torch.zeros(1, heads, n, n_keys, dtype=dtype))
                mask[0, slice(None) if e.head is None else e.head, row, keys] = torch.finfo(dtype).min
    return out


def choose(row: Tensor) -> tuple[int, float]:
    """Greedy choice among the candidates, ties to the lowest id, and the margin to the next best."""
    best = row.max()
    token = int((row == best).nonzero()[0, 0])
    second = row.topk(2).values[1]
    return token, float((best - second) / row[row.isfinite()].abs().max())


@torch.no_grad()
def run(
    m: Loaded,
    question: str,
    protocol: str,
    thoughts: int = 6,
    max_new_tokens: int = 200,
    replacements: Iterable[Replacement] = (),
    forced: list[int] | None = None,
    record: bool = True,
    edges: Iterable[Edge] = (),
) -> Run:
    """Answer one question.

    forced: these answer tokens are fed (one at a time, as decoding does) and nothing is generated; `logits` then has a
    row for each answer position, the last one after the last forced token. record False: `values` stays empty.
    """
    codi, reps, forbidden = m.codi, list(replacements), list(edges)
    probe = Probe(codi, record, {(r.site, r.layer) for r in reps}, {e.layer for e in forbidden})
    out = Run(prompt_tokens(m, question, protocol), thoughts)
    n_prompt = len(out.prompt_ids)
    if n_prompt == 0:
        raise ValueError("an empty prompt")
    cache = DynamicCache()
    embed = codi.embedding()
    heads = codi.base().config.num_attention_heads
    fed: list[Tensor] = []
    raw: Tensor = torch.zeros(0)

    def forward(x: Tensor, phase: str, first: int) -> Tensor:
        """Feed x [1, n, D] as positions first .. first+n-1 of a phase; the logits [n, V+3]."""
        nonlocal raw
        size = {"prompt": n_prompt, "thought": thoughts, "answer": None}[phase]
        n = x.shape[1]
        probe.active = defaultdict(list)
        probe.masks = masks(forbidden, phase, first, n, n_prompt, thoughts, heads, x.dtype)
        for r in reps:
            if r.phase != phase:
                continue
            if r.index == "*":
                rows = list(range(n))
            else:
                at = int(r.index)
                if at < 0:
                    if size is None:
                        raise ValueError("an answer has no end to count from")
                    at += size
                rows = [at - first] if first <= at < first + n else []
            for row in rows:
                probe.active[r.site, r.layer].append((row, r))
        x = x.clone()
        for row, r in probe.active.get(("latent_in", None), []):
            x[0, row] = r.apply(x[0, row].clone())
        fed.append(x[0].clone())
        got = codi.codi(inputs_embeds=x, past_key_values=cache, use_cache=True, output_hidden_states=True)
        raw = got.hidden_states[-1]
        return got.logits[0]

    def feedback(state: Tensor) -> Tensor:
        return codi.prj(state) if PROTOCOLS[protocol].projected else state

    def token_embeddings(ids: list[int]) -> Tensor:
        return embed(torch.tensor([ids]))

    try:
        forward(token_embeddings(out.prompt_ids), "prompt", 0)
        first = PROTOCOLS[protocol].first
        latent = feedback(raw[:, -1:]) if first == "prompt" else token_embeddings([m.token(first, protocol)])
        for step in range(thoughts):
            forward(latent, "thought", step)
            latent = feedback(raw[:, -1:])
        start = answer_start(m, protocol)
        rows = [forward(token_embeddings(start), "answer", 0)]
        position = len(start)
        if forced is not None:
            for token in forced:
                rows.append(forward(token_embeddings([token]), "answer", position))
                position += 1
        else:
            while len(out.answer_ids) < max_new_tokens:
                token, margin = choose(m.candidates(rows[-1][-1], protocol))
                out.margin = min(out.margin, margin)
                if token == m.eos:
                    break
                out.answer_ids.append(token)
                if len(out.answer_ids) < max_new_tokens:
                    rows.append(forward(token_embeddings([token]), "answer", position))
                    position += 1
        out.logits = torch.cat(rows)
    finally:
        probe.close()
    if record:
        for site in (*LAYER_SITES, *HEAD_SITES):
            per_layer = [torch.cat(probe.seen[site, layer]) for layer in range(m.n_layers)]
            out.values[site] = torch.stack(per_layer, dim=1)
        out.values["latent_raw"] = torch.cat(probe.seen["latent_raw", None])
        out.values["latent_in"] = torch.cat(fed)
    return out


def number_text(value: float) -> str:
    """The text of an answer: integers without a point, else the shortest decimal that reads back the same."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


@dataclass
class MetricPlace:
    """Where and on which tokens the metrics of a recipient are read."""

    prefix: list[int]  # the recipient's own answer up to its number
    clean: list[int]  # tokens of the clean answer's number after that prefix; none where they do not continue it
    corrupted: list[int]


def metric_place(m: Loaded, answer_ids: list[int], clean: float, corrupted: float) -> MetricPlace | None:
    """Find the first token of the unpatched answer's number, its minus included; None where there is no digit."""
    pieces = [m.text([t]) for t in answer_ids]
    at = next((j for j, p in enumerate(pieces) if DIGIT.search(p)), None)
    if at is None:
        return None
    lead = pieces[at][: DIGIT.search(pieces[at]).start()]
    if not lead and at > 0 and pieces[at - 1].endswith("-"):
        at -= 1
        lead = pieces[at]
    lead = lead.removesuffix("-")
    prefix = answer_ids[:at]

    def tokens(value: float) -> list[int]:
        number = lead + number_text(value)
        whole = m.tok(m.text(prefix) + number, add_special_tokens=False).input_ids
        if whole[:at] == prefix and len(whole) > at:
            return whole[at:]
        if m.tok(m.text(prefix), add_special_tokens=False).input_ids == prefix:
            return []
        return m.tok(number, add_special_tokens=False).input_ids

    return MetricPlace(prefix, tokens(clean), tokens(corrupted))


@dataclass
class Metrics:
    """The continuous metrics of one run; log-probabilities are over the candidates of decoding, ids 0 .. V+1."""

    logit_clean: float
    logit_corrupted: float
    logsumexp: float
    kl: float
    answer_logprob_clean: float
    answer_logprob_corrupted: float


def metrics(
    m: Loaded,
    place: MetricPlace,
    forward: Callable[[list[int]], Run],
    baseline: Tensor | None,
    protocol: str = "codi",
) -> tuple[Metrics, Tensor]:
    """Metrics of the run that `forward(forced tokens)` makes.

    baseline: log-probabilities [V+2] of the unpatched run at the place (None: this is it, kl = 0). Returns also this
    run's own log-probabilities there.
    """

    def whole(tokens: list[int]) -> tuple[float, Tensor]:
        ending = [*tokens, m.eos]
        got = forward([*place.prefix, *tokens])
        first = got.logits.shape[0] - len(tokens) - 1
        rows = m.candidates(got.logits[first:], protocol).double()
        logp = rows.log_softmax(-1)
        return float(sum(logp[i, t] for i, t in enumerate(ending))), rows[0]

    lp_clean, row = whole(place.clean)
    lp_corrupted, _ = whole(place.corrupted)
    nan = float("nan")
    logp = row.log_softmax(-1)
    kl = 0.0
    if baseline is not None:
        likely = baseline.isfinite()
        kl = float((baseline.exp() * (baseline - logp))[likely].sum())
    return (
        Metrics(
            float(row[place.clean[0]]) if place.clean else nan,
            float(row[place.corrupted[0]]) if place.corrupted else nan,
            float(row.logsumexp(-1)),
            kl,
            lp_clean if place.clean else nan,
            lp_corrupted if place.corrupted else nan,
        ),
        logp,
    )


def with_vector(r: Replacement, vector: Tensor | None) -> Replacement:
    """The same replacement with another donor vector."""
    return replace(r, vector=vector)


@torch.no_grad()
def coconut_generate(m: Loaded, question: str, n_latents: int, max_new_tokens: int) -> list[int]:
    """Coconut's own generation, written again from its definition: the whole sequence is embedded, the latent
    placeholders are filled one after the other with the final state of the position before them, each by a forward of
    everything so far, and every new token is chosen by a forward of the whole sequence, without a cache.

    As there, the first token is not checked for eos.
    """
    lm, embed = m.codi.codi, m.codi.embedding()
    bot, eot, latent = (m.token(role, "coconut") for role in ("bot", "eot", "latent"))
    ids = [*m.tok(question + "\n").input_ids, bot, *[latent] * n_latents, eot]
    x = embed(torch.tensor([ids]))
    first = ids.index(bot) + 1
    for k in range(n_latents):
        states = lm(inputs_embeds=x[:, : first + k], output_hidden_states=True).hidden_states[-1]
        x = torch.cat([x[:, : first + k], states[:, -1:], x[:, first + k + 1 :]], dim=1)
    out: list[int] = []
    while len(out) < max_new_tokens:
        token = int(lm(inputs_embeds=x).logits[0, -1].argmax())
        if out and token == m.eos:
            break
        out.append(token)
        x = torch.cat([x, embed(torch.tensor([[token]]))], dim=1)
    return out
