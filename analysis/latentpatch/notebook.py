"""What a notebook shows of a results file: the heat maps of its effects and the table of outcomes."""

from __future__ import annotations

import html as escape
import re

from .analyse import analyse, donor_class
from .load import CLASSES, LABELS, Results
from .report import _heat_maps

MOST_PANELS = 4
MOST_LINES = 60


def html(r: Results) -> str:
    """Heat maps of the donor's answer, one for each effect, and the table of outcomes."""
    a = analyse(r, resamples=0)
    head = f"{r.label}: {len(r.included)} of {len(r.pairs)} pairs, {len(r.conditions)} conditions"
    parts = [f"<p><b>{escape.escape(head)}</b></p>"]
    parts += [f"<p>{escape.escape(note)}</p>" for note in r.warnings]
    effects = [panel for panel in a.panels.itertuples() if panel.role == "effect"]
    for panel in effects[:MOST_PANELS]:
        part = a.table[a.table["panel"] == panel.panel]
        wanted = CLASSES[donor_class(panel.direction)]
        pictures = [
            p for kind in part["kind"].unique() for p in _heat_maps("r", a, part, kind, [wanted], "notebook")[0]
        ]
        parts.append(f"<p>{escape.escape(panel.words)}: pairs with the {LABELS[wanted]}, %</p>")
        parts += [_still(p.svg) for p in pictures] or [f"<p>No condition gives the {LABELS[wanted]}.</p>"]
    if len(effects) > MOST_PANELS:
        parts.append(f"<p>{len(effects) - MOST_PANELS} more effects: see the report.</p>")
    table = a.table[a.table["role"] != "control"]
    columns = {"name": "condition", "n": "pairs"} | {f"{name}_pct": f"{LABELS[name]}, %" for name in CLASSES}
    shown = table[list(columns)].rename(columns=columns)
    parts.append(shown.head(MOST_LINES).to_html(index=False, float_format=lambda v: f"{v:.1f}", border=0))
    if len(shown) > MOST_LINES:
        parts.append(f"<p>{len(shown) - MOST_LINES} more conditions: see frame().</p>")
    return "\n".join(parts)


def _still(svg: str) -> str:
    """The figure without what only the page's script reads."""
    return re.sub(r' (?:data-tip|data-cell|tabindex|class)="[^"]*"', "", svg)
