"""The golden logit lens: what each layer says at the last prompt position and at each thought step."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from codi_hf import Loaded, Run, run
from golden_cases import compact

TOP = 5
CLEAR = 1e-4  # neighbours in the ranking that are closer than this may change places


def log_probabilities(m: Loaded, r: Run, protocol: str) -> Tensor:
    """[1 + T, L, candidates]: final norm, head and log softmax over the candidates of every block's output."""
    begin = len(r.prompt_ids) - 1
    states = r.values["resid_post"][begin : begin + 1 + r.thoughts]
    with torch.no_grad():
        logits = m.codi.base().get_output_embeddings()(m.codi.final_norm()(states))
    return torch.log_softmax(m.candidates(logits, protocol).double(), dim=-1)


def cell(logp: Tensor, exact: Tensor) -> dict[str, Any]:
    """The likeliest tokens of one layer at one position, best first, ties to the lowest id."""
    order = torch.sort(logp, descending=True, stable=True)
    values = order.values[: TOP + 1]
    ids = order.indices[:TOP]
    error = float((logp[ids] - exact[ids]).abs().max())
    return {
        "ids": ids.tolist(),
        "logp": [float(x) for x in values[:TOP]],
        "clear": bool((values[:-1] - values[1:]).min() > CLEAR),
        "settled": error <= CLEAR / 5,
    }


def lens_file(m: Loaded, exact: Loaded, about: dict[str, Any], questions: list[str]) -> str:
    """The text of NAME.PROTOCOL.lens.json; `exact` is the same model in float64, to tell what float32 can know."""
    lines = []
    for question in questions:
        how = {"protocol": about["protocol"], "thoughts": about["thoughts"], "forced": []}
        got = log_probabilities(m, run(m, question, **how), how["protocol"])
        true = log_probabilities(exact, run(exact, question, **how), how["protocol"])
        cells = [[cell(got[p, k], true[p, k]) for k in range(got.shape[1])] for p in range(got.shape[0])]
        lines.append(json.dumps(compact({"question": question, "cells": cells}), ensure_ascii=False))
    body = json.dumps(about | {"top": TOP})[1:-1]
    return "{\n " + body + ',\n "questions": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
