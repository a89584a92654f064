"""Templated word problems: enumeration, train / held-out split, pairs.

Everything comes from `templates.json`, which is plain data so that other programs can read it too.

    python problems.py pairs [OUT.json]    # write the held-out pairs (default: ../pairs.json)
    python problems.py check [PAIRS.json]  # check a pair file against the split
    python problems.py show                # one example of each template
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "templates.json"
PAIRS = HERE.parent / "pairs.json"
PAIRS_BY_STEPS = {1: 64, 2: 160, 3: 96}

COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Equation:
    """One step of the chain of thought: `result = left op right`."""

    left: str
    op: str
    right: str
    result: str


@dataclass(frozen=True)
class Template:
    """One kind of problem, with the values that it may take."""

    id: str
    steps: int
    text: str
    words: dict[str, list[str]]
    variables: dict[str, tuple[int, int]]
    constraints: tuple[tuple[str, str, str], ...]
    equations: tuple[Equation, ...]
    answer: str
    result_range: tuple[int, int]
    held_out_modulus: int

    def solve(self, values: dict[str, int]) -> dict[str, int] | None:
        """Values of all variables and results, or None where the combination is not allowed."""
        env = dict(values)
        low, high = self.result_range
        for eq in self.equations:
            x, y = env[eq.left], env[eq.right]
            if eq.op == "+":
                z = x + y
            elif eq.op == "-":
                z = x - y
            elif eq.op == "*":
                z = x * y
            elif y != 0 and x % y == 0:
                z = x // y
            else:
                return None
            if not low <= z <= high:
                return None
            env[eq.result] = z
        for left, op, right in self.constraints:
            x = env[left] if left in env else int(left)
            y = env[right] if right in env else int(right)
            if not COMPARE[op](x, y):
                return None
        return env

    def combinations(self) -> Iterator[dict[str, int]]:
        """All allowed combinations of the variables, in order."""
        names = list(self.variables)
        for point in itertools.product(*(range(a, b + 1) for a, b in self.variables.values())):
            values = dict(zip(names, point, strict=True))
            if self.solve(values) is not None:
                yield values

    def held_out(self, values: dict[str, int]) -> bool:
        """Whether this combination is kept away from training."""
        key = "|".join([self.id, *(f"{n}={values[n]}" for n in self.variables)])
        digest = hashlib.sha256(key.encode()).digest()
        return int.from_bytes(digest[:4], "big") % self.held_out_modulus == 0

    def draw_words(self, rng: random.Random) -> dict[str, str]:
        """One choice for each word slot."""
        return {slot: rng.choice(choices) for slot, choices in self.words.items()}

    def question(self, values: dict[str, int], words: dict[str, str]) -> str:
        """The text of the question."""
        return self.text.format(**values, **words)

    def chain(self, values: dict[str, int]) -> str:
        """The chain of thought, for example `<<3*4=12>> <<12+5=17>>`."""
        env = self.solve(values)
        assert env is not None
        return " ".join(f"<<{env[e.left]}{e.op}{env[e.right]}={env[e.result]}>>" for e in self.equations)

    def result(self, values: dict[str, int]) -> int:
        """The answer."""
        env = self.solve(values)
        assert env is not None
        return env[self.answer]


def load_templates(path: Path = TEMPLATES) -> list[Template]:
    """Read the templates."""
    data = json.loads(path.read_text())
    return [
        Template(
            id=t["id"],
            steps=t["steps"],
            text=t["text"],
            words=t["words"],
            variables={k: (v[0], v[1]) for k, v in t["variables"].items()},
            constraints=tuple(tuple(c.split()) for c in t["constraints"]),
            equations=tuple(Equation(**e) for e in t["equations"]),
            answer=t["answer"],
            result_range=(data["result_range"][0], data["result_range"][1]),
            held_out_modulus=data["held_out_modulus"],
        )
        for t in data["templates"]
    ]


@dataclass(frozen=True)
class Problem:
    """One problem in words."""

    template: str
    steps: int
    question: str
    chain: str
    answer: int


def training_set(count: int, seed: int) -> list[Problem]:
    """`count` problems from the training side of the split; templates are equally frequent."""
    rng = random.Random(seed)
    templates = load_templates()
    pools = {t.id: [v for v in t.combinations() if not t.held_out(v)] for t in templates}
    out = []
    for _ in range(count):
        t = rng.choice(templates)
        values = rng.choice(pools[t.id])
        question = t.question(values, t.draw_words(rng))
        out.append(Problem(t.id, t.steps, question, t.chain(values), t.result(values)))
    return out


def all_equations() -> list[str]:
    """Every bare equation that a training combination contains, once each."""
    found: set[str] = set()
    for t in load_templates():
        for values in t.combinations():
            if not t.held_out(values):
                found.update(t.chain(values).split(" "))
    return sorted(found)


def make_pairs(seed: int = 20) -> list[dict[str, Any]]:
    """The held-out pairs: one number differs between the sides, and so do the answers."""
    rng = random.Random(seed)
    templates = load_templates()
    candidates: dict[str, list[tuple[dict[str, int], dict[str, int], str]]] = {}
    for t in templates:
        held = [v for v in t.combinations() if t.held_out(v)]
        keys = {tuple(v.values()) for v in held}
        found = []
        for v in held:
            for name, (low, high) in t.variables.items():
                for new in range(low, high + 1):
                    w = {**v, name: new}
                    if new == v[name] or tuple(w.values()) not in keys:
                        continue
                    if t.result(v) != t.result(w):
                        found.append((v, w, name))
        rng.shuffle(found)
        candidates[t.id] = found
    pairs: list[dict[str, Any]] = []
    for steps, wanted in PAIRS_BY_STEPS.items():
        group = [t for t in templates if t.steps == steps]
        used: set[tuple[Any, ...]] = set()
        turn = 0
        got = 0
        exhausted = 0
        while got < wanted:
            t = group[turn % len(group)]
            turn += 1
            # The first candidate none of whose sides has been used; then any with a new clean side.
            for strict in (True, False):
                pick = None
                for v, w, name in candidates[t.id]:
                    kv, kw = (t.id, *v.values()), (t.id, *w.values())
                    if kv not in used and (not strict or kw not in used):
                        pick = (v, w, name, kv, kw)
                        break
                if pick:
                    break
            if not pick:
                exhausted += 1
                if exhausted >= len(group):
                    raise SystemExit(f"{steps} steps: not enough held-out combinations")
                continue
            exhausted = 0
            v, w, name, kv, kw = pick
            used.update((kv, kw))
            words = t.draw_words(rng)
            pairs.append(
                {
                    "id": "",
                    "clean": {"question": t.question(v, words), "answer": t.result(v)},
                    "corrupted": {"question": t.question(w, words), "answer": t.result(w)},
                    "change": {"from": str(v[name]), "to": str(w[name])},
                    "source": t.id,
                    "template": t.id,
                    "steps": t.steps,
                }
            )
            got += 1
    rng.shuffle(pairs)
    for k, pair in enumerate(pairs, 1):
        pair["id"] = f"demo-{k:04d}"
    return pairs


def check_pairs(pairs: list[dict[str, Any]], training: list[Problem]) -> None:
    """Raise where a side is not a held-out problem, or was in the training set."""
    held: dict[str, int] = {}
    for t in load_templates():
        slots = [dict(zip(t.words, w, strict=True)) for w in itertools.product(*t.words.values())]
        for values in t.combinations():
            if t.held_out(values):
                for words in slots:
                    held[t.question(values, words)] = t.result(values)
    trained = {p.question for p in training}
    if trained & held.keys():
        raise SystemExit("a training question is on the held-out side")
    ids = set()
    for pair in pairs:
        sides = (pair["clean"], pair["corrupted"])
        for side in sides:
            if held.get(side["question"]) != side["answer"]:
                raise SystemExit(f"{pair['id']}: not a held-out problem: {side['question']}")
        a, b = (side["question"].replace("?", " ?").replace(".", " .").split() for side in sides)
        diff = [(x, y) for x, y in zip(a, b, strict=True) if x.strip(",") != y.strip(",")]
        change = (pair["change"]["from"], pair["change"]["to"])
        if len(diff) != 1 or tuple(d.strip(",") for d in diff[0]) != change:
            raise SystemExit(f"{pair['id']}: {diff} differs, {change} expected")
        if sides[0]["answer"] == sides[1]["answer"]:
            raise SystemExit(f"{pair['id']}: equal answers")
        ids.add(pair["id"])
    if len(ids) != len(pairs):
        raise SystemExit("an id occurs twice")


def main() -> None:
    """Command line."""
    command = sys.argv[1] if len(sys.argv) > 1 else "show"
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else PAIRS
    if command == "pairs":
        pairs = make_pairs()
        check_pairs(pairs, training_set(60_000, 1))
        head = {
            "format": "latentpatch-pairs",
            "version": 1,
            "source": "jobs/demo/train/problems.py (held-out side of templates.json)",
        }
        lines = ",\n  ".join(json.dumps(p) for p in pairs)
        text = json.dumps(head)[:-1] + ', "pairs": [\n  ' + lines + "\n]}\n"
        json.loads(text)
        path.write_text(text)
        print(f"{len(pairs)} pairs")
    elif command == "check":
        pairs = json.loads(path.read_text())["pairs"]
        check_pairs(pairs, training_set(60_000, 1))
        print(f"{len(pairs)} pairs: both sides of each are held out")
    else:
        rng = random.Random(0)
        for t in load_templates():
            combos = list(t.combinations())
            held = sum(t.held_out(v) for v in combos)
            values = rng.choice(combos)
            print(f"{t.id} ({t.steps} steps, {len(combos)} combinations, {held} held out)")
            print(f"  {t.question(values, t.draw_words(rng))}")
            print(f"  {t.chain(values)} The answer is: {t.result(values)}")


if __name__ == "__main__":
    main()
