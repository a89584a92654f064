"""Starts the command line program, shows its progress, and turns its errors into exceptions."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .job import Job

STOPPED = 75
PREFIX = "latentpatch: error: "
LAST_LINES = 20


class ProgramError(RuntimeError):
    """The program ended with an error. The text is the program's message; `returncode` and `stderr` are its own."""

    def __init__(self, message: str, returncode: int, stderr: str) -> None:
        super().__init__(message)
        self.returncode, self.stderr = returncode, stderr


class Stopped(ProgramError):
    """The program was asked to stop. It continues when it is started again."""


class Text(str):
    """Text that a notebook shows as it is."""

    def __repr__(self) -> str:
        return str(self)


def find_program() -> str:
    """The program: $LATENTPATCH, else `latentpatch` of the PATH, else the one that was built in this source tree."""
    built = Path(__file__).resolve().parents[2] / "build" / "latentpatch"
    found = os.environ.get("LATENTPATCH") or shutil.which("latentpatch") or (str(built) if built.is_file() else None)
    if found is None:
        raise FileNotFoundError(
            "the program latentpatch was not found: expected it in the PATH or named by the environment variable LATENTPATCH"
        )
    return found


def find_launcher(ranks: int, given: str | Sequence[str] | None = None) -> list[str]:
    """The words before the program that start so many ranks: `given` followed by -n, else srun inside a Slurm
    allocation, else mpirun or mpiexec. One rank needs none.
    """
    if given is not None:
        return [*(shlex.split(given) if isinstance(given, str) else given), "-n", str(ranks)]
    if ranks == 1:
        return []
    names = ("srun", "mpirun", "mpiexec") if "SLURM_JOB_ID" in os.environ else ("mpirun", "mpiexec")
    for name in names:
        if shutil.which(name):
            return [name, "-n", str(ranks)]
    raise FileNotFoundError(
        f"{ranks} ranks need a launcher: expected {' or '.join(names)} in the PATH, or launcher=..."
    )


def run_job(
    job: Job,
    command: str,
    ranks: int = 1,
    launcher: str | Sequence[str] | None = None,
    options: Sequence[str] = (),
    progress: bool = True,
) -> str:
    """Runs `latentpatch COMMAND` on a job and returns what it prints. `launcher`: words that start the ranks, such as
    "srun --mpi=pmix" (found by itself where it is not given); `options`: further words of the command line; `progress`:
    show the program's lines while it runs. Raises ProgramError with the program's message, or Stopped.
    """
    if ranks < 1:
        raise ValueError(f"ranks: expected 1 or more, found {ranks}")
    launch = find_launcher(ranks, launcher)
    job.check()
    with _job_file(job) as path:
        try:
            return run([*launch, find_program(), command, str(path), *options], progress)
        except ProgramError as error:
            if path == job.path:
                raise
            # Nobody knows the file that was there for the moment.
            message = re.sub(rf"\S*{re.escape(path.name)}", "job", str(error))
            raise type(error)(message, error.returncode, error.stderr) from None


@contextlib.contextmanager
def _job_file(job: Job) -> Iterator[Path]:
    """The job's own file where it says the same as the job, else a file beside it for as long as the program runs."""
    content = job.to_dict()
    if job.path and job.path.is_file() and type(job).read(job.path).to_dict() == content:
        yield job.path
        return
    with tempfile.NamedTemporaryFile(
        "w", dir=job.folder, prefix=".latentpatch-", suffix=".json", encoding="utf-8"
    ) as f:
        json.dump(content, f)
        f.flush()
        yield Path(f.name)


def run(command: Sequence[str], progress: bool = True) -> str:
    """Runs a command and returns its stdout; its stderr is shown as it comes, where `progress` says so."""
    # A session of its own: Ctrl-C reaches us alone, and we ask for a clean stop, which a killed launcher would not give.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(child.stdout.read()))
        reader.start()
        lines: list[str] = []
        passing = False
        try:
            for line in child.stderr:
                lines.append(line)
                if progress and not line.startswith(PREFIX):
                    passing = _show(line, passing)
            reader.join()
            child.wait()
        except BaseException:
            child.send_signal(signal.SIGUSR1)  # it ends after the pair in hand, and continues when it is run again
            raise
        finally:
            if passing:
                print(file=sys.stderr, flush=True)
    if child.returncode != 0:
        kind = Stopped if child.returncode == STOPPED else ProgramError
        raise kind(_message(lines, child.returncode), child.returncode, "".join(lines))
    return printed[0]


def _show(line: str, after_passing: bool) -> bool:
    """Shows a line, and returns whether the next one is written over it: on a terminal and in a notebook the progress of a
    stage stays in one line. `after_passing`: what was returned for the line before.
    """
    line = line.rstrip()
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    stage = live and re.match("(cache|sweep): ", line) is not None
    passing = stage and not re.search("took|complete already", line)
    if passing:  # a line that the terminal wraps could not be written over
        line = line[: _columns() - 1]
    start = "\r" if stage else "\n" if after_passing else ""
    print(f"{start}{line:<{_columns() - 1 if stage else 0}}", end="" if passing else "\n", file=sys.stderr, flush=True)
    return passing


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):  # a notebook
        return 80


def _message(lines: list[str], returncode: int) -> str:
    for line in lines:
        if line.startswith(PREFIX):
            return line.removeprefix(PREFIX).rstrip()
    return "".join(lines[-LAST_LINES:]).strip() or f"latentpatch ended with exit code {returncode}"
