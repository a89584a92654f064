"""Per-pair results of the original study, as its scripts wrote them in JSON. Three kinds, told apart by their keys:

patching   {"valid_results": [{pair_id, clean {generated, expected}, corrupted, patched {early, middle, late}}]};
           `config.tokens_patched` is N (absent: 1)
necessity  {"results": [...]} or a list: {pair_id, clean {baseline_correct, ablated_correct}, corrupted};
           all thoughts zeroed
baseline   {"results": [...]}: {pair_id, clean {output, correct}, corrupted, both_correct}: unpatched runs

Python wrote bare Infinity and NaN into some of these files; its own reader takes them. Other keys are passed over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .load import LayoutError, read_json

DEPTHS = ("early", "middle", "late")
SIDES = ("clean", "corrupted")
OUTCOMES = {"clean_answer": 0, "corrupted_answer": 1, "other_coherent": 2, "gibberish": 3}
FAMILIES = {"gpt2": "gpt2", "gpt-2": "gpt2", "llama": "llama", "qwen": "qwen"}


@dataclass
class PublishedPair:
    """One pair; tuples are (clean, corrupted). None where the file does not say."""

    id: str
    expected: tuple[float | None, float | None] = (None, None)
    questions: tuple[str, str] | None = None
    text: tuple[str, str] | None = None
    ablated: tuple[bool, bool] | None = None
    patched: dict[str, tuple[int, str]] = field(default_factory=dict)  # by depth: outcome, generated text


@dataclass
class Published:
    """One file: its kind, the N of a patching file, and the model family where the file or its folder names one."""

    path: str
    kind: str
    n_tokens: int
    family: str | None
    pairs: list[PublishedPair]
    protocol: str = "bot-first"


def family_of(*names: str) -> str | None:
    """The model family that the first telling name contains: gpt2, llama, qwen."""
    for name in names:
        for word, family in FAMILIES.items():
            if word in name.lower():
                return family
    return None


class _Place:
    """A value of the document together with where it stands, so that an error can say so."""

    def __init__(self, path: Path | str, where: str, value: Any) -> None:
        self.path, self.where, self.value = path, where, value

    def get(self, key: str, kind: type | tuple[type, ...], words: str) -> _Place:
        if not isinstance(self.value, dict) or key not in self.value:
            raise LayoutError(self.path, self.where, f'the key "{key}"', "no such key")
        out = _Place(self.path, f"{self.where}.{key}", self.value[key])
        if not isinstance(out.value, kind) or (kind is int and isinstance(out.value, bool)):
            raise LayoutError(self.path, out.where, words, json.dumps(out.value)[:60])
        return out

    def text(self, key: str) -> str:
        return self.get(key, str, "a text").value

    def flag(self, key: str) -> bool:
        return self.get(key, bool, "true or false").value

    def object(self, key: str) -> _Place:
        return self.get(key, dict, "an object")


def _expected(side: Any) -> float | None:
    value = side.get("expected") if isinstance(side, dict) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _patching(entry: _Place, out: PublishedPair) -> None:
    sides = [entry.object(side) for side in SIDES]
    out.text = (sides[0].text("generated"), sides[1].text("generated"))
    patched = entry.object("patched")
    for depth in DEPTHS:
        cell = patched.object(depth)
        name = cell.text("classification")
        if name not in OUTCOMES:
            raise LayoutError(entry.path, f"{cell.where}.classification", " | ".join(OUTCOMES), repr(name)[:60])
        out.patched[depth] = (OUTCOMES[name], cell.text("generated"))


def _baseline(entry: _Place, out: PublishedPair) -> None:
    out.text = (entry.object("clean").text("output"), entry.object("corrupted").text("output"))


def _necessity(entry: _Place, out: PublishedPair) -> None:
    if "clean" in entry.value:
        out.ablated = (entry.object("clean").flag("ablated_correct"), entry.object("corrupted").flag("ablated_correct"))
    else:
        out.ablated = (entry.flag("clean_ablated_correct"), entry.flag("corrupted_ablated_correct"))


_READERS = {"patching": _patching, "baseline": _baseline, "necessity": _necessity}


def load_published(path: Path | str) -> Published:
    """Reads one file, whichever of the three kinds it is."""
    data = read_json(path)
    n_tokens, named = 1, ""
    if isinstance(data, dict):
        named = str(data.get("model_name", ""))
        key = "valid_results" if "valid_results" in data else "results"
        listed = data.get(key)
        where = f"$.{key}"
        n = data["config"].get("tokens_patched", 1) if isinstance(data.get("config"), dict) else 1
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 63:
            raise LayoutError(path, "$.config.tokens_patched", "a number from 1 to 63", json.dumps(n)[:60])
        n_tokens = n
    else:
        key, listed, where = "", data, "$"
    if not isinstance(listed, list):
        raise LayoutError(path, "$", "per-pair results (valid_results, results, or a list)", "none of these")
    if not listed:
        raise LayoutError(path, where, "at least one pair", "none")
    if key == "valid_results":
        kind = "patching"
    else:
        kind = "baseline" if isinstance(listed[0], dict) and "both_correct" in listed[0] else "necessity"
    pairs = []
    for i, value in enumerate(listed):
        entry = _Place(path, f"{where}[{i}]", value)
        if not isinstance(value, dict):
            raise LayoutError(path, entry.where, "an object", json.dumps(value)[:60])
        pair = PublishedPair(str(entry.get("pair_id", int, "a whole number").value))
        pair.expected = (_expected(value.get("clean")), _expected(value.get("corrupted")))
        _READERS[kind](entry, pair)
        pairs.append(pair)
    return Published(str(path), kind, n_tokens, family_of(named, Path(path).parent.name, Path(path).name), pairs)


def add_questions(published: Published, path: Path | str) -> None:
    """Takes question texts (and expected answers that are missing) from a pair file of the study: by id, and by place
    where an id stands in it more than once."""
    data = read_json(path)
    if not isinstance(data, list):
        raise LayoutError(path, "$", "the list of pairs of the published study", type(data).__name__)
    found: dict[str, list[tuple[tuple[str, str], tuple[float | None, float | None]]]] = {}
    for i, value in enumerate(data):
        entry = _Place(path, f"$[{i}]", value)
        key = str(entry.get("pair_id", int, "a whole number").value)
        sides = [entry.object(side) for side in SIDES]
        answers = [side.value.get("answer") for side in sides]
        numbers = tuple(float(a) if isinstance(a, (int, float)) else None for a in answers)
        found.setdefault(key, []).append(((sides[0].text("question"), sides[1].text("question")), numbers))
    for pair in published.pairs:
        places = found.get(pair.id, [])
        if len(places) > 1 and len({p.id for p in published.pairs}) < len(published.pairs):
            questions, numbers = places.pop(0)
        elif places:
            questions, numbers = places[0]
        else:
            continue
        pair.questions = questions
        pair.expected = tuple(e if e is not None else n for e, n in zip(pair.expected, numbers, strict=True))
