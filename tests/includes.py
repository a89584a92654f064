"""Includes point downward only: fails on every #include of a header that lies above or beside its own folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# What each folder may include besides itself. A folder's own entry lists everything below it.
BELOW: dict[str, set[str]] = {"base": set()}
BELOW["model"] = {"base"}
BELOW["token"] = {"base"}
BELOW["pairs"] = {"base", "token"}
BELOW["problems"] = {"base", "token", "pairs"}
BELOW["backend"] = {"base", "model"}
BELOW["nn"] = BELOW["backend"] | {"backend", "token"}
BELOW["thought"] = BELOW["nn"] | {"nn"}
BELOW["patch"] = BELOW["thought"] | {"thought", "pairs"}
BELOW["parallel"] = {"base"}
BELOW["store"] = BELOW["patch"] | {"patch", "parallel"}
BELOW["job"] = BELOW["patch"] | {"patch"}
BELOW["stage"] = BELOW["store"] | {"store", "job"}
BELOW["cli"] = BELOW["stage"] | {"stage", "problems"}

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
MPI = re.compile(r"^\s*#\s*include\s*[<\"]mpi\.h[>\"]")


def problems_of(root: Path, path: Path) -> list[str]:
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
        if "/" not in found.group(1):
            if not (path.parent / found.group(1)).exists() and found.group(1) != "lp_revision.h":
                out.append(f"{place}: expected a path from src/, found {found.group(1)}")
        elif folder in BELOW and folder != own and folder not in BELOW[own]:
            allowed = ", ".join(sorted(BELOW[own])) or "nothing"
            out.append(f"{place}: src/{own} may include {allowed}; found {found.group(1)}")
    return out


def main(root: Path) -> int:
    sources = [path for ending in ("*.c", "*.h", "*.cu", "*.cuh") for path in sorted(root.rglob(ending))]
    problems = [
        f"src/{path.relative_to(root)}: an unknown folder"
        for path in sources
        if path.relative_to(root).parts[0] not in BELOW
    ]
    for path in sources:
        if path.relative_to(root).parts[0] in BELOW:
            problems += problems_of(root, path)
    print("\n".join(problems) if problems else f"{len(sources)} files, all includes point downward")
    return int(bool(problems) or not sources)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
