"""differ.py [--texts] FIRST.csv SECOND.csv: how many rows of two sweeps of the same pairs and conditions have another
outcome or text. --texts: of the rows of SECOND, which has texts alone.
"""

import csv
import sys


def rows(path: str) -> dict[tuple[str, str], tuple[str, str]]:
    with open(path, newline="", encoding="utf-8") as f:
        return {(r["pair"], r["condition"]): (r.get("class", ""), r["text"]) for r in csv.DictReader(f)}


paths = [word for word in sys.argv[1:] if word != "--texts"]
first, second = map(rows, paths)
if "--texts" in sys.argv:
    first = {key: ("", first[key][1]) for key in second if key in first}
if not first or first.keys() != second.keys():
    sys.exit(f"{paths[0]} has {len(first)} rows, {paths[1]} {len(second)}, in both {len(first.keys() & second.keys())}")
classes = sum(first[key][0] != second[key][0] for key in first)
texts = sum(first[key][1] != second[key][1] for key in first)
print(f"rows: {len(first)}  outcome differs: {classes}  text differs: {texts}")
