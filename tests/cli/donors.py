"""Donors that are made of many pairs, against numpy's numbers from the store and against transformers + peft."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import harness
from harness import ROOT, Case, need

h5py = need("h5py")
np = need("numpy")

LAYER, STEP = 1, 2
PLACE = {"site": "resid_post", "layers": LAYER, "steps": f"single:{STEP}"}


def label_of(pair: dict[str, Any], by: str) -> Any:
    """Of a pair of the pair file, as the clean run has it."""
    if by == "answer":
        return pair["clean"]["answer"]
    if ":" in by:
        kind, _, step = by.partition(":")
        graph = pair.get("graph", [])
        there = -len(graph) <= int(step) < len(graph)
        return graph[int(step)]["equation" if kind == "equation" else "clean"] if there else None
    return pair.get("change", {}).get("from") if by == "change" else pair.get(by)


class Donors(Case):
    def read(self, out: str) -> tuple[dict[str, int], dict[str, Any], list[str]]:
        """Condition of each name, rows, and the words of the donors."""
        with h5py.File(self.folder / out / "a.results.h5") as file:
            names = list(file["conditions/name"].asstr()[()])
            rows = {name: file["rows"][name][()] for name in ("class", "number", "answer", "changed", "logit_diff", "kl")}
            return {name: i for i, name in enumerate(names)}, rows, list(file["conditions/donor"].asstr()[()])

    def means(self, pairs: list[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, Callable]]:
        """Donors by their words; and for each which other pairs, at which steps, pair i's vector is the mean over."""
        donors: dict[str, dict[str, Any]] = {"mean(all steps)": {"steps": "all"}}
        for by in ("answer", "source", "template", "steps", "change", "result:1", "result:-1", "equation:0"):
            donors[f"mean(same {by})"] = {"by": by}
            donors[f"mean(different {by})"] = {"by": by, "value": "different"}
        donors["mean(all steps, same source, least 3)"] = {"steps": "all", "by": "source", "value": "same", "least": 3}

        def others(mean: dict[str, Any]) -> Callable[[int], list[int]]:
            def of(i: int) -> list[int]:
                found = [k for k in range(len(pairs)) if k != i]
                if "by" in mean:
                    labels = [label_of(pair, mean["by"]) for pair in pairs]
                    if labels[i] is None:
                        return []
                    same = mean.get("value") != "different"
                    found = [k for k in found if (labels[k] == labels[i]) == same]
                return found if len(found) >= mean.get("least", 1) else []

            return of

        return donors, {words: others(mean) for words, mean in donors.items()}

    def test_last_prompt_beside_all_steps(self) -> None:
        """The mean of the last prompt position is its own, also where that of the thoughts is over all steps. Nothing reads
        the last block's output of the last thought, so only the last prompt position acts here."""
        self.pairs(n=5)
        group = {"site": "resid_post", "layers": 2, "steps": "single:1", "last_prompt": True}
        groups = [group | {"donor": [{"mean": {"steps": "all"}}, "mean"]}]
        sections = {"protocol": {"steps": 2}, "decode": {"max_new_tokens": 4}, "metrics": ["logits"]}
        self.succeed("run", self.job(**sections, sweep={"conditions": groups, "controls": False}))
        _, rows, words = self.read("out")
        self.assertEqual(words[1:], ["mean(all steps)", "mean"])
        for name, row in rows.items():
            np.testing.assert_array_equal(row[:, 1], row[:, 2], err_msg=name)
        self.assertFalse(np.array_equal(rows["kl"][:, 1], rows["kl"][:, 0]))

    def test_means(self) -> None:
        """A mean over some of the pairs does what a file does that holds numpy's mean over them."""
        chosen: list[dict[str, Any]] = []

        def change(pairs: list[dict[str, Any]]) -> None:
            for i, pair in enumerate(pairs):
                pair["source"] = f"s{i // 4}"
                pair["clean"] = dict(pair["clean"], answer=pair["clean"]["answer"] if i % 3 else 7)
                steps = [("+-"[i % 2], i % 3, i), ("*", i % 4, i)][: i % 5]  # some pairs have one step, or no graph
                step = [{"equation": f"x{sign}y", "clean": str(a), "corrupted": str(b), "uses": []} for sign, a, b in steps]
                pair |= {"graph": step} if step else {}
            del pairs[2]["template"], pairs[2]["change"]
            chosen.extend(pairs)

        self.pairs(n=9, change=change)
        donors, others = self.means(chosen)
        sections: dict[str, Any] = {"protocol": {"steps": 4}, "decode": {"max_new_tokens": 6}, "metrics": ["logits"]}
        self.succeed("cache", self.job(**sections))
        with h5py.File(self.folder / "out/a.store.h5") as file:
            kept = file["runs/clean/resid_post"][:, LAYER].astype(np.float64)
        vectors: list[str] = []
        groups = [PLACE | {"donor": [{"mean": mean} for mean in donors.values()]}]
        for words, mean in donors.items():
            for i in range(len(chosen)):
                x = kept[others[words](i)]
                x = x.mean(1) if mean.get("steps") == "all" else x[:, STEP]
                np.save(self.folder / f"{len(vectors)}.npy", x.mean(0).astype(np.float32) if len(x) else kept[0, 0] * 0)
                groups.append(PLACE | {"donor": "file", "vector": len(vectors)})
                vectors.append(f"{len(vectors)}.npy")
        sections["sweep"] = {"conditions": groups, "vectors": vectors}
        self.succeed("sweep", self.job(**sections))
        place, rows, found_words = self.read("out")
        self.assertEqual(found_words[1 : 1 + len(donors)], list(donors))
        end = f"/replace/resid_post/L{LAYER}/single:{STEP}"
        vector = 0
        for words in donors:
            ours = place[f"denoise/{words}{end}"]
            for i in range(len(chosen)):
                by_hand = place[f"denoise/file{vector}{end}"]
                vector += 1
                if not others[words](i):
                    self.assertEqual(rows["class"][i, ours], 255, f"{words}, pair {i}")
                    continue
                for name, row in rows.items():
                    np.testing.assert_allclose(
                        row[i, ours], row[i, by_hand], rtol=1e-5, atol=1e-5, err_msg=f"{words}, pair {i}: {name}"
                    )
        self.assertTrue(rows["changed"][:, 1 : 1 + len(donors)].any())

    def test_subspaces(self) -> None:
        """Within a subspace: what is removed and swapped at the first place that is changed equals numpy's numbers."""
        self.pairs(n=4)
        sections: dict[str, Any] = {"decode": {"max_new_tokens": 6}, "metrics": ["logits"]}
        self.succeed("cache", self.job(**sections))
        with h5py.File(self.folder / "out/a.store.h5") as file:
            sides = (file[f"runs/{side}/resid_post"][:, LAYER, STEP].astype(np.float64) for side in ("clean", "corrupted"))
            clean, own = sides
        rows = np.random.default_rng(1).normal(size=(3, own.shape[1])).astype(np.float32)
        np.save(self.folder / "span.npy", rows)
        part = np.linalg.pinv(rows.astype(np.float64)) @ rows
        wanted = {"zero/remove(0)": own - own @ part, "zero/keep(0)": own @ part, "clean/swap(0)": own + (clean - own) @ part}
        vectors, groups = ["span.npy"], [PLACE | {"operation": o, "subspace": 0} for o in ("remove", "keep", "swap")]
        for x in wanted.values():
            for i in range(len(x)):
                np.save(self.folder / f"{len(vectors)}.npy", x[i].astype(np.float32))
                groups.append(PLACE | {"donor": "file", "vector": len(vectors)})
                vectors.append(f"{len(vectors)}.npy")
        self.succeed("sweep", self.job(sweep={"conditions": groups, "vectors": vectors, "controls": False}, **sections))
        place, found, _ = self.read("out")
        vector = 1
        for words in wanted:
            ours = place[f"denoise/{words}/resid_post/L{LAYER}/single:{STEP}"]
            for i in range(len(own)):
                by_hand = place[f"denoise/file{vector}/replace/resid_post/L{LAYER}/single:{STEP}"]
                vector += 1
                for name, row in found.items():
                    message = f"{words}, pair {i}: {name}"
                    np.testing.assert_allclose(row[i, ours], row[i, by_hand], rtol=1e-4, atol=1e-4, err_msg=message)
        np.save(self.folder / "twice.npy", np.stack([rows[0], rows[1], 2 * rows[0]]))
        for name, words in (("twice.npy", "direction 2 is zero, or a sum of"), ("1.npy", "")):
            sweep = {"conditions": [PLACE | {"operation": "remove", "subspace": 0}], "vectors": [name]}
            run = self.latentpatch("sweep", self.job(sweep=sweep, results={"file": f"{name}.results.h5"}, **sections))
            if words:
                self.assert_error(run, "twice.npy: direction 2 is zero")
            else:
                self.assertEqual(run.code, 0, run.err)
        np.save(self.folder / "odd.npy", rows[:, :-1])
        sweep = {"conditions": [PLACE | {"operation": "remove", "subspace": 0}], "vectors": ["odd.npy"]}
        run = self.latentpatch("sweep", self.job(sweep=sweep, results={"file": "odd.results.h5"}, **sections))
        self.assert_error(run, "odd.npy: condition", "expected 1 to 64 directions of 96 numbers (resid_post), found 285")

    def test_noise(self) -> None:
        """Noise of no size is what it is put around; any other size changes the run, the same way each time."""
        self.pairs(n=5)
        zero: list[dict[str, Any]] = [{"sigma": 0, "around": "zero"}, {"sigma": 0, "around": "mean", "in": "rms"}]
        own = {"noise": {"sigma": [0, 1e-3, 5]}}
        conditions = [
            PLACE | {"donor": ["zero", "mean", *({"noise": noise} for noise in zero)]},
            PLACE | {"donor": {"noise": {"sigma": 2, "around": "mean", "by": "source"}}},
            PLACE | {"donor": [own, {"noise": {"sigma": 0.5, "in": "rms"}}], "operation": "add"},
        ]
        sections: dict[str, Any] = {
            "sweep": {"conditions": conditions, "directions": ["denoise", "noise"]},
            "decode": {"max_new_tokens": 6},
            "metrics": ["logits"],
        }
        for ranks in (1, 2):
            self.succeed("run", self.job(out=f"out{ranks}", **sections), ranks=ranks)
        place, rows, words = self.read("out1")
        self.assertEqual(words[2:11:1][-4:], ["noise(0)", "noise(0.001)", "noise(5)", "noise(0.5, rms)"])
        end = f"resid_post/L{LAYER}/single:{STEP}"
        for direction in ("denoise", "noise"):
            equal = {
                f"{direction}/noise(0, around zero)/replace/{end}": f"{direction}/zero/replace/{end}",
                f"{direction}/noise(0, rms, around mean)/replace/{end}": f"{direction}/mean/replace/{end}",
                f"{direction}/noise(0)/add:1/{end}": f"{direction}/unpatched",
            }
            for name, row in rows.items():
                for one, two in equal.items():
                    np.testing.assert_array_equal(row[:, place[one]], row[:, place[two]], err_msg=f"{one}: {name}")
            kl = [rows["kl"][:, place[f"{direction}/noise({sigma})/add:1/{end}"]] for sigma in ("0.001", "5")]
            self.assertTrue((kl[0] > 0).all() and (kl[0] < 0.01 * kl[1]).all(), kl)
        one, two = ((self.folder / f"out{ranks}/a.csv").read_bytes() for ranks in (1, 2))
        self.assertEqual(one, two)


class Golden(Case):
    """Whole jobs, from the pair file to the rows, against tests/golden/data/*.donors.json."""

    METRICS = ("logit_clean", "logit_corrupted", "kl", "answer_logprob_clean", "answer_logprob_corrupted")
    BY_LOGSUMEXP = ("logprob_clean", "logprob_corrupted")
    # As in tests/unit/test_patched_golden.c: the bound follows the conditioning of the row.
    LEAST_BOUND, ERROR_FACTOR = 1e-4, 8

    def rows(self, golden: dict[str, Any], model: str, executor: str, direction: str) -> tuple[dict[int, int], dict, dict]:
        """Place of each golden condition of a direction, rows, and answers."""
        pair_file = {"format": "latentpatch-pairs", "version": 1, "pairs": golden["pairs"]}
        (self.folder / "pairs.json").write_text(json.dumps(pair_file, ensure_ascii=False))
        store = {"file": f"{model}-{direction}.store.h5", "sites": [{"phase": "prompt", "site": "attn_out", "index": [-1]}]}
        own = [k for k, condition in enumerate(golden["conditions"]) if condition["direction"] == direction]
        out = f"{executor}-{direction}"
        job = self.job(
            model=model,
            out=out,
            protocol={"name": golden["protocol"], "steps": golden["thoughts"]},
            store=store,
            engine={"executor": executor, "device": "cpu"},
            sweep={
                "directions": [direction],
                "seed": golden["seed"],
                "conditions": [golden["conditions"][k]["group"] for k in own],
            },
            decode={"max_new_tokens": golden["max_new_tokens"]},
            metrics=["logits", "answer_logprob"],
        )
        self.succeed("run", job)
        with h5py.File(self.folder / out / "a.results.h5") as file:
            roles = list(file["conditions/role"].asstr()[()])
            self.assertEqual(roles.count("effect"), len(own))
            place = dict(zip(own, (i for i, role in enumerate(roles) if role == "effect"), strict=True))
            rows = {name: file["rows"][name][()] for name in (*self.METRICS, *self.BY_LOGSUMEXP, "class", "answer")}
            tokens, offset = file["answers/tokens"][()].tolist(), file["answers/offset"][()].tolist()
            return place, rows, {i: tokens[offset[i] : offset[i + 1]] for i in range(len(offset) - 1)}

    def compare(self, model: str, executor: str) -> None:
        golden = json.loads((ROOT / f"tests/golden/data/demo-{model}.codi.donors.json").read_text())
        found_rows = {direction: self.rows(golden, model, executor, direction) for direction in ("denoise", "noise")}
        n_clear = n_not_run = 0
        worst = 0.0
        for row in golden["rows"]:
            condition = golden["conditions"][row["condition"]]
            place, rows, answers = found_rows[condition["direction"]]
            at = row["pair"], place[row["condition"]]
            where = f"{executor}, pair {row['pair']}, {condition}"
            self.assertEqual(rows["class"][at] == 255, row.get("not_run", False), where)
            if "not_run" in row:
                n_not_run += 1
                continue
            if row["clear"]:
                n_clear += 1
                self.assertEqual(answers[int(rows["answer"][at])], row["answer_ids"], where)
            logprobs = {name: row[name.replace("logprob", "logit")] - row["logsumexp"] for name in self.BY_LOGSUMEXP}
            for name, wanted in ({name: row[name] for name in self.METRICS} | logprobs).items():
                found = float(rows[name][at])
                bound = (self.LEAST_BOUND + self.ERROR_FACTOR * row["float32_error"]) * (1 + abs(wanted))
                worst = max(worst, abs(found - wanted) / bound)
                self.assertTrue(math.isclose(found, wanted, rel_tol=0, abs_tol=bound), f"{where}: {name} {found}, not {wanted}")
        print(f"{model}, {executor}: {len(golden['rows'])} rows, {n_clear} with tokens, worst {worst:.2f} of its bound")
        self.assertGreater(n_clear, len(golden["rows"]) * 3 // 4)
        self.assertGreater(n_not_run, 0)

    def test_gpt2(self) -> None:
        for executor in ("batched", "reference"):
            self.compare("gpt2", executor)

    def test_llama(self) -> None:
        self.compare("llama", "batched")


if __name__ == "__main__":
    harness.main()
