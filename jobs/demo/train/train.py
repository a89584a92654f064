"""Train the demo models from nothing on one CPU core each.

    python train.py gpt2|llama|both [--out FOLDER] [--steps-b N] ...

Phase A trains a small language model on bare equations and then on question + chain of thought + answer. Phase B
freezes it and trains LoRA and the projection by CODI's self-distillation: cross-entropy of the student (six thoughts in
place of the chain) + cross-entropy of the teacher (the same weights with the chain) + gamma x smooth L1 between their
hidden states, at each layer, at the position that predicts the number. There is no other loss.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from codi import (
    ANSWER,
    LORA_ALPHA,
    LORA_R,
    PRJ_DIM,
    THOUGHTS,
    Codi,
    make_base,
    make_config,
    save_base,
    save_codi,
    think,
)
from fastnet import Cache, FastNet, Weights
from problems import all_equations, load_templates, make_pairs, training_set
from tokens import MAKERS

HERE = Path(__file__).resolve().parent
# What differs between the runs that made the models: steps of phase B that the cosine spans, the step at which it was
# stopped, learning rate of the projection, and whether the projection starts at unit-size activations.
RECIPES = {"gpt2": (7000, 5500, 2e-3, True), "llama": (8000, 7500, 1e-3, False)}
PERIODS = (2, 3, 4, 5, 6, 7, 10, 20, 50, 100)


@dataclass
class Item:
    """One tokenised problem."""

    question: list[int]
    chain: list[int]
    answer: list[int]  # ends with eos; all of the same length


@dataclass
class Coder:
    """Text to token lists; the beginning-of-text token stays with questions only."""

    tok: PreTrainedTokenizerBase
    has_bos: bool

    def prompt(self, text: str) -> list[int]:
        """Tokens of a question."""
        return self.tok(text).input_ids

    def rest(self, text: str) -> list[int]:
        """Tokens of a text that follows others."""
        ids = self.tok(text).input_ids
        return ids[1:] if self.has_bos else ids

    def item(self, question: str, chain: str, answer: int) -> Item:
        """A tokenised problem."""
        end = [*self.rest(f"{ANSWER} {answer}"), self.tok.eos_token_id]
        return Item(self.prompt(question), self.rest(chain), end)


def pad_right(rows: list[list[int]], fill: int) -> Tensor:
    """[B, longest], filled at the right."""
    width = max(map(len, rows))
    return torch.tensor([r + [fill] * (width - len(r)) for r in rows])


def init_base(base: PreTrainedModel, arch: str, coder: Coder) -> None:
    """Random weights; the embeddings of the numbers begin as Fourier features of their value."""
    d = base.config.hidden_size
    for name, p in base.named_parameters():
        if p.dim() == 2 and ".wte." not in name and "embed_tokens" not in name:
            if ".wpe." in name:
                p.data.normal_(0, 0.2)
            else:
                fan_in = p.shape[0] if arch == "gpt2" else p.shape[1]
                p.data.normal_(0, 0.6 / math.sqrt(fan_in))
    e = base.get_input_embeddings().weight.data
    e.normal_(0, 0.5)
    rows = [[k / 50] + [f(2 * math.pi * k / t) for t in PERIODS for f in (math.cos, math.sin)] for k in range(100)]
    features = torch.tensor(rows) @ torch.randn(1 + 2 * len(PERIODS), d) / math.sqrt(2 * len(PERIODS)) * math.sqrt(2)
    for form in ("{}", " {}") if arch == "gpt2" else ("{}",):
        for k in range(100):
            (row,) = coder.rest(form.format(k))
            e[row] = 0.9 * features[k] + 0.3 * torch.randn(d)
    last = base.transformer.ln_f if arch == "gpt2" else base.model.norm
    last.weight.data.fill_(0.2)


def optimiser(params: list[Tensor], lr: float, decay: float) -> torch.optim.AdamW:
    """AdamW; only matrices decay."""
    groups = [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def init_prj(codi: Codi, last: Tensor) -> None:
    """Start the projection at unit-size activations: the weight `last` [d] of the final norm is small here."""
    first = codi.prj[1]
    with torch.no_grad():
        first.weight.normal_(0, 1.0 / (last.square().mean().sqrt().item() * math.sqrt(last.shape[0])))
        first.bias.zero_()
        codi.prj[3].bias.zero_()


def rate(step: int, steps: int, warm: int) -> float:
    """Linear warm-up and one cosine to 2 % of the peak."""
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def say(start: float, text: str) -> None:
    """One line of the log."""
    print(f"[{time.time() - start:7.1f} s] {text}", flush=True)


def phase_a(base: PreTrainedModel, net: FastNet, coder: Coder, items: list[Item], a: argparse.Namespace) -> None:
    """Train the language model in place."""
    start = time.time()
    w: Weights = dict(base.named_parameters())
    params = list(w.values())
    rng = np.random.default_rng(a.seed)
    eos = coder.tok.eos_token_id
    equations = [coder.rest(x) for x in all_equations()]
    opt = optimiser(params, a.lr_a, 0.05)
    total = a.steps_eq + a.steps_a
    running = 0.0
    for step in range(total):
        bare = step < a.steps_eq
        n = a.batch_a * 3 if bare else a.batch_a
        if bare:
            rows = [equations[k] for k in rng.integers(len(equations), size=n)]
            starts = [0] * n
            shift = torch.from_numpy(rng.integers(0, 90, size=(n, 1)))
        else:
            chosen = [items[k] for k in rng.integers(len(items), size=n)]
            direct = rng.random(n) < 0.15
            rows = [x.question + ([] if no else x.chain) + x.answer for x, no in zip(chosen, direct, strict=True)]
            starts = [len(x.question) - 1 for x in chosen]
            shift = torch.zeros(n, 1, dtype=torch.long)
        ids = pad_right(rows, eos)
        lens = torch.tensor([len(r) for r in rows])
        where = torch.arange(ids.shape[1])
        target = ids[:, 1:]
        weight = torch.where(where[:-1] >= torch.tensor(starts)[:, None], 1.0, 0.05)
        weight = weight * (where[1:] < lens[:, None])
        states = net.forward(w, net.embed(w, ids[:, :-1]), where[:-1] + shift, None, Cache())
        keep = weight > 0
        logits = net.logits(w, states[-1][keep])
        loss = (F.cross_entropy(logits, target[keep], reduction="none") * weight[keep]).sum() / weight.sum()
        part = (step, a.steps_eq) if bare else (step - a.steps_eq, a.steps_a)
        for g in opt.param_groups:
            g["lr"] = a.lr_a * rate(*part, 100)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        running = 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 200 == 0:
            say(start, f"A {step + 1}/{total} loss {running:.4f}")


def merged(codi: Codi, arch: str) -> tuple[Weights, list[tuple[str, Tensor, Tensor]]]:
    """Frozen weights under their plain names, and (name, A, B) of each LoRA pair."""
    state = dict(codi.codi.named_parameters())
    plain: Weights = {}
    pairs = []
    for key, p in state.items():
        name = key.removeprefix("base_model.model.")
        if ".lora_" not in name:
            plain[name.replace(".base_layer", "")] = p
        elif ".lora_A." in name:
            twin = state[key.replace(".lora_A.", ".lora_B.")]
            pairs.append((name.replace(".lora_A.default", ""), p, twin))
    return plain, pairs


def effective(arch: str, plain: Weights, pairs: list[tuple[str, Tensor, Tensor]]) -> Weights:
    """Weights with the LoRA products added: W + (alpha / r) B A (transposed for GPT-2's Conv1D)."""
    w = dict(plain)
    for name, low, up in pairs:
        delta = (low.t() @ up.t()) if arch == "gpt2" else (up @ low)
        w[name] = torch.add(plain[name], delta, alpha=LORA_ALPHA / LORA_R)
    return w


def student(net: FastNet, codi: Codi, w: Weights, items: list[Item], eos: int, mode: str = "") -> list[Tensor]:
    """Hidden states [B, M, d] of eot + answer after the thoughts. mode: '' | 'zero' | 'none'."""
    n = len(items)
    rows = [[*x.question, codi.bot_id] for x in items]
    width = max(map(len, rows))
    lens = torch.tensor([len(r) for r in rows])
    ids = torch.tensor([[eos] * (width - len(r)) + r for r in rows])
    where = torch.arange(width)
    gap = (width - lens)[:, None]
    c = Cache()
    states = net.forward(w, net.embed(w, ids), (where - gap).clamp(min=0), where < gap, c)
    x = codi.prj(states[-1][:, -1:])
    count = 0 if mode == "none" else THOUGHTS
    for step in range(count):
        states = net.forward(w, torch.zeros_like(x) if mode == "zero" else x, lens[:, None] + step, None, c)
        x = codi.prj(states[-1])
    answer = torch.tensor([[codi.eot_id, *x.answer] for x in items])[:, :-1]
    pos = lens[:, None] + count + torch.arange(answer.shape[1]).expand(n, -1)
    return net.forward(w, net.embed(w, answer), pos, None, c)


@torch.no_grad()
def accuracy(net: FastNet, codi: Codi, w: Weights, items: list[Item], eos: int, mode: str = "") -> list[bool]:
    """Whether the number is right with the words before it given (the log's measure; evaluate.py is the real one)."""
    out: list[bool] = []
    for k in range(0, len(items), 128):
        part = items[k : k + 128]
        hidden = student(net, codi, w, part, eos, mode)[-1][:, -2]
        best = net.logits(w, hidden)[:, : codi.eot_id].argmax(-1)
        out += (best == torch.tensor([x.answer[-2] for x in part])).tolist()
    return out


def phase_b(
    codi: Codi,
    net: FastNet,
    coder: Coder,
    items: list[Item],
    test: list[Item],
    a: argparse.Namespace,
) -> None:
    """Train LoRA and projection in place; write an intermediate checkpoint now and then."""
    start = time.time()
    eos = coder.tok.eos_token_id
    plain, pairs = merged(codi, a.arch)
    lora, prj = [p for _, low, up in pairs for p in (low, up)], list(codi.prj.parameters())
    params = lora + prj
    opt = optimiser(lora, a.lr_b, 0.01)
    for g in optimiser(prj, a.lr_b, 0.01).param_groups:
        opt.add_param_group({**g, "prj": True})
    rng = np.random.default_rng(a.seed + 1)
    running = np.zeros(3)
    last = min(a.steps_b, a.stop_b)
    for step in range(last):
        n = a.batch_b
        chosen = [items[k] for k in rng.integers(len(items), size=n)]
        w = effective(a.arch, plain, pairs)
        out = student(net, codi, w, chosen, eos)
        target = torch.tensor([x.answer for x in chosen])
        ce = F.cross_entropy(net.logits(w, out[-1]).flatten(0, 1), target.flatten())

        rows = [x.question + x.chain + x.answer for x in chosen]
        ids = pad_right(rows, eos)
        where = torch.arange(ids.shape[1])
        graded = n // 4
        # Teacher, with gradient on a quarter of the batch.
        short = ids[:graded, : max(map(len, rows[:graded]))]
        states = net.forward(w, net.embed(w, short), where[: short.shape[1]].expand(graded, -1), None, Cache())
        lens = torch.tensor([len(r) for r in rows])
        begin = torch.tensor([len(x.question) for x in chosen])
        keep = (where[1 : short.shape[1]] >= begin[:graded, None]) & (where[1 : short.shape[1]] < lens[:graded, None])
        ref_ce = F.cross_entropy(net.logits(w, states[-1][:, :-1][keep]), short[:, 1:][keep])
        # Teacher's hidden states where it is about to say the number.
        at = lens - 3
        with torch.no_grad():
            w0 = {k: v.detach() for k, v in w.items()}
            long = ids[graded:, : int(at.max()) + 1]
            more = net.forward(
                w0,
                net.embed(w0, long),
                where[: long.shape[1]].expand(n - graded, -1),
                None,
                Cache(),
            )
        distill = torch.zeros(())
        pick_a, pick_b = torch.arange(graded), torch.arange(n - graded)
        for mine, first, second in zip(out, states, more, strict=True):
            ref = torch.cat([first[pick_a, at[:graded]].detach(), second[pick_b, at[graded:]]])
            distill = distill + F.smooth_l1_loss(mine[:, -2], ref) / ref.std()
        distill = distill / len(out)

        loss = ce + ref_ce + a.gamma * distill
        for g in opt.param_groups:
            g["lr"] = (a.lr_prj if g.get("prj") else a.lr_b) * rate(step, a.steps_b, 150)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        running = 0.98 * running + 0.02 * np.array([ce.item(), ref_ce.item(), distill.item()])
        losses = f"student {running[0]:.4f} teacher {running[1]:.4f} distil {running[2]:.4f}"
        if (step + 1) % a.check != 0 and step + 1 != last:
            if (step + 1) % 100 == 0:
                say(start, f"B {step + 1}/{a.steps_b} {losses}")
        else:
            w = effective(a.arch, plain, pairs)
            right = np.array(accuracy(net, codi, w, test, eos))
            zero = np.mean(accuracy(net, codi, w, test, eos, "zero"))
            none = np.mean(accuracy(net, codi, w, test, eos, "none"))
            measures = f"held out {right.mean():.3f}, both {(right[0::2] & right[1::2]).sum()}"
            say(start, f"B {step + 1}/{a.steps_b} {losses} | {measures}, zeroed {zero:.3f}, none {none:.3f}")
            save_codi(codi, a.arch, a.out / a.arch / "codi")


@torch.no_grad()
def check_agreement(codi: Codi, net: FastNet, coder: Coder, arch: str, test: list[Item]) -> None:
    """The fast network must agree with transformers + peft."""
    w = effective(arch, *merged(codi, arch))
    codi.eval()
    worst = 0.0
    for x in test[:8]:
        states = student(net, codi, w, [x], coder.tok.eos_token_id)
        got = think(codi, torch.tensor([[*x.question, codi.bot_id]]), coder.tok.eos_token_id)
        fast = net.logits(w, states[-1])[0, :, : codi.eot_id].argmax(-1).tolist()
        # The fast path is given the right words; compare as long as they agree.
        for k, token in enumerate(got.tokens[0]):
            if k > 0 and got.tokens[0][k - 1] != x.answer[k - 1]:
                break
            if token != fast[k]:
                raise SystemExit(f"the fast network disagrees with transformers + peft: {got.tokens[0]} {fast}")
        hidden = codi.codi(
            input_ids=torch.tensor([[*x.question, codi.bot_id]]), output_hidden_states=True
        ).hidden_states
        c = Cache()
        ids = torch.tensor([[*x.question, codi.bot_id]])
        mine = net.forward(w, net.embed(w, ids), torch.arange(ids.shape[1])[None], None, c)
        worst = max(worst, *((a - b).abs().max().item() for a, b in zip(mine, hidden, strict=True)))
    print(f"agreement with transformers + peft: largest difference of a hidden state {worst:.2e}")
    if worst > 1e-3:
        raise SystemExit("the fast network disagrees with transformers + peft")


def train(a: argparse.Namespace) -> None:
    """Train one model."""
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    random.seed(a.seed)
    start = time.time()
    out = a.out / a.arch
    MAKERS[a.arch](out / "base")
    tok = AutoTokenizer.from_pretrained(str(out / "base"))
    coder = Coder(tok, a.arch == "llama")
    config = make_config(a.arch, tok)
    config._attn_implementation = "eager"
    net = FastNet(a.arch, config)
    items = [coder.item(p.question, p.chain, p.answer) for p in training_set(60_000, 1)]
    assert len({len(x.answer) for x in items}) == 1
    test = [coder.item(p[s]["question"], "", p[s]["answer"]) for p in make_pairs() for s in ("clean", "corrupted")]
    say(
        start,
        f"{a.arch}: {len(tok)} tokens, {len(load_templates())} templates, {len(items)} problems",
    )

    base = make_base(a.arch, config)
    init_base(base, a.arch, coder)
    kept = Path(a.scratch) / f"{a.arch}-base.pt" if a.scratch else None
    if kept and kept.exists():
        base.load_state_dict(torch.load(kept))
        say(start, "phase A taken from the scratch folder")
    else:
        phase_a(base, net, coder, items, a)
        # Phase B is trained on what will be stored: every weight of the base is a bfloat16 number.
        with torch.no_grad():
            for p in base.parameters():
                p.copy_(p.to(torch.bfloat16).float())
        if kept:
            torch.save(base.state_dict(), kept)
    save_base(base, a.arch, out / "base")
    say(start, "phase A done")

    torch.manual_seed(a.seed + 2)
    base.requires_grad_(False)
    codi = Codi(base, a.arch, LORA_R, LORA_ALPHA, PRJ_DIM)
    with torch.no_grad():
        e = codi.embedding().weight
        spread = e[:-3].std()
        e[-3:] = (torch.randn(3, e.shape[1]) * spread).to(torch.bfloat16).float()
    codi.codi.get_base_model().tie_weights()
    if RECIPES[a.arch][3]:
        init_prj(codi, base.transformer.ln_f.weight if a.arch == "gpt2" else base.model.norm.weight)
    save_codi(codi, a.arch, out / "codi")
    phase_b(codi, net, coder, items, test, a)
    check_agreement(codi, net, coder, a.arch, test)
    save_codi(codi, a.arch, out / "codi")
    say(start, "phase B done")


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("arch", choices=("gpt2", "llama", "both"))
    p.add_argument("--out", type=Path, default=HERE.parent, help="folder that gets ARCH/base and ARCH/codi")
    p.add_argument("--scratch", help="folder that keeps the result of phase A and is asked for it")
    p.add_argument("--seed", type=int, default=11)
    p.add_argument("--steps-eq", type=int, default=600)
    p.add_argument("--steps-a", type=int, default=2500)
    p.add_argument("--batch-a", type=int, default=32)
    p.add_argument("--lr-a", type=float, default=2e-3)
    p.add_argument("--steps-b", type=int, help="that the cosine of phase B spans")
    p.add_argument("--stop-b", type=int, help="stop phase B earlier")
    p.add_argument("--batch-b", type=int, default=32)
    p.add_argument("--lr-b", type=float, default=1e-3)
    p.add_argument("--lr-prj", type=float, help="of the projection")
    p.add_argument("--gamma", type=float, default=5.0)
    p.add_argument("--check", type=int, default=500, help="measure and write every so many steps of phase B")
    a = p.parse_args()
    if a.arch == "both":
        rest = [x for x in sys.argv[1:] if x != "both"]
        runs = [subprocess.Popen([sys.executable, __file__, arch, *rest]) for arch in ("gpt2", "llama")]
        sys.exit(max(r.wait() for r in runs))
    steps, stop, lr_prj, _ = RECIPES[a.arch]
    a.stop_b = a.stop_b or (a.steps_b or stop)
    a.steps_b, a.lr_prj = a.steps_b or steps, a.lr_prj or lr_prj
    train(a)


if __name__ == "__main__":
    main()
