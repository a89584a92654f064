"""What was known of conditions from the plan, before anything was computed: families, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .load import Results

MOST_NAMES = 400  # of one list on the page
LINE = re.compile(r"([^,:]+), (\d+) conditions?: (.+)")
SAYS = {
    "dead": ("is dead, so it can change nothing", "are dead, so they can change nothing"),
    "equal": ("is equal to an earlier one, so its rows are copied", "are each equal to an earlier one, so their rows are copied"),
    "equal but for rounding": (
        "is equal to an earlier one but for rounding, and was run",
        "are each equal to an earlier one but for rounding, and were run",
    ),
    "control": ("is a control, and was run", "are controls, and were run"),
}  # fmt: skip


@dataclass
class Members:
    """The conditions of one kind."""

    title: str
    names: list[str]
    n: int


@dataclass
class Known:
    """A sentence for each family; below them, the conditions themselves, as far as the file tells them apart."""

    sentences: list[str]
    members: list[Members]


def _sentence(kind: str, n: int, reason: str) -> str:
    says = SAYS.get(kind, (f"is known beforehand ({kind})", f"are known beforehand ({kind})"))
    return f"{n} {'condition' if n == 1 else 'conditions'} {says[n != 1]}: {reason}."


def known(r: Results) -> Known:
    """Of a results file. A file of an earlier version has no reasons: its marks of dead and equal cells are counted."""
    cond = r.conditions
    names, same = cond["name"].tolist(), cond["same_as"].to_numpy()
    dead = cond["dead"].to_numpy() == 1
    equal = ~dead & (same != np.arange(len(cond)))
    lists = {
        "Dead": [names[j] for j in np.flatnonzero(dead)],
        "Equal to an earlier one": [f"{names[j]} = {names[same[j]]}" for j in np.flatnonzero(equal)],
        "Controls": [names[j] for j in np.flatnonzero(~dead & ~equal & (cond["identity"].to_numpy() == 1))],
    }
    found = [LINE.fullmatch(line) for line in r.provenance.get("known_beforehand", "").splitlines()]
    sentences = [_sentence(m[1], int(m[2]), m[3]) for m in found if m]
    if not sentences:
        reasons = {"dead": "no later position reads what is changed", "equal": "the two do the same"}
        counts = {"dead": int(dead.sum()), "equal": int(equal.sum())}
        sentences = [_sentence(kind, n, reasons[kind]) for kind, n in counts.items() if n]
    members = [Members(title, some[:MOST_NAMES], len(some)) for title, some in lists.items() if some]
    return Known(sentences, members if sentences else [])
