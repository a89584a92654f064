"""Sums the JUnit reports of a folder: one line a report, the reasons of skips, what failed with the last lines that it
said, and the count of all as the last line.

A ctest test counts as one, however many cases its program has. A file NAME.skipped stands for a runner that could not
start, a file NAME.failed for one without a report that failed; NAME.log is what it said.
Exit code 1 when anything failed or a report is broken.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

SKIP_REASON = re.compile(r"skipped: .*", re.IGNORECASE)


def verdict(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "passed"


def reason(case: ElementTree.Element) -> str:
    output = case.findtext("system-out") or ""
    found = SKIP_REASON.search(output)
    if found:
        return found.group(0)
    skipped = case.find("skipped")
    return (skipped.get("message") if skipped is not None else None) or "no reason given"


def last_lines(case: ElementTree.Element, most: int = 12) -> list[str]:
    """What a failed test said last: of ctest its output, of pytest the failure itself."""
    failure = case.find("failure")
    text = case.findtext("system-out") or (failure.text if failure is not None else None) or ""
    return [line for line in text.splitlines() if line.strip()][-most:]


def main(folder: Path) -> int:
    total = {"passed": 0, "failed": 0, "skipped": 0}
    failures: dict[str, list[str]] = {}
    broken = 0
    print()
    for path in sorted(folder.glob("*.xml")):
        counts = dict.fromkeys(total, 0)
        try:
            cases = list(ElementTree.parse(path).iter("testcase"))
        except ElementTree.ParseError as error:
            print(f"{path.stem}: the report is broken: {error}")
            broken += 1
            continue
        for case in cases:
            what = verdict(case)
            counts[what] += 1
            if what == "failed":
                failures[f"{path.stem}: {case.get('name')}"] = last_lines(case)
            elif what == "skipped":
                print(f"{path.stem}: {case.get('name')}: {reason(case)}")
            elif inner := SKIP_REASON.findall(case.findtext("system-out") or ""):
                print(f"{path.stem}: {case.get('name')}: passed, but part of it was {inner[0]}")
        print(f"{path.stem}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
        for what, n in counts.items():
            total[what] += n
    for path in sorted(folder.glob("*.skipped")):
        print(f"{path.stem}: skipped: could not start")
        total["skipped"] += 1
    for path in sorted(folder.glob("*.failed")):
        failures[path.stem] = path.with_suffix(".log").read_text(errors="replace").splitlines()[-40:]
        total["failed"] += 1
    for failure, said in failures.items():
        print(f"FAILED {failure}", *said, sep="\n    ")
    total["failed"] += broken
    print(", ".join(f"{n} {what}" for what, n in total.items()))
    return int(total["failed"] > 0 or total["passed"] == 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
