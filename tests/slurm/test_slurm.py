"""The scripts of slurm/ on a real Slurm, which the test starts for itself: two nodes, one rank on each.

Usage: test_slurm.py LATENTPATCH MPIEXEC [unittest arguments]
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "faults"))

from private_slurm import PrivateSlurm, SlurmError  # noqa: E402
from same import difference  # noqa: E402

PAIRS = 16

SITE = """
source {root}/slurm/site.conf
lp_nodes=2
lp_tasks_per_node=1
lp_srun_cpu_bind=none    # the test's Slurm has no plugin for it
lp_cache_time=10
lp_sweep_time=10
lp_signal_seconds=60
lp_report_program={folder}/page
"""

program = mpiexec = ""
slurm: PrivateSlurm


class SlurmTest(unittest.TestCase):
    folder: Path
    models: tuple[str, ...] = ("gpt2",)

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="latentpatch-slurm-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        (cls.folder / "site.conf").write_text(SITE.format(root=ROOT, folder=cls.folder))
        # Stands for latentpatch-report, which is tested where it lives.
        (cls.folder / "page").write_text('#!/bin/sh\nmkdir -p "$2"\necho "$@" >"$2/called.txt"\n')
        (cls.folder / "page").chmod(0o755)
        # The undisturbed runs, without Slurm and with another number of ranks.
        for model in cls.models:
            subprocess.run([program, "run", str(cls.job("whole", model))], check=True, capture_output=True)

    @classmethod
    def job(cls, run: str, model: str = "gpt2", **changes: object) -> Path:
        """A job on a demo model with an output folder of its own. The reference executor ends each pair by itself, so a
        stage can be met in the middle."""
        job = json.loads((ROOT / "jobs" / f"demo-{model}.json").read_text())
        for key in ("base", "codi"):
            job["model"][key] = str(ROOT / "jobs" / job["model"][key])
        job["pairs"] = {"file": str(ROOT / "jobs" / job["pairs"]["file"]), "limit": PAIRS}
        job["store"] = {"file": f"{run}/{model}.store.h5"}
        job["results"] = {"file": f"{run}/{model}.results.h5"}
        job["sweep"]["filter"] = "all"
        job["engine"] = {"executor": "reference"}
        job.update(changes)
        path = cls.folder / f"{run}-{model}.json"
        path.write_text(json.dumps(job))
        return path

    def submit(self, *arguments: object) -> dict[str, str]:
        """submit.sh; the ids of the stages, and the folder of the logs."""
        logs = self.folder / f"logs-{self.id().rsplit('.', 1)[1]}-{time.monotonic_ns()}"
        words = [ROOT / "slurm" / "submit.sh", "--site", self.folder / "site.conf", "--program", program]
        words += ["--logs", logs, *arguments]
        run = subprocess.run(list(map(str, words)), env=slurm.environment, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        return dict(line.split() for line in run.stdout.splitlines())

    def logs(self, submitted: dict[str, str]) -> str:
        folder = Path(submitted["logs"])
        return "\n".join(f"==> {p.name}\n{p.read_text()}" for p in sorted(folder.glob("*.log")))

    def ends(self, submitted: dict[str, str], **states: str) -> None:
        found = {stage: slurm.wait_for(submitted[stage]) for stage in states}
        self.assertEqual(found, states, self.logs(submitted))

    def same(self, run: str, model: str = "gpt2") -> None:
        for kind in ("store", "results"):
            name = f"{model}.{kind}.h5"
            self.assertEqual(difference(self.folder / "whole" / name, self.folder / run / name), "")

    def until(self, condition: Callable[[], object], what: str, seconds: float = 100) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, f"waited {seconds} s for {what}")
            time.sleep(0.05)

    def ranks_of(self, job: str) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    if (
                        (entry / "comm").read_text().strip() == Path(program).name
                        and f"SLURM_JOB_ID={job}".encode() in environment
                        and f"SLURM_CONF={slurm.folder}/slurm.conf".encode() in environment
                    ):
                        found.append(int(entry.name))
        return found

    def hold(self, submitted: dict[str, str], stage: str, output: str) -> list[int]:
        """Waits until the job has begun with its output, and stops its ranks there: what comes next meets them in the
        middle, however fast the machine is."""

        def ready() -> bool:
            state = slurm.field(submitted[stage], "JobState")
            self.assertIn(state, ("PENDING", "RUNNING"), f"{stage} ended before it was met\n{self.logs(submitted)}")
            return (self.folder / output).exists()

        self.until(ready, output)
        ranks = self.ranks_of(submitted[stage])
        self.assertEqual(len(ranks), 2, f"ranks of {stage}\n{self.logs(submitted)}")
        for rank in ranks:
            os.kill(rank, signal.SIGSTOP)
        return ranks

    def let_go(self, ranks: list[int]) -> None:
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGCONT)

    def assert_restarted_in_the_middle(self, submitted: dict[str, str]) -> None:
        logs = self.logs(submitted)
        self.assertRegex(logs, r"sweep stopped with exit code 75; requeued \(restart 1 of at most 20\)")
        self.assertRegex(logs, r"sweep of \S+: job \d+, life 2, nodes n\[1-2\]")
        self.assertEqual(slurm.field(submitted["sweep"], "Restarts"), "1")
        found = re.search(rf"stopped by SIGUSR1[^\n]*?(\d+) of {PAIRS}", logs)
        self.assertIsNotNone(found, logs)
        self.assertGreater(int(found.group(1)), 0, logs)


class Chain(SlurmTest):
    models = ("gpt2", "llama")

    def test_chain(self) -> None:
        submitted = self.submit(self.job("chain"), "--cpu")
        self.ends(submitted, report="COMPLETED", sweep="COMPLETED", cache="COMPLETED")
        self.same("chain")
        logs = Path(submitted["logs"])
        self.assertIn("nodes n[1-2]", self.logs(submitted))
        self.assertIn("Sound: every control", (logs / "summary.txt").read_text())
        called = (logs / "report" / "called.txt").read_text()
        self.assertEqual(called, f"-o {logs}/report {self.folder}/chain/gpt2.results.h5\n")
        # Once more: nothing is left to do, and nothing is done.
        before = (self.folder / "chain" / "gpt2.results.h5").read_bytes()
        again = self.submit(self.job("chain"), "--cpu", "--only", "sweep")
        self.assertEqual(sorted(again), ["logs", "sweep"])
        self.ends(again, sweep="COMPLETED")
        self.assertEqual((self.folder / "chain" / "gpt2.results.h5").read_bytes(), before)

    def test_array(self) -> None:
        """Both models, and between them a job that fails: the others go on, the report does not."""
        bad = self.job("array", "llama", pairs={"file": "no-such-file.json"})
        bad = bad.rename(self.folder / "array-bad.json")
        jobs = [self.job("array", "gpt2"), bad, self.job("array", "llama")]
        submitted = self.submit(*jobs, "--cpu")
        for task, state in enumerate(("COMPLETED", "CANCELLED", "COMPLETED")):
            self.assertEqual(slurm.wait_for(f"{submitted['sweep']}_{task}"), state, self.logs(submitted))
        self.ends(submitted, report="CANCELLED")
        self.assertEqual(slurm.field(f"{submitted['cache']}_1", "JobState"), "FAILED")
        self.assertIn("no-such-file.json: cannot open", self.logs(submitted))
        for model in ("gpt2", "llama"):
            self.same("array", model)
        whole = self.submit(jobs[0], jobs[2], "--cpu", "--array-limit", 1)
        self.ends(whole, report="COMPLETED")
        called = (Path(whole["logs"]) / "report" / "called.txt").read_text().split()
        self.assertEqual([Path(word).name for word in called[2:]], ["gpt2.results.h5", "llama.results.h5"])

    def test_gpus(self) -> None:
        """One GPU for each rank, as far as a machine without any can tell: what Slurm gives the ranks."""
        seen = self.folder / "seen"
        seen.mkdir()
        fake = self.folder / "fake-latentpatch"
        fake.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $*" >{seen}/$SLURMD_NODENAME.$SLURM_LOCALID\n')
        fake.chmod(0o755)
        options = ("--tasks-per-node", 2, "--cpus-per-task", 3, "--gpus-per-task", 1, "--only", "cache", "--program", fake)
        submitted = self.submit(self.job("gpus"), *options)
        self.ends(submitted, cache="COMPLETED")
        found = {path.name: path.read_text().split() for path in seen.iterdir()}
        self.assertEqual({name: words[0] for name, words in found.items()}, {"n1.0": "0", "n1.1": "1", "n2.0": "0", "n2.1": "1"})
        self.assertIn("engine.threads=3", found["n1.0"])
        self.assertNotIn("engine.device=cpu", found["n1.0"])


class Stops(SlurmTest):
    def test_signal(self) -> None:
        submitted = self.submit(self.job("signal"), "--cpu")
        ranks = self.hold(submitted, "sweep", "signal/gpt2.results.h5.partial")
        slurm.call("scancel", "--signal=USR1", "--batch", submitted["sweep"])
        self.until(lambda: "USR1: asking the ranks" in self.logs(submitted), "the signal")
        self.let_go(ranks)
        self.ends(submitted, report="COMPLETED")
        self.assert_restarted_in_the_middle(submitted)
        self.same("signal")

    def test_time_limit(self) -> None:
        submitted = self.submit(self.job("limit"), "--cpu")
        ranks = self.hold(submitted, "sweep", "limit/gpt2.results.h5.partial")
        slurm.call("scontrol", "update", f"jobid={submitted['sweep']}", "EndTime=now+58")
        self.until(lambda: "USR1: asking the ranks" in self.logs(submitted), "the warning before the limit")
        self.let_go(ranks)
        self.ends(submitted, report="COMPLETED")
        self.assert_restarted_in_the_middle(submitted)
        self.same("limit")

    def test_restarts_are_counted(self) -> None:
        submitted = self.submit(self.job("cap"), "--cpu", "--max-restarts", 0)
        ranks = self.hold(submitted, "sweep", "cap/gpt2.results.h5.partial")
        slurm.call("scancel", "--signal=USR1", "--batch", submitted["sweep"])
        self.until(lambda: "USR1: asking the ranks" in self.logs(submitted), "the signal")
        self.let_go(ranks)
        self.ends(submitted, sweep="FAILED", report="CANCELLED")
        self.assertEqual(slurm.field(submitted["sweep"], "ExitCode"), "75:0")
        self.assertIn("not requeued: that was life 1, and 0 restarts are allowed", self.logs(submitted))

    def test_cancelled_stays_cancelled(self) -> None:
        submitted = self.submit(self.job("cancel"), "--cpu")
        self.hold(submitted, "sweep", "cancel/gpt2.results.h5.partial")
        slurm.call("scancel", submitted["sweep"])
        self.ends(submitted, sweep="CANCELLED", report="CANCELLED")

    def test_killed_rank(self) -> None:
        job = self.job("killed")
        submitted = self.submit(job, "--cpu")
        ranks = self.hold(submitted, "sweep", "killed/gpt2.results.h5.partial")
        os.kill(ranks[0], signal.SIGKILL)
        self.let_go(ranks[1:])
        self.ends(submitted, sweep="FAILED", report="CANCELLED")
        self.until(lambda: not self.ranks_of(submitted["sweep"]), "the other rank to end", 20)
        # Its lock may be left, of a node that is gone for all that another node can know.
        (self.folder / "killed" / "gpt2.results.h5.lock").unlink(missing_ok=True)
        self.ends(self.submit(job, "--cpu"), report="COMPLETED")
        self.same("killed")


def main() -> None:
    global program, mpiexec, slurm
    program, mpiexec = (str(Path(word).resolve()) for word in sys.argv[1:3])
    install = subprocess.run([str(HERE / "install.sh")], stdin=subprocess.DEVNULL)
    if install.returncode != 0:
        sys.exit(install.returncode)
    if not shutil.which("h5diff"):
        print("skipped: no program h5diff")
        sys.exit(77)
    # An interrupt by ctest must reach the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with PrivateSlurm() as slurm:
            result = unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2, exit=False).result
    except SlurmError as error:
        sys.exit(f"FAILED: {error}")
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
