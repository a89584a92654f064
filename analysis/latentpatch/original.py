"""Import of the per-pair JSON of the published experiment (2025-10-20), its tables, and what its claims are worth.

Facts about its scripts (which blocks were patched, which defects were on) come from reading them; they are attached to
the imported conditions as words, so that the report shows them wherever the numbers appear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import stats
from .findings import p_text, share
from .load import LayoutError, Results, read_json

DEPTHS = ("early", "middle", "late")
NAMES = {"clean_answer": 0, "corrupted_answer": 1, "other_coherent": 2, "gibberish": 3}
BLOCKS = {"gpt2": (3, 6, 11), "llama": (4, 8, 14)}
N_LAYERS = {"gpt2": 12, "llama": 16}
TITLES = {"gpt2": "CODI GPT-2 (published run)", "llama": "CODI LLaMA-3.2-1B (published run)"}
FILES = {
    "gpt2": ["both_correct_1tok", *(f"ablation_{n}tok" for n in range(2, 6)), "ablation_6tok_all"],
    "llama": ["both_correct_1tok", *(f"ablation_{n}tok" for n in range(1, 7))],
}
# Percentages as the report of 2025-10-20 prints them: (clean, corrupted, other, gibberish).
PUBLISHED = {
    ("gpt2", "both_correct_1tok", "early"): (0.0, 100.0, 0.0, 0.0),
    ("gpt2", "both_correct_1tok", "middle"): (0.0, 100.0, 0.0, 0.0),
    ("gpt2", "both_correct_1tok", "late"): (21.1, 63.2, 15.8, 0.0),
    ("gpt2", "ablation_2tok", "late"): (0.0, 52.6, 42.1, 5.3),
    ("gpt2", "ablation_3tok", "late"): (21.1, 26.3, 52.6, 0.0),
    ("gpt2", "ablation_4tok", "late"): (26.3, 21.1, 47.4, 5.3),
    ("gpt2", "ablation_5tok", "late"): (42.1, 15.8, 36.8, 5.3),
    ("gpt2", "ablation_6tok_all", "late"): (0.0, 0.0, 10.5, 89.5),
    ("llama", "both_correct_1tok", "early"): (4.3, 95.7, 0.0, 0.0),
    ("llama", "both_correct_1tok", "middle"): (0.0, 100.0, 0.0, 0.0),
    ("llama", "both_correct_1tok", "late"): (8.7, 91.3, 0.0, 0.0),
    ("llama", "ablation_1tok", "late"): (4.3, 91.3, 4.3, 0.0),
    ("llama", "ablation_2tok", "late"): (13.0, 78.3, 8.7, 0.0),
    ("llama", "ablation_3tok", "late"): (21.7, 73.9, 4.3, 0.0),
    ("llama", "ablation_4tok", "late"): (21.7, 73.9, 4.3, 0.0),
    ("llama", "ablation_5tok", "late"): (26.1, 47.8, 26.1, 0.0),
    ("llama", "ablation_6tok", "late"): (26.1, 47.8, 26.1, 0.0),
}
PUBLISHED_BASELINE = {
    ("gpt2", "clean"): 51.11,
    ("gpt2", "corrupted"): 35.56,
    ("llama", "clean"): 71.11,
    ("llama", "corrupted"): 51.11,
}


@dataclass(frozen=True)
class Claim:
    """A claim of the published report, what the data say, and a verdict by rule."""

    claim: str
    verdict: str
    numbers: str
    caveat: str = ""


def is_original(folder: Path | str) -> bool:
    return all((Path(folder) / model / "both_correct_1tok.json").is_file() for model in FILES)


def _read(folder: Path | str, model: str, name: str) -> dict[str, Any]:
    path = Path(folder) / model / f"{name}.json"
    data = read_json(path)
    for key in ("valid_results", "invalid_results"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise LayoutError(
                path, key, "a list", "nothing" if not isinstance(data, dict) or key not in data else "something else"
            )
    for i, record in enumerate(data["valid_results"]):
        for depth in DEPTHS:
            try:
                kind = record["patched"][depth]["classification"]
            except (KeyError, TypeError):
                raise LayoutError(
                    path, f"valid_results[{i}].patched.{depth}.classification", "a class", "nothing"
                ) from None
            if kind not in NAMES:
                raise LayoutError(
                    path, f"valid_results[{i}].patched.{depth}.classification", " | ".join(NAMES), repr(kind)
                )
    return data


def recomputed_tables(folder: Path | str) -> pd.DataFrame:
    """Counts and percentages per model, file and layer, counted from the single outcomes."""
    lines = []
    for model, names in FILES.items():
        for name in names:
            records = _read(folder, model, name)["valid_results"]
            for depth in DEPTHS:
                kinds = [NAMES[record["patched"][depth]["classification"]] for record in records]
                counts = np.bincount(kinds, minlength=4)
                line = {"model": model, "result_file": name, "layer": depth, "n": len(records)}
                line |= dict(zip(("clean", "corrupted", "other", "gibberish"), counts.tolist(), strict=True))
                line |= {
                    f"{k}_pct": round(100 * int(c) / len(records), 1)
                    for k, c in zip(("clean", "corrupted", "other", "gibberish"), counts, strict=True)
                }
                lines.append(line)
    return pd.DataFrame(lines)


def published_differences(folder: Path | str) -> pd.DataFrame:
    """Lines where the published report prints other numbers than the single outcomes give."""
    table = recomputed_tables(folder).set_index(["model", "result_file", "layer"])
    lines = []
    for key, printed in PUBLISHED.items():
        found = tuple(float(table.loc[key, f"{k}_pct"]) for k in ("clean", "corrupted", "other", "gibberish"))
        if any(abs(p - f) > 0.051 for p, f in zip(printed, found, strict=True)):
            lines.append(
                {
                    "model": key[0],
                    "what": f"{key[1]}, {key[2]}",
                    "published": " / ".join(map(str, printed)),
                    "recomputed": " / ".join(map(str, found)),
                    "n": int(table.loc[key, "n"]),
                }
            )
    for (model, side), printed in PUBLISHED_BASELINE.items():
        k, n = _baseline(folder, model)[side]
        if abs(printed - 100 * k / n) > 0.0051:
            lines.append(
                {
                    "model": model,
                    "what": f"baseline accuracy, {side}",
                    "published": f"{printed}",
                    "recomputed": f"{100 * k / n:.2f}",
                    "n": n,
                }
            )
    return pd.DataFrame(lines, columns=["model", "what", "published", "recomputed", "n"])


def _baseline(folder: Path | str, model: str) -> dict[str, tuple[int, int]]:
    data = _read(folder, model, "both_correct_1tok")
    everything = data["valid_results"] + data["invalid_results"]
    return {
        side: (sum(bool(r[side]["correct"]) for r in everything), len(everything)) for side in ("clean", "corrupted")
    }


def _defects(model: str, name: str) -> str:
    """The script defects at work in a file, in the words that a job uses, and those that a job cannot express."""
    out = ["off_by_one", "prefill_leak"]
    if model == "gpt2" and name == "ablation_6tok_all":
        out.append("decode_leak")
    if model == "gpt2" and re.fullmatch(r"ablation_[2-5]tok", name):
        out.append("decode_from_eos")
    if model == "llama" and name == "both_correct_1tok":
        out.append("other_blocks")
    return ",".join(out)


def import_model(folder: Path | str, model: str, pairs_file: Path | str | None = None) -> Results:
    """The published per-pair outcomes of one model as Results. Questions come from the pair file where given."""
    data = {name: _read(folder, model, name) for name in FILES[model]}
    first = data["both_correct_1tok"]
    records = first["valid_results"] + first["invalid_results"]
    ids = [str(r["pair_id"]) for r in records]
    valid = {str(r["pair_id"]) for r in first["valid_results"]}
    for name, content in data.items():
        other = {str(r["pair_id"]) for r in content["valid_results"]}
        if other != valid:
            raise LayoutError(
                Path(folder) / model / f"{name}.json",
                "valid_results",
                f"the {len(valid)} pairs of both_correct_1tok",
                f"{len(other)} pairs, {len(other ^ valid)} not shared",
            )
    questions: dict[str, tuple[str, str]] = {}
    if pairs_file:
        try:
            for p in read_json(pairs_file):
                questions[str(p["pair_id"])] = (p["clean"]["question"], p["corrupted"]["question"])
        except (KeyError, TypeError):
            raise LayoutError(
                pairs_file, f"pair {len(questions)}", "pair_id, clean.question and corrupted.question", "something else"
            ) from None
    pairs = pd.DataFrame(
        {
            "id": ids,
            "source": ids,
            "clean_question": [questions.get(i, (f"(question {i} of the GSM8K test set)", ""))[0] for i in ids],
            "corrupted_question": [questions.get(i, ("", f"(question {i}, changed)"))[1] for i in ids],
            "clean_text": [r["clean"]["generated"] for r in records],
            "corrupted_text": [r["corrupted"]["generated"] for r in records],
            "clean_answer": [float(r["clean"]["expected"]) for r in records],
            "corrupted_answer": [float(r["corrupted"]["expected"]) for r in records],
            "clean_correct": [int(r["clean"]["correct"]) for r in records],
            "corrupted_correct": [int(r["corrupted"]["correct"]) for r in records],
            "included": [int(i in valid) for i in ids],
        }
    )
    lines, columns = [], []
    for name in FILES[model]:
        n = int(re.search(r"(\d)tok", name).group(1))
        other_blocks = model == "llama" and name == "both_correct_1tok"
        for depth, block in zip(DEPTHS, BLOCKS["gpt2"] if other_blocks else BLOCKS[model], strict=True):
            donor = "clean (other blocks)" if other_blocks else "clean"
            lines.append(
                {
                    "name": f"denoise/{donor}/replace/resid_post/L{block}/first:{n}",
                    "role": "effect",
                    "direction": "denoise",
                    "site": "resid_post",
                    "operation": "replace",
                    "donor": donor,
                    "layers": str(block),
                    "steps": f"first:{n}",
                    "defects": _defects(model, name),
                    "phase": "thought",
                    "index": "",
                    "head": -1,
                    "vector": -1,
                    "draw": 0,
                    "from_site": "",
                    "from_layer": -1,
                    "from_step": -1,
                    "factor": 1.0,
                    "stop_after": 0,
                    "identity": 0,
                    "layer": block,
                    "step_mask": (1 << n) - 1,
                    "n_steps": n,
                    "dead": 0,
                    "same_as": len(lines),
                }
            )
            columns.append({str(r["pair_id"]): r["patched"][depth] for r in data[name]["valid_results"]})
    p, c = len(ids), len(lines)
    cls, answer = np.full((p, c), 255, np.uint8), np.full((p, c), -1, np.int32)
    number, changed = np.full((p, c), np.nan), np.zeros((p, c), np.uint8)
    index: dict[str, int] = {}
    for j, column in enumerate(columns):
        for i, pair in enumerate(ids):
            if pair in column:
                cell = column[pair]
                cls[i, j] = NAMES[cell["classification"]]
                answer[i, j] = index.setdefault(cell["generated"], len(index))
                number[i, j] = np.nan if cell["extracted"] is None else float(cell["extracted"])
                changed[i, j] = cell["generated"] != pairs["corrupted_text"][i]
    provenance = {
        "model": TITLES[model],
        "protocol": "bot-first",
        "classifier": "seed",
        "dtype": "float32",
        "tool": "scripts of the published experiment",
        "n_layers": N_LAYERS[model],
        "defects": ",".join(dict.fromkeys(d for f in FILES[model] for d in _defects(model, f).split(","))),
    }
    table = pd.DataFrame(lines)
    # The defects differ between the N's of one table: they go into the notes, so that the N's stay one series.
    notes = [
        f"{d} at work in: {', '.join(f for f in FILES[model] if d in _defects(model, f).split(','))}"
        for d in ("off_by_one", "prefill_leak", "decode_from_eos", "decode_leak", "other_blocks")
        if any(d in _defects(model, f).split(",") for f in FILES[model])
    ]
    table["defects"] = ""
    return Results(
        str(Path(folder) / model),
        f"published-{model}",
        pairs,
        table,
        cls,
        number,
        answer,
        changed,
        list(index),
        {},
        provenance,
        {},
        notes,
    )


def load_original(folder: Path | str, pairs_file: Path | str | None = None) -> list[Results]:
    """Both models. Unless given, the pair file is taken from beside the results (../pairs/pairs_045_seed_run.json), where
    there is one; without it the questions are named by their numbers."""
    beside = Path(folder).parent / "pairs" / "pairs_045_seed_run.json"
    if not pairs_file and beside.exists():
        pairs_file = beside
    return [import_model(folder, model, pairs_file) for model in FILES]


def claims(folder: Path | str) -> list[Claim]:
    """The published claims against the single outcomes: intervals, tests, power. Verdicts follow from the p-values."""
    table = recomputed_tables(folder).set_index(["model", "result_file", "layer"])
    events = {m: {str(r["pair_id"]): r for r in _read(folder, m, "both_correct_1tok")["valid_results"]} for m in FILES}
    n = {m: len(e) for m, e in events.items()}

    def count(model: str, name: str, kind: str = "clean", depth: str = "late") -> int:
        return int(table.loc[(model, name, depth), kind])

    def versus(kind: str, gpt2_file: str, llama_file: str) -> tuple[str, dict[str, float]]:
        kg, kl = count("gpt2", gpt2_file, kind), count("llama", llama_file, kind)
        t = stats.unpaired_test(kg, n["gpt2"], kl, n["llama"])
        return (
            f"GPT-2 {share(kg, n['gpt2'])}; LLaMA {share(kl, n['llama'])}. Difference "
            f"{100 * t['difference']:+.1f} points (Newcombe "
            f"{100 * t['low']:+.1f} to {100 * t['high']:+.1f}), Fisher {p_text(t['fisher_p'])}, Boschloo "
            f"{p_text(t['boschloo_p'])}, "
            f"Cohen's h = {t['cohen_h']:.2f}."
        ), t

    def majority(model: str, name: str) -> tuple[int, int, float]:
        k, other = count(model, name), count(model, name, "corrupted")
        donor = np.array([1] * k + [0] * (n[model] - k), bool)
        rival = np.array([0] * k + [1] * other + [0] * (n[model] - k - other), bool)
        return k, other, stats.majority_test(donor, rival, np.arange(n[model]))

    def decide(p: float) -> str:
        return "supported by the test" if p <= stats.ALPHA else "not shown at this n"

    out = []
    text, t = versus("clean", "both_correct_1tok", "both_correct_1tok")
    out.append(
        Claim(
            "LLaMA shows stronger input dominance: one patched thought gives 8.7 % clean answers, in GPT-2 21.1 %",
            decide(t["fisher_p"]),
            text,
            "The LLaMA run patched blocks 3, 6, 11 with values captured for 4, 8, 14; in the later "
            "run at block 14 it is 1 of 23. The difference between the two LLaMA runs is one pair.",
        )
    )
    kg, og, pg = majority("gpt2", "ablation_4tok")
    out.append(
        Claim(
            "GPT-2: clean wins from N = 4 on",
            decide(pg),
            f"N = 4, block 11: {kg} clean against {og} corrupted of {n['gpt2']}; "
            f"one-sided sign test {p_text(pg)}. At N = 5: {count('gpt2', 'ablation_5tok')} against "
            f"{count('gpt2', 'ablation_5tok', 'corrupted')}, {p_text(majority('gpt2', 'ablation_5tok')[2])}.",
            "All GPT-2 answers for N = 2..5 were decoded from <|endoftext|> instead of the model's answer "
            "position: the N = 1 row "
            "and the others are not comparable.",
        )
    )
    kl, ol, pl = majority("llama", "ablation_5tok")
    out.append(
        Claim(
            "LLaMA: clean wins at N = 5",
            "false" if kl <= ol else decide(pl),
            f"N = 5, block 14: {kl} clean against {ol} corrupted of {n['llama']}; one-sided sign test {p_text(pl)}.",
            "At block 14 the clean answer never outnumbers the corrupted one; at blocks 4 and 8, which the "
            "report calls untested, it does: "
            f"N = 6, block 4: {count('llama', 'ablation_6tok', depth='early')} against "
            f"{count('llama', 'ablation_6tok', 'corrupted', 'early')}.",
        )
    )
    out.append(
        Claim(
            "LLaMA needs 5 of 6 thoughts, GPT-2 4 of 6",
            "false",
            "Follows from the two lines above: by the report's own definition "
            "N* is 4 for GPT-2 (not significant) and not reached for LLaMA at block 14.",
        )
    )
    text, t = versus("gibberish", "ablation_6tok_all", "ablation_6tok")
    out.append(
        Claim(
            "GPT-2 breaks when all six thoughts are patched, LLaMA does not",
            "an artefact of the script" if t["fisher_p"] <= stats.ALPHA else decide(t["fisher_p"]),
            text,
            "The GPT-2 hook kept overwriting block 11 during decoding. Patching the last block at the last step "
            "can change nothing: a "
            "correct N = 6 equals N = 5 there exactly.",
        )
    )
    equal = {}
    five, six = (_read(folder, "llama", f"ablation_{k}tok")["valid_results"] for k in (5, 6))
    by_id = {r["pair_id"]: r for r in six}
    for depth in DEPTHS:
        equal[depth] = sum(
            r["patched"][depth]["generated"] == by_id[r["pair_id"]]["patched"][depth]["generated"] for r in five
        )
    out.append(
        Claim(
            "LLaMA: 5 and 6 thoughts give identical results (plateau)",
            "true at block 14 only"
            if equal["late"] == n["llama"] and min(equal.values()) < n["llama"]
            else "see numbers",
            f"Equal answer texts for N = 5 and 6: early {equal['early']}, middle {equal['middle']}, late "
            f"{equal['late']} of {n['llama']}.",
            "At block 14 of 16 the last step can reach the answer only through the keys and values of block 15.",
        )
    )
    text, t = versus("clean", "ablation_5tok", "ablation_5tok")
    out.append(
        Claim(
            "The best N gives more clean answers in GPT-2 (42.1 %) than in LLaMA (26.1 %)",
            decide(t["fisher_p"]),
            text,
            "The best of several N's is chosen after looking; the test does not account for that. Decoding "
            "differed (see above).",
        )
    )
    base = {}
    for model in FILES:
        data = _read(folder, model, "both_correct_1tok")
        base[model] = {
            str(r["pair_id"]): bool(r["clean"]["correct"]) for r in data["valid_results"] + data["invalid_results"]
        }
    ids = sorted(base["gpt2"])
    a, b = (np.array([base[m][i] for i in ids]) for m in ("llama", "gpt2"))
    paired = stats.paired_test(a, b, np.arange(len(ids)))
    out.append(
        Claim(
            "LLaMA is 20 points better on the clean questions",
            decide(paired.p),
            f"LLaMA {share(int(a.sum()), len(ids))}; GPT-2 "
            f"{share(int(b.sum()), len(ids))}, same questions: only LLaMA right {paired.gain}, only GPT-2 right "
            f"{paired.loss}, exact McNemar "
            f"{p_text(paired.p)}.",
        )
    )
    small = {m: stats.mcnemar_detectable(k) for m, k in n.items()}
    between = stats.unpaired_detectable(n["llama"], n["gpt2"], 0.10)
    out.append(
        Claim(
            "Both-correct pairs suffice to see effects (n = 19 and 23)",
            "only for large effects",
            f"Smallest difference from an unpatched share of 0 % that one test detects with 80 % power: "
            f"{100 * small['gpt2']:.0f} points at "
            f"n = {n['gpt2']}, {100 * small['llama']:.0f} at n = {n['llama']}. Between the models, against a "
            f"share of 10 %: "
            f"{100 * (between - 0.10):.0f} points. To tell 8.7 % from 21.1 % takes about "
            f"{stats.unpaired_needed(0.211, 0.087):.0f} pairs per model.",
        )
    )
    return out
