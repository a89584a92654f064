"""Runs programs under mpirun on two hosts that share no memory: two network namespaces, each with a host name and a
/dev/shm of its own, joined by a virtual cable. Needs root and iproute2; otherwise says what is missing and skips.

Usage: two_hosts.py MPIEXEC TEST_DEAL PAIR_WRITER
"""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = 77
ADDRESSES = ("10.77.43.1", "10.77.43.2")


def skip(reason: str) -> None:
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


class Hosts:
    def __init__(self, folder: Path) -> None:
        self.names = (f"lpa{os.getpid()}", f"lpb{os.getpid()}")
        self.folder = folder
        self.agent = folder / "agent.sh"
        self.agent.write_text(
            "#!/bin/sh\n"
            "host=$1; shift\n"
            'exec ip netns exec "$host" unshare --uts --mount sh -c '
            '\'hostname "$0"; mount -t tmpfs -o size="$(cat "' + str(folder) + '/$0.shm" 2>/dev/null || echo 50%)" '
            "tmpfs /dev/shm; "
            'exec sh -c "$*"\' "$host" "$@"\n'
        )
        self.agent.chmod(self.agent.stat().st_mode | stat.S_IXUSR)

    def start(self) -> None:
        if os.geteuid() != 0:
            skip("network namespaces need root")
        for tool in ("ip", "unshare", "hostname"):
            if not shutil.which(tool):
                skip(f"no program {tool}")
        # In a chroot whose / is no mount point there are none.
        mounts = subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True, text=True)
        if mounts.returncode != 0:
            skip(f"cannot make a mount namespace: {mounts.stderr.strip()}")
        for name in self.names:
            made = ip("netns", "add", name)
            if made.returncode != 0:
                skip(f"cannot make a network namespace: {made.stderr.strip()}")
            ip("-n", name, "link", "set", "lo", "up")
        cable = ip("link", "add", "lpv0", "netns", self.names[0], "type", "veth", "peer", "name", "lpv1", "netns", self.names[1])
        if cable.returncode != 0:
            skip(f"cannot join the namespaces: {cable.stderr.strip()}")
        for number, name in enumerate(self.names):
            ip("-n", name, "addr", "add", f"{ADDRESSES[number]}/24", "dev", f"lpv{number}")
            ip("-n", name, "link", "set", f"lpv{number}", "up")

    def stop(self) -> None:
        for name in self.names if shutil.which("ip") else ():
            ip("netns", "del", name)

    def give_shared_memory(self, host: int, size: str) -> None:
        """To what is started there from now on."""
        (self.folder / f"{self.names[host]}.shm").write_text(size)

    def words(self, mpiexec: str, ranks: int, *command: str) -> list[str]:
        slots = ",".join(f"{name}:{ranks // 2}" for name in self.names)
        # Half of the ranks on each: with more ranks than cores allowed, Open MPI 5 fills the first host.
        options = ["--host", slots, "--map-by", f"ppr:{ranks // 2}:node:oversubscribe"]
        options += ["--mca", "plm_rsh_agent", str(self.agent), "--mca", "plm", "^slurm", "--mca", "ras", "^slurm"]
        return [str(self.agent), self.names[0], mpiexec, "-n", str(ranks), *options, *command]

    def run(self, mpiexec: str, ranks: int, *command: str) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ, OMPI_MCA_orte_tmpdir_base=str(self.folder))
        words = self.words(mpiexec, ranks, *command)
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100)


def expect(result: subprocess.CompletedProcess[str], text: str) -> None:
    if result.returncode != 0 or text not in result.stdout:
        sys.exit(f"FAILED ({result.returncode}), expected '{text}':\n{result.stdout}{result.stderr}")


def main() -> None:
    mpiexec, test_deal, record_writer = sys.argv[1:4]
    folder = Path(tempfile.mkdtemp(prefix="lp"))
    hosts = Hosts(folder)
    try:
        hosts.start()
        expect(hosts.run(mpiexec, 4, test_deal, "2"), "4 ranks on 2 hosts: good")
        expect(hosts.run(mpiexec, 4, record_writer, "write", str(folder / "x.h5"), "60"), "start 0 of 60")
        expect(hosts.run(mpiexec, 4, record_writer, "write", str(folder / "x.h5"), "60"), "start 60 of 60, torn 0")
        print("two hosts: dealing, shared memory and a pair file, 2 ranks each: good")
    finally:
        hosts.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
