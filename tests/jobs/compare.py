"""`latentpatch compare` on results of a demo job: a published file made from those very results with known changes, and
two results files of which one has other answers.

    python compare.py LATENTPATCH

Needs nothing but the standard library. With the outside data, every published per-pair file must be read.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
DATA = Path(os.environ.get("LATENTPATCH_TEST_DATA", ROOT.parent / "shared" / "data"))
PUBLISHED = DATA / "cot_exploration" / "results"
LAYERS = {"early": "0", "middle": "1", "late": "2"}
N_PAIRS = 6

program = "latentpatch"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program, whatever its exit code."""
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


class Compare(unittest.TestCase):
    """One sweep for all tests: demo-seed-gpt2 on pairs whose ids are numbers, as in the published files."""

    folder: tempfile.TemporaryDirectory[str]
    path: Path
    results: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory(prefix="latentpatch-compare-")
        cls.path = Path(cls.folder.name)
        cls.results = cls.path / "a.results.h5"
        demo = json.loads((JOBS / "demo" / "pairs.json").read_text())["pairs"][:N_PAIRS]
        cls.pairs = [dict(pair, id=str(i)) for i, pair in enumerate(demo)]
        listed = {"format": "latentpatch-pairs", "version": 1, "pairs": cls.pairs}
        (cls.path / "pairs.json").write_text(json.dumps(listed))
        cls.sweep(cls.results, "")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.folder.cleanup()

    @classmethod
    def sweep(cls, results: Path, *more: str) -> None:
        settings = [
            f"pairs.file={cls.path / 'pairs.json'}",
            f"store.file={cls.path / 'a.store.h5'}",
            f"results.file={results}",
            "sweep.filter=all",
            *filter(None, more),
        ]
        words = [word for setting in settings for word in ("--set", setting)]
        done = run("run", JOBS / "demo-seed-gpt2.json", "--quiet", *words)
        if done.returncode != 0:
            raise SystemExit(done.stderr)

    def rows(self) -> list[dict[str, str]]:
        with (self.path / "a.csv").open(newline="", encoding="utf-8") as f:
            return list(csv.DictReader(f))

    def published(self, n: int) -> dict[str, Any]:
        """What the original's scripts would have written, had they found what we found."""
        rows = {(r["pair"], r["layer"], r["steps"]): r for r in self.rows() if r["role"] == "effect"}
        plain = {r["pair"]: r for r in self.rows() if r["role"] == "unpatched"}
        clean = self.clean_texts()
        names = {"other": "other_coherent"}
        listed = []
        for i in range(N_PAIRS):
            patched = {}
            for name, layer in LAYERS.items():
                row = rows[str(i), layer, f"first:{n}"]
                patched[name] = {"classification": names.get(row["class"], row["class"]), "generated": row["text"]}
            corrupted = {"generated": plain[str(i)]["text"]}
            listed.append({"pair_id": i, "clean": {"generated": clean[i]}, "corrupted": corrupted, "patched": patched})
        return {"valid_results": listed, "config": {"tokens_patched": n}}

    def clean_texts(self) -> list[str]:
        done = run("compare", self.write({"results": [self.baseline(i) for i in range(N_PAIRS)]}), self.results, "--all")
        self.assertEqual(done.returncode, 0, done.stderr)
        texts = {}
        for line in done.stdout.splitlines():
            if ", clean unpatched:" in line:
                texts[int(line.split()[1].rstrip(","))] = line.split('here "')[1].rstrip('"')
        return [texts[i] for i in range(N_PAIRS)]

    @staticmethod
    def baseline(pair: int) -> dict[str, Any]:
        side = {"output": "no such text", "correct": True}
        return {"pair_id": pair, "clean": side, "corrupted": side, "both_correct": True}

    def write(self, published: Any, text: str | None = None) -> Path:
        path = self.path / "published.json"
        path.write_text(text or json.dumps(published))
        return path

    def test_equal(self) -> None:
        for n in (1, 6):
            done = run("compare", self.write(self.published(n)), self.results)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"unpatched texts equal: clean {N_PAIRS}, corrupted {N_PAIRS} of {N_PAIRS}", done.stdout)
            for name, layer in LAYERS.items():
                self.assertRegex(done.stdout, rf"{name} +L{layer} +{N_PAIRS} +{N_PAIRS} +{N_PAIRS} ")
            self.assertNotIn("rows that differ", done.stdout)

    def test_changed_rows_are_found(self) -> None:
        published = self.published(2)
        late = published["valid_results"][3]["patched"]["late"]
        other = "gibberish" if late["classification"] != "gibberish" else "clean_answer"
        late["classification"] = other
        published["valid_results"][4]["patched"]["early"]["generated"] = "no \\\" Infinity here"
        text = json.dumps(published).replace('"config"', '"statistics": [Infinity, -Infinity, NaN], "config"')
        done = run("compare", self.write(None, text), self.results)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, rf"late +L2 +{N_PAIRS - 1} +{N_PAIRS} +{N_PAIRS} ")
        self.assertRegex(done.stdout, rf"early +L0 +{N_PAIRS} +{N_PAIRS - 1} +{N_PAIRS} ")
        self.assertRegex(done.stdout, rf"pair 3, denoise/clean\S+/L2/first:2\S*: published {other}")
        self.assertIn("no \\\" Infinity here", done.stdout)

    def test_layers_are_asked_for(self) -> None:
        results = self.path / "two.results.h5"
        group = {"site": "resid_post", "layers": [0, 2], "steps": "first:1-2", "donor": ["clean", "zero"]}
        self.sweep(results, f"sweep.conditions={json.dumps([group])}")
        done = run("compare", self.write(self.published(2)), results)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--layers", done.stderr)
        done = run("compare", self.write(self.published(3)), results)
        self.assertIn("no condition denoise/clean/replace/resid_post with first:3", done.stderr)
        done = run("compare", self.write(self.published(2)), self.results, "--layers", "0,1,2")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = run("compare", self.write(self.published(2)), self.results, "--layers", "0,1")
        self.assertEqual(done.returncode, 2)

    def test_necessity(self) -> None:
        results = self.path / "zero.results.h5"
        group = {"site": "resid_post", "layers": 1, "steps": "all", "donor": "zero"}
        self.sweep(results, 'sweep.directions=["noise","denoise"]', f"sweep.conditions={json.dumps([group])}")
        with (self.path / "zero.csv").open(newline="", encoding="utf-8") as f:
            zeroed = [row for row in csv.DictReader(f) if row["donor"] == "zero"]
        right = {(r["pair"], r["direction"]): r["class"] for r in zeroed}
        listed = []
        for i in range(N_PAIRS):
            clean = right[str(i), "noise"] == "clean_answer"
            corrupted = right[str(i), "denoise"] == "corrupted_answer"
            listed.append(
                {
                    "pair_id": i,
                    "clean_baseline_correct": True,
                    "clean_ablated_correct": clean != (i == 2),
                    "corrupted_baseline_correct": True,
                    "corrupted_ablated_correct": corrupted,
                }
            )
        done = run("compare", self.write(listed), results)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, rf"\n  clean +L1 +none +{N_PAIRS - 1} +{N_PAIRS} ")
        self.assertRegex(done.stdout, rf"\n  corrupted +L1 +none +{N_PAIRS} +{N_PAIRS} ")
        self.assertRegex(done.stdout, r"pair 2, noise/zero/replace/resid_post/L1/all: published")

    def test_two_results(self) -> None:
        other = self.path / "b.results.h5"
        self.sweep(other, "decode.max_new_tokens=3", f"store.file={self.path / 'b.store.h5'}")
        done = run("compare", self.results, self.results)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"rows: \d+  class differs: 0  answer differs: 0  run in one file only: 0")
        done = run("compare", self.results, other, "--all")
        self.assertEqual(done.returncode, 0, done.stderr)
        short = {(r["pair"], r["condition"]): r["text"] for r in self.csv(other)}
        cut = sum(short[r["pair"], r["condition"]] != r["text"] for r in self.csv(self.results))
        self.assertGreater(cut, 0)
        self.assertEqual(done.stdout.count("\n  pair "), cut)

    @staticmethod
    def csv(results: Path) -> list[dict[str, str]]:
        with results.with_name(results.name.replace(".results.h5", ".csv")).open(newline="", encoding="utf-8") as f:
            return list(csv.DictReader(f))

    def test_errors(self) -> None:
        for text, words in (
            ('{"valid_results": [{"pair_id": 1}]}', '$.valid_results[0]: the key "clean" is missing'),
            ('{"valid_results": []}', "in common"),
            ("{}", "per-pair results"),
            ('{"results": [1]}', "$.results[0]"),
            ("{", "malformed JSON"),
        ):
            done = run("compare", self.write(None, text), self.results)
            self.assertEqual(done.returncode, 1, text)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertIn(words, done.stderr)

    @unittest.skipUnless(PUBLISHED.is_dir(), "no outside data")
    def test_published_files_are_read(self) -> None:
        """Our results are of other pairs: what differs is the verdict, after the whole file was read."""
        readable = 0
        for path in sorted(PUBLISHED.glob("*/*.json")):
            if path.name.startswith(("prefix_zero", "recovery")):
                continue  # single problems; a file without classes
            done = run("compare", path, self.results)
            common = "unpatched texts equal" in done.stdout or "no condition zero" in done.stderr
            self.assertTrue(common or "in common" in done.stderr, f"{path}: {done.stderr}")
            readable += 1
        self.assertGreaterEqual(readable, 16)


if __name__ == "__main__":
    program = sys.argv[1]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
