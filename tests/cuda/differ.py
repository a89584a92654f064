"""differ.py FIRST.csv SECOND.csv: how many rows of two sweeps of the same pairs and conditions have another outcome or text."""

import csv
import sys


def rows(path: str) -> dict[tuple[str, str], tuple[str, str]]:
    with open(path, newline="", encoding="utf-8") as f:
        return {(r["pair"], r["condition"]): (r["class"], r["text"]) for r in csv.DictReader(f)}


first, second = map(rows, sys.argv[1:3])
if not first or first.keys() != second.keys():
    sys.exit(f"{sys.argv[1]} has {len(first)} rows, {sys.argv[2]} {len(second)}, in both {len(first.keys() & second.keys())}")
classes = sum(first[key][0] != second[key][0] for key in first)
texts = sum(first[key][1] != second[key][1] for key in first)
print(f"rows: {len(first)}  outcome differs: {classes}  text differs: {texts}")
