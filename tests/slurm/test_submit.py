"""slurm/submit.sh without a Slurm: what it would submit, and what it says of wrong input.

Usage: test_submit.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DRY_RUNS = (
    ("--cpu", "ROOT/jobs/demo-gpt2.json"),
    ("--gpus-per-task", "1", "--nodes", "4", "--tasks-per-node", "8", "--cpus-per-task", "6", "--time", "02:00:00",
     "--partition", "gpu", "--account", "me", "--set", "sweep.seed=2", "--array-limit", "1",
     "ROOT/jobs/demo-gpt2.json", "ROOT/jobs/demo-llama.json", "--", "--exclusive"),
    ("--site", "ROOT/slurm/sites/plain.conf", "ROOT/jobs/demo-gpt2.json"),
    ("--site", "ROOT/slurm/sites/nersc.conf", "ROOT/jobs/demo-gpt2.json", "--", "--mail-type=FAIL"),
    ("--site", "ROOT/slurm/sites/juelich.conf", "ROOT/jobs/demo-gpt2.json"),
    ("--gres", "gpu:2", "--cpus-per-gpu", "8", "--tasks-per-node", "2", "ROOT/jobs/demo-gpt2.json"),
    ("--site", "ROOT/slurm/sites/juelich.conf", "--cpu", "ROOT/jobs/demo-gpt2.json"),
    ("--only", "sweep,report", "--logs", "/tmp/some where", "ROOT/jobs/demo-llama.json"),
)  # fmt: skip


class Submit(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)

    def submit(self, *arguments: object, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
        words = [str(word).replace("ROOT", str(ROOT)) for word in arguments]
        return subprocess.run(
            [ROOT / "slurm" / "submit.sh", *words],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )

    def fake_sbatch(self, refuse: str) -> str:
        """A folder with an sbatch that refuses one stage and notes what it is asked; and the PATH that begins with it."""
        folder = self.folder / "bin"
        folder.mkdir()
        log = self.folder / "asked.txt"
        (folder / "sbatch").write_text(
            f'#!/bin/sh\necho "sbatch $*" >>{log}\ncase "$*" in *{refuse}.sbatch*) exit 1;; *cache.sbatch*) echo 7;; '
            "*) echo '8;cluster';; esac\n"
        )
        (folder / "scancel").write_text(f'#!/bin/sh\necho "scancel $*" >>{log}\n')
        for program in folder.iterdir():
            program.chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    def test_dry_run(self) -> None:
        found = []
        for words in DRY_RUNS:
            run = self.submit("--dry-run", *words)
            self.assertEqual((run.returncode, run.stderr), (0, ""))
            text = run.stdout.replace(str(ROOT), "ROOT")
            found += [f"$ submit.sh --dry-run {' '.join(words)}", re.sub(r"-\d{8}-\d{6}\b", "-DATE-TIME", text)]
        golden = HERE / "dry_run.txt"
        if os.environ.get("LATENTPATCH_WRITE_GOLDEN"):
            golden.write_text("\n".join(found))
        self.assertEqual("\n".join(found), golden.read_text())
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_chain_of_ids(self) -> None:
        path = self.fake_sbatch("none")
        run = self.submit("--program", "/bin/true", "--logs", "x", "ROOT/jobs/demo-gpt2.json", path=path)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run.stdout, f"cache 7\nsweep 8\nreport 8\nlogs {self.folder}/x\n")
        asked = (self.folder / "asked.txt").read_text().splitlines()
        self.assertEqual([re.findall(r"--dependency=\S+", line) for line in asked],
                         [[], ["--dependency=afterok:7"], ["--dependency=afterok:8"]])  # fmt: skip
        self.assertEqual((self.folder / "x" / "jobs.txt").read_text(), f"{ROOT}/jobs/demo-gpt2.json\n")
        run = self.submit("--program", "/bin/true", "--logs", "x", "ROOT/jobs/demo-gpt2.json", path=path)
        self.assertEqual((run.returncode, run.stdout), (2, ""))
        self.assertIn("holds another submission", run.stderr)

    def test_a_refused_stage_leaves_nothing(self) -> None:
        path = self.fake_sbatch("sweep")
        run = self.submit("--program", "/bin/true", "--logs", "x", "ROOT/jobs/demo-gpt2.json", path=path)
        self.assertEqual(run.returncode, 2)
        self.assertIn("sbatch refused the stage sweep; nothing stays submitted", run.stderr)
        self.assertEqual((self.folder / "asked.txt").read_text().splitlines()[-1], "scancel 7")
        self.assertFalse((self.folder / "x").exists())

    def test_an_answer_without_an_id(self) -> None:
        """What a site's sbatch prints before the id is passed over; no id is an error, as the next stage would not wait."""
        path = self.fake_sbatch("none")
        for answer, code in (("Welcome\n7;cluster", 0), ("Welcome", 2), ("", 2)):
            (self.folder / "bin" / "sbatch").write_text(f"#!/bin/sh\nprintf '%s' '{answer}'\n")
            run = self.submit("--program", "/bin/true", "--logs", f"x{code}", "ROOT/jobs/demo-gpt2.json", path=path)
            self.assertEqual(run.returncode, code, run.stderr)
            self.assertEqual("sbatch: expected a job id as its last line, found" in run.stderr, code == 2)
            self.assertEqual(run.stdout.splitlines()[:1], ["cache 7"] if code == 0 else [])

    def test_empty_words_of_a_site(self) -> None:
        """sbatch would take an empty word for the script."""
        (self.folder / "s.conf").write_text("lp_sbatch_extra=\nlp_srun_extra=('' '-a  b$(x)\"')\n")
        run = self.submit("--dry-run", "--site", "s.conf", "ROOT/jobs/demo-gpt2.json")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        self.assertNotIn(" '' ", run.stdout)
        self.assertIn('-a\\ \\ b\\$\\(x\\)\\"', run.stdout)

    def test_a_folder_of_others(self) -> None:
        """A folder that was there stays when Slurm refuses, with what was in it; a file of its own is not replaced."""
        path = self.fake_sbatch("cache")
        (self.folder / "x").mkdir()
        for name in (None, "notes", "site.conf", "summary.txt", "sweep.0.txt"):
            if name:
                (self.folder / "x" / name).write_text("mine\n")
            run = self.submit("--program", "/bin/true", "--logs", "x", "ROOT/jobs/demo-gpt2.json", path=path)
            self.assertEqual(run.returncode, 2)
            self.assertEqual((self.folder / "x").is_dir(), True, name)
            if name:
                self.assertEqual((self.folder / "x" / name).read_text(), "mine\n")
            if name not in (None, "notes"):
                self.assertIn(f"x/{name}: is there already", run.stderr)
                (self.folder / "x" / name).unlink()
        (self.folder / "x" / "jobs.txt").symlink_to("elsewhere")
        run = self.submit("--program", "/bin/true", "--logs", "x", "ROOT/jobs/demo-gpt2.json", path=path)
        self.assertIn("x/jobs.txt: cannot be made, or holds another submission", run.stderr)
        self.assertFalse((self.folder / "x" / "elsewhere").exists())

    def test_names_and_numbers(self) -> None:
        """A site file without a slash is not looked for in PATH; numbers are decimal; Slurm keeps a % in a folder's name."""
        path = self.fake_sbatch("none")
        (self.folder / "bin" / "my.conf").write_text("exit 3\n")
        (self.folder / "bin" / "my.conf").chmod(0o755)
        (self.folder / "my.conf").write_text((ROOT / "slurm" / "site.conf").read_text())
        words = ("--site", "my.conf", "--program", "/bin/true", "--nodes", "010", "--gpus-per-task", "08")
        run = self.submit(*words, "--logs", "50%j", "ROOT/jobs/demo-gpt2.json", path=path)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        asked = (self.folder / "asked.txt").read_text().splitlines()[0]
        for word in ("--nodes=10 ", "--gpus-per-task=8 ", f"--output={self.folder}/50%%j/cache-%j.log "):
            self.assertIn(word, asked)
        self.assertTrue((self.folder / "50%j" / "jobs.txt").exists())
        for words in (("--logs", "a\nb", "ROOT/jobs/demo-gpt2.json"), ("a\nb.json",)):
            (self.folder / "a\nb.json").write_text("{}")
            run = self.submit("--program", "/bin/true", *words, path=path)
            self.assertEqual(run.returncode, 2)
            self.assertRegex(run.stderr, "with a line break (or a backslash )?in its name")

    def test_wrong_input(self) -> None:
        path = self.fake_sbatch("none")
        job = self.folder / "job.json"
        job.write_text(json.dumps({}))
        sites = {"dos": "lp_nodes=2\r\n", "exit": "exit 0\n", "fails": "false\n", "large": f"lp_nodes={'9' * 20}"}
        for name, text in sites.items():
            (self.folder / f"{name}.conf").write_text(text)
        cases = (
            ((), "expected a job file"),
            (("no.json",), "no.json: cannot be read"),
            ((job, "--nodes"), "--nodes: expected a value"),
            ((job, "--nodes", "two"), '--nodes: expected a whole number, found "two"'),
            ((job, "--array-limit", "0"), '--array-limit: expected a number from 1, found "0"'),
            ((job, "--only", "cache,swap"), "--only: expected some of cache,sweep,report"),
            ((job, "--frobnicate", "1"), "unknown option --frobnicate"),
            ((job, "--site", "none.conf"), "none.conf: cannot be read"),
            ((job, "--site", "."), ".: cannot be read"),
            ((job, "--site", "dos.conf"), "dos.conf: has line ends of Windows"),
            ((job, "--site", "exit.conf"), "exit.conf: ended before its last line, with exit code 0"),
            ((job, "--site", "fails.conf"), "fails.conf: ended before its last line, with exit code 1"),
            ((job, "--site", "large.conf"), 'lp_nodes: expected a whole number, found "99999999999999999999"'),
            ((job, "--nodes", "99999999999999999999"), "--nodes: expected a whole number"),
            ((".",), ".: cannot be read"),
            ((job, "./job.json"), "./job.json: the same job file twice"),
            ((job, "--logs", "a\\b"), "a folder with a line break or a backslash in its name"),
            ((job, "--program", "."), "expected the program, found none"),
            ((job, "--program", "none"), "expected the program, found none"),
        )
        for words, message in cases:
            with self.subTest(words=words):
                run = self.submit(*words, path=path)
                self.assertEqual((run.returncode, run.stdout), (2, ""))
                self.assertRegex(run.stderr, r"\Asubmit\.sh: error: [^\n]*\n\Z")
                self.assertIn(message, run.stderr)
        self.assertFalse((self.folder / "asked.txt").exists())

    def test_scripts_alone(self) -> None:
        for name in ("cache", "sweep", "report"):
            run = subprocess.run(["bash", ROOT / "slurm" / f"{name}.sbatch"], capture_output=True, text=True)
            self.assertNotEqual(run.returncode, 0)
            self.assertIn(f"usage: sbatch [OPTIONS] {name}.sbatch RUN_FOLDER", run.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
