"""kernels_on_cpu.py IN.cu OUT.cpp: rewrites what only nvcc understands, so that a host compiler can build the kernels.

Launches `kernel<<<grid, block, shared, stream>>>(arguments);` become calls of emulator::launch, which keep the arguments'
values of that moment; shared arrays become static ones.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def matching(text: str, at: int) -> int:
    """The place after the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    raise ValueError("unbalanced parentheses")


def cooperating(text: str) -> set[str]:
    """Names of the kernels whose threads wait for each other; the others' can run one after the other."""
    parts = text.split("__global__ ")[1:]
    names = (re.search(r"(\w+)\s*\(", re.sub(r"__launch_bounds__\([^)]*\)", "", part)) for part in parts)
    waits = r"sync|shfl|block_|take_"
    return {name[1] for name, part in zip(names, parts, strict=True) if name and re.search(waits, part)}


def rewrite(text: str) -> str:
    waiting = cooperating(text)
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1 *\2 = static_cast<\1 *>(emulator::dynamic_shared());", text)
    text = text.replace("__shared__ ", "static ")
    launch = re.compile(r"([A-Za-z_]\w*(?:<[^;<>]*>)?)\s*<<<(.*?),\s*stream>>>\s*\(", re.S)
    while found := launch.search(text):
        end = matching(text, found.end() - 1)
        arguments = text[found.end() - 1 : end]
        waits = "true" if re.match(r"\w+", found[1])[0] in waiting else "false"
        kernel = f"std::apply([](auto... x) {{ {found[1]}(x...); }}, arguments)"
        call = f"emulator::launch({waits}, {found[2]}, [arguments = std::make_tuple{arguments}] {{ {kernel}; }})"
        text = text[: found.start()] + call + text[end:]
    return '#include "cuda/emulator/device.h"\n' + text


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(rewrite(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
