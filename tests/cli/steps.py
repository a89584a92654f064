"""From step to step: what `metrics: ["steps"]` says, against numpy's numbers from the store and between the executors."""

from __future__ import annotations

import json
import struct
from typing import Any

import harness
from harness import DEMO, Case, need

h5py = need("h5py")
np = need("numpy")

STEPS, LAYER = 6, 1
NUMBERS = ("cosine", "change", "kl")


def output_head() -> Any:
    """[ids, hidden] of the demo GPT-2, whose head is its embedding."""
    path = DEMO / "gpt2/codi/model.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    (entry,) = [value for name, value in header.items() if name.endswith("wte.weight")]
    begin, end = entry["data_offsets"]
    kind = {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]
    return np.frombuffer(data[8 + size + begin : 8 + size + end], kind).reshape(entry["shape"]).astype(np.float64)


def divergence(base: Any, other: Any) -> Any:
    """KL of two rows of logits."""
    p, q = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (base, other))
    return (np.exp(p) * (p - q)).sum()


class Steps(Case):
    def read(self, out: str) -> tuple[list[str], dict[str, Any]]:
        with h5py.File(self.folder / out / "a.results.h5") as file:
            rows = {k: np.stack([file[f"rows/step{t}_{k}"][()] for t in range(STEPS)], -1) for k in NUMBERS}
            return list(file["conditions/name"].asstr()[()]), rows

    def test_steps(self) -> None:
        self.pairs(n=4)
        place = {"layers": LAYER, "steps": ["single:0-5", "all"]}
        conditions = [
            {"site": "resid_post", **place, "donor": ["clean", "self"]},
            {"site": "latent_raw", "steps": "single:0-5", "donor": "clean"},
            {"site": "resid_post", "layers": LAYER, "steps": "single:1", "donor": "clean", "stop_after": 3},
            {"phase": "prompt", "site": "resid_post", "layers": LAYER, "index": -1, "donor": "zero"},
            {"phase": "answer", "site": "resid_post", "layers": LAYER, "index": 2, "donor": "zero"},
        ]
        sections: dict[str, Any] = {
            "sweep": {"conditions": conditions},
            "metrics": ["steps"],
            "readout": "logit_lens top 3",
            "decode": {"max_new_tokens": 6},
        }
        found = {}
        for out, engine in (
            ("batched", {"device": "cpu"}),
            ("small", {"device": "cpu", "memory_limit": "7MiB"}),
            ("reference", {"executor": "reference", "device": "cpu"}),
        ):
            self.succeed("run", self.job(out=out, engine=engine, **sections), ranks=2 if out == "small" else 1)
            found[out] = self.read(out)
        names, rows = found["batched"]
        for name in NUMBERS:
            np.testing.assert_array_equal(rows[name], found["small"][1][name], err_msg=name)
            np.testing.assert_allclose(rows[name], found["reference"][1][name], rtol=2e-4, atol=2e-5, err_msg=name)
        csv = (self.folder / "batched/a.csv").read_text()
        self.assertIn(",step0_cosine,step0_change,step0_kl,step1_cosine,", csv.splitlines()[0])
        nothing = {"cosine": 1.0, "change": 0.0, "kl": 0.0}
        same = [i for i, n in enumerate(names) if "/self/" in n or "/answer:" in n or n == "denoise/unpatched"]
        self.assertEqual(len(same), 1 + 7 + 1)
        for name, value in nothing.items():
            self.assertTrue((rows[name][:, same] == value).all(), name)
        with h5py.File(self.folder / "batched/a.store.h5") as file:
            stored = [file[f"runs/{side}/latent_raw"][()] for side in ("clean", "corrupted")]
            clean, own = (x.reshape(4, STEPS, -1).astype(np.float64) for x in stored)
        head = output_head()[:-1]
        for t in range(STEPS):
            at = names.index(f"denoise/clean/replace/resid_post/L{LAYER}/single:{t}")
            for name, value in nothing.items():
                self.assertTrue((rows[name][:, at, :t] == value).all(), f"{name} before step {t}")
                self.assertTrue((rows[name][:, at, t:] != value).all(), f"{name} from step {t} on")
            at = names.index(f"denoise/clean/replace/latent_raw/single:{t}")
            for pair in range(4):
                a, b = clean[pair, t], own[pair, t]
                wanted = {
                    "cosine": a @ b / np.sqrt((a @ a) * (b @ b)),
                    "change": np.sqrt(((a - b) ** 2).sum() / (b @ b)),
                    "kl": divergence(head @ b, head @ a),
                }
                if t == STEPS - 1:
                    wanted = nothing  # nobody reads it, so it is not written
                for name, value in wanted.items():
                    np.testing.assert_allclose(rows[name][pair, at, t], value, rtol=1e-4, atol=1e-6, err_msg=f"{name} {t}")
        stopped = names.index(f"denoise/clean/replace/resid_post/L{LAYER}/single:1/stop:3")
        for name in NUMBERS:
            self.assertTrue(np.isnan(rows[name][:, stopped, 3:]).all(), name)
            longer = names.index(f"denoise/clean/replace/resid_post/L{LAYER}/single:1")
            np.testing.assert_array_equal(rows[name][:, stopped, :3], rows[name][:, longer, :3])


if __name__ == "__main__":
    harness.main()
