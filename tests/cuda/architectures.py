"""architectures.py MODULE TARGET...: fails unless the module's fat binaries hold code for exactly these targets, each.

Reads the section .nv_fatbin: containers (magic 0xba55ed50) of entries, kind 1 = PTX (compute_NN), 2 = machine code
(sm_NN), as `cuobjdump --list-elf --list-ptx` would list them; for machines without cuobjdump.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
KINDS = {1: "compute", 2: "sm"}


def targets_of(data: bytes) -> list[set[str]]:
    containers = []
    at = data.find(MAGIC)
    while at >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", data, at)
        place, end, targets = at + header, at + header + size, set()
        while place + 64 <= end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, place)
            (arch,) = struct.unpack_from("<I", data, place + 28)
            targets.add(f"{KINDS.get(kind, kind)}_{arch}")
            place += entry_header + entry_size
        containers.append(targets)
        at = data.find(MAGIC, end)
    return containers


def main(module: Path, expected: set[str]) -> int:
    containers = targets_of(module.read_bytes())
    # CUDA's static runtime has a container of its own without code of ours.
    ours = [targets for targets in containers if targets]
    for targets in ours:
        if targets != expected:
            print(f"{module.name}: expected {sorted(expected)}, found {sorted(targets)}")
            return 1
    print(f"{module.name}: {len(ours)} fat binaries, each with {', '.join(sorted(expected))}")
    return int(not ours)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), set(sys.argv[2:])))
