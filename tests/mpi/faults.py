"""Faults of a job on a pair file, counted: kills at random moments, a full disk, a bad disk, an unwritable
folder, a request to stop, a second job.

Usage: faults.py PAIR_WRITER MPIEXEC [--shim LIBRARY] [--kills N]

Everything happens in a temporary folder, Open MPI's own files included, so that a killed job leaves nothing behind.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from launcher import children_of, kill, wait_after_kill

PAIRS = 150
PAIR_BYTES = 24 * 1024 * 4 + 40


class Job:
    """Runs the writer under mpirun with Open MPI's temporary files in a folder of its own."""

    def __init__(self, writer: str, mpiexec: str, folder: Path) -> None:
        self.writer = writer
        self.mpiexec = mpiexec
        self.environment = dict(os.environ)
        scratch = folder / "mpi"
        scratch.mkdir()
        for name in ("orte_tmpdir_base", "btl_vader_backing_directory", "osc_sm_backing_directory"):
            self.environment[f"OMPI_MCA_{name}"] = str(scratch)

    def start(self, file: Path, ranks: int, pause_us: int) -> subprocess.Popen[str]:
        command = [self.mpiexec, "-n", str(ranks), self.writer, "write", str(file), str(PAIRS), str(pause_us)]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, file: Path, ranks: int, pause_us: int = 0) -> tuple[int, str]:
        return self.finish(self.start(file, ranks, pause_us))

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            _, errors = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            kill([*children_of(process.pid), process.pid])
            sys.exit(f"FAILED: hangs: {process.args}")
        return process.returncode, errors

    def check(self, file: Path) -> int:
        """Number of pairs that the journal holds; all of them, and all that were ever logged, must be right."""
        found = subprocess.run([self.writer, "check", str(file), str(PAIRS)], env=self.environment, capture_output=True, text=True)
        if found.returncode != 0:
            sys.exit(f"FAILED: {found.stderr}")
        return int(found.stdout.split()[1])


def expect(condition: bool, text: str) -> None:
    if not condition:
        sys.exit(f"FAILED: {text}")


def kills(job: Job, folder: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    file = folder / "kill.h5"
    lives = files = slept = 0
    lost_time = 0.0
    for number in range(count):
        process = job.start(file, 2, 4000)
        expect(process.stdout is not None, "no pipe")
        while not process.stdout.readline().startswith("start"):
            pass
        time.sleep(draw.uniform(0.0, 0.2))
        ranks = children_of(process.pid)
        # One rank alone every fourth time: mpirun then takes a second to end the others.
        victims = ranks[:1] if number % 4 == 0 else [*ranks, process.pid]
        kill(victims)
        begin = time.monotonic()
        slept += not wait_after_kill(process, Path(job.writer).name, 180)
        job.finish(process)
        lost_time = max(lost_time, time.monotonic() - begin)
        done = job.check(file)
        expect(process.returncode != 0 or done == PAIRS, "a killed job ended with 0")
        lives += 1
        if done == PAIRS:
            files += 1
            for path in folder.glob("kill.h5*"):
                path.unlink()
    code, errors = job.run(file, 2)
    expect(code == 0, f"the last life failed: {errors}")
    expect(job.check(file) == PAIRS, "pairs are missing")
    print(
        f"kills: {lives} of {count}, {files + 1} files finished, nothing journalled lost, ended after {lost_time:.1f} s at most, "
        f"mpiexec slept {slept} times"
    )
    for path in folder.glob("kill.h5*"):
        path.unlink()


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path | None]:
    place = folder / "disk"
    place.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(place)], capture_output=True).returncode
        == 0
    )
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def own_lines(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("record_writer: ")]


def full_disk(job: Job, folder: Path) -> None:
    need = PAIRS * PAIR_BYTES
    with small_disk(folder, need + (4 << 20)) as disk:
        if disk is None:
            print("full disk: skipped: this user cannot mount a tmpfs")
            return
        filler = disk / "filler"
        file = disk / "full.h5"
        filler.write_bytes(bytes(6 << 20))
        code, errors = job.run(file, 2)
        expect(code == 1 and "MB free" in errors, f"no room at the start: {code} {errors}")
        expect(len(own_lines(errors)) == 1, f"expected one line, found {errors}")
        expect(sorted(path.name for path in disk.iterdir()) == ["filler"], "something half-written is left")
        filler.unlink()
        process = job.start(file, 4, 10000)
        expect(process.stdout is not None and process.stdout.readline() != "", "no start")
        room = os.statvfs(disk)
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 60 * PAIR_BYTES))
        begin = time.monotonic()
        _, errors = job.finish(process)
        took = time.monotonic() - begin
        expect(process.returncode == 1, f"expected exit code 1, found {process.returncode}: {errors}")
        lines = own_lines(errors)
        expect(len(lines) == 1 and "No space left on device" in lines[0] and str(file) in lines[0], errors)
        done = job.check(file)
        expect(0 < done < PAIRS, f"{done} pairs done")
        filler.unlink()
        code, errors = job.run(file, 4)
        expect(code == 0 and job.check(file) == PAIRS, f"after room was made: {code} {errors}")
        print(f"full disk: one line on 4 ranks after {took:.1f} s, {done} of {PAIRS} pairs kept, then finished")
        for path in disk.iterdir():
            path.unlink()


def bad_disk(job: Job, folder: Path, shim: Path) -> None:
    file = folder / "disk.h5"
    clean = dict(job.environment)
    kept = failed = 0
    for plan in ("eio:1", "eio:2", "eio:40", "eio:133", "eio:300", "short:1", "short:7", "short:50"):
        job.environment = {**clean, "LD_PRELOAD": str(shim), "LP_IO_FAULT": plan}
        code, errors = job.run(file, 2)
        job.environment = clean
        if code != 0:
            failed += 1
            lines = own_lines(errors)
            expect(code == 1 and len(lines) == 1 and str(file) in lines[0], f"{plan}: {code} {errors}")
        if file.exists():
            kept += job.check(file)
            expect(code != 0 or job.check(file) == PAIRS, f"{plan}: pairs are missing")
        code, errors = job.run(file, 2)
        expect(code == 0 and job.check(file) == PAIRS, f"after {plan}: {code} {errors}")
        for path in folder.glob("disk.h5*"):
            path.unlink()
    expect(failed >= 5, f"only {failed} of 8 plans were noticed")
    print(f"errors of the disk, short writes: {failed} of 8 jobs failed with one line, {kept} pairs kept, all continued")


def stop_request(job: Job, folder: Path) -> None:
    file = folder / "stop.h5"
    process = job.start(file, 2, 5000)
    expect(process.stdout is not None and process.stdout.readline() != "", "no start")
    process.send_signal(signal.SIGUSR1)
    _, errors = job.finish(process)
    expect(process.returncode == 75, f"expected exit code 75, found {process.returncode}: {errors}")
    expect("stopped by SIGUSR1" in errors and f"of {PAIRS} left" in errors, errors)
    expect(not Path(f"{file}.lock").exists(), "the lock is left")
    job.check(file)
    print("stop: exit code 75, lock released")


def second_job(job: Job, folder: Path) -> None:
    file = folder / "second.h5"
    first = job.start(file, 2, 10000)
    expect(first.stdout is not None and first.stdout.readline() != "", "no start")
    code, errors = job.run(file, 2)
    expect(code == 1 and "in use by another job: host " in errors, f"second job: {code} {errors}")
    _, errors = job.finish(first)
    expect(first.returncode == 0 and job.check(file) == PAIRS, f"first job: {errors}")
    print("second job: refused, the first one finished")


def unwritable(job: Job, folder: Path) -> None:
    file = Path("/proc/self/nowhere/x.h5")
    code, errors = job.run(file, 2)
    expect(code == 1 and len(own_lines(errors)) == 1, f"unwritable folder: {code} {errors}")
    torn = folder / "torn.h5"
    torn.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    code, errors = job.run(torn, 4)
    expect(code == 1 and len(own_lines(errors)) == 1 and str(torn) in errors, f"damaged file: {code} {errors}")
    print("unwritable folder, damaged file: one line each")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("writer")
    parser.add_argument("mpiexec")
    parser.add_argument("--shim", type=Path, help="library made of io_fault.c")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lp"))
    try:
        job = Job(arguments.writer, arguments.mpiexec, folder)
        stop_request(job, folder)
        second_job(job, folder)
        unwritable(job, folder)
        full_disk(job, folder)
        if arguments.shim:
            bad_disk(job, folder, arguments.shim)
        kills(job, folder, arguments.kills, arguments.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
