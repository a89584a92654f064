"""What all commands share: standard output, texts from outside, numbers, options."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import unittest
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


COMMANDS = (
    *("run", "cache", "sweep", "summary", "plan", "init", "inspect", "tokenize", "generate", "pairs make", "pairs check"),
    *("pairs convert", "store info", "store verify", "store archive", "store export", "store merge", "completion", "man"),
)


def options_of(text: str) -> set[str]:
    """The options that a help text lists, each at the beginning of a line."""
    return set(re.findall(r"(?m)^  (--?[a-z][a-z-]*)", text))


class Table(Case):
    """Help, manual page and completions come out of the table by which command lines are read."""

    def table(self) -> dict[str, set[str]]:
        return {name: options_of(self.succeed(*name.split(), "--help").out) for name in COMMANDS}

    def test_every_command(self) -> None:
        listed = self.succeed("--help").out
        for name in COMMANDS:
            with self.subTest(name=name):
                self.assertRegex(listed, rf"(?m)^  {name} +\S")
                run = self.succeed(*name.split(), "--help")
                self.assertTrue(run.out.startswith(f"usage: latentpatch {name}"), run.out)
                self.assertLessEqual(max(map(len, run.out.splitlines())), 110)
                self.assertEqual(self.succeed(*name.split(), "-h").out, run.out)
                version = self.succeed(*name.split(), "--version").out
                self.assertRegex(version, r"^latentpatch \d+\.\d+\.\d+ \(([0-9a-f]{7,40}(-dirty)?|unknown)\), ")
                self.assertEqual(version, self.succeed("--version").out)

    def test_groups(self) -> None:
        for group in ("pairs", "store"):
            every = self.succeed(group, "--help").out
            for name in COMMANDS:
                if name.startswith(group):
                    self.assertIn(self.succeed(*name.split(), "--help").out, every)

    def test_every_option_needs_its_value(self) -> None:
        """What the help says of a value is what the command line is held to."""
        for name in COMMANDS:
            text = re.sub(r"\n {20,}", " ", self.succeed(*name.split(), "--help").out)
            for option, value, rest in re.findall(r"(?m)^  (--?[a-z][a-z-]*)(?: ([A-Z]\S*))?(.*)$", text):
                with self.subTest(name=name, option=option):
                    words = name.split()
                    if not value:
                        self.assert_error(self.latentpatch(*words, f"{option}=1"), "takes no value", code=2)
                        continue
                    self.assert_error(self.latentpatch(*words, option), f"{option} needs a value", code=2)
                    if "; an integer" in rest:
                        for wrong in ("1x", "", " 1", "1.5", "0x1", "99999999999999999999"):
                            run = self.latentpatch(*words, option, wrong)
                            self.assert_error(run, f"{option}: expected an integer", f'found "{wrong}"', code=2)
                    elif "; a positive number" in rest or "; a number between" in rest:
                        for wrong in ("32x", "nan", "inf", "-1", "0", "1,5"):
                            run = self.latentpatch(*words, option, wrong)
                            self.assert_error(run, f"{option}: expected a number", f'found "{wrong}"', code=2)
                    elif choices := re.search("; one of (.*)", rest):
                        run = self.latentpatch(*words, option, "bogus")
                        self.assert_error(run, f"expected one of {choices.group(1)}", code=2)

    def test_documented_options_are_there(self) -> None:
        """Every option that a page or a script gives to the program is one that the command has."""
        table = self.table()
        names = "|".join(sorted(COMMANDS, key=len, reverse=True))
        call = re.compile(rf"(?<![\w-])latentpatch(?:\"|')? ({names})\b([^\n|;`]*)")
        root = harness.ROOT
        files = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("jobs/*"), *root.glob("slurm/**/*")]
        files += [*root.glob("schemas/*"), *root.glob("analysis/*.md"), *root.glob("bench/*.md")]
        found = 0
        for file in files:
            if not file.is_file():
                continue
            for command, rest in call.findall(file.read_text().replace("\\\n", " ")):
                for option in re.findall(r"(?<![\w-])(--?[a-z][a-z-]+)", rest):
                    found += 1
                    self.assertIn(option, table[command] | {"--help", "--version"}, f"{file}: {command} {rest}")
        self.assertGreater(found, 5)

    def test_manual_page(self) -> None:
        page = self.succeed("man").out
        file = self.folder / "latentpatch.1"
        file.write_text(page)
        plain = page.replace("\\-", "-")
        for name, options in self.table().items():
            section = plain.split(f".SS {name}\n")[1].split("\n.S")[0]
            self.assertEqual(set(re.findall(r"(?m)^\.B (--?[a-z][a-z-]*)", section)), options)
        if shutil.which("groff"):
            run = subprocess.run(["groff", "-ww", "-man", "-Tutf8", file], capture_output=True, text=True)
            self.assertEqual((run.returncode, run.stderr), (0, ""))
            self.assertIn("--lora-alpha", re.sub(".\b", "", run.stdout))
        if shutil.which("mandoc"):
            run = subprocess.run(["mandoc", "-T", "lint", "-W", "error", file], capture_output=True, text=True)
            self.assertEqual((run.returncode, run.stdout), (0, ""))
        if shutil.which("man"):
            run = subprocess.run(["man", "-l", file], capture_output=True, text=True)
            self.assertEqual((run.returncode, run.stderr), (0, ""))


class PairExits(Case):
    """`pairs make --strict` and `pairs check` say by their exit code what they found."""

    def test_make(self) -> None:
        question = "Tom has 12 apples and buys 5 more. How many apples has Tom?"
        line = json.dumps({"question": question, "answer": "Tom has 12+5=<<12+5=17>>17 apples.\n#### 17"})
        (self.folder / "one.jsonl").write_text(line + "\n")
        make = ("pairs", "make", "--source", "one.jsonl", "--format", "gsm8k", "--count", 10, "-o", "made.json")
        self.assertEqual(self.latentpatch(*make).code, 0)
        self.assertEqual(self.latentpatch(*make, "--strict").code, 1)

    def test_check(self) -> None:
        def spoil(pairs: list) -> None:
            pairs[1]["clean"]["answer"] = pairs[1]["corrupted"]["answer"]

        sound, spoilt = self.pairs("sound.json"), self.pairs("spoilt.json", change=spoil)
        self.assertEqual(self.latentpatch("pairs", "check", sound).code, 0)
        self.assertEqual(self.latentpatch("pairs", "check", spoilt).code, 1)
        self.assertEqual(self.latentpatch("pairs", "check", spoilt, "--fix", "fixed.json").code, 0)


class Init(Case):
    """A starter job from what is there, which `run` takes as it is."""

    def words(self, model: str = "gpt2", **other: object) -> list[object]:
        parts = {"base": harness.DEMO / model / "base", "codi": harness.DEMO / model / "codi", "pairs": "pairs.json"}
        parts |= {key.replace("_", "-"): value for key, value in other.items()}
        return [word for key, value in parts.items() for word in (f"--{key}", value)]

    def test_runs_as_it_is(self) -> None:
        self.pairs(n=6)
        for model in ("gpt2", "llama"):
            with self.subTest(model=model):
                run = self.succeed("init", f"{model}.json", *self.words(model))
                self.assertIn("Using alpha = 32", run.err)
                self.assertIn("6 pairs", run.out)
                job = json.loads((self.folder / f"{model}.json").read_text())
                self.assertEqual(job["protocol"]["name"], "codi")
                self.assertIn("check it", job["model"]["comment"])
                self.assertIn(model, job["model"]["comment"])
                facts = json.loads(self.succeed("inspect", f"{model}.json", "--json").out)
                self.assertEqual(job["model"]["lora"], {"rank": facts["lora"]["rank"], "alpha": 32})
                self.assertEqual(job["pairs"]["file"], "pairs.json")
                validator = json.loads((harness.ROOT / "schemas" / "job.schema.json").read_text())
                try:
                    import jsonschema
                except ImportError:
                    pass
                else:
                    jsonschema.Draft202012Validator(validator).validate(job)
                self.succeed("plan", f"{model}.json")
                self.succeed("run", f"{model}.json")
                self.assertTrue((self.folder / "out" / f"{model}.results.h5").is_file())

    def test_alpha_and_one_pair(self) -> None:
        self.pairs(n=1)
        (self.folder / "sub").mkdir()
        run = self.succeed("init", "sub/my.job.json", *self.words(lora_alpha="64"))
        self.assertEqual(run.err, "")
        job = json.loads((self.folder / "sub" / "my.job.json").read_text())
        self.assertEqual(job["model"]["lora"]["alpha"], 64)
        self.assertNotIn("guess", job["model"]["comment"])
        self.assertEqual(job["sweep"]["controls"], ["self"])
        self.assertEqual(job["pairs"]["file"], "../pairs.json")
        self.assertEqual(job["store"]["file"], "out/my.job.store.h5")
        out = self.succeed("run", "sub/my.job.json").out
        self.assertIn("1 of 1 pairs", out)

    def test_never_overwrites(self) -> None:
        self.pairs(n=2)
        job = self.folder / "job.json"
        job.write_text("mine\n")
        self.assert_error(self.latentpatch("init", "job.json", *self.words()), "job.json: is there already")
        self.assertEqual(job.read_text(), "mine\n")
        job.unlink()
        job.symlink_to("target.json")
        self.assert_error(self.latentpatch("init", "job.json", *self.words()), "job.json: is there already")
        self.assertFalse((self.folder / "target.json").exists())
        (self.folder / "out").mkdir()
        for name in ("new.store.h5", "new.results.h5", "new.csv", "new.summary.json"):
            file = self.folder / "out" / name
            file.touch()
            self.assert_error(self.latentpatch("init", "new.json", *self.words()), f"out/{name}: is there already")
            file.unlink()
        self.assertFalse((self.folder / "new.json").exists())

    def test_what_does_not_fit(self) -> None:
        self.pairs(n=2)
        before = self.files()
        cases = [
            (self.words(base="none"), "none"),
            (self.words(codi=harness.DEMO / "llama" / "codi"), "model.safetensors: tensor"),
            (self.words(codi=harness.DEMO / "gpt2" / "base"), "not a CODI checkpoint"),
            (self.words(pairs="none.json"), "none.json"),
        ]
        for words, message in cases:
            with self.subTest(message=message):
                run = self.latentpatch("init", "job.json", *words)
                self.assertEqual(run.code, 1)
                self.assertIn(message, run.lines[-1])
                self.assertEqual(self.files(), before)
        run = self.latentpatch("init", "job.json", "--base", "x")
        self.assert_error(run, "expected --base FOLDER, --codi PATH and --pairs FILE", code=2)

        def long(pairs: list) -> None:
            pairs[1]["clean"]["question"] = "Tom has 3 pens. " * 60

        self.pairs(n=2, change=long)
        run = self.latentpatch("init", "job.json", *self.words(lora_alpha="64"))
        self.assert_error(run, "pair p00001", "no room for an answer in a context of 128")
        self.assertEqual(self.files(), before)


class Completion(Case):
    """The scripts are run by the shells; zsh and fish where they are installed, which CI says."""

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "job.json").touch()
        (self.folder / "folder").mkdir()
        bin = self.folder / "bin"
        bin.mkdir()
        (bin / "latentpatch").symlink_to(Path(harness.program).resolve())
        self.environment = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(self.folder)}

    CASES = (
        ("latentpatch sto", {"store"}),
        ("latentpatch s", {"store", "summary", "sweep"}),
        ("latentpatch store ver", {"verify"}),
        ("latentpatch run --q", {"--quiet"}),
        ("latentpatch store merge --pair", {"--pair-file-digest"}),
        ("latentpatch pairs make --format gsm", {"gsm8k", "gsm8k-aug", "gsm-plus"}),
        ("latentpatch pairs convert --to original-", {"original-flat"}),
        ("latentpatch completion z", {"zsh"}),
        ("latentpatch run j", {"job.json"}),
    )

    def shell(self, name: str, script: str) -> str:
        run = subprocess.run(
            [name, "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        self.assertEqual((run.returncode, run.stderr), (0, ""), script)
        return run.stdout

    def test_bash(self) -> None:
        (self.folder / "script").write_text(self.succeed("completion", "bash").out)
        run = """set -eu; source ./script; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _latentpatch; printf '%s\\n' "${{COMPREPLY[@]}}" """
        self.assertIn("_latentpatch", self.shell("bash", "source ./script; complete -p latentpatch"))
        for line, wanted in self.CASES:
            with self.subTest(line=line):
                self.assertEqual(set(self.shell("bash", run.format(words=line)).split()), wanted)
        every = set(self.shell("bash", run.format(words="latentpatch pairs check --")).split())
        self.assertEqual(every - {"--help", "--version"}, options_of(self.succeed("pairs", "check", "--help").out))
        folders = self.shell("bash", run.format(words="latentpatch generate --base ''"))
        self.assertEqual(set(folders.split()), {"folder", "bin"})

    @unittest.skipUnless(shutil.which("fish"), "fish was not found")
    def test_fish(self) -> None:
        (self.folder / "script").write_text(self.succeed("completion", "fish").out)
        for line, wanted in self.CASES:
            with self.subTest(line=line):
                found = self.shell("fish", f"source ./script; complete -C '{line}'")
                self.assertEqual({row.split("\t")[0] for row in found.splitlines()}, wanted)

    @unittest.skipUnless(shutil.which("zsh"), "zsh was not found")
    def test_zsh(self) -> None:
        """In a terminal of its own: the line is written, Tab is pressed, and what the line became is printed."""
        (self.folder / "_latentpatch").write_text(self.succeed("completion", "zsh").out)
        driver = r"""
            fpath=($PWD $fpath); autoload -U compinit; compinit -u -d $PWD/dump
            zmodload zsh/zpty
            zpty z zsh -f -i
            zpty -w z "PS1=; fpath=($PWD \$fpath); autoload -U compinit; compinit -u -d $PWD/dump2"
            zpty -w z 'bindkey "^I" complete-word; done-line() { print -r -- "<<$BUFFER>>"; BUFFER=; zle accept-line }'
            zpty -w z 'zle -N done-line; bindkey "^X" done-line; print ready-$((1+1))'
            zpty -r z answer '*ready-2*'
            zpty -w -n z "$1"$'\t'$'\x18'
            zpty -r z answer '*>>*'
            print -r -- "$answer"
        """
        for line, wanted in self.CASES:
            if len(wanted) > 1:
                continue
            with self.subTest(line=line):
                run = subprocess.run(
                    ["zsh", "-f", "-c", driver, "zsh", line],
                    cwd=self.folder,
                    env=self.environment | {"TERM": "dumb"},
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                before = line.rsplit(" ", 1)[0]
                found = re.findall(r"<<(.*)>>", run.stdout)
                self.assertEqual([text.rstrip() for text in found], [f"{before} {next(iter(wanted))}"], run.stdout + run.stderr)


if __name__ == "__main__":
    harness.main()
