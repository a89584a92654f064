"""Audit of a pair file made by `latentpatch pairs make`: draws pairs at random and derives each answer again.

Shares no code with the program. Three derivations, each by itself able to disagree:

  texts     the two questions differ in the stated change and nothing else;
  solution  every <<expression=result>> of the corrupted solution, and every equation written out in plain text,
            holds in exact fractions; its last result is its #### number and the pair's answer;
  replay    the clean solution is run again with the changed number put in, each operand taken from the nearest
            earlier result of its value, else from the changed number (also as a percentage's share), else kept.

    python tests/audit_pairs.py PAIRS.json [--n 200] [--seed 0] [--show]
    python tests/audit_pairs.py --program PATH/TO/latentpatch      (makes them from GSM8K first)
    python tests/audit_pairs.py --program PATH/TO/latentpatch --gsm-plus [--kind "numerical substitution"]

The last compares the answers that GSM-Plus states for its variants with those recomputed from the seed's solution, and
shows the arithmetic of both sides where they differ.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import os
import random
import re
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
ANNOTATION = re.compile(r"<<(.*?)>>")
NUMBER = re.compile(r"\d[\d,]*\.?\d*|\.\d+")
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value_of(text: str) -> Fraction:
    """The number that a text spells, in digits or as a word."""
    text = text.strip().lower()
    if text in WORDS:
        return Fraction(WORDS.index(text))
    return Fraction(text.replace(",", "").rstrip("."))


def tidy(expression: str) -> str:
    """The expression in Python's spelling."""
    text = expression.replace("$", "").replace(" ", "").replace("x", "*").replace("X", "*")
    text = text.replace("\u00d7", "*").replace("\u00f7", "/")
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"([\d.]+)%", r"(\1/100)", text)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def evaluate(expression: str, replace: dict[int, Fraction] | None = None) -> Fraction:
    """Exact value; replace gives other values to the operands with these positions (0, 1, ... from the left)."""
    tree = ast.parse(tidy(expression), mode="eval")
    nodes = sorted((n for n in ast.walk(tree) if isinstance(n, ast.Constant)), key=lambda n: (n.lineno, n.col_offset))
    order = {id(node): i for i, node in enumerate(nodes)}
    source = tidy(expression)

    def walk(node: ast.AST) -> Fraction:
        if isinstance(node, ast.Expression):
            return walk(node.body)
        if isinstance(node, ast.Constant):
            i = order[id(node)]
            if replace and i in replace:
                return replace[i]
            return Fraction(source[node.col_offset : node.end_col_offset].rstrip("."))
        if isinstance(node, ast.UnaryOp):
            inner = walk(node.operand)
            return -inner if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        raise ValueError(f"not arithmetic: {expression}")

    return walk(tree)


def operands(expression: str) -> list[Fraction]:
    tree = ast.parse(tidy(expression), mode="eval")
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    nodes.sort(key=lambda n: (n.lineno, n.col_offset))
    source = tidy(expression)
    return [Fraction(source[n.col_offset : n.end_col_offset].rstrip(".")) for n in nodes]


def steps(solution: str) -> list[tuple[str, Fraction]]:
    found = []
    for body in ANNOTATION.findall(solution):
        left, right = body.split("=", 1)[0], body.rsplit("=", 1)[1]
        found.append((left, value_of(right.replace("$", "").replace("%", ""))))
    return found


def final(solution: str) -> Fraction:
    return value_of(solution.rsplit("####", 1)[1].replace("$", "").replace("%", ""))


def check_texts(pair: dict) -> list[str]:
    clean, corrupted = pair["clean"]["question"], pair["corrupted"]["question"]
    old, new = pair["change"]["from"], pair["change"]["to"]
    places = [m.start() for m in re.finditer(re.escape(old), clean)]
    if not any(clean[:at] + new + clean[at + len(old) :] == corrupted for at in places):
        return ["the questions differ in more than the change"]
    standing = [NUMBER.findall(clean), NUMBER.findall(corrupted)]
    return [] if len(standing[0]) == len(standing[1]) or old.isalpha() else ["the questions differ in their numbers"]


def plain_equations(solution: str) -> list[tuple[str, bool]]:
    """The equations that the text writes out, and whether each holds."""
    number = r"\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
    pattern = rf"({number}(?:\s*[-+*/x]\s*{number})+)\s*=\s*({number})(?![\d%/.,]|\s*[-+*/x])"
    plain = ANNOTATION.sub("", solution)
    found = []
    for match in re.finditer(pattern, plain):
        if plain[: match.start()].rstrip()[-1:] in tuple("+-*/x(%"):
            continue
        try:
            found.append((match[0], evaluate(match[1]) == value_of(match[2].replace("$", ""))))
        except (SyntaxError, ValueError, ZeroDivisionError):
            continue
    return found


def check_solution(pair: dict) -> list[str]:
    solution, answer = pair["corrupted"]["solution"], Fraction(str(pair["corrupted"]["answer"]))
    problems = []
    for left, result in steps(solution):
        if evaluate(left) != result:
            problems.append(f"<<{left}={result}>> is {evaluate(left)}")
    if steps(solution)[-1][1] != answer or final(solution) != answer:
        problems.append(f"the solution ends in {final(solution)}, the answer is {answer}")
    before = plain_equations(pair["clean"]["solution"])
    after = plain_equations(solution)
    for old, new in zip(before, after, strict=False):
        if old[1] and not new[1]:
            problems.append(f"the text says {new[0]}")
    return problems


def shares(value: Fraction) -> list[Fraction]:
    return [value, value / 100, 1 - value / 100, 1 + value / 100, 100 - value, 100 + value]


def replay(pair: dict) -> list[str]:
    old, new = value_of(pair["change"]["from"]), value_of(pair["change"]["to"])
    percent = re.search(re.escape(pair["change"]["from"]) + r"\s?(%|percent|-percent)", pair["clean"]["question"])
    forms = dict(zip(shares(old), shares(new), strict=True)) if percent else {old: new}
    cents = re.search(re.escape(pair["change"]["from"]) + r"[ -]cent", pair["clean"]["question"])
    if cents:
        forms[old / 100] = new / 100
    before: list[Fraction] = []
    after: list[Fraction] = []
    for left, result in steps(pair["clean"]["solution"]):
        put = {}
        for i, value in enumerate(operands(left)):
            earlier = [k for k in range(len(before)) if before[k] == value]
            if earlier:
                put[i] = after[earlier[-1]]
            elif value in forms:
                put[i] = forms[value]
        before.append(result)
        after.append(evaluate(left, put))
    answer = Fraction(str(pair["corrupted"]["answer"]))
    return [] if after[-1] == answer else [f"replaying the clean solution gives {after[-1]}, the answer is {answer}"]


def audit(pair: dict) -> list[str]:
    clean = pair["clean"]
    problems = []
    if final(clean["solution"]) != Fraction(str(clean["answer"])):
        problems.append("the clean answer is not its solution's")
    if clean["answer"] == pair["corrupted"]["answer"]:
        problems.append("the answers are equal")
    return problems + check_texts(pair) + check_solution(pair) + replay(pair)


def outside_data() -> Path:
    return Path(os.environ.get("LATENTPATCH_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def make_and_audit(program: str, n: int, seed: int) -> int:
    """Makes pairs from the training and the test problems of GSM8K and audits both files."""
    data = outside_data() / "gsm8k"
    if not data.is_dir():
        print("skipped: no outside data (gsm8k)")
        return 77
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, least in (("train", 3000), ("test", 500)):
            out = Path(folder) / f"{name}.json"
            command = [program, "pairs", "make", "--source", str(data / f"{name}.jsonl"), "--format", "gsm8k"]
            subprocess.run([*command, "--seed", str(seed), "-o", str(out)], check=True, stdout=subprocess.DEVNULL)
            pairs = json.loads(out.read_text(encoding="utf-8"))["pairs"]
            print(f"{name}: {len(pairs)} pairs")
            failures += len(pairs) < least
            failures += not audit_file(pairs, n, seed, show=False)
    return 1 if failures else 0


def arithmetic(solution: str) -> list[str]:
    """The equations of a solution, words left out; those that do not hold say so."""
    plain = ANNOTATION.sub("", solution)
    number = r"\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)%?"
    words = r"[ A-Za-z\u2019'/()-]*?"
    pattern = rf"({number}(?:{words}\s[-+*/x\u00d7\u00f7]\s?{number}|[-+*/x]{number})+){words}=\s*({number})"
    found = []
    for match in re.finditer(pattern, plain):
        left = re.sub(r"[A-Wa-wYyZz\u2019'()$ ]|(?<=[ \w])/(?=[a-z])", "", re.sub(r"/[a-z]+|[a-z]+/", "", match[1]))
        right = match[2].replace("$", "")
        try:
            value = evaluate(left)
        except (SyntaxError, ValueError, ZeroDivisionError):
            continue
        holds = value == value_of(right.rstrip("%"))
        found.append(f"{left}={right}" + ("" if holds else f" (is {value})"))
    return found


def compare_variants(program: str, kind: str) -> int:
    """Compares the stated answers of GSM-Plus with the recomputed ones; lists every difference."""
    source = outside_data() / "gsm_plus" / "gsmplus_testmini.jsonl"
    if not source.is_file():
        print("skipped: no outside data (gsm_plus)")
        return 77
    lines = source.read_text(encoding="utf-8").split("\n")
    records = [(i, line) for i, line in enumerate(lines) if line and json.loads(line)["perturbation_type"] == kind]
    with tempfile.TemporaryDirectory() as folder:
        chosen, rejected = Path(folder) / "chosen.jsonl", Path(folder) / "rejected.jsonl"
        chosen.write_text("".join(line + "\n" for _, line in records), encoding="utf-8")
        command = [program, "pairs", "make", "--source", str(chosen), "--format", "gsm-plus"]
        command += ["--rejected", str(rejected), "-o", str(Path(folder) / "pairs.json")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if not rejected.is_file():
            print(done.stderr, end="")
            return 1
        summary = done.stdout
        refusals = [json.loads(line) for line in rejected.read_text(encoding="utf-8").splitlines()]
    linked, agreeing = map(int, re.search(r"(\d+) variants recomputed, (\d+) equal", summary).groups())
    for refusal in (r for r in refusals if r["reason"] == "other-answer"):
        index, line = records[refusal["index"]]
        ours = [f"{left}={result}" for left, result in steps(refusal["solution"])]
        print(f"line {index + 1}: {refusal['from']} is stated, {refusal['to']} recomputed")
        print("  recomputed:", "; ".join(ours))
        print("  stated:    ", "; ".join(arithmetic(json.loads(line)["solution"])))
    print(f"{kind}: {len(records)} variants, {linked} linked, {agreeing} equal ({100 * agreeing / max(1, linked):.1f} %)")
    return 0 if linked else 1


def audit_file(pairs: list[dict], n: int, seed: int, *, show: bool) -> bool:
    """Audits n drawn pairs (0: all), lists every disagreement; True when 98 % or more agree."""
    drawn = random.Random(seed).sample(pairs, min(n, len(pairs))) if n else pairs
    wrong = 0
    for pair in drawn:
        problems = audit(pair)
        if show:
            change = pair["change"]
            print(f"## {pair['id']}  {change['from']} -> {change['to']}  answer {pair['corrupted']['answer']}")
            print(pair["corrupted"]["question"], pair["corrupted"]["solution"], sep="\n")
        if problems:
            wrong += 1
            print(f"{pair['id']}: {'; '.join(problems)}")
    good = len(drawn) - wrong
    print(f"{good} of {len(drawn)} drawn pairs agree ({100 * good / max(1, len(drawn)):.1f} %)")
    return good >= 0.98 * len(drawn)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, nargs="?")
    parser.add_argument("--program", help="make the pairs with this latentpatch first")
    parser.add_argument("--n", type=int, default=200, help="how many to draw (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print every drawn pair, for reading")
    parser.add_argument("--gsm-plus", action="store_true", help="compare with the stated answers of GSM-Plus")
    parser.add_argument("--kind", default="numerical substitution", help="of the variants of GSM-Plus")
    options = parser.parse_args()
    if options.program and options.gsm_plus:
        return compare_variants(options.program, options.kind)
    if options.program:
        return make_and_audit(options.program, options.n, options.seed)
    if not options.pairs:
        parser.error("a pair file or --program is needed")
    pairs = json.loads(options.pairs.read_text(encoding="utf-8"))["pairs"]
    return 0 if audit_file(pairs, options.n, options.seed, show=options.show) else 1


if __name__ == "__main__":
    sys.exit(main())
