"""README's commands from a package, a checkpoint and GSM8K's file to a figure: they run as they are written, on the demo model.

What is not taken literally: the package is unpacked into a folder instead of installed by root, pip looks at no registry, and
the numbers of pairs and ranks are small. The questions are of the demo's kinds, in the form of GSM8K's file.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import latentpatch as lp

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("LATENTPATCH", ROOT / "build" / "latentpatch")).parent
MOST = 10


def commands() -> list[str]:
    section = (ROOT / "README.md").read_text().split("## Your own checkpoint")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") and not line.startswith("     ")]
    return [line.partition("  #")[0].rstrip() for line in lines]


def write_gsm8k(path: Path, n: int) -> None:
    """Questions that the demo model was trained to answer, with worked solutions as GSM8K writes them."""
    templates = json.loads((ROOT / "jobs" / "demo" / "train" / "templates.json").read_text())["templates"]
    draw, lines = random.Random(3), []
    for template in [t for t in templates if t["id"] in ("get", "lose", "boxes")] * (n // 3):
        values = {k: draw.randint(*limits) for k, limits in template["variables"].items()}
        words = {k: draw.choice(choices) for k, choices in template["words"].items()}
        (e,) = template["equations"]
        left, right = values[e["left"]], values[e["right"]]
        result = {"+": left + right, "-": left - right, "*": left * right}[e["op"]]
        solution = f"It is {left}{e['op']}{right}=<<{left}{e['op']}{right}={result}>>{result}.\n#### {result}"
        lines.append(json.dumps({"question": template["text"].format(**values, **words), "answer": solution}))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Path:
    """A folder with the checkpoint, the questions and the package, as the commands expect them."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "models").mkdir()
    (folder / "models" / "gpt2").symlink_to(ROOT / "jobs/demo/gpt2/base")
    (folder / "models" / "CODI-gpt2").symlink_to(ROOT / "jobs/demo/gpt2/codi")
    write_gsm8k(folder / "train.jsonl", 60)
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb: this is no Debian")
    made = ["cpack", "--config", BUILD / "CPackConfig.cmake", "-G", "DEB", "-B", folder / "package"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=BUILD)
    shutil.copy(next((folder / "package").glob("*.deb")), folder)
    return folder


def here(command: str, folder: Path) -> str:
    """The command with what a test must not do replaced."""
    command = command.replace("/usr/share/", f"{folder}/usr/share/").replace("--lora-alpha 32", "--lora-alpha 64")
    command = command.replace("--count 500", "--count 16").replace("mpirun -n 8", "mpirun -n 2")
    if command.startswith("sudo apt-get install"):
        (package,) = re.findall(r"\./\S+\.deb", command)
        return f"dpkg-deb -x {package} ."
    if command.startswith("python3 -m venv"):
        return f"{sys.executable} -m venv --without-pip venv"
    if command.startswith("venv/bin/pip install"):
        flags = "--no-deps --no-build-isolation --ignore-installed --no-index --quiet"
        return command.replace("venv/bin/pip install", f"venv/bin/python -m pip install {flags}")
    return command


def test_the_commands_of_the_readme_lead_to_a_figure(machine):
    said = commands()
    assert len(said) <= MOST
    assert said[0].startswith("sudo apt-get install")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LATENTPATCH")}
    environment["PATH"] = f"{machine}/usr/bin:{environment['PATH']}"
    for command in said:
        done = subprocess.run(
            shlex.split(here(command, machine)), cwd=machine, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-800:]}{done.stderr[-2000:]}"
        if command.startswith("python3 -m venv"):  # what pip would fetch is lent by the environment of the tests
            own = next((machine / "venv" / "lib").glob("python*")) / "site-packages" / "lent.pth"
            own.write_text(sysconfig.get_paths()["purelib"] + "\n")
    assert (machine / "report" / "report.html").is_file()
    assert (machine / "figure-double.pdf").read_bytes().startswith(b"%PDF")
    assert not list((machine / "usr" / "share" / "latentpatch" / "analysis").glob("build"))
    results = lp.load(machine / "out" / "my-job.results.h5")
    assert len(results.pairs) == 16
    assert len(results.included) >= 4  # pairs that the model answers, so that the figure has something to show
