"""The oracle (tests/oracle, transformers + peft + hooks) against the program: first-1..6 at all layers of a demo model,
with each defect of the published scripts on and off.

    python oracle.py LATENTPATCH MODEL LIMIT

MODEL is gpt2 or llama; LIMIT is the number of pairs. LATENTPATCH_TORCH_PYTHON names a Python that has
tests/oracle/requirements.txt; without it the test is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
SKIPPED = 77
MAX_NEW_TOKENS = 24

SETTINGS = [
    ("codi", []),
    ("bot-first", []),
    ("bot-first", ["off_by_one"]),
    ("bot-first", ["prefill_leak"]),
    ("bot-first", ["decode_leak"]),
    ("bot-first", ["off_by_one", "prefill_leak", "decode_leak"]),
    ("codi", ["off_by_one", "prefill_leak", "decode_leak"]),
]


def sweep(program: str, model: str, limit: str, protocol: str, defects: list[str], folder: str) -> Path:
    """Our results of one setting."""
    results = Path(folder) / f"{protocol}-{'+'.join(defects)}.results.h5"
    group = {"site": "resid_post", "layers": "all", "steps": "first:1-6", "donor": "clean", "defects": defects}
    settings = {
        "pairs.limit": limit,
        "protocol.name": protocol,
        "store.file": f"{folder}/{protocol}.store.h5",
        "results.file": os.fspath(results),
        "decode.max_new_tokens": MAX_NEW_TOKENS,
        "sweep.filter": "all",
        "sweep.conditions": json.dumps([group]),
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    subprocess.run(
        [program, "run", os.fspath(JOBS / f"demo-{model}.json"), "--quiet", *words],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return results


def main() -> None:
    """All settings; ends with 1 where any row differs."""
    program, model, limit = sys.argv[1:4]
    python = os.environ.get("LATENTPATCH_TORCH_PYTHON")
    if not python:
        print("skipped: LATENTPATCH_TORCH_PYTHON does not name a Python with torch, transformers and peft")
        sys.exit(SKIPPED)
    failed = False
    with tempfile.TemporaryDirectory(prefix="latentpatch-oracle-") as folder:
        for protocol, defects in SETTINGS:
            results = sweep(program, model, limit, protocol, defects, folder)
            command = [python, os.fspath(ROOT / "tests" / "oracle" / "run_oracle.py")]
            command += ["--base", os.fspath(JOBS / "demo" / model / "base")]
            command += ["--codi", os.fspath(JOBS / "demo" / model / "codi"), "--lora-r", "32", "--lora-alpha", "64"]
            command += ["--pairs", os.fspath(JOBS / "demo" / "pairs.json"), "--limit", limit, "--filter", "all"]
            command += ["--protocol", protocol, "--max-new-tokens", str(MAX_NEW_TOKENS), "--against", os.fspath(results)]
            command += [f"--{name.replace('_', '-')}" for name in defects]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if line and not line.startswith("L")]
            print(f"{model}, {protocol}, defects {','.join(defects) or 'none'}: {'; '.join(lines[-2:])}", flush=True)
            if done.returncode != 0:
                failed = True
                print("\n".join(lines[:20]), done.stderr[-2000:], sep="\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
