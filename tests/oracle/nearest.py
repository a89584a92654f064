"""Edits that depend on which token's embedding is nearest to the vector at hand, with torch alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codi_hf import Loaded

NUMBER = re.compile(r"[ \t\n\r\f\v]?([0-9]+)")


@dataclass(frozen=True)
class TokenRule:
    """What an edit has to do with the nearest tokens; the keys of a job."""

    by: str = "dot"
    top: int = 1
    shift: int = 0
    layer_norm: bool = False
    keep_norm: bool = False
    only_numbers: bool = False
    add_along: str = ""
    factor: float = 0.0


@dataclass
class Nearest:
    """x -> the edited x. `margin` becomes the smallest relative gap between what was chosen and what was not."""

    m: Loaded
    n: int  # the tokens that may be chosen are 0 .. n-1
    rule: TokenRule
    operation: str
    amount: float  # of add, lerp and scale
    vector: Tensor | None  # None: the embedding of the nearest token
    margin: float = field(default=float("inf"))

    def __call__(self, x: Tensor) -> Tensor:
        weight = self.m.codi.embedding().weight[: self.n].detach()
        scores = weight @ x
        if self.rule.by == "cosine":
            scores = scores / weight.norm(dim=1)
        best = scores.sort(descending=True, stable=True)
        gaps = best.values[: self.rule.top] - best.values[1 : self.rule.top + 1]
        # Which of the span's tokens comes first does not matter, but for `only`.
        gap = gaps[-1] if not self.rule.only_numbers else gaps[[0, -1]].min()
        self.margin = min(self.margin, float(gap / scores.abs().max()))
        tokens = best.indices[: self.rule.top]
        token = self.stand_in(int(tokens[0]))
        if token is None:
            return x
        if self.operation in ("remove", "keep"):
            return self.within(weight[tokens], x)
        v = self.vector
        if v is None and self.operation != "scale":
            v = weight[token]
            if self.rule.layer_norm:
                v = torch.nn.functional.layer_norm(v, v.shape)
            if self.rule.keep_norm:
                v = v / v.norm() * x.norm()
        if self.operation == "replace":
            return v.clone()
        if self.operation == "scale":
            return self.amount * x
        return x + self.amount * (v if self.operation == "add" else v - x)

    def stand_in(self, token: int) -> int | None:
        """The token that stands for the nearest one; None: nothing is changed."""
        if not self.rule.only_numbers and self.rule.shift == 0:
            return token
        text = self.m.tok.decode([token], clean_up_tokenization_spaces=False)
        found = NUMBER.match(text)
        if found is None:
            return None
        if self.rule.shift == 0:
            return token
        number = int(found.group(1)) + self.rule.shift
        ids = self.m.tok(
            text[: found.start(1)] + str(number) + text[found.end(1) :], add_special_tokens=False
        ).input_ids
        return ids[0] if number >= 0 and len(ids) == 1 and ids[0] < self.n else None

    def within(self, rows: Tensor, x: Tensor) -> Tensor:
        """x's part in the span of the rows, or what is left of x."""
        part = rows.T @ torch.linalg.lstsq(rows.T, x[:, None]).solution[:, 0]
        if self.operation == "keep":
            return part / part.norm() * x.norm() if self.rule.keep_norm else part
        out = x - part
        if self.rule.add_along:
            ids = self.m.tok(self.rule.add_along, add_special_tokens=False).input_ids
            along = self.m.codi.embedding().weight[ids[0]].detach()
            along = along / along.norm()
            out = out + self.rule.factor * (x @ along) * along
        return out
