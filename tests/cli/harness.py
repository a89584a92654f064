"""What the black-box tests of the program share: a job in a folder of its own, runs with a number of ranks and a time
limit, and the rules for errors. Called as `SCRIPT.py LATENTPATCH MPIEXEC`; needs nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "jobs" / "demo"
TIMEOUT = 180
MAX_RANKS = int(os.environ.get("LATENTPATCH_TEST_MAX_RANKS", "4"))  # of the tests of bad input

# All ranks are on one host. Open MPI 5 complains on stderr, in pieces of lines that mix with the program's, when TCP finds
# no way between the interfaces of a host.
os.environ.setdefault("OMPI_MCA_btl", "^tcp")

program = "latentpatch"
mpiexec = "mpiexec"

# mpirun tells at length, between two lines of dashes, that a rank ended with an exit code.
MPIRUN_BLOCK = re.compile(r"^-{60,}\n.*?^-{60,}\n", re.MULTILINE | re.DOTALL)
MPIRUN_NOISE = re.compile(r"^\[[^\]\n]*(:\d+\] |\]\[\[\d+,\d+\],\d+\]\[).*\n", re.MULTILINE)
# What a stage says when it goes well: what it will do, and how far it is.
PROGRESS = re.compile(
    r"^(cache|sweep): \d+ of \d+ pairs|^latentpatch: (expected: about |.*: \d+ pairs, \d+ conditions each)"
)


@dataclass
class Run:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Lines on stderr that are the program's own: no progress, nothing of mpirun's."""
        own = MPIRUN_NOISE.sub("", MPIRUN_BLOCK.sub("", self.err))
        return [line for line in own.splitlines() if line and not PROGRESS.match(line)]


def command_of(args: tuple[Any, ...], ranks: int) -> list[str]:
    words = [program, *map(str, args)]
    return words if ranks == 1 else [mpiexec, "-n", str(ranks), *words]


class Case(unittest.TestCase):
    """Each test gets an empty folder `self.folder`, removed afterwards."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="latentpatch-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    # ---- inputs

    def pairs(self, name: str = "pairs.json", n: int = 4, change: Callable[[list], None] | None = None) -> Path:
        """A pair file: the first n demo pairs, repeated under new ids where there are not so many."""
        demo = json.loads((DEMO / "pairs.json").read_text())
        source = demo["pairs"]
        chosen = [dict(source[i % len(source)], id=f"p{i:05d}") for i in range(n)]
        if change:
            change(chosen)
        path = self.folder / name
        path.write_text(json.dumps({"format": "latentpatch-pairs", "version": 1, "pairs": chosen}))
        return path

    def job(self, name: str = "job.json", model: str = "gpt2", out: str = "out", **sections: Any) -> Path:
        """A job on a demo model with few pairs: the shipped demo job, whole paths, sections replaced or extended."""
        job = json.loads((DEMO.parent / f"demo-{model}.json").read_text())
        for key in ("base", "codi"):
            job["model"][key] = str(DEMO.parent / job["model"][key])
        job["pairs"] = {"file": "pairs.json"}
        job["store"] = {"file": f"{out}/a.store.h5"}
        job["results"] = {"file": f"{out}/a.results.h5"}
        job["sweep"] = {
            "filter": "all",
            "controls": False,
            "conditions": [{"site": "resid_post", "layers": "all", "steps": "first:1-2", "donor": "clean"}],
        }
        job["decode"] = {"max_new_tokens": 8}
        for key, value in sections.items():
            if isinstance(value, dict) and isinstance(job.get(key), dict):
                job[key].update(value)
            else:
                job[key] = value
        path = self.folder / name
        path.write_text(json.dumps(job))
        return path

    def model_copy(self, model: str = "gpt2", changed: tuple[str, ...] = ("codi",)) -> dict[str, str]:
        """Folders of a demo model; the parts `changed` are copies that may be written, the others are linked."""
        out = {}
        for part in ("base", "codi"):
            target = self.folder / f"{model}-{part}"
            if part in changed:
                shutil.copytree(DEMO / model / part, target)
            else:
                target.symlink_to(DEMO / model / part)
            out[part] = str(target)
        return out

    # ---- runs

    def latentpatch(
        self,
        *args: Any,
        ranks: int = 1,
        timeout: int = TIMEOUT,
        before: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Run:
        words = command_of(args, ranks)
        if ranks > 1:
            # The leak check stops the process for a second; one rank does the same work as several.
            ours = {"ASAN_OPTIONS": "detect_leaks=0"}
        else:
            # Without the daemon that Open MPI starts beside a single process, which takes more time than a refusal. Such
            # processes need a session folder of their own.
            session = tempfile.mkdtemp(prefix="latentpatch-mpi-")
            self.addCleanup(shutil.rmtree, session, ignore_errors=True)
            ours = {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_orte_tmpdir_base": session}
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=os.environ | ours | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            self.fail(f"did not end within {timeout} s: {' '.join(words)}\nstdout: {out}\nstderr: {err}")
        return Run(process.returncode, out, err)

    def succeed(self, *args: Any, ranks: int = 1, **keywords: Any) -> Run:
        run = self.latentpatch(*args, ranks=ranks, **keywords)
        self.assertEqual(run.code, 0, f"{args}, {ranks} ranks\nstdout: {run.out}\nstderr: {run.err}")
        return run

    def assert_error(self, run: Run, *words: str, code: int = 1) -> None:
        """Exactly one line, an error that holds all the words; the exit code."""
        self.assertEqual(len(run.lines), 1, f"expected one line on stderr, found: {run.err}")
        line = run.lines[0]
        self.assertTrue(line.startswith("latentpatch: error: "), line)
        for word in words:
            self.assertIn(word, line)
        self.assertEqual(run.code, code, run.err)

    def files(self) -> list[str]:
        """All files and folders below the test's folder."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


# ---- safetensors, by its specification: u64 length, JSON header, bytes


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytearray]:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])


def write_safetensors(path: Path, header: dict[str, Any], body: bytes | bytearray) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))


def matrix_of(header: dict[str, Any], ending: str) -> str:
    """The first tensor whose name ends so."""
    return next(name for name in sorted(header) if name.endswith(ending))


def need(module: str) -> Any:
    """A module, or the end of the test as skipped."""
    try:
        return __import__(module)
    except ImportError:
        print(f"skipped: the Python package {module} was not found")
        sys.exit(77)


def main() -> None:
    global program, mpiexec
    program, mpiexec = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
