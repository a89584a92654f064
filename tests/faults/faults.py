"""Faults of cache and sweep, counted: SIGKILLs at random moments, full and bad disks, a clock that jumps, truncated and
altered stores, a second job, stale locks. After each the same command is given again, and in the end every dataset must be
that of an undisturbed run.

Usage: faults.py LATENTPATCH MPIEXEC --shim LIBRARY [--long] [--seed N] [--only NAME ...]

The numbers of the short version fit a test run; --long takes the numbers of a release.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from launcher import children_of, kill, ranks_of, wait_after_kill
from same import difference

try:
    import h5py
except ImportError:
    h5py = None

ROOT = Path(__file__).resolve().parents[2]
PAIRS = 10
LIMIT_S = 120


class Failed(Exception):
    pass


def expect(condition: object, text: str) -> None:
    if not condition:
        raise Failed(text)


@dataclass
class End:
    code: int
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("latentpatch: error: ")]


def state_of(pid: int) -> str:
    """A process in words, for the message about one that hangs."""
    with contextlib.suppress(OSError):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        return f"{pid} {status['Name']} {status['State']}, {status['Threads']} threads, in {Path(f'/proc/{pid}/wchan').read_text()}"
    return f"{pid} gone"


def part_of(text: str) -> tuple[int, int]:
    """ "3/20" is (2, 20)."""
    i, n = (int(word) for word in text.split("/"))
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"expected I/N with 1 <= I <= N, found {text}")
    return i - 1, n


class Lab:
    """Jobs in a folder of their own, Open MPI's files included: a killed job leaves nothing behind elsewhere."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.program, self.mpiexec, self.shim = arguments.program, arguments.mpiexec, arguments.shim
        self.long, self.folder = arguments.long, folder
        self.part, self.parts = arguments.part
        self.draw = random.Random(f"{arguments.seed} {self.part}")
        self.scratch = folder / "mpi"
        self.scratch.mkdir()
        self.environment = dict(os.environ)
        # One host; what Open MPI 5 says of TCP mixes with the program's lines.
        self.environment.setdefault("OMPI_MCA_btl", "^tcp")
        for name in ("orte_tmpdir_base", "btl_vader_backing_directory", "osc_sm_backing_directory"):
            self.environment[f"OMPI_MCA_{name}"] = str(self.scratch)
        self.whole: dict[str, Path] = {}
        self.seconds: dict[tuple[str, str, int], float] = {}
        self.errors: dict[int, Path] = {}
        self.n_started = 0

    def number(self, short: int, long: int) -> int:
        """How many of a thing: of the long version, this part's share."""
        if not self.long:
            return short
        return long * (self.part + 1) // self.parts - long * self.part // self.parts

    def job(self, out: Path, executor: str = "batched") -> Path:
        job = json.loads((ROOT / "jobs" / "demo-gpt2.json").read_text())
        for key in ("base", "codi"):
            job["model"][key] = str(ROOT / "jobs" / job["model"][key])
        job["pairs"] = {"file": str(ROOT / "jobs" / job["pairs"]["file"]), "limit": PAIRS}
        job["store"] = {"file": str(out / "a.store.h5")}
        job["results"] = {"file": str(out / "a.results.h5")}
        job["sweep"]["filter"] = "all"
        # The reference executor takes several times as long for the same conditions.
        job["sweep"]["conditions"][0]["steps"] = "first:1-3" if executor == "batched" else "first:1"
        job["decode"] = {"max_new_tokens": 8}
        job["engine"] = {"executor": executor, "threads": 1}
        out.mkdir(parents=True, exist_ok=True)
        path = out / "job.json"
        path.write_text(json.dumps(job))
        return path

    def start(self, command: str, job: Path, ranks: int = 1, **variables: str) -> subprocess.Popen[str]:
        words = [self.program, command, str(job)]
        if ranks > 1:
            words = [self.mpiexec, "-n", str(ranks), *words]
        return self.start_words(words, variables)

    def start_words(self, words: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
        # A file, not a pipe: what a killed job leaves behind would hold a pipe open.
        self.n_started += 1
        with open(self.folder / f"{self.n_started}.err", "w") as errors:
            process = subprocess.Popen(
                words,
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
            )
        self.errors[process.pid] = Path(errors.name)
        return process

    def finish(self, process: subprocess.Popen[str]) -> End:
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            states = "; ".join(state_of(pid) for pid in [process.pid, *children_of(process.pid)])
            kill([*children_of(process.pid), process.pid])
            process.wait()
            said = self.errors[process.pid].read_text(errors="replace")
            raise Failed(f"hangs: {process.args}: {states}; it said: {said[-500:]!r}") from None
        errors = self.errors.pop(process.pid)
        end = End(process.returncode, errors.read_text(errors="replace"))
        errors.unlink()
        return end

    def end_leftovers(self) -> None:
        """A program of one rank starts a daemon of Open MPI, which stays when the program is killed early; ours are known
        by our folder in their environment."""
        mark = f"OMPI_MCA_orte_tmpdir_base={self.scratch}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if (entry / "comm").read_text() == "orted\n" and mark in (entry / "environ").read_bytes().split(b"\0"):
                        kill([int(entry.name)])
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()

    def run(self, command: str, job: Path, ranks: int = 1, **variables: str) -> End:
        return self.finish(self.start(command, job, ranks, **variables))

    def succeed(self, command: str, job: Path, ranks: int = 1, **variables: str) -> End:
        end = self.run(command, job, ranks, **variables)
        expect(end.code == 0, f"{command}: exit code {end.code}: {end.err}")
        return end

    def fails(self, end: End, what: str, *words: str) -> str:
        """One line, exit code 1; the line."""
        expect(end.code == 1 and len(end.errors) == 1, f"{what}: expected one error and code 1, found {end.code}: {end.err}")
        for word in words:
            expect(word in end.errors[0], f"{what}: expected '{word}' in: {end.errors[0]}")
        return end.errors[0]

    def store(self, verb: str, file: Path) -> End:
        run = subprocess.run(
            [self.program, "store", verb, str(file)], env=self.environment, capture_output=True, text=True, timeout=LIMIT_S
        )
        return End(run.returncode, run.stderr)

    def make_whole(self) -> None:
        for executor in ("batched", "reference"):
            out = self.folder / f"whole-{executor}"
            job = self.job(out, executor)
            for ranks in (2, 1):
                for command in ("cache", "sweep"):
                    begin = time.monotonic()
                    self.succeed(command, job, ranks)
                    self.seconds[executor, command, ranks] = time.monotonic() - begin
                if ranks == 2:
                    for path in out.glob("a.*"):
                        path.unlink()
            self.whole[executor] = out

    def same(self, out: Path, executor: str = "batched", kinds: tuple[str, ...] = ("store", "results")) -> None:
        for kind in kinds:
            found = difference(self.whole[executor] / f"a.{kind}.h5", out / f"a.{kind}.h5")
            expect(not found, found)

    def no_leftovers(self, out: Path) -> None:
        names = {path.name for path in out.iterdir()} - {"job.json"}
        known = {"a.store.h5", "a.results.h5", "a.csv", "a.summary.json"}
        expect(names <= known, f"left behind: {sorted(names - known)}")


def kills(lab: Lab) -> str:
    """A life ends by SIGKILL at a random moment, the next one continues; a file that gets whole is compared, and the
    next life begins a new one."""
    told = []
    per_kind = lab.number(4, 250)
    for command in ("cache", "sweep"):
        count: Counter[str] = Counter()
        for ranks, n in ((1, per_kind), (2, per_kind)):
            lives = 0
            while lives < n:
                executor = lab.draw.choice(("batched", "reference"))
                out = lab.folder / "kill"
                job = lab.job(out, executor)
                if command == "sweep":
                    shutil.copy(lab.whole[executor] / "a.store.h5", out)
                while True:
                    process = lab.start(command, job, ranks)
                    time.sleep(lab.draw.uniform(0.0, lab.seconds[executor, command, ranks]))
                    alive = lives < n and process.poll() is None
                    one = alive and ranks > 1 and lab.draw.random() < 0.25
                    victims: list[int] = []
                    if alive:
                        children = children_of(process.pid) if ranks > 1 else []
                        members = ranks_of(process.pid, "latentpatch") if one else []
                        victims = [lab.draw.choice(members)] if members else [*children, process.pid]
                        kill(victims)
                        if ranks > 1:
                            count["times mpirun itself stayed"] += not wait_after_kill(process, "latentpatch", LIMIT_S)
                    try:
                        end = lab.finish(process)
                    except Failed as error:
                        raise Failed(f"{error}; killed before: {victims}") from None
                    expect("torn or altered" not in end.err, f"a journalled pair was lost: {end.err}")
                    if end.code == 0:
                        break
                    expect(alive, f"{command} ended by itself with {end.code}: {end.err}")
                    lives += 1
                    count["kills"] += 1
                    if count["kills"] % 100 == 0:
                        print(f"{command}: {count['kills']} kills", file=sys.stderr, flush=True)
                    count["of one rank of two"] += one
                    file = out / ("a.store.h5" if command == "cache" else "a.results.h5.partial")
                    count["with an unfinished file"] += file.exists()
                    if command == "cache" and file.exists():
                        verified = lab.store("verify", file)
                        expect(verified.code == 0, f"after a kill: {verified.err}")
                    lab.end_leftovers()
                lab.same(out, executor, ("store",) if command == "cache" else ("store", "results"))
                lab.no_leftovers(out)
                count["files finished and equal"] += 1
                shutil.rmtree(out)
        told.append(f"{command}: " + ", ".join(f"{n} {what}" for what, n in count.items()))
    return "; ".join(told)


@dataclass
class Copy:
    """A command that makes one store out of others, and what it must make."""

    verb: str
    sources: list[Path]
    made: bytes = b""
    seconds: float = 0.0

    def words(self, lab: Lab, out: Path) -> list[str]:
        files = [str(path) for path in self.sources]
        return [lab.program, "store", self.verb, *((str(out), *files) if self.verb == "merge" else (*files, str(out)))]


def copies(lab: Lab) -> list[Copy]:
    """An archive of the whole store, and a merge of two halves of it, each made once undisturbed."""
    whole = lab.whole["batched"] / "a.store.h5"
    halves = []
    for half in range(2):
        out = lab.folder / f"half-{half}"
        job = lab.job(out)
        shutil.copy(whole, out)
        halves.append(out / "a.store.h5")
        # Pairs of the other half are taken out of the journal.
        with h5py.File(halves[half], "r+") as file:
            file["journal/state"][half * PAIRS // 2 : (half + 1) * PAIRS // 2] = 0
        job.unlink()
    made = [Copy("archive", [whole]), Copy("merge", halves)]
    for copy in made:
        out = lab.folder / f"{copy.verb}.h5"
        begin = time.monotonic()
        end = lab.finish(lab.start_words(copy.words(lab, out), {}))
        copy.seconds = time.monotonic() - begin
        expect(end.code == 0, f"{copy.verb}: {end.err}")
        found = difference(whole, out)
        expect(not found, f"{copy.verb}: {found}")
        copy.made = out.read_bytes()
    return made


def copy_kills(lab: Lab) -> str:
    """`store archive` and `store merge`, killed at a random moment and given again: what has the output's name is whole,
    and in the end it has the bytes of an undisturbed one."""
    told = []
    for copy in copies(lab):
        count: Counter[str] = Counter()
        before = [path.read_bytes() for path in copy.sources]
        out = lab.folder / "copy" / "out.h5"
        while count["kills"] < lab.number(8, 500):
            out.parent.mkdir()
            while True:
                process = lab.start_words(copy.words(lab, out), {})
                time.sleep(lab.draw.uniform(0.0, copy.seconds))
                alive = process.poll() is None
                kill([process.pid] if alive else [])
                end = lab.finish(process)
                expect([path.read_bytes() for path in copy.sources] == before, f"{copy.verb}: a source changed")
                expect(not out.exists() or out.read_bytes() == copy.made, f"{copy.verb}: published, but not whole")
                if end.code == -signal.SIGKILL:
                    count["kills"] += 1
                    count["with a file half made"] += not out.exists() and len(list(out.parent.iterdir())) > 1
                    if not out.exists():
                        continue
                    count["just after publication"] += 1
                    break
                expect(end.code == 0, f"{copy.verb} ended by itself with {end.code}: {end.err}")
                expect({path.name for path in out.parent.iterdir()} <= {"out.h5", "out.h5.manifest.json"}, "left behind")
                break
            count["finished and equal"] += 1
            shutil.rmtree(out.parent)
        told.append(f"{copy.verb}: " + ", ".join(f"{n} {what}" for what, n in count.items()))
    return "; ".join(told)


def races(lab: Lab) -> str:
    """Two processes for one output, started together: one wins, or one comes when the other is done; the other says so."""
    told = []
    for copy in copies(lab):
        told.append(race(lab, copy.verb, lambda out, copy=copy: copy.words(lab, out), copy.made))
    for command in ("cache", "sweep"):
        told.append(race(lab, command, None, b""))
    return "; ".join(told)


def race(lab: Lab, what: str, words: Callable[[Path], list[str]] | None, made: bytes) -> str:
    count: Counter[str] = Counter()
    for _ in range(lab.number(3, 50)):
        out = lab.folder / "race"
        job = lab.job(out)
        if what == "sweep":
            shutil.copy(lab.whole["batched"] / "a.store.h5", out)
        command = words(out / "out.h5") if words else [lab.program, what, str(job)]
        # Open MPI 4 loses a race of its own where two processes make one session folder, so each gets its own.
        folders = [lab.scratch / f"racer-{i}" for i in range(2)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        processes = [lab.start_words(command, {"OMPI_MCA_orte_tmpdir_base": str(folders[0])})]
        time.sleep(lab.draw.uniform(0.0, 0.1))
        processes.append(lab.start_words(command, {"OMPI_MCA_orte_tmpdir_base": str(folders[1])}))
        ends = [lab.finish(process) for process in processes]
        won = [end for end in ends if end.code == 0]
        count["pairs of processes"] += 1
        expect(won, f"{what}: nobody won: {ends[0].err} {ends[1].err}")
        for end in ends:
            if end.code == 0:
                continue
            count["told that another works"] += "in use by another job" in end.err
            count["told that it is there"] += "exists already" in end.err
            lab.fails(end, f"{what}, the loser", str(out))
            expect("in use by another job" in end.err or "exists already" in end.err, end.err)
        count["came when the other was done"] += len(won) == 2
        expect(len(won) == 1 or not words, f"{what}: two processes made one file")
        if words:
            expect((out / "out.h5").read_bytes() == made, f"{what}: published, but not whole")
            expect({path.name for path in out.iterdir()} <= {"job.json", "out.h5", "out.h5.manifest.json"}, "left behind")
        else:
            lab.same(out, kinds=("store",) if what == "cache" else ("store", "results"))
            lab.no_leftovers(out)
        shutil.rmtree(out)
    return f"{what}: " + ", ".join(f"{n} {what}" for what, n in count.items())


def full_disk(lab: Lab) -> str:
    """`run` on disks of every size from too small for anything to just large enough, then on one that has grown."""
    disk = lab.folder / "disk"
    disk.mkdir()
    need = sum(path.stat().st_size for path in lab.whole["batched"].iterdir())
    # What is asked for beyond the files' sizes, so that a disk that is too small is noticed before the work.
    room = 4 << 20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4096 * 4}", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        return "skipped: this user cannot mount a tmpfs"
    failed = passed = 0
    try:
        n = lab.number(4, 60)
        for i in range(n):
            size = 4096 * (2 + (need + room) * i // n // 4096)
            subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True, capture_output=True)
            job = lab.job(lab.folder / "disk-job")
            text = job.read_text().replace(str(lab.folder / "disk-job"), str(disk))
            job.write_text(text)
            end = lab.run("run", job, 1 + i % 2)
            if end.code != 0:
                failed += 1
                line = lab.fails(end, f"a disk of {size} bytes")
                expect(str(disk) in line and any(word in line for word in ("free", "No space", "room")), line)
            else:
                passed += 1
            subprocess.run(["mount", "-o", f"remount,size={need + 4 * room}", str(disk)], check=True, capture_output=True)
            lab.succeed("run", job, 1 + i % 2)
            lab.same(disk)
            lab.no_leftovers(disk)
            for path in disk.iterdir():
                path.unlink()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    expect(failed > 0 and passed > 0, f"{failed} of {n} disks were too small")
    return f"{n} sizes: {failed} failed with one line that says so, {passed} were enough; all continued to equal files"


def bad_disk(lab: Lab) -> str:
    kinds = {"eio": (1, 400), "once": (1, 400), "short": (1, 60), "sync": (1, 8)}
    count: Counter[str] = Counter()
    for kind, (low, high) in kinds.items():
        for i in range(lab.number(2, 60)):
            out = lab.folder / "bad"
            job = lab.job(out)
            plan = f"{kind}:{lab.draw.randint(low, high)}"
            end = lab.run("run", job, 1 + i % 2, LD_PRELOAD=lab.shim, LP_FAULT=plan, LP_FAULT_FOLDER=str(out))
            count["jobs"] += 1
            if end.code != 0:
                count["failed"] += 1
                lab.fails(end, plan, str(out))
            else:
                lab.same(out)
            end = lab.succeed("run", job, 1 + i % 2)
            count["torn pairs made again"] += "torn or altered" in end.err
            lab.same(out)
            lab.no_leftovers(out)
            shutil.rmtree(out)
    expect(count["failed"] > count["jobs"] // 4, f"only {dict(count)}")
    return "EIO, failing syncs, short writes: " + ", ".join(f"{n} {what}" for what, n in count.items()) + "; all continued"


def clock(lab: Lab) -> str:
    out = lab.folder / "clock"
    job = lab.job(out)
    variables = {"LD_PRELOAD": lab.shim, "LP_FAULT": "clock"}
    for ranks in (1, 2):
        lab.succeed("run", job, ranks, **variables)
        lab.same(out)
        for path in out.glob("a.*"):
            path.unlink()
    # Killed while the clock runs mad, continued years before.
    n = lab.number(1, 20)
    for _ in range(n):
        process = lab.start("run", job, 1, **variables)
        time.sleep(lab.draw.uniform(0.0, lab.seconds["batched", "sweep", 1]))
        kill([process.pid])
        lab.finish(process)
        lab.end_leftovers()
        lab.succeed("run", job, 1, **variables)
        lab.same(out)
        lab.no_leftovers(out)
        for path in out.glob("a.*"):
            path.unlink()
    return f"2 runs and {n} kills with a clock that jumps years to and fro: equal"


def read_only(lab: Lab) -> str:
    """A folder that cannot be written, and a file: mounted read-only, because root may write whatever the mode says."""
    out = lab.folder / "read-only"
    job = lab.job(lab.folder / "read-only-job")
    job.write_text(job.read_text().replace(str(lab.folder / "read-only-job"), str(out)))
    shutil.copytree(lab.whole["batched"], out)
    if subprocess.run(["mount", "--bind", "-o", "ro", str(out), str(out)], capture_output=True).returncode != 0:
        return "skipped: this user cannot mount"
    try:
        for ranks in (1, 2):
            end = lab.succeed("cache", job, ranks)
            expect("is complete and cannot be written: used as it is" in end.err, f"cache on a read-only disk: {end.err}")
            lab.fails(lab.run("sweep", job, ranks), "sweep on a read-only disk", str(out), "Read-only file system")
        expect(lab.store("verify", out / "a.store.h5").code == 0, "a read-only store cannot be verified")
    finally:
        subprocess.run(["umount", str(out)], check=True)
    lab.same(out)
    return "cache uses the complete store and says so, sweep says in one line why it cannot, store verify reads"


def truncated(lab: Lab) -> str:
    out = lab.folder / "cut"
    count: Counter[str] = Counter()
    whole = (lab.whole["batched"] / "a.store.h5").read_bytes()
    for i in range(lab.number(6, 200)):
        job = lab.job(out)
        size = lab.draw.randrange(len(whole)) if i else 0
        (out / "a.store.h5").write_bytes(whole[:size])
        count["lengths"] += 1
        verified = lab.store("verify", out / "a.store.h5")
        lab.fails(verified, f"verify of {size} bytes", "a.store.h5")
        lab.fails(lab.run("sweep", job), f"sweep from {size} bytes", "a.store.h5")
        end = lab.run("cache", job, 1 + i % 2)
        if end.code == 0:
            count["made anew by cache"] += 1
            lab.same(out, kinds=("store",))
        else:
            count["refused by cache"] += 1
            lab.fails(end, f"cache on {size} bytes", "a.store.h5")
            expect((out / "a.store.h5").stat().st_size == size, "a refused store was changed")
        shutil.rmtree(out)
    return "all found by verify: " + ", ".join(f"{n} {what}" for what, n in count.items())


def flips(lab: Lab) -> str:
    """Bits anywhere in the file. A few bytes are gaps between HDF5's structures; a bit of those counts as harmless when
    h5diff, which then also looks at /provenance, finds the two files equal."""
    out = lab.folder / "flip"
    lab.job(out)
    file, whole = out / "a.store.h5", lab.whole["batched"] / "a.store.h5"
    shutil.copy(whole, file)
    size, n, missed, harmless = file.stat().st_size, lab.number(40, 10000), [], 0
    with open(file, "r+b", buffering=0) as handle:
        for _ in range(n):
            at, bit = lab.draw.randrange(size), lab.draw.randrange(8)
            (was,) = os.pread(handle.fileno(), 1, at)
            os.pwrite(handle.fileno(), bytes([was ^ 1 << bit]), at)
            end = lab.store("verify", file)
            if end.code == 0 and subprocess.run(["h5diff", str(whole), str(file)], capture_output=True).returncode == 0:
                harmless += 1
            elif end.code == 0:
                missed.append(f"{at}.{bit}")
            elif end.code != 1:
                raise Failed(f"verify after a flip of byte {at} bit {bit}: exit code {end.code}: {end.err}")
            os.pwrite(handle.fileno(), bytes([was]), at)
    expect(lab.store("verify", file).code == 0, "the restored store is not whole")
    expect(not missed, f"{len(missed)} of {n} flipped bits were not found: {missed[:50]}")
    return f"{n - harmless} of {n} flipped bits found, {harmless} in gaps that nothing reads, 0 missed"


def healed(lab: Lab) -> str:
    """Bits flipped in the values of pairs: verify names the pair, cache makes it again. A little of HDF5's own structures
    and of gaps lies between the values: damage there is found and refused, or touches nothing."""
    n = lab.number(2, 50)
    out = lab.folder / "heal"
    structures = gaps = 0
    for i in range(n):
        job = lab.job(out)
        file = out / "a.store.h5"
        whole = bytearray((lab.whole["batched"] / "a.store.h5").read_bytes())
        # The values are the bulk of the file, after the metadata.
        at = lab.draw.randrange(len(whole) // 2, len(whole) - 4096)
        whole[at] ^= 1 << lab.draw.randrange(8)
        file.write_bytes(whole)
        verified = lab.store("verify", file)
        if verified.code == 0:
            gaps += 1
            lab.same(out, kinds=("store",))
            shutil.rmtree(out)
            continue
        line = lab.fails(verified, f"verify of byte {at}", "a.store.h5")
        if "is missing" in line:
            structures += 1
            lab.fails(lab.run("cache", job, 1 + i % 2), f"cache with byte {at} altered", "a.store.h5")
        else:
            expect("pair" in line, f"verify of byte {at}: expected 'pair' in: {line}")
            end = lab.succeed("cache", job, 1 + i % 2)
            expect("1 pairs were torn or altered; they are made again" in end.err, end.err)
            lab.same(out, kinds=("store",))
        shutil.rmtree(out)
    expect((structures + gaps) * 5 < n, f"{structures} of {n} bits hit structures, {gaps} gaps")
    return (
        f"{n - structures - gaps} altered pairs named by verify and made again by cache, {structures} altered structures "
        f"refused, {gaps} bits in gaps"
    )


def hang(lab: Lab, command: str, kind: str, victim: int, write: int) -> bool:
    """One of three ranks hangs at a write; the others end, say who, and the next start finishes. Was a pair in hand?"""
    limit_s = 8  # more than a slow disk takes for one write
    out = lab.folder / "hung"
    job = lab.job(out, "reference")
    if command == "sweep":
        shutil.copy(lab.whole["reference"] / "a.store.h5", out)
    program = [lab.program, command, str(job), "--set", f"engine.hang_limit={limit_s}"]
    # Not `mpiexec -n 1 ... : -n 1 ...`, at which that of Open MPI 5.0.7 dies.
    fault = f"LD_PRELOAD={lab.shim} LP_FAULT={kind}:{write} LP_FAULT_FOLDER={out}"
    shell = f'[ "$OMPI_COMM_WORLD_RANK" != {victim} ] || export {fault}; exec "$@"'
    end = lab.finish(lab.start_words([lab.mpiexec, "-n", "3", "sh", "-c", shell, "sh", *program], {}))
    what = "silent" if kind == "stop" else "not moved"
    line = lab.fails(end, f"{command} with rank {victim} {kind}", f": rank {victim} (host {os.uname().nodename}, process ")
    expect(f"hangs: {what} for {limit_s} s (engine.hang_limit), in hand: " in line, line)
    end = lab.succeed(command, job, 2)
    expect("torn or altered" not in end.err, f"a journalled pair was lost: {end.err}")
    lab.same(out, "reference", ("store",) if command == "cache" else ("store", "results"))
    lab.no_leftovers(out)
    shutil.rmtree(out)
    return "in hand: pair demo-" in line


def hung(lab: Lab) -> str:
    """One of three ranks is stopped (SIGSTOP), or a write of its never returns; the others end, and say who and what."""
    # Rank 0 makes the results file first and finishes it at the end; between the two it has a pair in hand.
    cases = [("sweep", "stop", 0, (30, 26, 34, 38)), ("cache", "stuck", 2, (1,)), ("cache", "stop", 1, (1,))]
    cases += [("sweep", "stuck", 0, (30, 26, 34, 38))]
    for command, kind, victim, writes in cases if lab.long else cases[:2]:
        expect(any(hang(lab, command, kind, victim, write) for write in writes), f"{command} {kind}: never a pair in hand")
    return "a stopped rank, a write that never returns: the others ended, named rank and pair, and the next start finished"


def second_job(lab: Lab) -> str:
    out = lab.folder / "second"
    job = lab.job(out, "reference")
    for command, file in (("cache", "a.store.h5"), ("sweep", "a.results.h5")):
        first = lab.start(command, job)
        lock = out / f"{file}.lock"
        end_of_wait = time.monotonic() + 30
        holder: dict[str, object] = {}
        while not holder:
            expect(time.monotonic() < end_of_wait and first.poll() is None, f"no lock of {command}")
            with contextlib.suppress(OSError, ValueError):
                holder = json.loads(lock.read_text())
        os.kill(first.pid, signal.SIGSTOP)
        words = (f"host {os.uname().nodename}", f"process {first.pid}", f"started {holder['started']}")
        for ranks in (1, 2):
            lab.fails(lab.run(command, job, ranks), f"a second {command}", "in use by another job", *words)
        os.kill(first.pid, signal.SIGCONT)
        end = lab.finish(first)
        expect(end.code == 0, f"the first {command}: {end.err}")
    lab.same(out, "reference")
    lab.no_leftovers(out)
    return "refused on 1 and 2 ranks with host, process and start; the first one was not disturbed"


def stale_locks(lab: Lab) -> str:
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = {"host": os.uname().nodename, "pid": dead.pid, "started": "2020-01-01T00:00:00Z"}
    elsewhere = {**here, "host": "elsewhere"}
    slurm = {**elsewhere, "slurm_job": "77", "slurm_restart": 0}
    cases: tuple[tuple[str, str, dict[str, str], bool | None], ...] = (
        ("a dead process of this host", json.dumps(here), {}, True),
        ("an empty file", "", {}, True),
        ("half a file", json.dumps(here)[:20], {}, None),
        ("another host", json.dumps(elsewhere), {}, False),
        ("the same Slurm job before its requeue", json.dumps(slurm),
         {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"}, True),
        ("another Slurm job", json.dumps(slurm), {"SLURM_JOB_ID": "78"}, False),
    )  # fmt: skip
    out = lab.folder / "stale"
    for what, text, variables, taken in cases:
        job = lab.job(out)
        lock = out / "a.store.h5.lock"
        lock.write_text(text)
        end = lab.run("cache", job, 1, **variables)
        if taken:
            expect(end.code == 0, f"lock of {what}: {end.err}")
            lab.no_leftovers(out)
        elif taken is None:
            lab.fails(end, f"lock of {what}", "expected a lock file, found other contents")
            expect(lock.read_text() == text, "the file was written to")
        else:
            lab.fails(end, f"lock of {what}", "host elsewhere", f"remove {lock}")
        shutil.rmtree(out)
    return f"{sum(bool(case[3]) for case in cases)} kinds taken over, {sum(not case[3] for case in cases)} refused with a way out"


def late_signal(lab: Lab) -> str:
    """The first rank that ends with an error makes mpiexec send SIGTERM to the others: they have nothing to add."""
    out = lab.folder / "late"
    job = lab.job(out)
    job.write_text(job.read_text().replace('"threads": 1', '"threads": 1, "memory_limit": "1000"'))
    for command in ("cache", "run"):
        end = lab.run(command, job, LD_PRELOAD=lab.shim, LP_FAULT="late")
        line = lab.fails(end, f"{command} with too little memory", "engine.memory_limit")
        last = end.err.splitlines()[-1]
        expect(last == line, f"{command}: expected the error last, found: {last}")
    shutil.rmtree(out)
    return "SIGTERM after the last word: the exit code stays, and no second line"


def late_digests(lab: Lab) -> str:
    """The digests of the model's files are not known before this test says so: the job computes, and writes nothing."""
    fifo = lab.folder / "fifo"
    os.mkfifo(fifo)
    variables = {"LD_PRELOAD": lab.shim, "LP_FAULT": f"digest:{fifo}"}

    def held(command: str, job: Path) -> End:
        process = lab.start_words([lab.program, command, str(job), "--verbose"], variables)
        said = lab.errors[process.pid]
        try:
            end_of_wait = time.monotonic() + LIMIT_S
            while "first results after" not in said.read_text():
                expect(time.monotonic() < end_of_wait and process.poll() is None, f"{command}: {said.read_text()}")
                time.sleep(0.02)
            there = {path.name for path in job.parent.iterdir()} - before
            expect(all(name.endswith(".lock") for name in there), f"{command}, before the digests: {there}")
        finally:
            writer = os.open(fifo, os.O_RDWR)
            end = lab.finish(process)
            os.close(writer)
        expect("digests asked for after" in end.err, end.err)
        return end

    out = lab.folder / "late"
    job = lab.job(out)
    for command, store in (("run", ""), ("sweep", "own"), ("sweep", "of another model")):
        if store:
            shutil.copy(lab.whole["batched"] / "a.store.h5", out)
        if store == "of another model":
            with h5py.File(out / "a.store.h5", "r+") as file:
                names = file["provenance"].attrs
                names["model_files"] = type(names["model_files"])(names["model_files"][::-1])
        before = {path.name for path in out.iterdir()}
        end = held(command, job)
        if store == "of another model":
            lab.fails(end, "the store of another model", "made with other model files than this job's")
            expect({path.name for path in out.iterdir()} == before, "something was written")
        else:
            expect(end.code == 0, f"{command}: {end.err}")
            lab.same(out)
        for path in out.glob("a.*"):
            path.unlink()
    return "run and sweep computed without them and wrote nothing; then equal files, and another model's store refused"


FAULTS = (
    late_signal,
    late_digests,
    bad_disk,
    kills,
    copy_kills,
    races,
    hung,
    full_disk,
    second_job,
    flips,
    truncated,
    clock,
    stale_locks,
    read_only,
    healed,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("mpiexec")
    parser.add_argument("--shim", required=True, help="library made of fault.c")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", type=part_of, default=(0, 1), metavar="I/N", help="of --long, the I-th of N equal parts")
    parser.add_argument("--only", nargs="*", choices=[fault.__name__ for fault in FAULTS])
    arguments = parser.parse_args()
    if not shutil.which("h5diff") or h5py is None:
        print("skipped: no program h5diff, or no Python package h5py")
        sys.exit(77)
    # A time limit of ctest must reach the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="lpf"))
    wanted = [fault for fault in FAULTS if not arguments.only or fault.__name__ in arguments.only]
    labs: list[Lab] = []

    def lab_of(name: str) -> Lab:
        place = folder / name
        place.mkdir()
        labs.append(Lab(arguments, place))
        return labs[-1]

    def attempt(fault: Callable[[Lab], str], whole: Lab) -> bool:
        lab = lab_of(fault.__name__)
        lab.whole, lab.seconds = whole.whole, whole.seconds
        begin = time.monotonic()
        try:
            print(f"{fault.__name__}: {fault(lab)} ({time.monotonic() - begin:.0f} s)", flush=True)
        except Failed as error:
            print(f"{fault.__name__}: FAILED: {error}", flush=True)
            return False
        return True

    try:
        whole = lab_of("whole")
        whole.make_whole()
        # The short version is mostly starts of small programs, which wait more than they compute.
        with ThreadPoolExecutor(1 if arguments.long else 4) as pool:
            failed = list(pool.map(lambda fault: attempt(fault, whole), wanted)).count(False)
    finally:
        for lab in labs:
            lab.end_leftovers()
        shutil.rmtree(folder, ignore_errors=True)
    print("nothing lost, nothing wrong" if not failed else f"{failed} kinds of fault FAILED")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
