"""What a file that a job finds was made from: results and stores of other inputs are never taken for this job's."""

from __future__ import annotations

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

    def test_settings(self) -> None:
        job = self.finished()
        for setting in ("classifier=codi", 'metrics=["logits"]', 'metrics=["answer_logprob"]', "sweep.seed=2"):
            with self.subTest(setting):
                self.assertNotIn("h5 is complete already", self.succeed("run", job, "--set", setting).err)

    def test_vectors(self) -> None:
        """The same file name with other numbers in it is another vector."""
        job = self.finished(sweep=FROM_FILE)
        write_npy(self.folder / "v.npy", [2.0] * WIDTH)
        self.assertNotIn("h5 is complete already", self.succeed("run", job).err)

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


if __name__ == "__main__":
    harness.main()
