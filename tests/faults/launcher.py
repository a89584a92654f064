"""mpiexec when a rank of its job was killed. That of Open MPI 4.1.4 then sleeps for ever now and then, in the end of its PMIx
library (3 of 274 kills of a program that only adds numbers; docs/cluster.md): that is not the job's fault, and is told apart
here from ranks that go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

SLEEP_S = 20  # mpiexec itself takes a second or two to end the other ranks


def stat_of(pid: int) -> tuple[str, str, int]:
    """Name, state and parent of a process; OSError where there is none."""
    name, rest = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)
    words = rest.split()
    return name.split("(", 1)[1], words[0], int(words[1])


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if stat_of(int(entry.name))[2] == pid:
                    found.append(int(entry.name))
    return found


def is_running(pid: int, name: str) -> bool:
    """A process of this name that has not ended; one that nobody waited for yet (a zombie) has."""
    with contextlib.suppress(OSError):
        # The system keeps 15 characters of a name.
        return stat_of(pid)[0] == name[:15] and stat_of(pid)[1] != "Z"
    return False


def ranks_of(pid: int, name: str) -> list[int]:
    """The children of mpiexec that are ranks by now and still run: it has others for a moment."""
    return [child for child in children_of(pid) if is_running(child, name)]


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_after_kill(process: subprocess.Popen[str], name: str, limit_s: int) -> bool:
    """Waits for an mpiexec of which somebody was killed, limit_s at most. False: no rank was left for 20 s and it still
    slept; it is killed."""
    without = 0
    for _ in range(limit_s):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if process.poll() is not None:
            return True
        without = 0 if ranks_of(process.pid, name) else without + 1
        if without == SLEEP_S:
            kill([*children_of(process.pid), process.pid])
            return False
    return True
