"""Bad input: one clear line (file, place, expected, found), exit code 1, the same on every number of ranks, no hang,
and nothing left behind.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import struct
import subprocess
import unittest
from pathlib import Path

import harness
from harness import Case, matrix_of, read_safetensors, write_safetensors

CODI_FILE = "gpt2-codi/model.safetensors"


class Refusing(Case):
    ranks = (1, 2)

    def refused(self, job: Path, *words: str, command: str = "run", ranks: tuple[int, ...] | None = None) -> None:
        before = self.files()
        for n in filter(lambda n: n <= harness.MAX_RANKS, ranks or self.ranks):
            with self.subTest(ranks=n):
                run = self.latentpatch(command, job, ranks=n)
                self.assert_error(run, *words)
                self.assertEqual(run.out, "")
                self.assertEqual(self.files(), before)


class BadJob(Refusing):
    def test_kernels(self) -> None:
        """A setting of the environment is named as such."""
        self.pairs()
        run = self.latentpatch("plan", self.job(), environment={"LATENTPATCH_KERNELS": "sse9"})
        self.assert_error(run, "error: LATENTPATCH_KERNELS: expected one of ", 'found "sse9"')

    def test_missing_job(self) -> None:
        self.refused(Path("none.json"), "none.json", "No such file", ranks=(1, 2, 4))

    def test_job_is_no_json(self) -> None:
        self.pairs()
        job = self.folder / "job.json"
        job.write_text('{"model": {"base": "x",}}')
        self.refused(job, "job.json", "1")

    def test_unknown_key(self) -> None:
        self.pairs()
        self.refused(self.job(decode={"max_tokens": 3}), "job.json", "$.decode", '"max_tokens"', "max_new_tokens")

    def test_key_of_an_older_version(self) -> None:
        """`engine.graphs` of version 0.1 is gone."""
        self.pairs()
        self.refused(self.job(engine={"graphs": False}), "job.json", "$.engine", '"graphs"', "hang_limit")

    def test_unknown_key_of_a_condition(self) -> None:
        self.pairs()
        job = self.job(sweep={"conditions": [{"site": "resid_post", "layer": 1, "steps": "first:1"}]})
        self.refused(job, "job.json", "$.sweep.conditions[0]", '"layer"')

    def test_lists_that_ask_for_the_same_again_and_again(self) -> None:
        """Their product is bounded, not only what is left of it."""
        self.pairs()
        job = self.job(sweep={"conditions": [{"site": "latent_in", "steps": ["single:0"] * 2000, "donor": ["clean"] * 2000}]})
        self.refused(job, "sweep.conditions: expected at most 500000 conditions that are there already", "latent_in")
        donors = {"noise": {"sigma": [1 + i / 64 for i in range(3000)], "around": "zero"}}
        job = self.job(sweep={"conditions": [{"site": "latent_in", "steps": "single:0", "donor": donors}]})
        self.refused(job, "sweep.conditions: expected at most 1000 kinds of donors mean and noise")

    def test_lists_that_are_too_long(self) -> None:
        """What a group's lists hold takes up to a kilobyte for a byte of the job."""
        self.pairs()
        head = '"sweep": {"controls": false, "conditions": ['
        edge = '{"from": {"phase": "answer"}, "to": {"steps": "all"}}'
        shifts = ", ".join(f'{{"nearest_token": {{"shift": {i}}}}}' for i in range(1, 1500))
        long = "expected at most 5000 entries in the lists of one group, found more; split the group"
        cases = {
            '{"site": "resid_post", "layers": [' + "0, " * 5000 + '0], "steps": "all"}': ("conditions[0].layers[4999]", long),
            '{"layers": 0, "forbid": {"from": {"phase": "answer"}, "to": {"phase": "prompt", "index": ['
            + "1, " * 5000
            + "1]}}}": ("conditions[0].forbid.to.index[4999]", long),
            '{"layers": 0, "forbid": [' + ", ".join([edge] * 65) + "]}": ("forbid[64]", "expected at most 64 entries of forbid"),
            '{"site": "latent_in", "steps": "single:0", "donor": [' + shifts + "]}": ("at most 1000 kinds of edits by nearest",),
            '{"site": "latent_in", "steps": "all", "operation": "scale", "factor": 1e999}': ('too large for a double ("factor")',),
        }
        for group, words in cases.items():
            path = self.job()
            text = json.dumps(json.loads(path.read_text()) | {"sweep": "here"})
            path.write_text(text.replace('"sweep": "here"', head + group + "]}"))
            self.refused(path, *words, command="plan", ranks=(1,))

    def test_vectors_that_are_too_many(self) -> None:
        self.pairs()
        job = self.job(sweep={"vectors": ["a.npy"] * 10001})
        self.refused(job, "$.sweep.vectors: expected at most 10000 files, found 10001", command="plan", ranks=(1,))

    def test_memory_limit(self) -> None:
        """The words are the same, whichever rank comes first."""
        self.pairs()
        job = self.job(engine={"memory_limit": 100000})
        run = self.latentpatch("cache", job, ranks=2)
        self.assert_error(run, "engine.memory_limit: expected at least", "found 100000")
        self.assertNotIn("(rank", run.err)

    def test_wrong_type(self) -> None:
        self.pairs()
        self.refused(self.job(pairs={"limit": "ten"}), "job.json", "$.pairs.limit", "expected an integer", 'found "ten"')

    def test_out_of_range(self) -> None:
        self.pairs()
        self.refused(self.job(protocol={"steps": -1}), "job.json", "$.protocol.steps", "-1")
        self.refused(self.job(sweep={"controls": 1}), "job.json", "$.sweep.controls", "true or false", "1")

    def test_unknown_word(self) -> None:
        self.pairs()
        self.refused(self.job(classifier="best"), "job.json", "$.classifier", "best", "seed", "codi")
        self.refused(self.job(readout="logit_lens top 51"), "job.json", "$.readout", "logit_lens top K", "1 to 50")

    def test_layer_out_of_range(self) -> None:
        self.pairs()
        job = self.job(sweep={"conditions": [{"site": "resid_post", "layers": [0, 7], "steps": "first:1"}]})
        self.refused(job, "job.json", "$.sweep.conditions[0].layers[1]", "7", "2", ranks=(1, 2, 4))

    def test_step_out_of_range(self) -> None:
        self.pairs()
        job = self.job(sweep={"conditions": [{"site": "resid_post", "layers": "all", "steps": "first:1-9"}]})
        self.refused(job, "job.json", "$.sweep.conditions[0].steps", "9", "6")

    def test_no_positions(self) -> None:
        self.pairs()
        sites = [{"phase": "prompt", "site": "k", "index": []}]
        self.refused(self.job(store={"sites": sites}), "$.store.sites[0].index: expected at least one position, found []")

    def test_no_conditions(self) -> None:
        self.pairs()
        words = ("$.sweep.conditions", "expected at least one condition, found none")
        self.refused(self.job(sweep={"conditions": []}), "job.json", *words)

    def test_memory_limit_below_one_run(self) -> None:
        self.pairs()
        little = self.job("little.json", engine={"memory_limit": "1MiB"})
        words = ("engine.memory_limit", "expected at least", "one run", "found 1048576")
        for command in ("cache", "sweep"):
            for ranks in (1, 2):
                with self.subTest(command=command, ranks=ranks):
                    self.assert_error(self.latentpatch(command, little, ranks=ranks), *words)
            self.succeed(command, self.job())


class BadPairs(Refusing):
    def test_missing_pair_file(self) -> None:
        self.refused(self.job(), "pairs.json", "No such file")

    def test_record_file_of_no_pairs(self) -> None:
        self.pairs(n=0)
        self.refused(self.job(), "pairs.json", "$.pairs", "pair")

    def test_record_file_of_no_bytes(self) -> None:
        (self.folder / "pairs.json").write_bytes(b"")
        self.refused(self.job(), "pairs.json")

    def test_duplicate_ids(self) -> None:
        self.pairs(change=lambda pairs: pairs[3].update(id="p00001"))
        self.refused(self.job(), "pairs.json", "$.pairs[3]", "p00001", "$.pairs[1]")

    def test_equal_answers(self) -> None:
        self.pairs(change=lambda pairs: pairs[2]["corrupted"].update(answer=pairs[2]["clean"]["answer"]))
        self.refused(self.job(), "pairs.json", "$.pairs[2]", "answer")

    def test_question_longer_than_the_context(self) -> None:
        def longer(pairs: list) -> None:
            pairs[1]["clean"]["question"] = "Tom has 3 pens. " * 60

        self.pairs(change=longer)
        self.refused(self.job(), "pairs.json", "pair p00001 (clean)", "at most 128", "found", ranks=(1, 2, 4))


class BadModel(Refusing):
    def test_missing_model(self) -> None:
        self.pairs()
        self.refused(self.model_job({"codi": "no-such-folder"}), "no-such-folder", "No such file")

    def model_job(self, model: dict[str, str]) -> Path:
        job = json.loads(self.job().read_text())
        job["model"].update(model)
        path = self.folder / "job.json"
        path.write_text(json.dumps(job))
        return path

    def test_truncated_safetensors(self) -> None:
        self.pairs()
        model = self.model_copy()
        file = self.folder / CODI_FILE
        size = file.stat().st_size
        os.truncate(file, size - 100)
        self.refused(self.model_job(model), CODI_FILE, "expected", "found", ranks=(1, 2, 4))

    def test_truncated_header(self) -> None:
        self.pairs()
        model = self.model_copy()
        os.truncate(self.folder / CODI_FILE, 40)
        self.refused(self.model_job(model), CODI_FILE, "truncated", "expected", "found 32")

    def test_two_heads(self) -> None:
        """A tied head that differs from the embedding: torch copies it last into the one parameter that they are, so the
        answers are those of a checkpoint with the head's values under both names."""
        model = self.model_copy()
        header, body = read_safetensors(self.folder / CODI_FILE)
        name = next(name for name in header if name.endswith("wte.weight"))
        begin, end = header[name]["data_offsets"]
        size = end - begin
        other = bytes(body[begin + size // 2 :][: size // 2]) + bytes(body[begin : begin + size // 2])
        other = other if len(other) == size else bytes(body[end - size : end])
        words = ("generate", "--base", model["base"], "--codi", model["codi"], "Tom has 3 pens and buys 4. How many?")
        with_head = dict(header) | {"codi.lm_head.weight": header[name] | {"data_offsets": [len(body), len(body) + size]}}
        answers = []
        for values, said in ((bytes(body[begin:end]), False), (other, True)):
            write_safetensors(self.folder / CODI_FILE, with_head, bytes(body) + values)
            run = self.succeed(*words)
            self.assertEqual("differs from" in run.err, said, run.err)
            answers.append(run.out)
        write_safetensors(self.folder / CODI_FILE, header, bytes(body[:begin]) + other + bytes(body[end:]))
        self.assertEqual(answers[1], self.succeed(*words).out)
        self.assertNotEqual(answers[0], answers[1])

    def test_wrong_shape(self) -> None:
        self.pairs()
        model = self.model_copy()
        header, body = read_safetensors(self.folder / CODI_FILE)
        name = matrix_of(header, "lora_A.default.weight")
        shape = header[name]["shape"]
        header[name]["shape"] = [shape[0] // 2, shape[1] * 2]
        write_safetensors(self.folder / CODI_FILE, header, body)
        self.refused(self.model_job(model), CODI_FILE, name, f"{shape[1] * 2}", ranks=(1, 2, 4))

    def test_missing_tensor(self) -> None:
        """The final norm is in neither file."""
        self.pairs()
        model = self.model_copy(changed=("base", "codi"))
        for part in ("base", "codi"):
            file = self.folder / f"gpt2-{part}" / "model.safetensors"
            header, body = read_safetensors(file)
            header = {name.replace("ln_f.weight", "ln_x.weight"): entry for name, entry in header.items()}
            write_safetensors(file, header, body)
        self.refused(self.model_job(model), "ln_f.weight")

    def test_missing_projection(self) -> None:
        self.pairs()
        model = self.model_copy()
        header, body = read_safetensors(self.folder / CODI_FILE)
        header["prj.9.weight"] = header.pop("prj.3.weight")
        write_safetensors(self.folder / CODI_FILE, header, body)
        self.refused(self.model_job(model), "prj.3.weight")

    def test_nan_in_weights(self) -> None:
        self.pairs()
        model = self.model_copy()
        header, body = read_safetensors(self.folder / CODI_FILE)
        name = matrix_of(header, "lora_B.default.weight")
        self.assertEqual(header[name]["dtype"], "F32")
        struct.pack_into("<f", body, header[name]["data_offsets"][0] + 20, float("nan"))
        write_safetensors(self.folder / CODI_FILE, header, body)
        self.refused(self.model_job(model), CODI_FILE, name, "NaN", ranks=(1, 2, 4))

    def test_broken_config(self) -> None:
        self.pairs()
        model = self.model_copy(changed=("base",))
        file = self.folder / "gpt2-base" / "config.json"
        config = json.loads(file.read_text())
        config["n_head"] = 5
        file.write_text(json.dumps(config))
        self.refused(self.model_job(model), "config.json", "n_head", "5")

    def test_missing_tokenizer(self) -> None:
        self.pairs()
        model = self.model_copy(changed=("base",))
        (self.folder / "gpt2-base" / "tokenizer.json").unlink()
        self.refused(self.model_job(model), "tokenizer.json", "No such file")


class BadFiles(Refusing):
    def test_no_store(self) -> None:
        self.pairs()
        self.refused(self.job(), "a.store.h5", "no such store", "latentpatch cache", command="sweep")

    def test_store_is_no_store(self) -> None:
        self.pairs()
        (self.folder / "out").mkdir()
        (self.folder / "out" / "a.store.h5").write_bytes(b"not HDF5 at all\n" * 100)
        for command in ("cache", "sweep"):
            self.refused(self.job(), "a.store.h5", command=command)

    def test_store_of_another_model(self) -> None:
        self.pairs()
        self.succeed("cache", self.job())
        other = self.job("other.json", model="llama")
        self.refused(other, "a.store.h5", command="cache", ranks=(1, 2, 4))
        self.refused(other, "a.store.h5", command="sweep")

    def test_store_of_another_protocol(self) -> None:
        self.pairs()
        self.succeed("cache", self.job())
        other = self.job("other.json", protocol={"name": "bot-first"})
        for command in ("cache", "sweep"):
            words = "made with protocol codi, this job says bot-first: name another store.file"
            self.refused(other, "a.store.h5", words, command=command)

    def test_store_of_other_steps(self) -> None:
        self.pairs()
        self.succeed("cache", self.job())
        other = self.job("other.json", protocol={"steps": 4})
        for command in ("cache", "sweep"):
            self.refused(other, "a.store.h5", "made with steps 6, this job says 4", command=command)

    def test_store_of_other_pairs(self) -> None:
        self.pairs()
        self.succeed("cache", self.job())
        self.pairs(change=lambda pairs: pairs[0]["clean"].update(answer=1234))
        self.refused(self.job(), "a.store.h5", "made with another pair file than this job's", command="sweep")

    def test_unfinished_store(self) -> None:
        self.pairs(n=8)
        self.succeed("cache", self.job())
        try:
            import h5py
        except ImportError:
            self.skipTest("the Python package h5py was not found")
        with h5py.File(self.folder / "out" / "a.store.h5", "r+") as store:
            store["journal/state"][3] = 0
        self.refused(self.job(), "a.store.h5", "expected 8 finished pairs, found 7", command="sweep")

    def test_output_below_a_file(self) -> None:
        self.pairs()
        (self.folder / "out").write_text("a file where a folder should be\n")
        self.refused(self.job(), "out", "folder", ranks=(1, 2, 4))

    def test_output_is_a_folder(self) -> None:
        self.pairs()
        (self.folder / "out" / "a.store.h5").mkdir(parents=True)
        self.refused(self.job(), "a.store.h5")

    @unittest.skipIf(os.geteuid() == 0, "root may write anywhere")
    def test_read_only_folder(self) -> None:
        self.pairs()
        (self.folder / "out").mkdir(mode=0o555)
        self.refused(self.job(), "a.store.h5", "Permission denied")

    def test_unwritable_results(self) -> None:
        """The store is made and stays; of the results nothing does."""
        self.pairs()
        (self.folder / "file").write_text("")
        job = self.job(results={"file": "file/a.results.h5"})
        self.succeed("cache", job)
        self.refused(job, "file", "folder", command="sweep")

    def test_unwritable_csv(self) -> None:
        self.pairs()
        (self.folder / "file").write_text("")
        job = self.job(results={"csv": "file/a.csv"})
        self.succeed("cache", job)
        self.refused(job, "file", command="sweep")


class FullDisk(Refusing):
    def test_file_size_limit(self) -> None:
        """The store does not fit: refused at once, and nothing of it stays."""
        self.pairs(n=900)
        limit = 20 << 20  # more than Open MPI's shared memory (16 MiB in Open MPI 5), less than the store
        job = self.job()
        (self.folder / "out").mkdir()
        before = self.files()
        for ranks in self.ranks:
            with self.subTest(ranks=ranks):
                run = self.latentpatch(
                    "cache", job, ranks=ranks, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                )
                self.assert_error(run, "a.store.h5")
                self.assertEqual(self.files(), before)

    @unittest.skipIf(os.geteuid() != 0, "needs root to mount a small file system")
    def test_full_disk(self) -> None:
        """One error and nothing but what can be continued; with more room the same job goes on to its end."""
        self.pairs(n=40)
        cases = [("store", "512k", set()), ("results", "72k", {"small/a.results.h5.partial"})]
        for (section, size, may_stay), ranks in itertools.product(cases, self.ranks):
            with self.subTest(section=section, ranks=ranks):
                shutil.rmtree(self.folder / "out", ignore_errors=True)
                disk = self.folder / "small"
                disk.mkdir(exist_ok=True)
                mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
                if subprocess.run(mount, capture_output=True).returncode != 0:
                    self.skipTest("no right to mount a file system")
                try:
                    job = self.job(**{section: {"file": "small/a.results.h5" if section == "results" else "small/a.h5"}})
                    self.assert_error(self.latentpatch("run", job, ranks=ranks), "small/")
                    left = {name for name in self.files() if name.startswith("small/")}
                    self.assertLessEqual(left, may_stay)
                    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                    self.succeed("run", job, ranks=ranks)
                finally:
                    subprocess.run(["umount", str(disk)], check=True)


class Usage(Case):
    """Wrong command lines: exit code 2, one line that says where to find help."""

    def refused(self, *args: str, words: tuple[str, ...]) -> None:
        run = self.latentpatch(*args)
        self.assert_error(run, *words, code=2)
        self.assertEqual(run.out, "")

    def test_usage(self) -> None:
        cases = [
            (("bogus",), ("unknown command bogus", "--help")),
            (("run",), ("run", "expected one job file")),
            (("run", "a.json", "b.json"), ("run", "expected one job file, found 2")),
            (("run", "a.json", "--bogus"), ("run", "unknown option --bogus")),
            (("cache", "a.json", "--set"), ("cache", "--set needs a value")),
            (("summary",), ("summary", "expected one results file")),
            (("tokenize", "x"), ("tokenize",)),
            (("inspect",), ("inspect",)),
            (("store",), ("store: expected one of info, verify, archive, export, merge, found nothing",)),
            (("store", "info"), ("store info: expected one store, found 0 operands",)),
            (("store", "info", ""), ("store info: expected one store, found an empty name",)),
            (("store", "export", "a.h5", ""), ("store export: expected", "found an empty name")),
            (("pairs", "check", ""), ("pairs check: expected", "found an empty name")),
            (("store", "info", "a.h5", "--quick"), ("--quick: it is an option of store verify",)),
            (("store", "archive", "a.h5", "b.h5", "--pair", "1"), ("--pair: it is an option of summary, store export",)),
            (("store", "merge", "a", "b", "c", "--pair-file-digest", ""), ("--pair-file-digest: expected a value",)),
            (("generate", "--base", "x", "--set", "a=1", "q"), ("--set changes a job file",)),
            (("inspect", "a.json", "--codi", "x"), ("--codi needs --base", "--set model.codi=PATH")),
        ]
        for args, words in cases:
            with self.subTest(args=args):
                self.refused(*args, words=words)

    def test_setting_without_a_place(self) -> None:
        self.pairs()
        job = self.job()
        for setting in ("decode", "decode.max_new_tokens.x=1", "=3"):
            with self.subTest(setting=setting):
                self.refused("run", str(job), "--set", setting, words=("--set " + setting,))

    def test_no_command(self) -> None:
        run = self.latentpatch()
        self.assertEqual(run.code, 2)
        self.assertIn("usage: latentpatch COMMAND", run.err)


if __name__ == "__main__":
    harness.main()
