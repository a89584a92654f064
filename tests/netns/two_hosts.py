"""The program on two hosts that share no memory: both stages on two network namespaces, each with a host name and a
/dev/shm of its own, give the datasets of a run on one host; a rank that dies on the far host, and a host without room for
the weights, end the job.

Usage: two_hosts.py LATENTPATCH MPIEXEC
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "faults"))
sys.path.insert(0, str(TESTS / "mpi"))

from launcher import SLEEP_S, is_running, kill  # noqa: E402
from same import difference  # noqa: E402
from two_hosts import Hosts, ip, skip  # noqa: E402

LIMIT_S = 100


def expect(condition: object, text: str) -> None:
    if not condition:
        sys.exit(f"FAILED: {text}")


def job(folder: Path, model: str, out: str, pairs: int = 12) -> Path:
    top = TESTS.parent / "jobs"
    job = json.loads((top / f"demo-{model}.json").read_text())
    for key in ("base", "codi"):
        job["model"][key] = str(top / job["model"][key])
    job["pairs"] = {"file": str(top / job["pairs"]["file"]), "limit": pairs}
    job["store"] = {"file": f"{out}/{model}.store.h5"}
    job["results"] = {"file": f"{out}/{model}.results.h5"}
    job["sweep"]["filter"] = "all"
    job["engine"] = {"threads": 1, "executor": "reference" if out == "dead" else "batched"}
    path = folder / f"{out}-{model}.json"
    path.write_text(json.dumps(job))
    return path


def dead_rank(hosts: Hosts, program: str, mpiexec: str, folder: Path) -> str:
    """SIGKILL of the rank on the second host in the middle of a stage; the job ends, and goes on when started again."""
    file = folder / "dead" / "gpt2.store.h5"
    words = hosts.words(mpiexec, 2, program, "cache", str(job(folder, "gpt2", "dead", 200)))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + LIMIT_S
    while not file.exists():
        expect(time.monotonic() < end and process.poll() is None, "the stage did not begin")
        time.sleep(0.02)
    name = Path(program).name

    def processes(host: str) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", host).stdout.split()]

    ranks = [pid for pid in processes(hosts.names[1]) if is_running(pid, name)]
    expect(len(ranks) == 1, f"ranks on the second host: {ranks}")
    os.kill(ranks[0], signal.SIGKILL)
    begin = time.monotonic()
    try:
        process.communicate(timeout=SLEEP_S + 10)
        expect(process.returncode != 0, "a job with a dead rank ended with 0")
    except subprocess.TimeoutExpired:
        everybody = [pid for host in hosts.names for pid in processes(host)]
        left = [pid for pid in everybody if is_running(pid, name)]
        own = (Path(mpiexec).name, "orted", "prterun", "prted")  # the last two of Open MPI 5
        launchers = [pid for pid in everybody if any(is_running(pid, name) for name in own)]
        kill([*left, *launchers, process.pid])
        process.wait()
        expect(not left, f"the job outlives its dead rank: {left}")
    took = time.monotonic() - begin
    found = hosts.run(mpiexec, 2, program, "store", "verify", str(file))
    expect(found.returncode == 0, f"after the dead rank: {found.stdout}{found.stderr}")
    Path(f"{file}.lock").unlink(missing_ok=True)
    found = hosts.run(mpiexec, 2, program, "cache", str(folder / "dead-gpt2.json"))
    expect(found.returncode == 0, f"the same command again: {found.stderr}")
    return f"a dead rank on the other host ended the job after {took:.1f} s, and it went on"


def no_room(hosts: Hosts, program: str, mpiexec: str, folder: Path) -> str:
    """The weights do not fit the shared memory of the second host: its ranks fail, and those of the first one hear of it."""
    hosts.give_shared_memory(1, "1m")
    # Open MPI's own messages go through the same memory unless they are told otherwise.
    alone = ("--mca", "btl", "self,tcp")
    found = hosts.run(mpiexec, 4, *alone, program, "cache", str(job(folder, "gpt2", "room")))
    hosts.give_shared_memory(1, "50%")
    expect(found.returncode == 1, f"no room for the weights: {found.returncode} {found.stdout}{found.stderr}")
    expect("/dev/shm: expected room for" in found.stderr, f"no room for the weights: {found.stderr}")
    return "no room for the weights on one host ends the job on both"


def main() -> None:
    program, mpiexec = sys.argv[1:3]
    if not shutil.which("h5diff"):
        skip("no program h5diff")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="lpn"))
    hosts = Hosts(folder)
    try:
        hosts.start()
        for model in ("gpt2", "llama"):
            subprocess.run([program, "run", str(job(folder, model, "one"))], check=True, capture_output=True)
            for ranks in (2, 4):
                out = f"two{ranks}"
                found = hosts.run(mpiexec, ranks, program, "run", str(job(folder, model, out)))
                expect(found.returncode == 0, f"{model}, {ranks} ranks on 2 hosts: {found.stdout}{found.stderr}")
                for kind in ("store", "results"):
                    name = f"{model}.{kind}.h5"
                    different = difference(folder / "one" / name, folder / out / name)
                    expect(not different, different)
        told = [check(hosts, program, mpiexec, folder) for check in (no_room, dead_rank)]
        print(f"2 and 4 ranks on 2 hosts, both models: the datasets of one host; {'; '.join(told)}")
    finally:
        hosts.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
