"""Append a line to bench/record.csv and draw all lines in bench/RESULTS.md; called by record.sh."""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import re
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COLUMNS = [
    "date",
    "revision",
    "processor",
    "kernels",
    "model",
    "ratio_hooks",
    "ratio_batched",
    "gemm_share",
    "conditions_per_second",
    "row_layers_per_second",
]
BEGIN, END = "<!-- record.csv: begin -->\n", "<!-- record.csv: end -->\n"
BAR = 30


def revision() -> str:
    """The commit, with a mark where the tree differs from it."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name; family and model where it has none of its own."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^(vendor_id|cpu family|model|model name)\s*:\s*(.*)$", text, re.M))
    return f"{fields.get('model name', 'unknown')} (family {fields.get('cpu family')}, model {fields.get('model')})"


def of_compare(path: Path) -> list[dict[str, Any]]:
    """The line of what compare.sh printed."""
    found = dict(re.findall(r"^([a-z_]+): (\S+)$", path.read_text(encoding="utf-8"), re.M))
    return [
        {
            "processor": processor(),
            "kernels": found["kernels"],
            "model": "gpt2-124m",
            "ratio_hooks": found["ratio"],
            "ratio_batched": found.get("batched_ratio", ""),
            "gemm_share": found["gemm_share"],
            "conditions_per_second": found["conditions_per_second"],
            "row_layers_per_second": found["row_layers_per_second"],
        }
    ]


def of_gpu(path: Path) -> list[dict[str, Any]]:
    """A line for each dtype of compare_cuda.py's figures."""
    r = json.loads(path.read_text(encoding="utf-8"))
    lines = []
    for name in (key for key in r if key.startswith("ratio.")):
        dtype = name.removeprefix("ratio.")
        one = r.get(f"ours.{dtype}.seconds_per_condition")
        lines.append(
            {
                "processor": r["chip"],
                "kernels": dtype,
                "model": r.get("shape", "llama-3.2-1b"),
                "ratio_hooks": f"{r[name]:.0f}",
                "ratio_batched": f"{r[f'batched_ratio.{dtype}']:.1f}" if f"batched_ratio.{dtype}" in r else "",
                "gemm_share": f"{r[f'gemm_share.{dtype}']:.2f}" if f"gemm_share.{dtype}" in r else "",
                "conditions_per_second": f"{1 / one:.0f}" if one else "",
                "row_layers_per_second": "",
            }
        )
    return lines


def append(lines: list[dict[str, Any]]) -> None:
    """Add to the file, which is begun where it is missing."""
    path = HERE / "record.csv"
    begun = path.exists()
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    with path.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        if not begun:
            writer.writeheader()
        for line in lines:
            writer.writerow({"date": today, "revision": revision(), **line})


def draw() -> None:
    """The lines as a table; a bar compares the ratios of one processor and its kernels."""
    with (HERE / "record.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    most: dict[str, float] = {}
    for row in rows:
        most[row["processor"]] = max(most.get(row["processor"], 0.0), float(row["ratio_hooks"]))
    titles = "| date | revision | processor, kernels | hooks | batched | share | conditions/s | row-layers/s | |"
    text = [titles, "|" + "---|" * 9]
    for row in rows:
        bar = "█" * max(1, round(BAR * float(row["ratio_hooks"]) / most[row["processor"]]))
        cells = [row["date"], row["revision"], f"{row['processor']}, {row['kernels']}", row["ratio_hooks"]]
        cells += [row[c] or "-" for c in COLUMNS[6:]]
        text.append("| " + " | ".join([*cells, bar]) + " |")
    page = HERE / "RESULTS.md"
    old = page.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{page}: expected the lines {BEGIN.strip()} and {END.strip()}, found none")
    before, rest = old.split(BEGIN, 1)
    page.write_text(before + BEGIN + "\n".join(text) + "\n" + END + rest.split(END, 1)[1], encoding="utf-8")


def main() -> None:
    """Add what is given, then draw."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--compare", type=Path, help="what bench/compare.sh printed")
    p.add_argument("--gpu", type=Path, help="compare.json of bench/compare_cuda.py")
    p.add_argument("--draw", action="store_true", help="only draw")
    a = p.parse_args()
    if a.compare:
        append(of_compare(a.compare))
    if a.gpu:
        append(of_gpu(a.gpu))
    draw()


if __name__ == "__main__":
    main()
