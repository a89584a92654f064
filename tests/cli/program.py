"""The program as its users meet it: help, outputs and their names, the table, stopping and going on, progress."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import math
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import time
import unittest
from pathlib import Path
from typing import Any

import harness
from harness import Case

COMMANDS = (
    "run",
    "cache",
    "sweep",
    "summary",
    "plan",
    "inspect",
    "tokenize",
    "generate",
    "pairs",
    "store",
)


class Outputs(Case):
    def test_run(self) -> None:
        """Four lines with paths that are there; a second start does nothing again; stages in processes of their own."""
        self.pairs(n=6)
        whole = self.succeed("run", self.job(), ranks=2)
        paths = dict(re.findall(r"(?m)^(store|results|csv|summary): (.*)$", whole.out))
        self.assertEqual(list(paths), ["store", "results", "csv", "summary"])
        self.assertEqual(whole.out.splitlines()[-4:], [f"{name}: {path}" for name, path in paths.items()])
        for path in paths.values():
            self.assertTrue(Path(path).is_file(), path)
            self.assertNotIn("..", path)
        names = sorted(path.name for path in (self.folder / "out").iterdir())
        self.assertEqual(names, ["a.csv", "a.results.h5", "a.store.h5", "a.summary.json"])

        again = self.succeed("run", self.job(), ranks=2)
        self.assertEqual(again.out, whole.out)
        self.assertIn("is complete already", again.err)

        (self.folder / "out" / "a.csv").unlink()
        without = self.succeed("run", self.job(), "--set", "results.summary=other.json", ranks=2)
        warnings = [line for line in without.lines if "warning: " in line]
        self.assertEqual(len(warnings), 2, without.err)
        for line, name in zip(warnings, ("a.csv", "other.json"), strict=True):
            self.assertRegex(line, rf"/{name} is missing: it is made together with \S+/out/a.results.h5; remove that file and")
        self.assertEqual(without.out, "".join(whole.out.splitlines(keepends=True)[:-2]))

        alone = self.job("alone.json", out="alone")
        self.succeed("cache", alone)
        sweep = self.succeed("sweep", alone)
        table = whole.out.split("\n\nstore:")[0].split("\n", 1)[1]
        self.assertIn(table, sweep.out)
        summary = self.succeed("summary", paths["results"])
        self.assertIn(table, summary.out)

    def test_summary(self) -> None:
        """Shares that sum to 100, n, intervals that hold the share, and the verdict on the controls."""
        self.pairs(n=12)
        self.succeed("run", self.job(sweep={"controls": True}), ranks=2)
        table = self.succeed("summary", "out/a.results.h5", "--all").out
        heading, unpatched = table.splitlines()[2:4]
        self.assertEqual(heading.split(), "clean % corrupted % other % gibberish % n".split())
        self.assertRegex(unpatched, r"^unpatched corrupted +[\d.]+ \[")
        self.assertEqual([m.start() for m in re.finditer(r"\S+ %", heading)], [28, 48, 68, 88])
        self.assertTrue(table.startswith("model demo-gpt2, protocol codi, classifier seed, "), table)
        self.assertIn("12 of 12 pairs included", table)
        self.assertIn("denoise: replace resid_post from the clean donor into the corrupted run", table)
        cell = r" +([\d.]+) \[ *([\d.]+)- *([\d.]+)\]"
        rows = re.findall(rf"(?m)^  (\d+) +(first:\d){cell}{cell}{cell}{cell} +(\d+)(?:  dead)?$", table)
        self.assertGreaterEqual(len(rows), 2 * 3)
        for row in rows:
            values = [float(x) for x in row[2:14]]
            self.assertEqual(row[14], "12")
            self.assertAlmostEqual(sum(values[0::3]), 100, delta=0.3)
            for share, low, high in zip(values[0::3], values[1::3], values[2::3], strict=True):
                self.assertTrue(low <= share <= high, row)
        self.assertIn("\nself: 3 conditions, nothing changed\n", table)
        self.assertIn("\nSound: every control that must change nothing changed nothing.\n", table)
        summary = json.loads((self.folder / "out" / "a.summary.json").read_text())
        self.assertEqual(summary["controls"]["unpatched"], {"n_conditions": 1, "n_rows": 12, "n_changed": 0})
        self.assertEqual(summary["provenance"]["ranks"], "2")
        self.assertEqual(summary["provenance"]["job"]["sweep"]["controls"], True)
        self.assertEqual((summary["model"], summary["n_pairs"], summary["n_included"]), ("demo-gpt2", 12, 12))
        try:
            import jsonschema
        except ImportError:
            self.skipTest("the Python package jsonschema was not found")
        jsonschema.validate(summary, json.loads((harness.ROOT / "schemas" / "summary.schema.json").read_text()))

    def test_recovery(self) -> None:
        """The normalised recovery of the logit difference, a ratio of means, from the rows of the CSV."""
        self.pairs(n=6)
        group = {"site": "resid_post", "layers": "all", "steps": "first:1-2"}
        sweep = {"directions": ["denoise", "noise"], "conditions": [group]}
        self.succeed("run", self.job(sweep=sweep, metrics=["logits"]))
        with (self.folder / "out" / "a.csv").open(newline="") as f:
            rows = list(csv.DictReader(f))
        means = {}
        for name in {row["condition"] for row in rows}:
            values = [float(row["logit_diff"]) for row in rows if row["condition"] == name]
            means[name] = sum(values) / len(values)
            for row in rows:
                difference = float(row["logit_clean"]) - float(row["logit_corrupted"])
                self.assertAlmostEqual(float(row["logit_diff"]), difference, delta=1e-4)
        low, high = means["denoise/unpatched"], means["noise/unpatched"]
        summary = json.loads((self.folder / "out" / "a.summary.json").read_text())
        self.assertEqual(len(summary["conditions"]), 2 + 2 * 6)
        table = self.succeed("summary", "out/a.results.h5", "--all").out
        self.assertEqual(len(re.findall(r"(?m) mean KL$", table)), 2)
        shown = [float(x) for x in re.findall(r"(?m)^  \d .* 6 +([\d.]+)(?:  dead)?$", table)]
        wanted = [c["metrics"]["kl"]["mean"] for c in summary["conditions"] if c["role"] != "unpatched"]
        self.assertEqual(len(shown), len(wanted))
        self.assertGreater(max(wanted), 0.001)
        for found, mean in zip(shown, wanted, strict=True):
            self.assertAlmostEqual(found, mean, delta=5.1e-5)
        for condition in summary["conditions"]:
            found = condition["metrics"]["logit_diff"]["recovery"]
            self.assertAlmostEqual(found, (means[condition["name"]] - low) / (high - low), delta=1e-4)

    def test_grid(self) -> None:
        """Layers down, steps across: the numbers of the summary, and a star where the donor's answer is ahead."""
        self.pairs(n=12)
        group = {"site": "resid_post", "layers": "all", "steps": "first:1-6", "donor": ["clean", "corrupted", "mean"]}
        sweep = {"directions": ["denoise", "noise"], "conditions": [group], "controls": True}
        run = self.succeed("run", self.job(sweep=sweep))
        said = [line for line in run.err.splitlines() if line.startswith("latentpatch: ")]
        self.assertEqual(len(said), 2, run.err)
        self.assertRegex(said[0], r": demo-gpt2, protocol codi: 12 pairs, \d+ conditions each, \d+ of them distinct$")
        self.assertRegex(
            said[1], r": expected: about .* on 1 rank, if all pairs pass the filter and answers have 8 tokens$"
        )
        self.assertLess(run.err.index("expected"), run.err.index("cache: 0 of 12 pairs"))
        plan = self.succeed("plan", self.job(sweep=sweep)).out
        self.assertRegex(plan, r"\n  expected, about +\d[\d.e+-]* s on the cpu, one rank of \d+ threads?: from the measured")
        reference = {"executor": "reference"}
        self.assertNotIn("expected", self.succeed("plan", self.job(sweep=sweep, engine=reference)).out)
        summary = json.loads((self.folder / "out" / "a.summary.json").read_text())["conditions"]
        for direction, donor, outcome, rival in (
            ("denoise", "clean", "clean_answer", "corrupted_answer"),
            ("denoise", "mean", "corrupted_answer", None),
            ("noise", "corrupted", "corrupted_answer", "clean_answer"),
            ("noise", "mean", "clean_answer", None),
        ):
            into = "corrupted" if direction == "denoise" else "clean"
            heading = f"{direction}: replace resid_post from the {donor} donor into the {into} run\n"
            block = run.out.split(heading)[1].split("\n\n")[0].splitlines()
            self.assertIn("; n 12", block[0])
            self.assertEqual(block[1].split(), ["layer", "1", "2", "3", "4", "5", "6", "first", "steps"])
            self.assertEqual(len(block), 2 + 3)
            for line in block[2:]:
                layer, *cells = line.split()
                for n, cell in enumerate(cells, 1):
                    name = f"{direction}/{donor}/replace/resid_post/L{layer}/first:{n}"
                    share = next(c["share"] for c in summary if c["name"] == name)
                    self.assertEqual(cell.rstrip("*="), f"{100 * share[outcome]:.1f}", name)
                    self.assertEqual("*" in cell, rival is not None and share[outcome] > share[rival], name)
        self.assertRegex(run.out, r"\nshuffled \(denoise, resid_post\): \d+ conditions, at most [\d.]+ % clean answers")
        self.assertRegex(run.out, r"\nself: \d+ conditions, nothing changed\n")
        self.assertNotIn("\033", run.out)
        self.assertNotIn("[", run.out.split("\n\nstore: ")[0])
        self.assertLessEqual(max(map(len, run.out.split("\n\nstore: ")[0].splitlines())), 100)
        if shutil.which("script"):
            for extra, shaded in (({"TERM": "xterm-256color"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)):
                words = ["script", "-qc", f"stty cols 60; {harness.program} summary out/a.results.h5", "/dev/null"]
                environment = {k: v for k, v in os.environ.items() if k not in ("COLORTERM", "NO_COLOR")}
                shown = subprocess.run(words, cwd=self.folder, env=environment | extra, capture_output=True, text=True).stdout
                self.assertEqual("\033[48;5;" in shown, shaded, extra)
                plain = re.sub("\033\\[[\\d;]*m", "", shown)
                self.assertIn("first steps", plain)

    def test_crowded_summary(self) -> None:
        """More than 60 conditions on a layer are one line, which --all takes apart; a variant has words of its own."""
        self.pairs(n=3)
        group = {"site": "resid_post", "layers": "0-1", "steps": "subset:all", "donor": "clean"}
        self.succeed("run", self.job(sweep={"conditions": [group]}))
        short = self.succeed("summary", "out/a.results.h5").out
        lines = re.findall(r"(?m)^ +([01]) +63 +([\d.]+) +([\d.]+) +([\d.]+)(?:  set:[\d,]+)?$", short)
        self.assertEqual([line[0] for line in lines], ["0", "1"], short)
        self.assertLessEqual(max(map(len, short.splitlines())), 100)
        every = self.succeed("summary", "out/a.results.h5", "--all").out
        for layer, *rest in lines:
            shares = re.findall(rf"(?m)^  {layer} +(set:[\d,]+) +([\d.]+) ", every)
            self.assertEqual(len(shares), 63)
            values = sorted(float(share) for _, share in shares)
            found = [float(x) for x in rest]
            self.assertEqual(found, [values[0], values[31], values[62]])
        self.assert_error(self.latentpatch("summary", "out/a.results.h5", "--csv"), "--lens", code=2)

    def test_conditions_apart(self) -> None:
        """Columns of the CSV and of the summary, heading and line of the table: none is that of two conditions."""
        self.pairs(n=2)
        post = {"site": "resid_post", "layers": 0, "steps": "single:0"}
        edge = {"from": {"phase": "answer"}, "to": {"steps": "single:0"}}
        groups = [
            post,
            post | {"operation": "add", "factor": [-4, 0.1]},
            post | {"donor": "file", "vector": 0},
            post | {"donor": "file", "vector": 1},
            post | {"from": {"step": 0}},
            post | {"from": {"step": 1}},
            post | {"from": {"layers": [1]}},
            post | {"from": {"site": "resid_pre", "layers": [1]}},
            post | {"stop_after": 2},
            post | {"layers": "together:0-1"},
            post | {"defects": "decode_leak", "steps": "all"},
            post | {"steps": "all"},
            {"site": "k", "layers": 0, "steps": "single:0", "heads": [0, 1]},
            {"site": "k", "layers": 0, "steps": "single:0"},
            {"site": "resid_post", "layers": 0, "phase": "prompt", "index": [-1, -2]},
            {"site": "z", "layers": 0, "steps": "single:0", "heads": 0},
            {"forbid": edge | {"heads": [0, 1, "together:0-1"]}, "layers": 0},
            {"forbid": edge | {"kv_heads": 0}, "layers": [0, "together:0-1"]},
            {"forbid": [edge, edge | {"to": {"steps": "single:1"}}], "layers": 0},
            post | {"forbid": edge},
        ]
        sites = ["k", {"phase": "prompt", "site": "resid_post", "index": [-1, -2]}]
        for name in ("u", "v"):
            header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (96,), }"
            header += b" " * (-(len(header) + 11) % 64) + b"\n"
            numbers = struct.pack("<96f", *([0.5] * 96))
            (self.folder / f"{name}.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + numbers)
        sweep = {"conditions": groups, "vectors": ["u.npy", "v.npy"], "filter": "all"}
        run = self.succeed("run", self.job(sweep=sweep, store={"sites": sites}), "--all")
        summary = json.loads((self.folder / "out" / "a.summary.json").read_text())["conditions"]
        self.assertEqual(len(summary), 1 + 18 + 8)
        with (self.folder / "out" / "a.csv").open(newline="") as f:
            rows = [row for row in csv.DictReader(f) if row["pair"] == "p00000"]
        results = ("dead", "class", "number", "changed", "text")
        columns = [k for k in rows[0] if k not in ("pair", "source", "condition", *results)]
        words = {row["condition"]: tuple(row[k] for k in columns) for row in rows}
        self.assertEqual(len(set(words.values())), len(summary), sorted(words.items()))
        keys = [k for k in columns if k in summary[0]]
        self.assertEqual(keys, columns)
        for condition in summary:
            self.assertEqual(tuple(str(condition[k]) for k in keys), words[condition["name"]])
        lines, heading = [], ""
        for line in run.out.splitlines():
            if re.match(r"(control, )?(denoise|noise): ", line):
                heading = line
            elif found := re.match(r"  (\S+ +\S.*?)  +[\d.]+ \[", line):
                lines.append((heading, re.sub(" +", " ", found.group(1))))
        self.assertEqual(len(lines), len(summary) - 1, run.out)
        self.assertEqual(len(set(lines)), len(lines), sorted(lines))
        self.assertIn(("denoise: add x0.1 resid_post from the clean donor into the corrupted run", "0 single:0"), lines)
        self.assertIn(("denoise: replace k from the clean donor into the corrupted run", "0 single:0 head 1"), lines)
        self.assertIn(("denoise: replace resid_post from file 1 into the corrupted run", "0 single:0"), lines)

    def test_verdict(self) -> None:
        """A sweep of no pairs was not tested; a self donor that may change something is no control."""

        def wrong(pairs: list) -> None:
            for pair in pairs:
                pair["clean"]["answer"] = 99999

        self.pairs(n=3, change=wrong)
        run = self.succeed("run", self.job(sweep={"filter": "both-correct"}))
        self.assertIn("warning: the model answers no pair of 3 right both ways (clean 0, corrupted 3)", run.err)
        self.assertLess(run.err.index("warning: "), run.err.index("sweep: "))
        empty = run.out.split("\n\nstore: ")[0]
        self.assertLessEqual(len(empty.splitlines()), 5)
        self.assertEqual(empty.splitlines()[-1], "NOT TESTED: no pair of 3 passes the filter both-correct")
        self.assertNotIn("sound", empty)
        self.assertNotIn("[", empty)
        every = self.succeed("summary", "out/a.results.h5", "--all").out
        self.assertRegex(every, r"(?m)^  2 +first:2 +- +- +- +- +0$")
        summary = json.loads((self.folder / "out" / "a.summary.json").read_text())
        self.assertEqual((summary["n_included"], summary["conditions"][1]["share"]["other"]), (0, None))

        self.pairs(n=3)
        group = {"site": "resid_post", "layers": 1, "steps": "all", "donor": "self", "operation": "add", "factor": 2}
        table = self.succeed("run", self.job(out="self", sweep={"conditions": [group]})).out
        self.assertIn("self: 0 conditions, not tested\n", table)
        self.assertIn("This sweep has no self control, so its soundness was not tested.", table)
        summary = json.loads((self.folder / "self" / "a.summary.json").read_text())
        self.assertEqual(summary["controls"]["self"], {"n_conditions": 0, "n_rows": 0, "n_changed": 0})
        self.assertGreater(summary["conditions"][1]["n_changed"], 0)

    def test_right_by_the_classifier(self) -> None:
        """What counts as right in the report of stage 1, in the summary and for the filter is the job's own classifier's:
        the seed's takes a number within 0.01, codi's only the number itself. The store serves both."""

        def almost(pairs: list) -> None:
            for pair, shift in zip(pairs, (0.004, 0, 0.02), strict=True):
                pair["clean"]["answer"] += shift

        self.pairs(n=3, change=almost)
        for classifier, right in (("seed", 2), ("codi", 1)):
            with self.subTest(classifier):
                job = self.job(
                    f"{classifier}.json",
                    classifier=classifier,
                    sweep={"filter": "clean-correct"},
                    results={"file": f"{classifier}/a.results.h5"},
                )
                out = self.succeed("run", job, ranks=2).out
                self.assertIn(f": clean right {right}, corrupted right 3, both right {right} of 3 pairs\n", out)
                self.assertIn(f"{right} of 3 pairs included", out)
                summary = json.loads((self.folder / classifier / "a.summary.json").read_text())
                counts = {"clean_correct": right, "corrupted_correct": 3, "both_correct": right}
                self.assertEqual((summary["unpatched"], summary["n_included"]), (counts, right))

    def test_lens(self) -> None:
        """The lens of a sweep as tables and CSV; it says what `generate` says of the same question."""
        pairs = json.loads(self.pairs(n=3).read_text())["pairs"]
        self.succeed("run", self.job(readout="logit_lens top 2"), ranks=2)
        rows = list(csv.DictReader(self.succeed("summary", "out/a.results.h5", "--lens", "--csv").out.splitlines()))
        self.assertEqual(len(rows), 3 * 2 * 7 * 3 * 2)
        places = ["question", *(f"thought:{t}" for t in range(6))]
        self.assertEqual(list(dict.fromkeys(row["position"] for row in rows)), places)
        said = self.succeed("generate", "job.json", pairs[1]["corrupted"]["question"], "--top", "2", "--layers").out
        lines = re.findall(r"(?m)^(question|thought \d) +layer (\d) +(-[\d.]+) \"(.*)\"  +(-[\d.]+) \"(.*)\"$", said)
        self.assertEqual(len(lines), 7 * 3)
        for position, layer, *cells in lines:
            key = (pairs[1]["id"], "corrupted", position.replace(" ", ":"), layer)
            here = [r for r in rows if (r["pair"], r["run"], r["position"], r["layer"]) == key]
            self.assertEqual([r["text"] for r in here], cells[1::2], key)
            for row, value in zip(here, cells[0::2], strict=True):
                self.assertAlmostEqual(float(row["log_probability"]), float(value), delta=0.006)
        one = self.succeed("summary", "out/a.results.h5", "--lens", "--pair", pairs[1]["id"]).out
        best = [r for r in rows if r["pair"] == pairs[1]["id"] and r["rank"] == "0" and r["layer"] == "2"]
        last = re.findall(r"(?m)^  2 +(.*)$", one)
        self.assertEqual(len(last), 2)
        for line, run in zip(last, ("clean", "corrupted"), strict=True):
            tokens = re.findall(r'"(.*?)" +(\d+)', line)
            wanted = [(r["text"][:7], round(100 * math.exp(float(r["log_probability"])))) for r in best if r["run"] == run]
            self.assertEqual([(text, int(share)) for text, share in tokens], wanted)
        self.assertIn("clean runs of 3 pairs", self.succeed("summary", "out/a.results.h5", "--lens").out)
        self.assert_error(self.latentpatch("summary", "out/a.results.h5", "--lens", "--pair", "none"), 'no pair "none"')
        self.succeed("run", self.job(out="plain"))
        self.assert_error(self.latentpatch("summary", "plain/a.results.h5", "--lens"), "no logit lens", "readout")

    def test_summary_of_something_else(self) -> None:
        self.pairs()
        self.succeed("cache", self.job())
        self.assert_error(self.latentpatch("summary", "out/a.store.h5"), "a.store.h5")
        self.assert_error(self.latentpatch("summary", "none.h5"), "none.h5")

    def test_one_line_of_h5py(self) -> None:
        try:
            import h5py
        except ImportError:
            self.skipTest("the Python package h5py was not found")
        self.pairs()
        self.succeed("cache", self.job())
        self.assertEqual(h5py.File(self.folder / "out" / "a.store.h5")["runs/clean/resid_post"].shape, (4, 3, 6, 96))

    def test_plan_counts_the_bytes(self) -> None:
        """Of the rows, which a stopped sweep leaves, with their metrics and the lens."""
        try:
            import h5py
        except ImportError:
            self.skipTest("the Python package h5py was not found")
        self.pairs(n=12)
        job = self.job(metrics=["logits", "answer_logprob"], readout="logit_lens top 3", decode={"max_new_tokens": 2})
        plan = self.succeed("plan", job).out
        self.succeed("cache", job)
        (self.folder / "out" / "a.results.h5.stop").touch()
        self.assertEqual(self.latentpatch("sweep", job).code, 75)
        with h5py.File(self.folder / "out" / "a.results.h5.partial") as file:
            sizes = [d.nbytes for group in (file["rows"], file["readout/logit_lens"]) for d in group.values()]
        found = float(re.search(r"rows while the sweep runs +([\d.]+) KiB", plan).group(1))
        self.assertAlmostEqual(found, sum(sizes) / 1024, delta=0.051)

    def test_generate_inspect_tokenize(self) -> None:
        job = self.job()
        self.pairs()
        answer = self.succeed("generate", job, "Tom has 4 boxes of 6 eggs and loses 5 of them. How many eggs are left?")
        self.assertRegex(answer.out, r"\d")
        for thought in range(6):
            self.assertRegex(answer.out, rf"(?m)^.*\b{thought}\b")
        questions = ["Tom has 4 boxes of 6 eggs and loses 5 of them. How many eggs are left?", "Ann has 3 pens.\x1b[1m"]
        run = subprocess.run(
            [harness.program, "generate", job],
            cwd=self.folder,
            input="\n\n".join(questions) + "\r\n",
            capture_output=True,
            text=True,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        shown = re.split(r"(?m)^question: (.*)\n", run.stdout)
        self.assertEqual(shown[1::2], [questions[0], "Ann has 3 pens.\\x1b[1m"])
        self.assertEqual(shown[2], answer.out)
        self.assertEqual(shown[4], self.succeed("generate", job, questions[1]).out)
        wrong = subprocess.run(
            [harness.program, "generate", job], cwd=self.folder, input=b"ok\n\xff\n", capture_output=True, check=False
        )
        self.assertEqual(wrong.returncode, 1)
        self.assertIn(b"standard input line 2: expected UTF-8 text, found byte 0xff", wrong.stderr)
        facts = self.succeed("inspect", job).out
        self.assertRegex(facts, r"(?i)gpt-?2")
        self.assertRegex(facts, r"[0-9a-f]{64}")
        json.loads(self.succeed("inspect", job, "--json").out)
        tokenizer = harness.DEMO / "gpt2" / "base" / "tokenizer.json"
        ids = self.succeed("tokenize", "--tokenizer", tokenizer, "Tom has 4 eggs").out.split()
        self.assertGreater(len(ids), 3)
        self.assertTrue(all(word.isdigit() for word in ids), ids)


class Stop(Case):
    def test_stop_file(self) -> None:
        """A stop file ends a stage at the next pair with exit code 75 and is taken away; the same command goes on."""
        self.pairs(n=12)
        out = self.folder / "out"
        for ranks, stage, stopped in ((1, "cache", "a.store.h5"), (2, "sweep", "a.results.h5")):
            with self.subTest(ranks=ranks, stage=stage):
                out.mkdir(exist_ok=True)
                (out / f"{stopped}.stop").touch()
                run = self.latentpatch(stage, self.job(), ranks=ranks)
                self.assertEqual(run.code, 75, run.err)
                self.assertEqual(len(run.lines), 1, run.err)
                self.assertTrue(run.lines[0].startswith("latentpatch: stopped by "), run.err)
                self.assertIn(f"{stopped}.stop", run.lines[0])
                self.assertIn("the same command continues", run.lines[0])
                self.assertFalse((out / f"{stopped}.stop").exists())
                self.assertFalse((out / "a.results.h5").exists())
                self.succeed(stage, self.job(), ranks=ranks)
        self.assertEqual(len(list(out.iterdir())), 4)


class ReadOnly(Case):
    @unittest.skipIf(os.geteuid() != 0, "needs root to mount a file system read-only")
    def test_complete_store(self) -> None:
        """`run` uses a complete store on a read-only file system, as `sweep` does; one that is not complete is named."""
        self.pairs(n=4)
        job = self.job(results={"file": "elsewhere/a.results.h5"})
        self.succeed("cache", job)
        plain = self.succeed("run", job, "--set", "results.file=plain/a.results.h5").out
        more = self.job("more.json", out="more")
        (self.folder / "more" / "a.store.h5.stop").parent.mkdir()
        (self.folder / "more" / "a.store.h5.stop").touch()
        self.assertEqual(self.latentpatch("cache", more).code, 75)
        for name in ("out", "more"):
            folder = str(self.folder / name)
            if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode != 0:
                self.skipTest("no right to mount a file system")
            self.addCleanup(subprocess.run, ["umount", folder], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        before = sorted((self.folder / "out").iterdir())
        for ranks in (1, 2):
            for command in ("run", "sweep"):
                with self.subTest(ranks=ranks, command=command):
                    run = self.succeed(command, job, "--set", f"results.file={command}{ranks}/a.results.h5", ranks=ranks)
                    self.assertEqual(run.out.split("\n\nstore: ")[0][-200:], plain.split("\n\nstore: ")[0][-200:])
        self.assertEqual(sorted((self.folder / "out").iterdir()), before)
        self.assert_error(self.latentpatch("cache", more), "more/a.store.h5", "Read-only file system")


class Signals(Case):
    """Every signal that asks to stop ends a stage with exit code 75 and everything kept; the same command goes on."""

    def start(self, job: Path, **keywords: Any) -> subprocess.Popen[str]:
        """A stage that is at work: its first line of progress was seen."""
        process = subprocess.Popen([harness.program, "cache", job], cwd=self.folder, stderr=subprocess.PIPE, text=True, **keywords)
        assert process.stderr
        line = process.stderr.readline()
        self.assertRegex(line, r"^cache: \d+ of \d+ pairs")
        return process

    def test_each(self) -> None:
        self.pairs(n=2000)
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            with self.subTest(name=name):
                job = self.job(f"{name}.json", out=name, decode={"max_new_tokens": 60}, engine={"executor": "reference"})
                process = self.start(job)
                process.send_signal(getattr(signal, name))
                _, err = process.communicate(timeout=harness.TIMEOUT)
                self.assertEqual(process.returncode, 75, err)
                # The first three give the pair in hand 0.8 s, which a busy machine may not have.
                words = "a signal before what was in hand was done" if name in ("SIGTERM", "SIGINT", "SIGHUP") else name
                self.assertRegex(err, f"latentpatch: stopped by ({name}|{words})")
                self.assertIn("the same command continues", err)
        self.assert_error(self.latentpatch("sweep", "SIGHUP.json"), "SIGHUP/a.store.h5", "expected 2000 finished pairs")

    def test_terminal_gone_under_nohup(self) -> None:
        self.pairs(n=300)
        process = self.start(self.job(), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=harness.TIMEOUT)
        self.assertEqual(process.returncode, 0, err)


class Launch(Case):
    """What the program makes of how it was started."""

    def test_plan_without_mpi(self) -> None:
        """It answers where MPI cannot start, and once under a launcher."""
        self.pairs()
        broken = {"OMPI_MCA_pml": "none_such", "OMPI_MCA_orte_base_help_aggregate": "0"}
        self.assertNotEqual(self.latentpatch("cache", self.job(), environment=broken).code, 0)
        self.assertFalse((self.folder / "out").exists())
        alone = self.succeed("plan", self.job(), environment=broken).out
        several = self.succeed("plan", self.job(), ranks=2).out
        without_time = re.compile(r"(?m)^  expected, about .*\n")
        self.assertEqual(without_time.sub("", several), without_time.sub("", alone))

    def test_wrong_words_on_several_ranks(self) -> None:
        """One line, not one of each rank."""
        for words in (("cache", "--frob"), ("sweep",), ("run", "a.json", "b.json"), ("run", "--quite", "a.json")):
            run = self.latentpatch(*words, ranks=4)
            self.assertEqual((run.code, len(run.lines)), (2, 1), run.err)
            self.assertTrue(run.lines[0].startswith(f"latentpatch: error: {words[0]}: "), run.err)

    def test_processes_that_mpi_does_not_connect(self) -> None:
        """srun without PMIx: named at the start, and where they meet at a lock."""
        self.pairs(n=2000)
        job = self.job(engine={"executor": "reference"}, decode={"max_new_tokens": 60})
        first = subprocess.Popen([harness.program, "cache", job], cwd=self.folder, stderr=subprocess.PIPE, text=True)
        assert first.stderr
        first.stderr.readline()
        slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}
        run = self.latentpatch("cache", job, environment=slurm)
        self.assertEqual(run.code, 1, run.err)
        self.assertEqual(len(run.lines), 2, run.err)
        self.assertIn("warning: the launcher started 4 processes, but MPI connects none of them", run.lines[0])
        self.assertIn("--mpi=pmix", run.lines[0])
        for word in ("a.store.h5: in use by another job", "4 processes that MPI did not connect", "--mpi=pmix"):
            self.assertIn(word, run.lines[1])
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=harness.TIMEOUT)
        self.pairs()
        other = self.job("other.json", out="other")
        self.assertEqual(self.succeed("cache", other, environment={**slurm, "SLURM_PROCID": "3"}).lines, [])
        self.assertEqual(self.succeed("sweep", other, environment=slurm, ranks=2).lines, [])


class Progress(Case):
    def test_not_on_a_terminal(self) -> None:
        """Whole lines, no control characters; the last one of a stage has all pairs."""
        self.pairs(n=6)
        run = self.succeed("cache", self.job())
        self.assertNotIn("\r", run.err)
        self.assertNotIn("\033", run.err)
        lines = [line for line in run.err.splitlines() if line.startswith("cache: ")]
        self.assertRegex(lines[-1], r"^cache: 6 of 6 pairs, [\d.]+/s, took \d+ s$")

    def on_a_terminal(self, *words: str | Path, columns: int = 80) -> list[str]:
        """What is shown there, the lines that the next one overwrites included."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen([harness.program, *words], stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        self.assertEqual(process.wait(), 0)
        return shown.decode().replace("\033[K", "").split("\r")

    def test_narrow_terminal(self) -> None:
        """A line that the terminal would wrap could not be overwritten."""
        self.pairs(n=6)
        _, *shown, last, end = self.on_a_terminal("cache", self.job(), columns=15)
        self.assertEqual((shown[0], end), ("cache: 0 of 6 ", "\n"))
        self.assertLess(max(map(len, shown)), 15)
        self.assertRegex(last, r"^cache: 6 of 6 pairs, [\d.]+/s, took \d+ s$")

    def shares_before_the_first_pair(self, n_pairs: int) -> list[float]:
        self.pairs(n=n_pairs)
        sweep = json.loads((harness.ROOT / "jobs" / "demo-full.json").read_text())["sweep"]
        job = self.job(sweep=sweep | {"filter": "all"}, out=f"out{n_pairs}")
        self.succeed("cache", job)
        lines = self.on_a_terminal("sweep", job)
        found = [re.fullmatch(rf"sweep: 0 of {n_pairs} pairs \(([\d.]+)%\), about .* left", line) for line in lines]
        shares = [float(match.group(1)) for match in found if match]
        self.assertEqual(shares, sorted(shares))
        self.assertLessEqual(max(shares, default=0), 99)
        return shares

    def test_before_the_first_pair(self) -> None:
        """On a terminal, while no pair is done yet: the share of the work, which moves, and the time left. All pairs are in
        hand together. Eight take the processor several times as long as the display waits between two lines; where the
        processor is too fast for that, more pairs are tried."""
        for n_pairs in (8, 32, 128):
            shares = self.shares_before_the_first_pair(n_pairs)
            if len(set(shares)) > 1:
                return
        self.fail(f"the share of the work did not move before the first pair was done: {shares}")

    def test_quiet(self) -> None:
        self.pairs()
        run = self.succeed("run", self.job(), "--quiet", ranks=2)
        self.assertEqual((run.lines, run.err.count("pairs")), ([], 0), run.err)


class Memory(Case):
    """Peak memory of a rank does not grow with the number of pairs: what a pair needs is its question and some flags.

    LATENTPATCH_MEMORY_PAIRS=2000,4000 measures the numbers of docs/cluster.md.
    """

    def peak_mb(self, stage: str, job: Path) -> float:
        process = subprocess.Popen(
            [harness.program, stage, job], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        peak = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                exe = Path(f"/proc/{process.pid}/exe").resolve()
            except OSError:
                continue
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            if found and exe == Path(harness.program).resolve():
                peak = max(peak, int(found.group(1)))
            time.sleep(0.005)
        self.assertEqual(process.returncode, 0)
        return peak / 1024

    def test_pairs(self) -> None:
        few, many = map(int, os.environ.get("LATENTPATCH_MEMORY_PAIRS", "300,1100").split(","))
        peaks: dict[str, list[float]] = {"cache": [], "sweep": []}
        group = {"site": "resid_post", "layers": [1], "steps": "first:1", "donor": "clean"}
        for n in (few, many):
            self.pairs(n=n)
            job = self.job(out=f"out{n}", sweep={"conditions": [group]}, decode={"max_new_tokens": 2})
            for stage, found in peaks.items():
                found.append(self.peak_mb(stage, job))
        for stage, (small, large) in peaks.items():
            print(f"{stage}: {few} pairs {small:.1f} MB, {many} pairs {large:.1f} MB")
            # What grows is the text of the pairs and, while it is read, its JSON tree. A pair's activations take 0.027 MB.
            self.assertLess(
                large - small,
                0.010 * (many - few) + 3,
                f"{stage}: {few} pairs {small:.1f} MB, {many} pairs {large:.1f} MB",
            )


if __name__ == "__main__":
    harness.main()
