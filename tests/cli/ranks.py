"""The bytes of store and results do not depend on the number of ranks, nor on a kill and a second start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import harness
from harness import Case, command_of, need

h5py = need("h5py")
np = need("numpy")


def datasets(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every dataset of an HDF5 file: type, shape, bytes."""
    out: dict[str, tuple[str, tuple[int, ...], bytes]] = {}

    def visit(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        value = item[()]
        if h5py.check_string_dtype(item.dtype) and item.dtype.kind == "O":
            out[name] = ("string", item.shape, b"\0".join(np.ravel(value)))
        else:
            out[name] = (str(item.dtype), item.shape, np.ascontiguousarray(value).tobytes())

    with h5py.File(path) as file:
        file.visititems(visit)
    return out


DONORS = ["clean", "corrupted", "mean", "shuffled", "random"]
SWEEP = {
    "filter": "all",
    "directions": ["denoise", "noise"],
    "controls": True,
    "conditions": [{"site": "resid_post", "layers": "all", "steps": "first:1-6", "donor": DONORS}],
}


READOUT = "logit_lens top 3"


class Same(Case):
    def same(self, first: str, second: str) -> None:
        for name in ("a.store.h5", "a.results.h5"):
            one, two = datasets(self.folder / first / name), datasets(self.folder / second / name)
            self.assertEqual(sorted(one), sorted(two), name)
            self.assertGreater(len(one), 10, name)
            different = [dataset for dataset in one if one[dataset] != two[dataset]]
            self.assertEqual(different, [], f"{first} and {second}: {name}")
        for name in ("a.csv",):
            self.assertEqual((self.folder / first / name).read_bytes(), (self.folder / second / name).read_bytes(), name)


class Ranks(Same):
    def test_one_two_and_four_ranks(self) -> None:
        self.pairs(n=9)
        for model in ("gpt2", "llama"):
            for ranks in (1, 2, 4):
                self.succeed("run", self.job(model=model, out=f"{model}{ranks}", sweep=SWEEP, readout=READOUT), ranks=ranks)
            for ranks in (2, 4):
                with self.subTest(model=model, ranks=ranks):
                    self.same(f"{model}1", f"{model}{ranks}")


class Locking(Case):
    def test_environment(self) -> None:
        """What the user's environment says of HDF5's own locks does not count: the lock is the program's."""
        self.pairs(n=4)
        for value in ("TRUE", "1", "BEST_EFFORT"):
            job = self.job(out=f"out{value}")
            self.succeed("run", job, ranks=2, environment={"HDF5_USE_FILE_LOCKING": value})


class Killing(Same):
    """SIGKILL of a whole job."""

    def own_places(self) -> dict[str, str]:
        """A killed job leaves shared memory and session folders of Open MPI behind: here they go with the test's folder."""
        names = (
            "orte_tmpdir_base",
            "btl_vader_backing_directory",
            "osc_sm_backing_directory",
            "osc_rdma_backing_directory",
        )
        return {f"OMPI_MCA_{name}": str(self.folder) for name in names}

    def start(self, job: Path, ranks: int) -> subprocess.Popen:
        return subprocess.Popen(
            command_of(("run", job), ranks),
            cwd=self.folder,
            env=os.environ | self.own_places(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, process: subprocess.Popen) -> bool:
        """True when the job was still running and is now dead."""
        alive = process.poll() is None
        for pid in descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        return alive


class Kill(Killing):
    """At moments spread over the job's life, then the same command again."""

    def test_kill_and_resume(self) -> None:
        self.pairs(n=24)
        start = time.monotonic()
        self.succeed("run", self.job(out="whole", sweep=SWEEP, readout=READOUT), ranks=2)
        whole = time.monotonic() - start
        job = self.job(out="killed", sweep=SWEEP, readout=READOUT)
        killed = 0
        for share in (0.3, 0.45, 0.6):
            process = self.start(job, ranks=2)
            time.sleep(whole * share)
            killed += self.kill(process)
        self.assertGreater(killed, 0, "no kill met a running job")
        self.succeed("run", job, ranks=2)
        self.same("whole", "killed")
        left = [path.name for path in (self.folder / "killed").iterdir()]
        self.assertEqual(sorted(left), ["a.csv", "a.results.h5", "a.store.h5", "a.summary.json"])


class Kinds(Killing):
    """Donors made of many pairs, subspaces, edges, joint conditions and the metrics of each step: the same bytes for any
    ranks, threads, memory and batches, and after kills."""

    METRICS = ("logits", "answer_logprob", "steps")

    def sections(self) -> dict:
        np.save(self.folder / "span.npy", np.random.default_rng(5).normal(size=(2, 96)).astype(np.float32))
        block, latent = {"site": "resid_post", "layers": 1}, {"site": "latent_in", "steps": "single:2"}
        answer = {"phase": "answer"}
        means = [{"mean": {"by": by, "value": value}} for by in ("source", "answer") for value in ("same", "different")]
        conditions = [
            block | {"steps": "first:2-3", "donor": [*means, {"mean": {"steps": "all"}}]},
            latent | {"donor": {"noise": {"sigma": [0.5, 2]}}, "operation": "add"},
            latent | {"donor": {"noise": {"sigma": [0.5, 2], "around": "mean", "by": "source"}}},
            *(block | {"steps": "all", "operation": how, "subspace": 0} for how in ("remove", "keep", "swap")),
            block | {"steps": ["single:1", "single:3", "set:1,3"]},
            {"forbid": {"from": answer, "to": {"steps": ["single:0", "all"]}}, "layers": ["all", "together:all"]},
            {"forbid": {"from": {"steps": "single:4"}, "to": {"phase": "prompt"}, "heads": "all"}, "layers": 0},
            block | {"steps": "all", "forbid": {"from": answer, "to": {"steps": "single:5"}}},
        ]
        sweep = {"filter": "all", "directions": ["denoise", "noise"], "controls": True, "conditions": conditions}
        return {"sweep": sweep | {"vectors": ["span.npy"]}, "metrics": list(self.METRICS), "decode": {"max_new_tokens": 6}}

    def some_pairs(self, n: int) -> None:
        def change(pairs: list) -> None:
            for i, pair in enumerate(pairs):
                pair["source"] = f"source {i % 4}"

        self.pairs(n=n, change=change)

    def test_ranks_and_memory(self) -> None:
        self.some_pairs(9)
        sections = self.sections()
        ways = {
            "one": (1, {"threads": 1}),
            "two": (2, {"threads": 1}),
            "threads": (1, {"threads": 2}),
            "middle": (1, {"memory_limit": "16MiB"}),
            "least": (2, {"memory_limit": "6.5MB"}),
        }
        for name, (ranks, engine) in ways.items():
            self.succeed("run", self.job(out=name, engine=engine | {"device": "cpu"}, **sections), ranks=ranks)
            self.same("one", name)
        with h5py.File(self.folder / "one/a.results.h5") as file:
            rows = {name: file["rows"][name][()] for name in file["rows"]}
            kinds = {donor for donor in file["conditions/donor"].asstr()[()]}
        self.assertTrue({"mean(same source)", "noise(0.5)", "noise(2, around mean, same source)"} <= kinds, kinds)
        self.assertTrue((rows["changed"].sum(axis=0) > 0).sum() > 20, "few conditions change an answer")
        self.assertTrue((rows["step5_kl"] > 0).any())

    def kill_when_done(self, n: int, job: Path, results: Path) -> int:
        """Kills a job of two ranks as soon as n pairs are finished; how many are."""

        def n_done() -> int:
            try:
                with h5py.File(results, locking=False) as file:
                    return int(file["journal/state"][()].sum())
            except (OSError, KeyError):
                return 0

        process = self.start(job, ranks=2)
        while n_done() < n and process.poll() is None:
            time.sleep(0.005)
        self.kill(process)
        return n_done()

    def test_kills(self) -> None:
        """In the middle of a sweep, with little memory, so that few pairs are under way together; then another way."""
        n = 16
        self.some_pairs(n)
        sections = self.sections()
        self.succeed("run", self.job(out="whole", **sections))
        job = self.job(out="killed", engine={"memory_limit": "6.5MB", "threads": 1}, **sections)
        done = [self.kill_when_done(least, job, self.folder / "killed/a.results.h5.partial") for least in (1, n // 2)]
        self.assertTrue(any(0 < found < n for found in done), f"no kill met a sweep in its middle: {done} of {n} pairs done")
        self.succeed("run", self.job(out="killed", **sections), ranks=2)
        self.same("whole", "killed")


def descendants(pid: int) -> list[int]:
    """The process and all below it, from /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue += parents.get(found[-1], [])
    return found


class Invariants(Case):
    """What must hold whatever the model, seen through the tool."""

    def rows(self, model: str, protocol: str) -> tuple[list[dict], dict, str]:
        self.pairs(n=8)
        sweep = dict(SWEEP, directions=["denoise"])
        job = self.job(model=model, out=f"{model}-{protocol}", sweep=sweep, protocol={"name": protocol}, metrics=["logits"])
        self.succeed("cache", job, ranks=2)
        run = self.succeed("sweep", job, ranks=2)
        with h5py.File(self.folder / f"{model}-{protocol}" / "a.results.h5") as file:
            names = ("role", "direction", "donor", "steps", "layer", "dead", "name")
            columns = {name: file["conditions"][name][()] for name in names}
            conditions = [
                {k: (v.decode() if isinstance(v, bytes) else int(v)) for k, v in zip(columns, row, strict=True)}
                for row in zip(*columns.values(), strict=True)
            ]
            rows = {name: file["rows"][name][()] for name in file["rows"]}
        return conditions, rows, run.out

    def equal(self, rows: dict, first: int, second: int, what: str) -> None:
        for name, values in rows.items():
            if name != "changed":
                self.assertEqual(values[:, first].tobytes(), values[:, second].tobytes(), f"{what}: rows/{name}")

    def test_invariants(self) -> None:
        for model, protocol in (("gpt2", "codi"), ("llama", "codi"), ("gpt2", "bot-first"), ("llama", "bot-first")):
            with self.subTest(model=model, protocol=protocol):
                conditions, rows, out = self.rows(model, protocol)
                last = max(condition["layer"] for condition in conditions)
                unpatched = next(i for i, c in enumerate(conditions) if c["role"] == "unpatched")
                n_self = 0
                for i, condition in enumerate(conditions):
                    if condition["donor"] == "self":
                        n_self += 1
                        self.equal(rows, i, unpatched, condition["name"])
                        self.assertFalse(rows["changed"][:, i].any(), condition["name"])
                self.assertGreater(n_self, 0)
                for donor in ("clean", "mean", "shuffled", "random"):
                    place = {c["steps"]: i for i, c in enumerate(conditions) if (c["donor"], c["layer"]) == (donor, last)}
                    self.equal(rows, place["first:6"], place["first:5"], f"{donor}, layer {last}")
                self.assertIn("Sound: every control that must change nothing changed nothing.", out)
                changed = rows["changed"][:, [c["donor"] == "random" for c in conditions]]
                self.assertTrue(changed.any(), "no patch changed anything: the test shows nothing")

    def test_edges(self) -> None:
        """Attention edges: the same bytes for any ranks and memory, the same answers by the reference executor."""
        self.pairs(n=5)
        answer, thought = {"phase": "answer"}, {"steps": "all"}
        edges = {"from": answer, "to": {"steps": ["single:5", "all"]}, "heads": [0, "together:1-3"]}
        groups = [
            {"forbid": edges, "layers": ["all", "together:all"]},
            {"forbid": {"from": thought, "to": {"phase": "prompt"}, "kv_heads": "all"}, "layers": "together:1-2"},
            {"forbid": {"from": {"steps": "single:1"}, "to": {"steps": "single:2"}, "layers": 0}},
            {"site": ["q", "z"], "layers": 1, "steps": "all", "heads": 2, "forbid": {"from": answer, "to": thought}},
        ]
        sweep = {"filter": "all", "controls": ["self"], "conditions": groups}
        found = {}
        ways = {
            "one": (1, {}),
            "three": (3, {"threads": 1}),
            "least": (1, {"memory_limit": "6.5MB"}),
            "plain": (1, {"executor": "reference"}),
        }
        for name, (ranks, engine) in ways.items():
            self.succeed("run", self.job(out=name, sweep=sweep, engine=engine | {"device": "cpu"}), ranks=ranks)
            found[name] = (self.folder / name / "a.csv").read_bytes()
            self.assertEqual(found[name], found["one"], name)
        with h5py.File(self.folder / "one" / "a.results.h5") as file:
            dead, changed = file["conditions/dead"][()] == 1, file["rows/changed"][()]
            words = file["conditions/steps"].asstr()[()]
        self.assertEqual(list(words[dead]), ["single:1>single:2"])
        self.assertFalse(changed[:, dead].any())
        self.assertTrue(changed.any(axis=0)[words == "h1-3.answer:all>thought:all"].any(), "no edge changed anything")
        nothing = [{"from": answer, "to": {"phase": phase}, "layers": 2} for phase in ("prompt", "thought", "answer")]
        refused = self.latentpatch("plan", self.job(out="none", sweep={"conditions": [{"forbid": nothing}]}))
        self.assert_error(refused, "answer 0 may attend to nothing (layer 2, query head 0)")

    def test_families(self) -> None:
        """`plan` names what is known beforehand, of each kind of condition, as families; what is run bears it out."""
        self.pairs(n=4)
        block, last = {"site": "resid_post", "layers": 1}, {"site": "resid_post", "layers": 2}
        later = {"from": {"steps": "single:1"}, "to": {"steps": ["single:2", "single:0", "set:0,2"]}}
        conditions = [
            block | {"steps": "first:3"},
            block | {"steps": "first:3", "stop_after": 6},
            last | {"steps": "first:3", "stop_after": 3},
            last | {"steps": "first:2", "stop_after": 3},
            block | {"steps": "all", "donor": "self"},
            {"site": "resid_post", "layers": [0, 1], "steps": "single:1", "donor": "self", "stop_after": 2},
            {"site": "latent_in", "steps": "set:1,2"},
            {"site": "latent_raw", "steps": "set:0,1"},
            block | {"steps": "single:5"},
            {"site": "resid_post", "layers": "together:1-2", "steps": "single:5"},
            {"forbid": later, "layers": 1},
        ]
        job = self.job(sweep={"controls": False, "conditions": conditions}, metrics=["logits"])
        told = self.succeed("plan", "--all", job).out.splitlines()
        told = told[told.index("known beforehand:") + 1 :]
        clean = "denoise/clean/replace"
        step = f"{clean}/resid_post"
        edge = "denoise/forbid/L1.single:1>"
        reasons = {
            "dead, 1 condition: causality forbids these attention edges anyway": f"{edge}single:2",
            "equal, 2 conditions: no later position reads the part in which the two differ": (
                f"{step}/L2/first:2/stop:3 = {step}/L2/first:3/stop:3"
            ),
            "equal, 1 condition: causality forbids the attention edges in which the two differ": (
                f"{edge}set:0,2 = {edge}single:0"
            ),
            "equal, 1 condition: the two name the same replacements or edges in different words": (
                f"{step}/L1/first:3/stop:6 = {step}/L1/first:3"
            ),
            "control, 1 condition: the run's own values are written back, which must change nothing": (
                "denoise/self/replace/resid_post/L1/all"
            ),
            "control, 1 condition: the two stop equally early and write back the run's own values, so they must agree": (
                "denoise/self/replace/resid_post/L1/single:1/stop:2 = denoise/self/replace/resid_post/L0/single:1/stop:2"
            ),
            "equal but for rounding, 1 condition: a step's last output is read by the next step's input alone": (
                f"{clean}/latent_raw/set:0,1 = {clean}/latent_in/set:1,2"
            ),
        }
        self.assertEqual(told[: len(reasons)], [f"{family}, such as {example}" for family, example in reasons.items()])
        # The early stop, the joint condition of which one part is dead, and the others, each by name.
        each = sorted(f"{family.split(',')[0]}: {example}" for family, example in reasons.items())
        joint = f"equal: {step}/L1-2/single:5 = {step}/L1/single:5"
        self.assertEqual(sorted(told[len(reasons) :]), sorted([*each, joint]))
        self.succeed("run", job)
        with h5py.File(self.folder / "out" / "a.results.h5") as file:
            place = {name: i for i, name in enumerate(file["conditions/name"].asstr()[()])}
            rows = {name: file["rows"][name][()] for name in ("answer", "changed", "kl")}
        one, other = place[f"{clean}/latent_raw/set:0,1"], place[f"{clean}/latent_in/set:1,2"]
        self.assertEqual(list(rows["answer"][:, one]), list(rows["answer"][:, other]))
        np.testing.assert_allclose(rows["kl"][:, one], rows["kl"][:, other], rtol=1e-3, atol=1e-5)
        self.assertTrue(rows["changed"][:, one].any())
        one, other = (place[f"denoise/self/replace/resid_post/L{layer}/single:1/stop:2"] for layer in (0, 1))
        for name, row in rows.items():
            self.assertEqual(row[:, one].tobytes(), row[:, other].tobytes(), name)
        for name in (f"{edge}single:2", "denoise/self/replace/resid_post/L1/all"):
            self.assertFalse(rows["changed"][:, place[name]].any(), name)

    def test_dead_cell(self) -> None:
        """The last layer of the last step alone: named as dead, and nothing changes."""
        self.pairs(n=4)
        group = {"site": "resid_post", "layers": "all", "steps": "single:5", "donor": "random"}
        self.succeed("run", self.job(sweep={"conditions": [group]}))
        with h5py.File(self.folder / "out" / "a.results.h5") as file:
            dead, layer = file["conditions/dead"][()], file["conditions/layer"][()]
            self.assertEqual([int(x) for x in layer[dead == 1]], [int(layer.max())])
            self.assertFalse(file["rows/changed"][()][:, dead == 1].any())


class Addresses(Case):
    """Positions that some of the pairs do not have. The demo's prompts have 17 to 30 tokens."""

    def mixed_pairs(self) -> None:
        def extremes(pairs: list) -> None:
            pairs.sort(key=lambda pair: len(pair["corrupted"]["question"]))
            del pairs[5:-5]

        self.pairs(n=320, change=extremes)

    def run_job(self, out: str, **sections: object) -> tuple[dict, dict, list, dict]:
        """Rows, index of each condition by donor and position, tokens of both prompts, summary."""
        self.succeed("run", self.job(out=out, **sections))
        with h5py.File(self.folder / out / "a.results.h5") as file:
            rows = {name: file["rows"][name][()] for name in file["rows"]}
            columns = [file["conditions"][name].asstr()[()] for name in ("donor", "steps", "layers", "direction")]
            place = {key: i for i, key in enumerate(zip(*columns, strict=True))}
        with h5py.File(self.folder / out / "a.store.h5") as file:
            tokens = {side: file[f"runs/{side}/prompt_tokens"][()] for side in ("clean", "corrupted")}
        return rows, place, tokens, json.loads((self.folder / out / "a.summary.json").read_text())

    def test_lengths(self) -> None:
        """A position is the same whether it is counted from the front or from the end, whatever the length of others."""
        self.mixed_pairs()
        indices = [0, 1, 14, 16, 25, 29, -1, -2, -14, -15, -16, -17, -30]
        group = {"phase": "prompt", "site": "resid_post", "layers": [0, 2], "index": indices, "donor": "zero"}
        for executor in ("batched", "reference"):
            rows, place, tokens, summary = self.run_job(
                executor,
                sweep={"filter": "all", "controls": False, "conditions": [group]},
                engine={"executor": executor, "device": "cpu"},
            )
            n = tokens["corrupted"]
            self.assertEqual((int(n.min()), int(n.max())), (17, 30))
            n_compared = n_absent = n_changed = 0
            for layer in ("0", "2"):
                for index in indices:
                    at = place["zero", f"prompt:{index}", layer, "denoise"]
                    absent = (n <= index) | (n < -index)
                    self.assertEqual(list(rows["class"][:, at] == 255), list(absent), f"{executor}: {index}")
                    n_absent += int(absent.sum())
                    counts = summary["conditions"][at]
                    self.assertEqual(counts["not_run"], {"no_position": int(absent.sum()), "no_donor": 0, "no_pair": 0})
                    self.assertEqual(counts["n"], int((~absent).sum()))
                    for pair in np.flatnonzero(~absent):
                        twin = place.get(("zero", f"prompt:{index - n[pair]}", layer, "denoise"))
                        if index < 0 or twin is None:
                            continue
                        n_compared += 1
                        n_changed += int(rows["changed"][pair, at])
                        for name in ("answer", "changed"):
                            self.assertEqual(
                                rows[name][pair, at], rows[name][pair, twin], f"{executor}: pair {pair}, {index}, {layer}"
                            )
            self.assertGreater(n_compared, 20)
            self.assertGreater(n_absent, 20)
            self.assertGreater(n_changed, 0)

    def crossed_pairs(self) -> None:
        """Clean prompts of the longest pairs beside corrupted ones of the shortest, and the other way round; two have
        the one question whose answer after two steps is long."""

        def cross(pairs: list) -> None:
            talkative = pairs[44]["corrupted"]
            pairs.sort(key=lambda pair: len(pair["corrupted"]["question"]))
            del pairs[8:-8]
            for pair, clean in zip(pairs, [pair["clean"] for pair in reversed(pairs)], strict=True):
                pair["clean"] = clean
            pairs[0]["clean"] = pairs[1]["clean"] = talkative
            pairs[:] = [pair for pair in pairs if pair["clean"]["answer"] != pair["corrupted"]["answer"]]

        self.pairs(n=320, change=cross)

    def test_donors(self) -> None:
        """A donor's position that is not there is not taken from elsewhere, and is left out of means."""
        self.crossed_pairs()
        places = {"prompt": (16, 25, -20), "answer": (0, 6, 7)}
        sites = [{"phase": phase, "site": "resid_post", "index": list(index)} for phase, index in places.items()]
        layer, tables = 1, {}
        sections: dict = {"store": {"sites": sites}, "decode": {"max_new_tokens": 12}, "protocol": {"steps": 2}}

        def engine(executor: str) -> dict:
            return {"executor": executor, "device": "cpu"}

        for executor in ("batched", "reference"):
            self.succeed("cache", self.job(out=executor, engine=engine(executor), **sections))
            with h5py.File(self.folder / executor / "a.store.h5") as file:
                run = file["runs/clean"]
                kept = {phase: run[f"{phase}_resid_post"][:, layer] for phase in places}
                n_prompt, ended = run["prompt_tokens"][()], run["answer_ended"][()] == 1
                fed = 1 + run["answer_len"][()] - np.where(ended, 0, 1)
                own = file["runs/corrupted"]
                recipient = own["prompt_tokens"][()]
                own_fed = 1 + own["answer_len"][()] - np.where(own["answer_ended"][()] == 1, 0, 1)
            for phase, indices in places.items():
                for k, index in enumerate(indices):
                    there = fed > index if phase == "answer" else (n_prompt > index) & (n_prompt >= -index)
                    self.assertGreater(there.sum(), 1, f"{phase} {index}: in too few pairs")
                    found = ~np.isnan(kept[phase][:, k])
                    self.assertTrue((found.all(1) == there).all() and (found.any(1) == there).all(), f"{phase} {index}")
                    tables[phase, index] = kept[phase][:, k], there
        vectors, groups, n_absent = [], [], {}
        for (phase, index), (x, there) in tables.items():
            for donor in ("clean", "mean", "zero", "self"):
                groups.append({"phase": phase, "site": "resid_post", "layers": layer, "index": index, "donor": donor})
            for pair in range(len(x)):
                others = there & (np.arange(len(x)) != pair)
                np.save(self.folder / f"{len(vectors)}.npy", x[others].mean(0, dtype=np.float64).astype(np.float32))
                group = {"phase": phase, "site": "resid_post", "layers": layer, "index": index, "donor": "file"}
                groups.append(group | {"vector": len(vectors)})
                vectors.append(f"{len(vectors)}.npy")
        sections["sweep"] = {"filter": "all", "controls": False, "conditions": groups, "vectors": vectors}
        outcomes = []
        for executor in ("batched", "reference"):
            self.succeed("sweep", self.job(out=executor, engine=engine(executor), **sections))
            with h5py.File(self.folder / executor / "a.results.h5") as file:
                names = [name.split("/") for name in file["conditions/name"].asstr()[()]]
                place = {(name[1], name[-1]): i for i, name in enumerate(names)}
                rows = {name: file["rows"][name][()] for name in ("class", "answer", "changed")}
                outcomes.append(file["answers/text"].asstr()[()][rows["answer"]])
                outcomes[-1][rows["class"] == 255] = "not run"
            summary = json.loads((self.folder / executor / "a.summary.json").read_text())["conditions"]
            vector = 0
            for (phase, index), (_, there) in tables.items():
                words = f"{phase}:{index}"
                here = own_fed > index if phase == "answer" else (recipient > index) & (recipient >= -index)
                n_absent[phase] = n_absent.get(phase, 0) + int((~here).sum())
                clean, mean = place["clean", words], place["mean", words]
                self.assertEqual(list(rows["class"][:, clean] != 255), list(here & there), words)
                for donor in ("mean", "zero", "self"):
                    self.assertEqual(list(rows["class"][:, place[donor, words]] != 255), list(here), f"{donor} {words}")
                wanted = {"no_position": int((~here).sum()), "no_donor": int((here & ~there).sum()), "no_pair": 0}
                self.assertEqual(summary[clean]["not_run"], wanted, words)
                for pair in range(len(there)):
                    by_hand = place[f"file{vector}", words]
                    vector += 1
                    for name in rows:
                        found, wanted_row = rows[name][pair, mean], rows[name][pair, by_hand]
                        self.assertEqual(found, wanted_row, f"{words}, pair {pair}: {name} of the mean")
            self.assertTrue(rows["changed"].any())
            self.assertTrue(any(not there.all() for (phase, _), (_, there) in tables.items() if phase == "answer"))
        self.assertTrue((outcomes[0] == outcomes[1]).all())
        self.assertTrue(all(n_absent.values()), n_absent)

    def test_position_in_no_pair(self) -> None:
        self.pairs(n=3)
        group = {"phase": "prompt", "site": "resid_post", "layers": 0, "index": [1, 64], "donor": "zero"}
        run = self.latentpatch("run", self.job(sweep={"controls": False, "conditions": [group]}))
        self.assert_error(run, "prompt index 64: expected one within")


if __name__ == "__main__":
    harness.main()
