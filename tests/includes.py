"""Includes point downward only: fails on every #include of a header that lies above or beside its own folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# What each folder includes besides itself, folders further down first. An arrow that nothing uses is an error as well.
BELOW: dict[str, set[str]] = {
    "base": set(),
    "model": {"base"},
    "token": {"base"},
    "parallel": {"base"},
    "pairs": {"base", "token"},
    "problems": {"base", "token", "pairs"},
    "backend": {"base", "model"},
    "nn": {"base", "model", "backend"},
    "thought": {"base", "model", "token", "nn"},
    "patch": {"base", "token", "pairs", "backend", "nn", "thought"},
    "store": {"base", "parallel", "pairs"},
    "job": {"base", "model", "pairs", "thought", "patch"},
    "stage": {"base", "parallel", "pairs", "backend", "nn", "patch", "store", "job"},
    "report": {"base", "store"},
    "cli": {
        "base",
        "model",
        "token",
        "pairs",
        "parallel",
        "problems",
        "backend",
        "thought",
        "patch",
        "store",
        "job",
        "stage",
        "report",
    },
}

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
MPI = re.compile(r"^\s*#\s*include\s*[<\"]mpi\.h[>\"]")


def problems_of(root: Path, path: Path, used: set[tuple[str, str]]) -> list[str]:
    own = path.relative_to(root).parts[0]
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        place = f"src/{path.relative_to(root)}:{number}"
        if MPI.match(line) and own not in ("parallel", "store"):
            out.append(f"{place}: mpi.h is for src/parallel and src/store, found it in src/{own}")
        found = INCLUDE.match(line)
        if not found:
            continue
        folder = found.group(1).split("/")[0]
        used.add((own, folder))
        if "/" not in found.group(1):
            if not (path.parent / found.group(1)).exists() and found.group(1) != "lp_revision.h":
                out.append(f"{place}: expected a path from src/, found {found.group(1)}")
        elif folder in BELOW and folder != own and folder not in BELOW[own]:
            allowed = ", ".join(sorted(BELOW[own])) or "nothing"
            out.append(f"{place}: src/{own} may include {allowed}; found {found.group(1)}")
    return out


def main(root: Path) -> int:
    used: set[tuple[str, str]] = set()
    sources = [path for ending in ("*.c", "*.h", "*.cu", "*.cuh") for path in sorted(root.rglob(ending))]
    problems = [
        f"src/{path.relative_to(root)}: an unknown folder" for path in sources if path.relative_to(root).parts[0] not in BELOW
    ]
    for path in sources:
        if path.relative_to(root).parts[0] in BELOW:
            problems += problems_of(root, path, used)
    seen: set[str] = set()
    for own, below in BELOW.items():
        problems += [f"src/{own} may include src/{folder}, which does not come before it" for folder in below - seen]
        problems += [f"src/{own} may include src/{folder}, and nothing does" for folder in below if (own, folder) not in used]
        seen.add(own)
    print("\n".join(problems) if problems else f"{len(sources)} files, all includes point downward")
    return int(bool(problems) or not sources)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
