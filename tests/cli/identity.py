"""What a file that a job finds was made from: results and stores of other inputs are never taken for this job's."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import harness
from harness import Case

WIDTH = 96  # of the demo model


def write_npy(path: Path, values: list[float], dtype: str = "<f4") -> None:
    """A vector in NumPy's format 1.0, by its specification."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({len(values)},), }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    body = struct.pack(f"<{len(values)}{'f' if dtype == '<f4' else 'i'}", *values)
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)


FROM_FILE = {
    "vectors": ["v.npy"],
    "conditions": [{"site": "resid_post", "layers": 1, "steps": "all", "donor": "file", "vector": 0}],
}


class Results(Case):
    """A finished results file, and a job that asks for something else."""

    def finished(self, **sections: Any) -> Path:
        self.pairs(n=3)
        write_npy(self.folder / "v.npy", [1.0] * WIDTH)
        job = self.job(**sections)
        self.succeed("run", job)
        self.assertIn("h5 is complete already", self.succeed("run", job).err)
        return job

    def refused(self, job: Path, *words: str, settings: tuple[str, ...] = ()) -> None:
        """By each command that would come to them, with the three files as they were."""
        out = self.folder / "out"
        before = {path: path.read_bytes() for path in sorted(out.iterdir())}
        for command in ("run", "sweep"):
            run = self.latentpatch(command, job, *(word for text in settings for word in ("--set", text)))
            self.assert_error(run, *words)
            self.assertEqual({path: path.read_bytes() for path in sorted(out.iterdir())}, before)

    def test_counts_of_no_pairs(self) -> None:
        """Counts that the file's pairs cannot give are refused where they are read, so that no sum of them overflows."""
        try:
            import h5py
        except ImportError:
            self.skipTest("the Python package h5py was not found")
        self.finished()
        results = self.folder / "out" / "a.results.h5"
        for count, shown in ((2**63 - 1, "9223372036854775807"), (-1, "-1")):
            with h5py.File(results, "r+") as file:
                file["counts"][1, 2] = count
            run = self.latentpatch("summary", results)
            self.assert_error(run, "/counts[1, 2]: expected 0 to ", f"of 3 pairs, found {shown}")

    def test_settings(self) -> None:
        job = self.finished()
        group = {"site": "resid_post", "layers": [0], "steps": "all", "donor": "clean"}
        for setting, words in (
            ("classifier=codi", "made with classifier seed, this job says codi"),
            ('metrics=["logits"]', "made with metrics none, this job says logit_clean, logit_corrupted"),
            ("sweep.seed=2", "made with seed 1, this job says 2"),
            (f"sweep.conditions={json.dumps([group])}", "holds the results of other conditions (7, filter all)"),
        ):
            with self.subTest(setting):
                self.refused(job, "a.results.h5: " + words, ": name another results.file, or remove it", settings=(setting,))

    def test_vectors(self) -> None:
        """The same file name with other numbers in it is another vector."""
        job = self.finished(sweep=FROM_FILE)
        write_npy(self.folder / "v.npy", [2.0] * WIDTH)
        self.refused(job, "a.results.h5: made with other vectors (sweep.vectors) than this job's")

    def test_no_results_file(self) -> None:
        """What is there under that name and is no results file stays."""
        self.pairs(n=3)
        self.succeed("cache", self.job("other.json", out="other"))
        (self.folder / "other" / "a.store.h5").rename(self.folder / "other" / "b.h5")
        job = self.job(results={"file": "other/b.h5"})
        self.succeed("cache", job)
        self.refused(job, "other/b.h5: expected a file of format latentpatch-results, found latentpatch-store")

    def test_partial(self) -> None:
        """Rows that a stopped job left are not continued under another vector or classifier."""
        self.pairs(n=8)
        write_npy(self.folder / "v.npy", [1.0] * WIDTH)
        job = self.job(sweep=FROM_FILE)
        self.succeed("cache", job)
        stop = self.folder / "out" / "a.results.h5.stop"
        stop.touch()
        self.assertEqual(self.latentpatch("sweep", job).code, 75)
        self.assertTrue((self.folder / "out" / "a.results.h5.partial").is_file())
        other = self.latentpatch("sweep", job, "--set", "classifier=codi")
        self.assert_error(other, "a.results.h5.partial: made with classifier seed, this job says codi: name another")
        write_npy(self.folder / "v.npy", [2.0] * WIDTH)
        self.assert_error(self.latentpatch("sweep", job), "made with other vectors (sweep.vectors) than this job's")


class Store(Case):
    """A store whose places are not those that the job names."""

    def test_sites(self) -> None:
        self.pairs(n=3)
        for kept, wanted, expected, found in (
            ([{"phase": "prompt", "site": "resid_post", "index": [-1]}], [-2], "prompt resid_post [-2]", "[-1]"),
            ([{"phase": "prompt", "site": "resid_post", "index": [-1]}], [-2, -1], "prompt resid_post [-2,-1]", "[-1]"),
            ([], [-1], "prompt resid_post [-1]", "found none"),
        ):
            with self.subTest(kept=kept, wanted=wanted):
                store = {"file": f"out/{len(kept)}{len(wanted)}.store.h5"}
                group = {"phase": "prompt", "site": "resid_post", "layers": 1, "index": wanted, "donor": "clean"}
                self.succeed("cache", self.job(store=store | {"sites": kept}))
                sites = [{"phase": "prompt", "site": "resid_post", "index": wanted}]
                job = self.job("other.json", store=store | {"sites": sites}, sweep={"conditions": [group]})
                for command in ("cache", "sweep"):
                    run = self.latentpatch(command, job)
                    self.assert_error(run, store["file"], "keeps other sites", f"expected {expected}", found)

    def test_kept_sites_are_used_again(self) -> None:
        self.pairs(n=3)
        sites = ["k", {"phase": "prompt", "site": "resid_post", "index": [-1, 3]}]
        job = self.job(store={"sites": sites})
        self.succeed("cache", job)
        self.succeed("run", job)

    def test_first_pairs_of_a_larger_store(self) -> None:
        """Few of the pairs of a store give what a store of just these gives; a store of fewer does not grow."""
        self.pairs(n=7)
        group = {"site": "resid_post", "layers": 1, "steps": "all", "donor": ["clean", "mean", "shuffled"]}
        job = self.job(sweep={"conditions": [group]}, metrics=["logits"])
        self.succeed("run", job)
        store = (self.folder / "out" / "a.store.h5").read_bytes()
        few = ("--set", "pairs.limit=3", "--set", "results.file=few/a.results.h5")
        again = self.succeed("run", job, *few, ranks=2)
        self.assertIn("of 3 pairs\n", again.out)
        self.assertIn("(3 pairs)", self.succeed("cache", job, *few).err)
        self.assertEqual((self.folder / "out" / "a.store.h5").read_bytes(), store)
        self.succeed("run", job, *few[:2], "--set", "results.file=own/a.results.h5", "--set", "store.file=own/a.store.h5")
        own = (self.folder / "own" / "a.csv").read_bytes()
        self.assertEqual((self.folder / "few" / "a.csv").read_bytes(), own)
        self.assertEqual(len(own.splitlines()), 1 + 3 * 4)
        grown = self.latentpatch("cache", job, "--set", "store.file=own/a.store.h5")
        words = "own/a.store.h5: made for 3 pairs, this job has 7 (pairs.limit); such a file does not grow: name another "
        self.assert_error(grown, words + "store.file, or remove it (one of 7 pairs does for the first 3 as well)")

    def test_pairs_in_another_order(self) -> None:
        """`store merge` believes the digest that it is given; the job looks at the pairs themselves."""
        self.pairs("all.json", n=6)
        pairs = json.loads((self.folder / "all.json").read_text())["pairs"]
        for name, part in (("a", pairs[:3]), ("b", pairs[3:])):
            (self.folder / f"{name}.json").write_text(json.dumps({"format": "latentpatch-pairs", "version": 1, "pairs": part}))
            self.succeed("cache", self.job(f"{name}-job.json", pairs={"file": f"{name}.json"}, out=name))
        digest = hashlib.sha256((self.folder / "all.json").read_bytes()).hexdigest()
        stores = ("a/a.store.h5", "b/a.store.h5")
        job = self.job(pairs={"file": "all.json"}, store={"file": "merged.h5"})
        self.succeed("store", "merge", "merged.h5", *stores, "--pair-file-digest", digest)
        self.succeed("run", job)
        (self.folder / "merged.h5").unlink()
        self.succeed("store", "merge", "merged.h5", *reversed(stores), "--pair-file-digest", digest)
        for command in ("plan", "cache", "sweep", "run"):
            run = self.latentpatch(command, job, "--set", "results.file=other/a.results.h5")
            self.assert_error(run, "merged.h5: /pairs/id, row 0: expected p00000, found p00003: name another store.file")

    def test_merge_of_a_part(self) -> None:
        """A store of the first pairs, merged with one of all, says how many it is made for now."""
        self.pairs(n=5)
        self.succeed("cache", self.job("few.json", out="few", pairs={"limit": 2}))
        job = self.job()
        self.succeed("cache", job)
        self.succeed("store", "merge", "merged.h5", "few/a.store.h5", "out/a.store.h5")
        made = json.loads(self.succeed("store", "info", "merged.h5", "--json").out)
        self.assertEqual((made["n_pairs"], made["n_done"], made["provenance"]["n_pairs"]), (5, 5, "5"))
        self.succeed("run", job, "--set", "store.file=merged.h5")

    def test_first_pairs_of_an_unfinished_store(self) -> None:
        self.pairs(n=12)
        job = self.job()
        (self.folder / "out").mkdir()
        (self.folder / "out" / "a.store.h5.stop").touch()
        self.assertEqual(self.latentpatch("cache", job).code, 75)
        few = ("--set", "pairs.limit=10")
        self.succeed("cache", job, *few)
        self.assertIn("a.store.h5, complete\n", self.succeed("plan", job, *few).out)
        self.assertIn("a.store.h5, 10 of 12 pairs\n", self.succeed("plan", job).out)
        self.succeed("sweep", job, *few)


class Paths(Case):
    """An output on an input, or on another output, is refused before any work, by every command."""

    def test_own_files(self) -> None:
        self.pairs(n=3)
        write_npy(self.folder / "v.npy", [1.0] * WIDTH)
        model = self.model_copy(changed=("base", "codi"))
        job = self.job(sweep=FROM_FILE)
        changed = json.loads(job.read_text())
        changed["model"].update(model)
        job.write_text(json.dumps(changed))
        self.succeed("cache", job)
        (self.folder / "link.h5").symlink_to("out/a.store.h5")
        (self.folder / "hard.json").hardlink_to(job)
        before = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        for place, value, found, *more in (
            ("results.file", "out/a.store.h5", "the store (out/a.store.h5)", "plan", "cache", "sweep"),
            ("results.csv", "./out/../out/a.store.h5", "the store (out/a.store.h5)"),
            ("results.csv", "link.h5", "the store (out/a.store.h5)"),
            ("results.csv", "job.json", "the job (job.json)"),
            ("results.summary", "hard.json", "the job (job.json)"),
            ("results.file", "pairs.json", "the pairs (pairs.json)"),
            ("store.file", "pairs.json", "the pairs (pairs.json)"),
            ("results.csv", "v.npy", "a vector (v.npy)"),
            ("results.csv", "gpt2-base/tokenizer.json", "a file of the model ("),
            ("results.summary", "gpt2-codi/model.safetensors", "a file of the model ("),
            ("results.csv", "new/../out/a.results.h5", "the results (out/a.results.h5)"),
            ("results.summary", "out/a.csv", "the CSV (out/a.csv)"),
            ("results.csv", "out/a.results.h5.partial", "the rows of the running sweep (out/a.results.h5.partial)"),
        ):
            for command in ("run", *more):
                with self.subTest(command=command, place=place, value=value):
                    run = self.latentpatch(command, "job.json", "--set", f"{place}={value}")
                    self.assert_error(run, f"job.json: $.{place}: expected a file of its own, found {found}")
        self.assertEqual({path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}, before)

    def test_long_path(self) -> None:
        self.pairs(n=3)
        job = self.job()
        before = self.files()
        for place in ("store.file", "results.file", "results.csv", "results.summary"):
            with self.subTest(place=place):
                run = self.latentpatch("run", job, "--set", f"{place}={'d/' * 1990}a")
                self.assert_error(run, f"$.{place}: expected a path of at most 2000 bytes, found ")
        self.assertEqual(self.files(), before)

    def test_no_file(self) -> None:
        """A folder, a device or a pipe is no output: known before any work, and it stays what it is."""
        self.pairs(n=3)
        job = self.job()
        (self.folder / "there").mkdir()
        os.mkfifo(self.folder / "pipe")
        before = self.files()
        for place in ("store.file", "results.file", "results.csv", "results.summary"):
            for value, found in (("there", "a folder"), ("new/", "a folder"), ("pipe", "a device or a pipe")):
                for command in ("plan", "run"):
                    with self.subTest(place=place, value=value):
                        run = self.latentpatch(command, job, "--set", f"{place}={value}")
                        self.assert_error(run, f"job.json: $.{place}: expected a file, found {found} (")
        self.assertEqual(self.files(), before)
        self.assertTrue((self.folder / "pipe").is_fifo())


class Early(Case):
    """What `run` would refuse after stage 1 is refused before it, by `plan` as well, and leaves nothing behind."""

    def refused(self, job: Path, *words: str, commands: tuple[str, ...] = ("plan", "cache", "run")) -> None:
        before = self.files()
        for command in commands:
            with self.subTest(command=command, words=words):
                run = self.latentpatch(command, job)
                self.assert_error(run, *words)
                self.assertEqual(run.out, "")
                self.assertEqual(self.files(), before)

    def test_device_and_dtype(self) -> None:
        self.pairs(n=3)
        for engine, words in (
            ({"device": "cpu", "dtype": "bf16"}, "$.engine.dtype: the cpu backend computes in fp32 only"),
            ({"executor": "reference", "dtype": "bf16"}, "$.engine.dtype: the reference executor computes in fp32 only"),
        ):
            self.refused(self.job(engine=engine), words)

    def test_donors(self) -> None:
        self.pairs(n=3)
        group = {"site": "resid_post", "layers": 1, "steps": "all"}
        of_all = {"conditions": [{"phase": "prompt", "index": "all", "site": "v", "layers": 1, "donor": "clean"}]}
        self.refused(
            self.job(store={"sites": ["k"]}, sweep=of_all),
            "the store does not keep v of prompt positions",
            "to store.sites (a store that is there cannot be extended: name another store.file)",
        )
        from_file = {"vectors": ["v.npy"], "conditions": [group | {"donor": "file", "vector": 0}]}
        self.refused(self.job(sweep=from_file), "v.npy", "No such file", commands=("plan", "run"))
        for values, dtype, words in (
            ([1.0] * (WIDTH - 1), "<f4", "expected 96 numbers (resid_post), found 95"),
            ([float("nan")] * WIDTH, "<f4", "v.npy"),
            ([1] * WIDTH, "<i4", "v.npy"),
        ):
            write_npy(self.folder / "v.npy", values, dtype)
            self.refused(self.job(sweep=from_file), words)
        (self.folder / "v.npy").unlink()
        self.succeed("cache", self.job(sweep=from_file))

    def test_sites_follow_from_the_conditions(self) -> None:
        """What conditions take is kept, though store.sites does not name it; a store without it says what to do."""
        self.pairs(n=3)
        taken = [
            {"site": "v", "layers": 1, "steps": "all", "donor": "clean"},
            {"phase": "prompt", "index": -2, "site": "attn_out", "layers": 0, "donor": "clean"},
        ]
        self.succeed("run", self.job(sweep={"conditions": taken}))
        self.assert_error(self.latentpatch("run", self.job(results={"file": "other.h5"})), "sites", "name another store.file")

    def test_width(self) -> None:
        """A vector does not go where vectors are longer, whatever else it goes to (keys of fewer heads than queries)."""
        self.pairs(n=3)
        group = {"layers": 0, "steps": "all", "donor": "clean", "from": {"site": "k"}}
        for sites in (["resid_post"], ["k", "resid_post"]):
            self.refused(
                self.job(model="llama", store={"sites": ["k"]}, sweep={"conditions": [group | {"site": sites}]}),
                "job.json: condition denoise/clean/replace/resid_post/L0/all<k: a vector of 48 numbers (k) cannot go to "
                "resid_post, which has 96",
            )

    def test_one_pair(self) -> None:
        self.pairs(n=1)
        group = {"site": "resid_post", "layers": 1, "steps": "all"}
        for donor, controls, words in (
            ("clean", True, '$.sweep.controls: the control "shuffled" needs at least 2 pairs, found 1 (sweep.controls ["self"]'),
            ("shuffled", False, '/all: the donor "shuffled" needs at least 2 pairs, found 1'),
            ("mean", False, '/all: the donor "mean" needs at least 2 pairs, found 1'),
        ):
            sweep = {"controls": controls, "conditions": [group | {"donor": donor}]}
            self.refused(self.job(sweep=sweep), words)
        self.succeed("run", self.job(sweep={"controls": ["self"], "conditions": [group]}))

    def test_files_that_do_not_fit(self) -> None:
        self.pairs(n=3)
        self.succeed("run", self.job())
        other = self.job("other.json", protocol={"steps": 5})
        self.refused(other, "a.store.h5: made with steps 6, this job says 5: name another store.file, or remove it")
        other = self.job("other.json", store={"file": "out/new.store.h5"}, sweep={"seed": 2})
        self.refused(other, "a.results.h5: made with seed 1, this job says 2", commands=("plan", "run"))

    def test_memory_limit(self) -> None:
        """What one run takes is known when it is begun: a limit below it leaves no file, of either stage; nor does it take
        away what an earlier start made."""
        self.pairs(n=3)
        job, small = self.job(), ("--set", "engine.memory_limit=1000")
        for stage in ("cache", "sweep"):
            for ranks in (1, 2):
                with self.subTest(stage=stage, ranks=ranks):
                    (self.folder / "out").mkdir(exist_ok=True)
                    before = self.files()
                    run = self.latentpatch(stage, job, *small, ranks=ranks)
                    self.assert_error(run, "engine.memory_limit: expected at least ", "found 1000")
                    self.assertEqual(self.files(), before)
            stop = self.folder / "out" / {"cache": "a.store.h5.stop", "sweep": "a.results.h5.stop"}[stage]
            stop.touch()
            self.assertEqual(self.latentpatch(stage, job).code, 75)
            before = self.files()
            self.assert_error(self.latentpatch(stage, job, *small), "engine.memory_limit: expected at least ")
            self.assertEqual(self.files(), before)
            self.succeed(stage, job)

    def test_plan_says_how_the_store_stands(self) -> None:
        self.pairs(n=12)
        job = self.job()
        self.assertRegex(self.succeed("plan", job).out, r"\nstore: \S+/out/a.store.h5, not made yet\n")
        (self.folder / "out").mkdir()
        (self.folder / "out" / "a.store.h5.stop").touch()
        self.assertEqual(self.latentpatch("cache", job).code, 75)
        self.assertRegex(self.succeed("plan", job).out, r"\nstore: \S+/out/a.store.h5, \d+ of 12 pairs\n")
        self.succeed("cache", job)
        self.assertRegex(self.succeed("plan", job, ranks=2).out, r"\nstore: \S+/out/a.store.h5, complete\n")


if __name__ == "__main__":
    harness.main()
