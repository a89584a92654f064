"""The program on a GPU, or on the emulated one beside it: the cpu's outcomes; weights that are made on the device, and
refused there; little of them on the host."""

from __future__ import annotations

import csv
import json
import math
import re
import struct
from pathlib import Path

import harness
from harness import DEMO, Case, matrix_of, read_safetensors, write_safetensors

# What a float32 backend may get differently in the last bits is no outcome.
OUTCOMES = ("pair", "condition", "class", "number", "changed", "text")
SWEEP = {"conditions": [{"site": "resid_post", "layers": [0, 1], "steps": "first:1-2", "donor": "clean"}]}
CODI_FILE = "gpt2-codi/model.safetensors"


class Device(Case):
    def small_job(self, model: str = "gpt2", out: str = "out", **engine: str) -> Path:
        self.pairs(n=2)
        engine = {"device": "cuda"} | engine
        return self.job(model=model, out=out, sweep=SWEEP, decode={"max_new_tokens": 5}, engine=engine)

    def outcomes(self, out: str) -> list[tuple[str, ...]]:
        with (self.folder / out / "a.csv").open(newline="") as file:
            return [tuple(row[name] for name in OUTCOMES) for row in csv.DictReader(file)]

    def test_outcomes(self) -> None:
        """The cpu's, from weights that are made once for both stages; two ranks on one GPU write the same bytes."""
        self.succeed("run", self.small_job("llama", "cpu", device="cpu"))
        one = self.succeed("run", self.small_job("llama", "one"), "--verbose")
        two = self.succeed("run", self.small_job("llama", "two"), ranks=2)
        wanted = self.outcomes("cpu")
        self.assertGreater(len(wanted), 8)
        self.assertEqual(self.outcomes("one"), wanted)
        self.assertEqual(len(re.findall(r"weights in [\d.]+ s", one.err)), 1, one.err)
        self.assertEqual(*((self.folder / n / "a.csv").read_bytes() for n in ("one", "two")))
        self.assertIn("2 ranks share one GPU", two.err)

    def test_plan(self) -> None:
        """Next to nothing on the host, and on the device one float32 for each number of the model."""
        header, _ = read_safetensors(DEMO / "gpt2" / "codi" / "model.safetensors")
        n = sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__" and "lora" not in name)
        # The embedding, which is the head too, has rows up to a multiple of 64.
        rows, width = next(t["shape"] for name, t in header.items() if name.endswith("wte.weight"))
        n += -rows % 64 * width
        run = self.succeed("plan", self.small_job(), environment={"NVIDIA_TF32_OVERRIDE": "1"})
        self.assertIn("warning: NVIDIA_TF32_OVERRIDE has no effect", run.err)
        sizes = {name: float(kib) for name, kib in re.findall(r"(?m)^  (weights .*?) +([\d.]+) KiB$", run.out)}
        self.assertLess(sizes["weights in memory (arena)"], 8)
        self.assertAlmostEqual(sizes["weights on the device"], 4 * n / 1024, delta=0.1)
        self.assertRegex(run.out, r"expected, about .* on the GPU, one rank: from")

    def test_reference_executor(self) -> None:
        """It computes on the cpu, whatever device the job names, and has its weights there."""
        for device in ("cpu", "cuda"):
            self.succeed("run", self.small_job(out=device, device=device, executor="reference"))
        self.assertEqual(self.outcomes("cuda"), self.outcomes("cpu"))

    def test_not_finite(self) -> None:
        """Named, before anything is written; also where a plan only asks."""
        path = self.small_job()
        job = json.loads(path.read_text())
        job["model"].update(self.model_copy())
        path.write_text(json.dumps(job))
        file = self.folder / CODI_FILE
        whole = file.read_bytes()
        before = self.files()
        for ending, command, ranks in (
            ("h.1.mlp.c_fc.base_layer.weight", "plan", 1),
            ("h.1.attn.c_attn.lora_A.default.weight", "run", 2),
            ("h.2.mlp.c_proj.lora_B.default.weight", "cache", 1),
            ("wte.weight", "run", 1),
        ):
            file.write_bytes(whole)
            header, body = read_safetensors(file)
            name = matrix_of(header, ending)
            self.assertEqual(header[name]["dtype"], "F32")
            struct.pack_into("<f", body, header[name]["data_offsets"][1] - 4, float("nan"))
            write_safetensors(file, header, body)
            with self.subTest(name=name, command=command, ranks=ranks):
                run = self.latentpatch(command, path, ranks=ranks)
                errors = [line for line in run.lines if "warning" not in line]
                self.assertEqual(len(errors), 1, run.err)
                self.assertIn(f'{CODI_FILE}: tensor "{name}" holds NaN or infinity', errors[0])
                self.assertEqual((run.code, run.out), (1, ""))
                self.assertEqual(self.files(), before)

    def worse(self, wish: str) -> dict[str, dict[str, str]]:
        """For a device with a defect; only the emulated one has them to order."""
        if "emulated" not in harness.program:
            self.skipTest("a real device")
        return {"environment": {"LATENTPATCH_EMULATOR": wish}}

    def test_out_of_memory(self) -> None:
        """A device with less memory than it promised gets smaller batches once, and the same results."""
        self.succeed("run", self.small_job(out="whole"))
        run = self.succeed("run", self.small_job(out="less", memory_limit="96MiB"), **self.worse("memory=94000000"))
        warnings = [line for line in run.lines if "wanted" in line]
        self.assertEqual(len(warnings), 2, run.err)
        for line in warnings:
            self.assertRegex(line, r"warning: device 0 .*; going on with a memory limit of 48 MiB$")
        self.assertEqual(*((self.folder / name / "a.csv").read_bytes() for name in ("whole", "less")))
        run = self.latentpatch("run", self.small_job(out="none", memory_limit="96MiB"), **self.worse("memory=58000000"))
        self.assertEqual((run.code, len(run.lines)), (1, 2), run.err)
        self.assertRegex(run.lines[1], r"error: device 0 .* wanted, .*; expected that with engine.memory_limit 48 MiB")
        self.assertEqual([name for name in self.files() if name.startswith("none/")], [])

    def test_devices(self) -> None:
        """One device a rank by local rank, of those that are visible; more ranks than devices take turns and are told."""
        job = self.small_job()
        for ranks, visible, sharing in ((2, None, []), (2, "1", ["2"]), (3, "1,0", ["2"])):
            with self.subTest(ranks=ranks, visible=visible):
                environment = self.worse("devices=2")["environment"]
                if visible:
                    environment["CUDA_VISIBLE_DEVICES"] = visible
                run = self.succeed("cache", job, ranks=ranks, environment=environment)
                self.assertEqual(re.findall(r"(\d) ranks share one GPU", run.err), sharing, run.err)
        none = self.latentpatch("plan", job, environment={"CUDA_VISIBLE_DEVICES": "7"})
        self.assertEqual(none.code, 1)
        self.assertIn('none is visible to this process (CUDA_VISIBLE_DEVICES is "7")', none.err)

    def test_room(self) -> None:
        """One run that needs more than the usual share of the free memory is not refused while there is room."""
        job = self.small_job()
        plan = self.succeed("plan", job).out
        units = {"KiB": 1024.0, "MiB": 1048576.0}
        sizes = [
            float(n) * units[unit]
            for what in ("least memory limit of the engine", "weights on the device")
            for n, unit in re.findall(what + r" +([\d.]+) (\w+)", plan)
        ]
        for share, code in ((1.05, 1), (0.92, 0)):  # of what the weights leave
            free = int(sizes[0] / share + sizes[1])
            run = self.latentpatch("run", job, **self.worse(f"free={free}"))
            self.assertEqual(run.code, code, run.err)
            if code:
                self.assertIn("engine.memory_limit: expected at least", run.err)

    def test_device_dies(self) -> None:
        """One line, exit code 1, with other ranks too; a second run goes on to the same table."""
        self.succeed("run", self.small_job(out="whole"))
        wanted = (self.folder / "whole" / "a.csv").read_bytes()
        for after, command, ranks in ((1, "cache", 1), (500, "cache", 2), (700, "sweep", 1)):
            with self.subTest(after=after, command=command, ranks=ranks):
                out = f"dies-{after}"
                job = self.small_job(out=out)
                if command == "sweep":
                    self.succeed("cache", job)
                run = self.latentpatch(command, job, ranks=ranks, **self.worse(f"dies_after={after}"))
                errors = [line for line in run.lines if "error: " in line]
                self.assertNotEqual(run.code, 0, "it lived: another number for dies_after")
                self.assertEqual(len(errors), 1, run.err)
                self.assertIn("cudaErrorIllegalAddress", errors[0])
                self.succeed("run", job)
                self.assertEqual((self.folder / out / "a.csv").read_bytes(), wanted)


if __name__ == "__main__":
    harness.main()
