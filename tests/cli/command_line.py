"""What all commands share: standard output, texts from outside, numbers, options."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import harness
from harness import Case

# What a terminal could obey: an escape sequence, CSI as one character, text from right to left, a bell, a new line.
EVIL = "a\x1b[31mb\u009b3mc\u202ed\x07e\nf\x7fg"
SHOWN = "a\\x1b[31mb\\u009b3mc\\u202ed\\x07e\\nf\\u007fg"


class Output(Case):
    """Standard output that cannot be written is an error, at the end of every command."""

    def prepare(self) -> list[list[str]]:
        """A command line of every kind that prints; the files that they read are made."""
        self.pairs(n=2)
        job = self.job(readout="logit_lens top 1")
        self.succeed("run", job)
        base = harness.DEMO / "gpt2" / "base"
        source = harness.DEMO / "train" / "templates.json"
        make = ["pairs", "make", "--source", str(source), "--format", "templates", "--count", "3", "-o"]
        lines: list[list[str]] = [
            ["--help"],
            ["--version"],
            ["run", "--help"],
            ["pairs", "--help"],
            ["run", str(job)],
            ["cache", str(job)],
            ["sweep", str(job)],
            ["plan", str(job)],
            ["summary", "out/a.results.h5"],
            ["summary", "out/a.results.h5", "--lens", "--csv"],
            ["inspect", str(job)],
            ["inspect", str(job), "--json"],
            ["tokenize", "--tokenizer", str(base / "tokenizer.json"), "two words"],
            ["generate", str(job), "Tom has 4 eggs."],
            [*make, "made.json"],
            ["pairs", "check", "pairs.json"],
            ["pairs", "convert", "pairs.json", "--to", "original", "-o", "converted.json"],
            ["store", "info", "out/a.store.h5"],
            ["store", "verify", "out/a.store.h5"],
            ["store", "archive", "out/a.store.h5", "archive.h5"],
            ["store", "export", "out/a.store.h5", "exported", "--field", "latent_in"],
        ]
        return lines

    def test_cannot_be_written(self) -> None:
        for line in self.prepare():
            with self.subTest(line=line), Path("/dev/full").open("w") as full:
                run = subprocess.run([harness.program, *line], cwd=self.folder, stdout=full, stderr=subprocess.PIPE, text=True)
                self.assertEqual(run.returncode, 1, run.stderr)
                last = run.stderr.splitlines()[-1]
                self.assertTrue(last.startswith("latentpatch: error: standard output could not be written: "), last)

    def test_closed(self) -> None:
        """Nothing of ours gets the number of a stream that was closed."""
        self.pairs(n=2)
        job = self.job()
        run = subprocess.run(
            [harness.program, "run", str(job)],
            cwd=self.folder,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.close(1),
        )
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn("standard output could not be written", run.stderr)
        self.succeed("store", "verify", "out/a.store.h5")
        self.succeed("summary", "out/a.results.h5")

    def test_more_lines_than_a_buffer(self) -> None:
        """The error of an early write is not forgotten."""
        texts = ["word " * 2000] * 3
        tokenizer = str(harness.DEMO / "gpt2" / "base" / "tokenizer.json")
        with Path("/dev/full").open("w") as full:
            run = subprocess.run(
                [harness.program, "tokenize", "--tokenizer", tokenizer, *texts],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        self.assertEqual(run.returncode, 1, run.stderr)


class Texts(Case):
    """Control characters of texts from outside are escaped wherever they are printed."""

    def assert_clean(self, text: str) -> None:
        for character in text:
            code = ord(character)
            bad = (code < 0x20 and character not in "\n\t") or 0x7F <= code < 0xA0 or code == 0x202E
            self.assertFalse(bad, f"U+{code:04X} in {text!r}")

    def check(self, *args: object, code: int = 0, shown: bool = True) -> str:
        run = self.latentpatch(*args)
        self.assertEqual(run.code, code, run.err)
        both = run.out + run.err
        self.assert_clean(both)
        if shown:
            self.assertIn(SHOWN, both)
        return both

    def test_messages(self) -> None:
        self.check(EVIL, code=2)
        self.check("run", f"--{EVIL}", code=2)
        self.check("run", f"{EVIL}.json", code=1)
        self.check("generate", "--base", EVIL, "question", code=1)
        self.check("summary", EVIL, code=1)
        self.check("store", "info", EVIL, code=1)
        self.check("tokenize", "--tokenizer", EVIL, "text", code=1)
        self.check("pairs", "check", EVIL, code=1)

    def test_names_in_files(self) -> None:
        self.pairs(n=3)
        job = self.job(readout="logit_lens top 2", model="gpt2")
        text = json.loads(job.read_text())
        text["model"]["name"] = EVIL
        job.write_text(json.dumps(text))
        for line in (("run", job), ("plan", job), ("summary", "out/a.results.h5")):
            with self.subTest(line=line):
                self.check(*line)
        self.check("store", "info", "out/a.store.h5", shown=False)
        self.check("summary", "out/a.results.h5", "--lens", "--pair", EVIL, code=1)
        json.loads(self.check("store", "info", "out/a.store.h5", "--json", shown=False))

    def test_files_and_tensors(self) -> None:
        model = self.model_copy()
        file = self.folder / "gpt2-codi" / "model.safetensors"
        header, body = harness.read_safetensors(file)
        offset = len(body)
        header[EVIL] = {"dtype": "F32", "shape": [1], "data_offsets": [offset, offset + 4]}
        evil = self.folder / EVIL
        (self.folder / "gpt2-codi").rename(evil)
        harness.write_safetensors(evil / "model.safetensors", header, bytes(body) + b"\0\0\0\0")
        words = ("--base", model["base"], "--codi", evil, "--lora-alpha", "32")
        self.check("inspect", *words, shown=False)
        json.loads(self.latentpatch("inspect", *words, "--json").out)


if __name__ == "__main__":
    harness.main()
