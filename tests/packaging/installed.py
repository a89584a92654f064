"""What `cmake --install` leaves is complete and works from anywhere: an empty prefix that is moved afterwards, another
user, a folder of that user's own.

    python tests/packaging/installed.py BUILD_FOLDER MPIEXEC
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NEEDED = [
    "bin/latentpatch",
    "share/latentpatch/schemas/job.schema.json",
    "share/latentpatch/schemas/pairs.schema.json",
    "share/latentpatch/schemas/store-layout.md",
    "share/latentpatch/jobs/demo-gpt2.json",
    "share/latentpatch/jobs/demo/gpt2/base/model.safetensors",
    "share/latentpatch/jobs/demo/pairs.json",
    "share/latentpatch/jobs/demo/train/templates.json",
    "share/latentpatch/slurm/submit.sh",
    "share/latentpatch/analysis/pyproject.toml",
    "share/latentpatch/analysis/latentpatch/__init__.py",
    "share/latentpatch/analysis/latentpatch/job.schema.json",
    "share/doc/latentpatch/README.md",
    "share/doc/latentpatch/LICENSE",
    "share/doc/latentpatch/docs/job.md",
]
UNWANTED = ["*.a", "*.h", "__pycache__", "*.egg-info", "test_*"]


def other_user() -> dict[str, int]:
    """nobody, where we are root."""
    return {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}


def main(build: Path, mpiexec: str) -> int:
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        made, prefix, home = folder / "made", folder / "moved elsewhere", folder / "home"
        subprocess.run(["cmake", "--install", build, "--prefix", made], check=True, stdout=subprocess.DEVNULL)
        made.rename(prefix)
        home.mkdir()
        if os.geteuid() == 0:
            os.chown(home, 65534, 65534)
        problems += [f"{path}: is not installed" for path in NEEDED if not (prefix / path).is_file()]
        problems += [f"{found}: should not be installed" for glob in UNWANTED for found in prefix.rglob(glob)]
        source = str(build.resolve().parent)
        if source.encode() in (prefix / "bin/latentpatch").read_bytes():
            problems.append(f"bin/latentpatch: holds the path of its source, {source}")

        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
        environment |= {key: value for key, value in os.environ.items() if key.startswith(("OMPI_", "PRTE_", "PMIX_"))}
        share = prefix / "share/latentpatch"
        job = [str(share / "jobs/demo-gpt2.json"), "--set", f"store.file={home}/s.store.h5"]
        job += ["--set", f"results.file={home}/r.results.h5", "--set", "pairs.limit=8", "--quiet"]

        def run(*command: str | Path) -> str:
            done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, **other_user())
            if done.returncode != 0:
                problems.append(f"{' '.join(map(str, command))}: exit code {done.returncode}: {done.stderr[-600:]}")
            return done.stdout

        program = prefix / "bin/latentpatch"
        if not run(program, "--version").startswith("latentpatch "):
            problems.append("--version: expected a line that begins with latentpatch")
        templates = share / "jobs/demo/train/templates.json"
        run(program, "pairs", "make", "--source", templates, "--format", "templates", "--count", "10", "-o", home / "p.json")
        if len(json.loads((home / "p.json").read_text())["pairs"]) != 10:
            problems.append("pairs make: expected 10 pairs")
        table = run(mpiexec, "-n", "2", program, "run", *job)
        if "Sound: every control that must change nothing changed nothing." not in table:
            problems.append(f"run: expected a table that ends with its verdict, found {table[-300:]!r}")
        shown = run(share / "slurm/submit.sh", "--dry-run", "--cpu", share / "jobs/demo-gpt2.json")
        if "bin/latentpatch" not in shown or f"{home}/out/slurm" not in shown:
            problems.append(f"submit.sh: expected bin/latentpatch and logs in {home}/out/slurm, found {shown[:600]!r}")
        shutil.rmtree(home)
    print("\n".join(problems) if problems else "the installed program works")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
