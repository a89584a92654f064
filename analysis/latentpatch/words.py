"""Conditions, panels and places as people say them. The technical names stay beside them on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

DONORS = {
    "clean": "Clean activations",
    "corrupted": "Corrupted activations",
    "zero": "Zeros",
    "mean": "Mean activations of the other pairs",
    "shuffled": "Another pair's activations",
    "random": "Random vectors",
    "self": "The run's own activations",
    "file": "Vector",
    "noise": "Noise",
    "nearest_token": "Nearest token embedding",
}
SITES = {
    "resid_pre": "input of each block",
    "resid_post": "output of each block",
    "resid_mid": "residual stream between attention and MLP",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "k": "keys",
    "v": "values",
    "q": "queries",
    "z": "what the heads attended to, before the output projection",
    "attn_edge": "attention edges",
    "latent_in": "input embedding of the thought",
    "latent_raw": "final hidden state before the projection",
}
RUNS = {"denoise": "the corrupted run", "noise": "the clean run"}
OPERATIONS = {"add": "added ({} times) to", "scale": "scaled by {} in", "lerp": "mixed (share {}) into"}
SPANS = {
    "remove": "Part in the span of {span} removed in {run}",
    "keep": "Only the part in the span of {span} kept in {run}",
    "swap": "{donor}, the part in the span of {span}, written into {run}",
}
EDGE = "edge"  # the kind of conditions that forbid attention edges
KINDS = {
    EDGE: "attention edges",
    "first": "first N thoughts",
    "last": "last N thoughts",
    "single": "single thoughts",
    "window": "windows of thoughts",
    "set": "sets of thoughts",
    "subset": "subsets of thoughts",
    "prompt": "question positions",
    "answer": "answer positions",
    "all": "all thoughts",
}
AXES = {  # of figures; in the order of the tables
    "first": "first N thoughts patched",
    "last": "last N thoughts patched",
    "single": "thought step patched",
    "window": "window of steps",
    "set": "set of steps",
    "subset": "subset of steps",
    "prompt": "prompt position",
    "answer": "answer position",
    "all": "steps",
    EDGE: "attention edge",
}


def column(kind: str, steps_text: str, n_steps: int) -> str:
    """The label of a condition on the axis of a figure."""
    if kind == EDGE:
        return steps_text
    return str(n_steps) if kind in ("first", "last") else steps_text.partition(":")[2] or steps_text


def edge_panel(first: Mapping[str, object]) -> str:
    """What a panel of attention edges shares: 'Attention edges forbidden in the corrupted run, head 3'."""
    text = f"Attention edges forbidden in {RUNS[str(first['direction'])]}"
    if first["head"] >= 0:
        text += f", head {first['head']}"
    if first["stop_after"] > 0:
        text += f", answer after {first['stop_after']} thoughts"
    return text


def bracket(text: str) -> tuple[str, str]:
    """('keep', 'nearest_token top 5') from 'keep(nearest_token top 5)'."""
    word, _, details = text.removesuffix(")").partition("(")
    return word, details


def panel(first: Mapping[str, object]) -> str:
    """What a panel's conditions share: 'Clean activations written into the corrupted run, output of each block'."""
    if first["operation"] == "forbid":
        return edge_panel(first)
    kind, details = bracket(str(first["donor"]))
    donor = DONORS.get(kind, kind) + (f" ({details})" if details else "")
    if first["vector"] >= 0:
        donor += f" {first['vector']} of the job"
    factor = str(np.float32(first["factor"])).removesuffix(".0")
    operation, details = bracket(str(first["operation"]))
    span = details.removesuffix("numbers only").removesuffix(", ")
    span = f"directions of file {span}" if span.isdigit() else span
    run = RUNS[str(first["direction"])]
    if operation in SPANS:
        text = SPANS[operation].format(donor=donor, span=span, run=run)
    else:
        text = f"{donor} {OPERATIONS.get(operation, 'written into').format(factor)} {run}"
    if details.endswith("numbers only"):
        text += ", where the nearest token is a number"
    if first["site"]:
        text += f", {site(str(first['site']))}"
    if first["head"] >= 0:
        text += f", head {first['head']}"
    if first["from_site"]:
        text += f", taken from the {SITES.get(str(first['from_site']), first['from_site'])}"
    if first["from_step"] >= 0:
        text += f", taken at thought {first['from_step']}"
    if first["stop_after"] > 0:
        text += f", answer after {first['stop_after']} thoughts"
    if first["defects"]:
        text += f" [{first['defects']}]"
    return text


def site(name: str) -> str:
    """'keys and values' from 'k+v'."""
    return " and ".join(SITES.get(part, part) for part in name.split("+"))


def phase(text: str) -> str:
    """'prompt', 'thought' or 'answer': where the positions of an attention edge lie."""
    kind = text.rpartition(".")[2].partition(":")[0]
    return kind if kind in ("prompt", "answer") else "thought"


def position(text: str, short: bool = False) -> str:
    """'thought 3' from 'single:3', 'the answer' from 'answer:all'; in short '3', 'answer'."""
    place, _, rest = text.rpartition(".")
    kind, _, value = rest.partition(":")
    where = f"{place} " if place else ""
    if value in ("all", ""):
        whole = {"prompt": "question", "answer": "answer", "thought": "thoughts"}.get(kind, kind)
        return where + (whole if short else "all thoughts" if kind == "thought" else f"the {whole}")
    if kind == "prompt":
        return where + (f"Q{value}" if short else f"question position {value}")
    if kind == "answer":
        return where + (f"A{value}" if short else f"answer position {value}")
    return where + (value if short and kind == "single" else rest if short else steps(rest))


def steps(text: str) -> str:
    """'first 5 thoughts' from 'first:5', 'thought 3 to thought 0' from 'single:3>single:0'."""
    if " without " in text:
        return " without ".join(steps(part) for part in text.split(" without "))
    if ">" in text:
        return " and ".join(" to ".join(position(end) for end in edge.split(">")) for edge in text.split("+"))
    kind, _, value = text.partition(":")
    if kind in ("first", "last") and value.isdigit():
        return f"{kind} thought" if value == "1" else f"{kind} {value} thoughts"
    if kind in ("single", "set", "subset"):
        return f"thought{'s' if ',' in value else ''} {value.replace(',', ', ')}"
    if kind == "window":
        return f"thoughts {value.replace(',', ', ')}"
    if kind == "prompt":
        return f"question position {value}"
    if kind == "answer":
        return f"answer position {value}"
    return "all thoughts" if kind == "all" else text


def step_list(texts: Sequence[str]) -> str:
    """Several step sets: 'first 4 to 6 thoughts' where they follow each other, else one after the other."""
    parts = [text.partition(":") for text in texts]
    kind, values = parts[0][0], [value for _, _, value in parts]
    if kind in ("first", "last") and all(p[0] == kind for p in parts) and all(v.isdigit() for v in values):
        numbers = [int(v) for v in values]
        if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"{kind} {numbers[0]} to {numbers[-1]} thoughts"
    return ", ".join(map(steps, texts))


def place(text: str) -> str:
    """'layer 2', 'layers 0-3 from layer 5', 'no layer'."""
    layers, _, donor = text.partition("from L")
    layers = layers.strip()
    own = f"layer{'' if layers.isdigit() else 's'} {layers}" if layers else ""
    return f"{own} from layer {donor}".strip() if donor else own or "no layer"


def condition(place_text: str, steps_text: str) -> str:
    """'layer 1, first 5 thoughts'."""
    return f"{place(place_text)}, {steps(steps_text)}" if place_text else steps(steps_text)
