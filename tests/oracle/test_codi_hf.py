"""Checks of the oracle itself.

    python test_codi_hf.py [MODEL FOLDER ...]

1. The flow of CODI's own evaluation (one plain loop over transformers' interface, with `prj`, no hooks) gives the same
   tokens and logits as `run` under `codi` and `codi-keep-eos`; a plain loop for `bot-first` likewise.
2. A self-patch at every site, phase and layer changes no bit of tokens, logits and states.
3. A replacement at resid_post of the last block at the last step changes no logit.
4. Hooks bite: zeroing each site at step 0 changes the logits (except where the address is dead).
5. The recorded v is what transformers has in its cache; k too (LLaMA's, rotated there: the norm of each head).
6. resid_mid = resid_pre + attn_out and resid_post = resid_mid + mlp_out, also after a replacement.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from codi_hf import LAYER_SITES, POSITION_SITES, Loaded, Replacement, load, run

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
QUESTIONS = ("Tom has 7 pens, 12?", "a1", "é 数  20%")
N_NEW = 10


@torch.no_grad()
def plain_loop(
    m: Loaded, question: str, protocol: str, thoughts: int
) -> tuple[list[int], Tensor, list[tuple[Tensor, Tensor]]]:
    """One question answered by straight calls of the model; keys and values [N, heads, head_dim] of each layer."""
    model, prj, embed = m.codi.codi, m.codi.prj, m.codi.embedding()
    ids = m.tok(question, return_tensors="pt").input_ids
    if protocol == "codi":
        ids = torch.cat([ids, torch.tensor([[m.codi.bot_id]])], dim=1)
    if protocol == "codi-keep-eos":
        ids = torch.cat([ids, torch.tensor([[m.eos, m.codi.bot_id]])], dim=1)
    out = model(input_ids=ids, use_cache=True, output_hidden_states=True, past_key_values=None)
    past = out.past_key_values
    latent = out.hidden_states[-1][:, -1, :].unsqueeze(1)
    latent = embed(torch.tensor([[m.codi.bot_id]])) if protocol == "bot-first" else prj(latent)
    for _ in range(thoughts):
        out = model(inputs_embeds=latent, use_cache=True, output_hidden_states=True, past_key_values=past)
        past = out.past_key_values
        latent = prj(out.hidden_states[-1][:, -1, :].unsqueeze(1))
    opening = [m.codi.eot_id, m.eos] if protocol == "codi-keep-eos" else [m.codi.eot_id]
    fed = embed(torch.tensor([opening]))
    tokens: list[int] = []
    seen = []
    for _ in range(N_NEW):
        out = model(inputs_embeds=fed, use_cache=True, past_key_values=past)
        past = out.past_key_values
        seen.append(out.logits[0, -1])
        token = int(out.logits[0, -1, : model.config.vocab_size - 1].argmax())
        if token == m.eos:
            break
        tokens.append(token)
        fed = embed(torch.tensor([[token]]))
    cached = [(past[k][0][0].transpose(0, 1), past[k][1][0].transpose(0, 1)) for k in range(m.n_layers)]
    return tokens, torch.stack(seen), cached


def check(ok: bool, what: str) -> None:
    """Stop at the first failure."""
    if not ok:
        raise SystemExit(f"FAILED: {what}")


def check_model(folder: Path, thoughts: int) -> int:
    """All checks on one model; how many were made."""
    m = load(folder / "base", folder / "codi")
    count = 0
    for protocol in ("codi", "codi-keep-eos", "bot-first"):
        for q in QUESTIONS:
            got = run(m, q, protocol, thoughts, N_NEW)
            tokens, logits, cached = plain_loop(m, q, protocol, thoughts)
            where = f"{folder.name} {protocol} {q!r}"
            check(tokens == got.answer_ids, f"{where}: {tokens} by the plain loop, {got.answer_ids} by run")
            check(torch.equal(logits, got.logits[-len(logits) :]), f"{where}: logits differ from the plain loop")
            v = got.values
            for layer, (keys, values) in enumerate(cached):
                own = v["k"][:, layer].view(keys.shape) if v["k"][:, layer].numel() == keys.numel() else keys * 0
                if m.codi.arch == "llama":
                    keys, own = keys.norm(dim=-1), own.norm(dim=-1)
                check(torch.allclose(own, keys, atol=1e-5), f"{where}: k {layer} is not the cache's")
                check(torch.equal(v["v"][:, layer], values.flatten(1)), f"{where}: v {layer} is not the cache's")
                count += 2
            check(torch.allclose(v["resid_mid"], v["resid_pre"] + v["attn_out"], atol=1e-6), f"{where}: resid_mid")
            check(torch.allclose(v["resid_post"], v["resid_mid"] + v["mlp_out"], atol=1e-6), f"{where}: resid_post")
            check(torch.equal(v["resid_post"][:, :-1], v["resid_pre"][:, 1:]), f"{where}: resid_pre")
            count += 5
        q = QUESTIONS[0]
        got = run(m, q, protocol, thoughts, N_NEW)
        sizes = {"prompt": len(got.prompt_ids), "thought": thoughts, "answer": 2}
        points = [(s, layer) for s in LAYER_SITES for layer in range(m.n_layers)]
        points += [(s, None) for s in POSITION_SITES]
        for site, layer in points:
            for phase, size in sizes.items():
                reps = [
                    Replacement(phase, i, site, layer, vector=got.vector(phase, i, site, layer)) for i in range(size)
                ]
                again = run(m, q, protocol, thoughts, N_NEW, reps)
                equal = torch.equal(again.logits, got.logits) and again.answer_ids == got.answer_ids
                equal = equal and all(torch.equal(again.values[k], x) for k, x in got.values.items())
                check(equal, f"{folder.name} {protocol}: self-patch {phase} {site} {layer} changes something")
                count += 1
            # step 0 is thought 0; every address of it is read by something later
            value = torch.zeros_like(got.vector("thought", 0, site, layer))
            changed = run(m, q, protocol, thoughts, 1, [Replacement("thought", 0, site, layer, vector=value)])
            check(
                not torch.equal(changed.logits[0], got.logits[0]),
                f"{folder.name} {protocol}: zeroing {site} {layer} changes nothing",
            )
            count += 1
            v = changed.values
            if site == "attn_out":
                check(torch.equal(v["resid_mid"][:, layer], (v["resid_pre"] + v["attn_out"])[:, layer]), site)
                at = changed.position("thought", 0)
                check(torch.equal(v["resid_mid"][at, layer], v["resid_pre"][at, layer]), f"{site} {layer}")
            if site == "resid_mid":
                at = changed.position("thought", 0)
                check(torch.equal(v["resid_post"][at, layer], v["mlp_out"][at, layer]), f"{site} {layer}")
        dead = Replacement(
            "thought", thoughts - 1, "resid_post", m.n_layers - 1, vector=torch.ones_like(got.values["latent_in"][0])
        )
        check(torch.equal(run(m, q, protocol, thoughts, N_NEW, [dead]).logits, got.logits), f"{protocol}: dead cell")
        count += 1
    return count


def main() -> None:
    """Check the models given, or the tiny ones."""
    torch.set_num_threads(1)
    known = [f for f in sorted(MODELS.iterdir()) if "protocols" not in json.loads((f / "lora.json").read_text())]
    folders = [Path(a) for a in sys.argv[1:]] or known
    total = 0
    for folder in folders:
        total += check_model(folder, 3 if folder.name == "llama-bf16" else 6)
        print(f"{folder.name}: ok", flush=True)
    print(f"{total} checks passed")


if __name__ == "__main__":
    main()
