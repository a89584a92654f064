"""Files beside the one that a command was told to write: nothing of others is replaced, followed, removed or half made."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import signal
import struct
import subprocess
import time
from pathlib import Path

import harness
from harness import DEMO, Case, command_of


class Files(Case):
    def contents(self) -> dict[str, str]:
        """Digest of every file, or the target of a link."""
        out = {}
        for path in self.folder.rglob("*"):
            if path.is_symlink():
                out[str(path.relative_to(self.folder))] = "-> " + os.readlink(path)
            elif path.is_file():
                out[str(path.relative_to(self.folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return out

    def refused(self, words: str, *args: object) -> None:
        """One line, exit 1, and no file is another or new."""
        before = self.contents()
        run = self.latentpatch(*args)
        self.assert_error(run, words)
        self.assertEqual(self.contents(), before, args)

    def store(self, name: str, n: int = 3) -> Path:
        self.pairs(n=n)
        self.succeed("cache", self.job(), "--set", f"store.file={self.folder / name}")
        return self.folder / name


class Copies(Files):
    def test_names(self) -> None:
        """`store archive` and `merge`: a store to be read under a name that the copy needs; names that are taken."""
        store = self.store("s.h5").rename(self.folder / "x.h5")
        for name in ("a.manifest.json", "a.lock", "b.h5.tmp"):
            (self.folder / name).write_bytes(store.read_bytes())
        (self.folder / "hard.h5").hardlink_to(store)
        (self.folder / "linked.lock").symlink_to(store)
        own = "expected a file of its own, found a store to be read"
        self.refused(own, "store", "archive", "a.manifest.json", "a")
        self.refused(own, "store", "archive", "a.lock", "a")
        self.refused(own, "store", "archive", "x.h5", "hard.h5")
        self.refused(own, "store", "archive", "x.h5", "linked")
        self.refused(own, "store", "merge", "a", "x.h5", "a.lock")
        self.refused("exists already", "store", "merge", "b.h5.tmp", "x.h5", "hard.h5")
        self.succeed("store", "archive", "b.h5.tmp", "b.h5")
        self.assertEqual((self.folder / "b.h5.tmp").read_bytes(), store.read_bytes())
        for suffix, words in ((".manifest.json", "exists already with other contents"), (".lock", "expected a lock file")):
            taken = self.folder / f"c.h5{suffix}"
            taken.write_text("mine\n")
            self.refused(words, "store", "archive", "x.h5", "c.h5")
            taken.unlink()

    def test_left_manifest(self) -> None:
        """A life that was killed between the two names left its manifest: the next one makes both."""
        self.store("s.h5")
        self.succeed("store", "archive", "s.h5", "a.h5")
        first = (self.folder / "a.h5").read_bytes()
        (self.folder / "a.h5").unlink()
        self.succeed("store", "archive", "s.h5", "a.h5")
        self.assertEqual((self.folder / "a.h5").read_bytes(), first)

    def test_race(self) -> None:
        """Two at once for one name: one makes it whole, the other says why it did not, nothing else is left."""
        self.store("s.h5")
        self.store("t.h5")
        before = set(self.files())
        for turn in range(4):
            name = f"m{turn}.h5"
            verb = ("archive", "s.h5", name) if turn % 2 else ("merge", name, "s.h5", "t.h5")
            both = [
                subprocess.Popen(command_of(("store", *verb), 1), cwd=self.folder, stderr=subprocess.PIPE, text=True)
                for _ in range(2)
            ]
            ends = [(process.communicate()[1], process.returncode) for process in both]
            self.assertEqual(sorted(code for _, code in ends), [0, 1], ends)
            loser = next(err for err, code in ends if code)
            self.assertTrue("in use by another job" in loser or "exists already" in loser, loser)
            self.succeed("store", "verify", name)
            new = {name, name + ".manifest.json"} if turn % 2 else {name}
            self.assertEqual(set(self.files()) - before, new)
            before |= new

    def test_export(self) -> None:
        self.store("s.h5")
        self.succeed("store", "export", "s.h5", "ex")
        self.succeed("store", "export", "s.h5", "ex")  # the same bytes again
        path = self.folder / "ex" / "pairs.txt"
        path.write_text("mine\n")
        self.refused("pairs.txt: exists already with other contents", "store", "export", "s.h5", "ex")


class Sides(Files):
    def test_inputs(self) -> None:
        """The pair file under each of the names that belong to the job's outputs."""
        pairs = self.pairs(n=3)
        job = self.job(store={"file": "z.h5"}, results={"file": "q.h5"})
        for name in ("z.h5.lock", "z.h5.stop", "q.h5.lock", "q.h5.stop", "q.h5.partial"):
            (self.folder / name).write_bytes(pairs.read_bytes())
            words = f"{name}): expected a file of its own, found the pairs ("
            for command in ("plan", "cache", "run"):
                self.refused(words, command, job, "--set", f"pairs.file={self.folder / name}")
            (self.folder / name).unlink()

    def test_names_of_others(self) -> None:
        """A stranger's file under a name that the program derives."""
        self.pairs(n=3)
        job = self.job(store={"file": "z.h5"}, results={"file": "q.results.h5"})
        self.succeed("cache", job)
        for name, words in (
            ("q.csv", "q.csv: is there already and is not of these results"),
            ("q.summary.json", "q.summary.json: is there already and is not of these results"),
            ("q.results.h5.partial", "expected an HDF5 file"),
            ("q.results.h5.lock", "expected a lock file, found other contents"),
            ("q.results.h5.stop", "expected an empty file, which asks a job to stop"),
        ):
            path = self.folder / name
            path.write_text('"my","table"\n')
            with self.subTest(name=name):
                self.refused(words, "sweep", job)
            path.unlink()
        (self.folder / "victim").write_text("precious\n")
        for name in ("q.results.h5.lock", "z.h5.lock"):
            (self.folder / name).symlink_to("victim")
            with self.subTest(link=name):
                self.refused("expected a lock file, found a symbolic link", "cache" if name[0] == "z" else "sweep", job)
            (self.folder / name).unlink()
        for name in ("q.results.h5.tmp", "q.csv.tmp", "q.summary.json.tmp"):
            (self.folder / name).symlink_to("victim")
        self.succeed("sweep", job)
        self.assertEqual((self.folder / "victim").read_text(), "precious\n")
        self.assertTrue(all((self.folder / f"q.{end}.tmp").is_symlink() for end in ("results.h5", "csv", "summary.json")))

    def test_texts_of_other_results(self) -> None:
        self.pairs(n=3)
        texts = ("--set", "results.csv=x.csv", "--set", "results.summary=x.json")
        job = self.job()
        self.succeed("run", job, *texts, "--set", "results.file=a.h5")
        other = ("--set", "results.file=b.h5", "--set", "sweep.conditions.0.steps=all")
        self.refused("x.json: is there already and is not of these results", "run", job, *texts, *other)
        self.refused("x.csv: is there already and is not of these results", "run", job, texts[0], texts[1], *other)
        # Removed to be made again: the texts are of the same results.
        csv = (self.folder / "x.csv").read_bytes()
        (self.folder / "a.h5").unlink()
        self.succeed("run", job, *texts, "--set", "results.file=a.h5")
        self.assertEqual((self.folder / "x.csv").read_bytes(), csv)
        (self.folder / "a.h5").unlink()
        (self.folder / "x.csv").write_bytes(csv + b"\n")
        run = self.latentpatch("run", job, *texts, "--set", "results.file=a.h5")
        self.assertEqual((run.code, (self.folder / "x.csv").read_bytes()), (1, csv + b"\n"))
        self.assertIn("x.csv: exists already with other contents, and is not replaced", run.err)
        (self.folder / "x.csv").unlink()
        self.succeed("run", job, *texts, "--set", "results.file=a.h5")  # from the rows that were kept
        self.assertEqual((self.folder / "x.csv").read_bytes(), csv)

    def test_links(self) -> None:
        """Outputs that are links from home to scratch: the files are made there, and the links stay."""
        self.pairs(n=3)
        (self.folder / "scratch").mkdir()
        ends = ("store.h5", "results.h5", "csv", "summary.json")
        for end in ends:
            (self.folder / f"a.{end}").symlink_to(f"scratch/far.{end}")
        job = self.job(store={"file": "a.store.h5"}, results={"file": "a.results.h5"})
        for _ in range(2):
            self.succeed("run", job)
            self.assertTrue(all((self.folder / f"a.{end}").is_symlink() for end in ends))
            self.assertEqual(
                sorted(path.name for path in (self.folder / "scratch").iterdir()), sorted(f"far.{end}" for end in ends)
            )
        (self.folder / "b.h5").symlink_to("nowhere/b.h5")
        self.refused("b.h5", "cache", job, "--set", "store.file=b.h5")

    def test_one_store_by_two_names(self) -> None:
        self.pairs(n=300)
        job = self.job()
        self.succeed("cache", job, "--set", "store.file=a.h5", "--set", "pairs.limit=2")
        (self.folder / "hard.h5").hardlink_to(self.folder / "a.h5")
        (self.folder / "link.h5").symlink_to("a.h5")
        holder = subprocess.Popen(
            command_of(("cache", job, "--set", "store.file=b.h5"), 1), cwd=self.folder, stderr=subprocess.DEVNULL
        )
        try:
            while not (self.folder / "b.h5").exists():
                self.assertIsNone(holder.poll())
                time.sleep(0.01)
            (self.folder / "link_b.h5").symlink_to("b.h5")
            holder.send_signal(signal.SIGSTOP)
            run = self.latentpatch("cache", job, "--set", "store.file=link_b.h5")
            self.assert_error(run, "in use by another job")
        finally:
            holder.kill()
            holder.wait()


class Pairs(Files):
    def test_outputs(self) -> None:
        """`pairs` never writes over its source, over another output, or over what is there."""
        source = self.folder / "s.jsonl"
        source.write_text('{"question": "Tom has 3 pens and buys 4. How many?", "answer": "<<3+4=7>>7\\n#### 7"}\n')
        (self.folder / "hard").hardlink_to(source)
        (self.folder / "mine").write_text("mine\n")
        make = ("pairs", "make", "--source", "s.jsonl", "--format", "gsm8k")
        for output in ("s.jsonl", "hard", "mine"):
            with self.subTest(output=output):
                before = self.contents()
                self.assertEqual(self.latentpatch(*make, "-o", output).code, 1)
                self.assertEqual(self.contents(), before)
        self.succeed(*make, "-o", "o.json")
        self.succeed(*make, "-o", "o.json")  # the same bytes
        run = self.latentpatch(*make, "--seed", "7", "--prefix", "other", "-o", "o.json")
        self.assertEqual(run.code, 1, run.err)
        self.assertIn("o.json: exists already with other contents", run.err)
        before = self.contents()
        for words in (("-o", "n.json", "--rejected", "n.json"), ("-o", "n.json", "--rejected", "./hard")):
            self.assertEqual(self.latentpatch(*make, *words).code, 1, words)
            self.assertEqual(self.contents(), before, words)


class Ends(Files):
    def test_pipes(self) -> None:
        """An input that is a pipe or a device is said to be one; nothing waits for a writer."""
        os.mkfifo(self.folder / "f")
        base = harness.DEMO / "gpt2" / "base"
        for command in (
            "store info f", "summary f", "pairs check f", f"inspect --base {base} --codi f", "plan f", "tokenize --tokenizer f a",
        ):  # fmt: skip
            run = self.latentpatch(*command.split(), timeout=20)
            self.assertEqual(run.code, 1, f"{command}: {run.err}")
            self.assertIn("error: ", run.lines[-1])
            if "tokenize" not in command:
                self.assertIn("f: expected a regular file, found a pipe", run.lines[-1])
        self.assert_error(self.latentpatch("summary", "/dev/zero"), "/dev/zero: expected a regular file, found a device")

    def test_signals(self) -> None:
        """SIGTERM, SIGINT and SIGHUP end a command wherever it is; the next one goes on, and nothing is left."""
        self.pairs(n=300)
        job = self.job(engine={"executor": "reference"})
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process = subprocess.Popen(command_of(("cache", job), 1), cwd=self.folder, stderr=subprocess.PIPE, text=True)
            while not (self.folder / "out" / "a.store.h5").exists() and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
            self.assertIn(process.returncode, (75, -number), err)  # the latter while it starts
            self.assertEqual(self.files(), ["job.json", "out", "out/a.store.h5", "pairs.json"])
        self.succeed("cache", self.job(), timeout=300)
        process = subprocess.Popen(command_of(("store", "archive", "out/a.store.h5", "a.h5"), 1), cwd=self.folder)
        while not (self.folder / "a.h5.lock").exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=20), -signal.SIGTERM)
        self.assertEqual(self.files(), ["job.json", "out", "out/a.store.h5", "pairs.json"])


class FileSize(Files):
    def test_limit(self) -> None:
        """A limit of the size of a file (ulimit -f): one line, and nothing half-written stays."""
        store = self.store("s.h5")
        limit = (4096, 4096)
        source = DEMO / "train" / "templates.json"
        for words in (
            ("store", "archive", store, "a.h5"),
            ("store", "merge", "m.h5", store),
            ("pairs", "make", "--source", source, "--format", "templates", "--count", "40", "-o", "p.json"),
        ):
            before = self.contents()
            run = self.latentpatch(*words, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            self.assert_error(run, "File too large")
            self.assertEqual(self.contents(), before, words)


class AddressSpace(Files):
    def test_limit(self) -> None:
        """A limit of address space is an error of one line, before MPI and HDF5 are started."""
        self.pairs(n=3)
        for kib in (400_000, 200_000, 60_000):
            limit = (kib * 1024, kib * 1024)
            run = self.latentpatch(
                "cache", self.job(), before=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, limit), timeout=30
            )
            self.assert_error(run, f"the address space of a process is limited to {kib // 1024} MiB (ulimit -v)")

    def test_plan_without_room_for_the_weights(self) -> None:
        """A login node need not hold the model: plan says that the weights were not looked at, and the rest."""
        base = self.folder / "base"
        base.mkdir()
        width, vocabulary = 4096, 100_000
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (base / name).symlink_to(harness.DEMO / "llama" / "base" / name)
        config = json.loads((harness.DEMO / "llama" / "base" / "config.json").read_text())
        config |= {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 1}
        config |= {"intermediate_size": 64, "vocab_size": vocabulary, "head_dim": 128}
        (base / "config.json").write_text(json.dumps(config))
        block = "model.layers.0."
        shapes = {
            "model.embed_tokens.weight": [vocabulary, width],
            "model.norm.weight": [width],
            block + "self_attn.q_proj.weight": [width, width],
            block + "self_attn.k_proj.weight": [128, width],
            block + "self_attn.v_proj.weight": [128, width],
            block + "self_attn.o_proj.weight": [width, width],
            block + "mlp.gate_proj.weight": [64, width],
            block + "mlp.up_proj.weight": [64, width],
            block + "mlp.down_proj.weight": [width, 64],
            block + "input_layernorm.weight": [width],
            block + "post_attention_layernorm.weight": [width],
        }
        header, end = {}, 0
        for name, shape in shapes.items():
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (base / "model.safetensors").open("wb") as file:  # sparse: all weights are 0
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
        self.pairs(n=3)
        job = json.loads(Path(self.job()).read_text())
        job["model"] = {"base": str(base)}
        job["protocol"] = {"name": "coconut", "tokens": {"bot": 621, "eot": 622}}
        (self.folder / "job.json").write_text(json.dumps(job))
        limit = (2 << 30, 2 << 30)
        run = self.latentpatch(
            "plan",
            self.folder / "job.json",
            before=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
            environment={"LATENTPATCH_KERNELS": "baseline"},  # the others may add codes of the head
        )
        self.assertEqual(run.code, 0, run.err)
        self.assertIn("there is no memory for the weights (1.7 GiB): they are not loaded", run.err)
        self.assertRegex(run.out, r"weights in memory \(arena\) +1697\.5 MiB")  # the shapes' floats
        self.assertNotIn("expected", run.out)
        self.assertFalse((self.folder / "out").exists())


if __name__ == "__main__":
    harness.main()
