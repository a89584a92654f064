"""Layouts of published checkpoints: the golden models' weights under the names, rows and tokens of other codes give the
same thoughts and answers, and `inspect` says what was recognised. Names are changed in the files' headers, so that
nothing but the standard library is needed.
"""

from __future__ import annotations

import csv
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from harness import ROOT, Case, read_safetensors, write_safetensors

MODELS = ROOT / "tests" / "golden" / "models"
QUESTION = "Tom has 7 pens, 12?"
Tensors = dict[str, tuple[dict[str, Any], bytes]]


def load(path: Path) -> Tensors:
    """Tensors by name: what the header says, and the bytes."""
    header, body = read_safetensors(path)
    header.pop("__metadata__", None)
    return {k: (v, bytes(body[v["data_offsets"][0] : v["data_offsets"][1]])) for k, v in header.items()}


def save(path: Path, tensors: Tensors) -> None:
    """Write them one after the other."""
    header: dict[str, Any] = {}
    body = b""
    for name, (about, data) in tensors.items():
        header[name] = about | {"data_offsets": [len(body), len(body) + len(data)]}
        body += data
    write_safetensors(path, header, body)


def vector(n: int) -> tuple[dict[str, Any], bytes]:
    """A tensor that nobody needs."""
    return {"dtype": "F32", "shape": [n], "data_offsets": [0, 0]}, struct.pack(f"<{n}f", *[0.5] * n)


class Layouts(Case):
    def model(self, name: str) -> tuple[Path, Tensors, float]:
        """A copy of the base folder, the checkpoint's tensors, and LoRA's alpha."""
        base = self.folder / f"{name}-base"
        if not base.exists():
            shutil.copytree(MODELS / name / "base", base)
        return (
            base,
            load(MODELS / name / "codi" / "model.safetensors"),
            json.loads((MODELS / name / "lora.json").read_text())["alpha"],
        )

    def run_job(self, base: Path, codi: Path | None, alpha: float, **protocol: Any) -> str:
        """What `generate` prints: each thought through the lens, and the answer."""
        job = self.folder / "job.json"
        model = {"base": str(base), "lora": {"alpha": alpha}} | ({"codi": str(codi)} if codi else {})
        sections = {"model": model, "protocol": protocol, "pairs": {"file": "p"}, "store": {"file": "s"}}
        job.write_text(json.dumps(sections | {"decode": {"max_new_tokens": 8}}))
        run = self.succeed("generate", job, QUESTION)
        return run.out

    def inspect(self, base: Path, codi: Path | None, alpha: float) -> str:
        words = ["--codi", codi, "--lora-alpha", alpha] if codi else []
        return self.succeed("inspect", "--base", base, *words).out

    def same(self, model: str, change: Callable[[Tensors], Tensors], file: str = "changed.safetensors", **protocol: Any) -> str:
        """The changed checkpoint thinks and answers as the original; what inspect says of it."""
        base, tensors, alpha = self.model(model)
        save(self.folder / file, change(tensors))
        original = MODELS / model / "codi"
        self.assertEqual(self.run_job(base, self.folder / file, alpha, **protocol), self.run_job(base, original, alpha, **protocol))
        return self.inspect(base, self.folder / file, alpha)

    def test_two_lists_of_end_tokens(self) -> None:
        """Without the tokenizer's word, generation_config.json counts, as in transformers, and both values are named."""
        base, _, alpha = self.model("llama-rope3")
        job = self.folder / "job.json"
        model = {"base": str(base), "codi": str(MODELS / "llama-rope3" / "codi"), "lora": {"alpha": alpha}}
        sections = {"model": model, "protocol": {"name": "codi", "steps": 6}, "pairs": {"file": "p"}, "store": {"file": "s"}}
        job.write_text(json.dumps(sections))
        ids = json.loads(self.succeed("inspect", job, "--json").out)["protocol"]["ids"]
        self.assertEqual((ids["eos"], ids["stop"], ids["eos_source"]), (258, [258], "tokenizer_config.json"))
        (base / "tokenizer_config.json").unlink()
        run = self.succeed("inspect", job, "--json")
        self.assertEqual(run.err, "")
        protocol = json.loads(run.out)["protocol"]
        self.assertEqual(protocol["ids"]["stop"], [257, 258])
        self.assertEqual(protocol["ids"]["eos_source"], "config.json")
        self.assertEqual(protocol["after_question"], ["bot"])
        (base / "generation_config.json").write_text('{"eos_token_id": [258, 97]}')
        run = self.succeed("inspect", job, "--json")
        self.assertEqual(json.loads(run.out)["protocol"]["ids"]["stop"], [258, 97])
        self.assertEqual(
            run.err,
            f"latentpatch: {base}: eos_token_id is 258 97 in generation_config.json, but 257 258 in config.json; the first is "
            "used, as in `generate` of transformers (decode.eos sets another)\n",
        )
        self.assertIn("eos 258 of generation_config.json", self.succeed("inspect", job).out)
        (base / "generation_config.json").write_text('{"eos_token_id": [258, 257]}')
        self.assertEqual(self.succeed("inspect", job).err, "")

    def test_not_chosen(self) -> None:
        """A token in the middle of the vocabulary that may not be chosen is in no answer."""
        base, _, alpha = self.model("gpt2-ln")
        codi = MODELS / "gpt2-ln" / "codi"
        before = self.run_job(base, codi, alpha, name="codi", steps=2).split("answer: ")[1]
        barred = {"name": "codi", "steps": 2, "not_chosen": ["eot", {"token": "3"}, {"token": "12"}]}
        self.assertTrue("3" in before and "12" in before, before)
        self.assertNotRegex(self.run_job(base, codi, alpha, **barred), '"(3|12)"|answer:.*(3|12)')

    def test_nul(self) -> None:
        """A token that is the byte 0 does not end the answer that is shown."""
        base, _, alpha = self.model("gpt2-ln")
        codi = MODELS / "gpt2-ln" / "codi"
        before = self.run_job(base, codi, alpha, name="codi", steps=2)
        path = base / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["3"], vocabulary["\u0100"] = vocabulary["\u0100"], vocabulary["3"]
        path.write_text(json.dumps(tokenizer))
        after = self.run_job(base, codi, alpha, name="codi", steps=2)
        self.assertIn("3", before.split("answer: ")[1])
        self.assertEqual(after.split("answer: ")[1], before.split("answer: ")[1].replace("3", "\\x00"))
        texts, counts = {}, {}
        condition = {"site": "resid_post", "layers": [0], "steps": "first:1", "donor": "clean"}
        sides = {s: {"question": f"{n} pens, 12?", "answer": n} for n, s in ((7, "clean"), (5, "corrupted"))}
        pairs = {"format": "latentpatch-pairs", "version": 1, "pairs": [{"id": "p"} | sides]}
        (self.folder / "pairs.json").write_text(json.dumps(pairs))
        for name, folder in (("digit", MODELS / "gpt2-ln" / "base"), ("nul", base)):
            results = {"store": {"file": f"{name}.store.h5"}, "results": {"file": f"{name}.results.h5", "csv": f"{name}.csv"}}
            sections = {
                "model": {"base": str(folder), "codi": str(codi), "lora": {"alpha": alpha}},
                "protocol": {"name": "codi", "steps": 2},
                "pairs": {"file": "pairs.json"},
                "sweep": {"filter": "all", "controls": ["self"], "conditions": [condition]},
                "decode": {"max_new_tokens": 8},
            }
            job = self.folder / "job.json"
            job.write_text(json.dumps(sections | results))
            self.succeed("run", job)
            with (self.folder / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
                texts[name] = [row["text"] for row in csv.DictReader(stream)]
            files = (self.folder / f"{name}.{kind}.h5" for kind in ("store", "results"))
            counts[name] = [path.read_bytes().count(texts[name][0].encode()) for path in files]
        self.assertIn("3", texts["digit"][0])
        self.assertEqual(counts["nul"], counts["digit"])
        self.assertEqual(texts["nul"], [t.replace("3", "\ufffd") for t in texts["digit"]])

    def test_prefixes(self) -> None:
        for prefix in ("module.", "coconut.", "module.coconut."):
            with self.subTest(prefix=prefix):
                text = self.same("gpt2-ln", lambda t, p=prefix: {p + k: v for k, v in t.items()})
                self.assertIn("CODI module", text)
                self.assertIn(f'"{prefix}" in front of all names', text)
        held = self.same("gpt2-ln", lambda t: {"model." + k: v for k, v in t.items()})
        self.assertIn('"model." in front of all names', held)
        self.same("gpt2-ln", lambda t: {k.replace(".default.", ".mine."): v for k, v in t.items()})
        self.same("gpt2-ln", lambda t: {k.replace("prj.ln.", "prj.4."): v for k, v in t.items()})
        compiled = self.same("gpt2-ln", lambda t: {k.replace("codi.", "codi._orig_mod."): v for k, v in t.items()})
        self.assertIn("CODI module", compiled)
        wrapped = self.same("qwen3", lambda t: {k.replace("codi.", "model."): v for k, v in t.items()}, name="codi-eos")
        self.assertIn("wrapped module", wrapped)

    def test_training_only(self) -> None:
        """SIM-CoT's module has a decoder and two projections more, for training."""
        extra = {"decoder.model.layers.0.mlp.up_proj.weight": vector(4), "pj_in.weight": vector(3), "pj_out.weight": vector(2)}
        text = self.same("qwen2", lambda t: t | extra)
        self.assertIn("3 for training only", text)
        self.assertIn("pj_in.weight (f32): for training only", text)

    def test_coconut(self) -> None:
        """One file without a suffix, base_causallm.*, and the embedding under a second name; SIM-CoT's Coconut also has a whole
        second language model, for training."""

        def change(t: Tensors) -> Tensors:
            renamed = {k.replace("codi.", "base_causallm."): v for k, v in t.items()}
            return renamed | {"embedding.weight": t["codi.model.embed_tokens.weight"]}

        text = self.same("mistral", change, file="checkpoint_5", name="coconut")
        self.assertIn("layout         Coconut: ", text)
        self.assertIn("embedding.weight (f32): a second name of the embedding", text)

        def explained(t: Tensors) -> Tensors:
            second = {k.replace("codi.", "expainable_llm."): v for k, v in t.items() if k.startswith("codi.")}
            return change(t) | second

        text = self.same("mistral", explained, file="checkpoint_30", name="coconut")
        self.assertIn("layout         Coconut: ", text)
        self.assertIn("expainable_llm.model.norm.weight (f32): for training only", text)

    def test_plain(self) -> None:
        """Full weights without a wrapper, with the rows of three tokens."""
        text = self.same("mistral", lambda t: {k.removeprefix("codi."): v for k, v in t.items()}, name="coconut")
        self.assertIn("layout         plain weights", text)

    def test_merged_folder(self) -> None:
        """LatentTTS: one folder with merged weights, projector.*, an untied head, and the ids in config.json."""
        base, tensors, alpha = self.model("gpt2-plain")
        before = self.run_job(base, MODELS / "gpt2-plain" / "codi", alpha)
        config = json.loads((base / "config.json").read_text())
        v = config["vocab_size"]
        ids = {"latent_id": v, "latent_start_id": v + 1, "latent_end_id": v + 2}
        config |= ids | {"vocab_size": v + 3, "tie_word_embeddings": False}
        (base / "config.json").write_text(json.dumps(config))
        merged = {k.removeprefix("codi.").replace("prj.", "projector."): t for k, t in tensors.items()}
        merged["lm_head.weight"] = merged["transformer.wte.weight"]
        save(base / "model.safetensors", merged)
        self.assertEqual(self.run_job(base, None, alpha), before)
        self.assertIn("of a projection", self.inspect(base, None, alpha))

    def test_rows(self) -> None:
        """Rows beyond V+3 are not tokens; a tokenizer that names bot and eot needs no rule of rows."""

        def grown(t: Tensors) -> Tensors:
            out = dict(t)
            for name in t:
                if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                    about, data = t[name]
                    rows, width = about["shape"]
                    out[name] = about | {"shape": [rows + 2, width]}, data + data[: 2 * len(data) // rows]
            return out

        self.same("qwen3", grown, name="codi-eos")
        base, tensors, alpha = self.model("qwen3")
        before = self.run_job(base, MODELS / "qwen3" / "codi", alpha, name="codi-eos")
        config = json.loads((base / "config.json").read_text())
        v = config["vocab_size"]
        (base / "config.json").write_text(json.dumps(config | {"vocab_size": v + 40}))
        save(self.folder / "fork.safetensors", tensors)
        job = self.folder / "job.json"
        with self.assertRaises(AssertionError):
            self.run_job(base, self.folder / "fork.safetensors", alpha, name="codi-eos")
        error = self.latentpatch("generate", job, QUESTION)
        self.assert_error(error, "names the eot token, which was not found", "protocol.tokens")
        tokenizer = json.loads((base / "tokenizer.json").read_text())
        like = dict(tokenizer["added_tokens"][-1])
        known = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
        for i, spelling in enumerate(["[PAD]", "<|bocot|>", "<|eocot|>"]):
            tokenizer["added_tokens"].append(like | {"id": known + i, "content": spelling})
        (base / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.assertEqual(self.run_job(base, self.folder / "fork.safetensors", alpha, name="codi-eos"), before)
        tokens = {"bot": v + 1, "eot": "<|eocot|>"}
        self.assertEqual(self.run_job(base, self.folder / "fork.safetensors", alpha, name="codi-eos", tokens=tokens), before)

    def test_refusals(self) -> None:
        """What is not supported is named for what it is."""
        base, tensors, alpha = self.model("gpt2-ln")
        layer = "codi.base_model.model.transformer.h.0.attn.c_attn"
        cases: list[tuple[Tensors, str]] = [
            (tensors | {f"{layer}.lora_magnitude_vector.default.weight": vector(60)}, "DoRA (LoRA with magnitudes)"),
            (
                {k.replace(".default.", "."): t for k, t in tensors.items()},
                'missing tensor "h.0.attn.c_attn.lora_A.default.weight"',
            ),
            (
                {k.replace("ln_1.weight", "ln_1.gamma"): t for k, t in tensors.items()},
                "old names gamma and beta of norms",
            ),
            (
                tensors | {k.replace(".default.", ".other."): t for k, t in tensors.items() if ".lora_" in k},
                "a second LoRA adapter, which is not supported",
            ),
            (
                {k.replace("wte.weight", "wte.modules_to_save.default.weight"): t for k, t in tensors.items()},
                "modules that peft saved whole (modules_to_save)",
            ),
            (
                {k.replace(".default.", ".")[5:]: t for k, t in tensors.items() if ".lora_" in k},
                "it has the names of a peft adapter alone",
            ),
            (tensors | {"prj.5.weight": vector(3)}, 'tensor "prj.5.weight": not a part of a projection that is known'),
            ({"layers.0.attention.wq.weight": vector(4)}, "the names of Meta's own LLaMA files"),
            ({"blk.0.attn_q.weight": vector(4)}, "the names of a GGUF file"),
        ]
        for changed, words in cases:
            with self.subTest(words=words):
                path = self.folder / "bad.safetensors"
                save(path, changed)
                run = self.latentpatch("inspect", "--base", base, "--codi", path, "--lora-alpha", alpha)
                self.assert_error(run, words)
        folder = self.folder / "adapter"
        folder.mkdir()
        save(folder / "model.safetensors", tensors)
        (folder / "adapter_config.json").write_text(json.dumps({"r": 3, "use_rslora": True}))
        run = self.latentpatch("inspect", "--base", base, "--codi", folder, "--lora-alpha", alpha)
        self.assert_error(run, "adapter_config.json: $.use_rslora: rsLoRA (LoRA scaled by alpha / sqrt(rank)) is not")

    def test_family_jobs(self) -> None:
        """The job of each family of public checkpoints, on a small stand-in with the same layout: planned and run."""
        pair = {s: {"question": f"{n} pens, 4?", "answer": n + 4} for n, s in ((3, "clean"), (5, "corrupted"))}
        pairs = [{"id": f"p{k}"} | pair for k in range(2)]
        (self.folder / "pairs.json").write_text(json.dumps({"format": "latentpatch-pairs", "version": 1, "pairs": pairs}))
        stop = [{"token": "<|eot_id|>"}]
        families: list[tuple[str, str, str, dict[str, Any]]] = [
            ("correct-gpt2", "gpt2-ln", "codi", {}),
            ("correct-llama", "simcot", "codi", {}),
            ("family-codi-eos", "named-tokens", "codi", {"model.tokenizer": str(MODELS / "named-tokens" / "codi")}),
            ("family-coconut", "coconut", "checkpoint_5", {}),
            ("family-multimode", "multimode", "codi", {"protocol.after_question": [*stop, "bot"]}),
            ("family-direct", "multimode", "codi", {"protocol.after_question": stop}),
            ("family-latent-tts", "latent-tts", "", {}),
        ]
        listed = {path.stem for pattern in ("family-*", "correct-*") for path in (ROOT / "jobs").glob(f"{pattern}.json")}
        self.assertEqual({name for name, *_ in families}, listed)
        for name, model, codi, settings in families:
            with self.subTest(job=name):
                out = {f"{kind}.file": str(self.folder / f"{name}.{kind}.h5") for kind in ("store", "results")}
                settings |= out | {"pairs.file": str(self.folder / "pairs.json"), "model.base": str(MODELS / model / "base")}
                settings |= {"sweep.filter": "all", "sweep.controls": ["self"], "decode.max_new_tokens": 4}
                if codi:
                    alpha = json.loads((MODELS / model / "lora.json").read_text())["alpha"]
                    settings |= {"model.codi": str(MODELS / model / codi), "model.lora": {"alpha": alpha}}
                words = [w for k, v in settings.items() for w in ("--set", f"{k}={json.dumps(v)}")]
                job = ROOT / "jobs" / f"{name}.json"
                self.assertIn("conditions", self.succeed("plan", job, *words).out)
                self.assertIn("clean", self.succeed("run", job, *words).out)

    def refused(self, model: str, change: Callable[[Path], dict[str, Any] | None], *words: str, **protocol: Any) -> None:
        """`inspect` of a job on a changed copy of the model fails with one line that holds the words. The change gets the
        folder with base/ and codi/, and may return members of the job's `model`."""
        folder = self.folder / "refused"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(MODELS / model, folder)
        given = change(folder) or {}
        source = {"base": str(folder / "base"), "codi": str(folder / "codi")} | given
        sections = {"model": source, "protocol": protocol, "pairs": {"file": "p"}, "store": {"file": "s"}}
        job = self.folder / "refused.json"
        job.write_text(json.dumps(sections))
        self.assert_error(self.latentpatch("inspect", job), *words)

    def test_checkpoints_refused(self) -> None:
        """Weights that do not fit together."""
        layer = "codi.base_model.model.transformer.h.0.attn.c_attn"

        def tensors(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
            def changed(folder: Path) -> None:
                path = folder / "codi" / "model.safetensors"
                save(path, change(load(path)))

            return changed

        def without_lora(t: Tensors) -> Tensors:
            return {k.replace(f"{layer}.base_layer", layer): v for k, v in t.items() if f"{layer}.lora_" not in k}

        def without_projection(t: Tensors) -> Tensors:
            return {k: v for k, v in t.items() if k != "prj.1.weight"}

        def enormous(folder: Path) -> dict[str, Any]:
            path = folder / "base" / "model.safetensors"
            t = load(path)
            name = next(k for k in t if k.endswith("h.0.ln_1.weight"))
            about, data = t[name]
            n = len(data) // 2
            save(path, t | {name: (about | {"dtype": "F32"}, struct.pack(f"<{n}f", *[1e30] * n))})
            (folder / "codi" / "model.safetensors").unlink()
            prj = {k: v for k, v in load(MODELS / "gpt2-plain" / "codi" / "model.safetensors").items() if "prj" in k or "wte" in k}
            save(folder / "codi" / "model.safetensors", prj)
            return {"base_rounding": "fp16"}

        def long_index(folder: Path) -> None:
            with (folder / "codi" / "model.safetensors.index.json").open("wb") as file:
                file.truncate(100_000_001)  # takes no disk

        def index(text: str) -> Callable[[Path], None]:
            def changed(folder: Path) -> None:
                (folder / "codi" / "model.safetensors.index.json").write_text(text)

            return changed

        cases: list[tuple[str, Callable[[Path], dict[str, Any] | None], str]] = [
            ("gpt2-ln", tensors(without_lora), 'attn.c_attn.weight" has no LoRA tensors, but "'),
            ("gpt2-ln", tensors(without_projection), 'missing tensor "prj.1.weight", although'),
            ("gpt2-plain", lambda _: {"lora": {"rank": 3}}, "expected LoRA tensors of rank 3, found none"),
            ("gpt2-plain", enormous, "becomes infinite when it is rounded to fp16"),
            ("plain", long_index, "model.safetensors.index.json: too large for an index: 100000001 bytes"),
            ("plain", index('{"weight_map": []}'), "$.weight_map: expected an object: tensor name -> file name"),
            ("plain", index('{"weight_map": {"a": "../b"}}'), '"../b"'),
            ("plain", index('{"weight_map": {"a": "gone.safetensors"}}'), "gone.safetensors that it names is missing"),
        ]
        for model, change, words in cases:
            with self.subTest(words=words):
                self.refused(model, change, words, name="codi" if "gpt2" in model else "coconut")

    def test_archives_refused(self) -> None:
        """Files of torch.save whose directory does not say what lies in them."""

        def bytes_of(change: Callable[[bytearray], None]) -> Callable[[Path], None]:
            def changed(folder: Path) -> None:
                path = folder / "codi" / "pytorch_model.bin"
                data = bytearray(path.read_bytes())
                change(data)
                path.write_bytes(data)

            return changed

        def parts(data: bytearray) -> None:
            data[data.rindex(b"PK\5\6") + 8] ^= 1

        def sizes(data: bytearray) -> None:
            data[data.rindex(b"PK\1\2") + 24] ^= 1

        def zip64(lead: bytes) -> Callable[[bytearray], None]:
            def changed(data: bytearray) -> None:
                end = data.rindex(b"PK\5\6")
                data[end + 8 : end + 12] = b"\xff" * 4
                data[end:end] = lead

            return changed

        far = b"PK\6\7" + struct.pack("<IQI", 0, 0, 1)
        torn = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 2, 0, 0)

        def torn64(data: bytearray) -> None:
            at = data.rindex(b"PK\5\6")
            zip64(torn + b"PK\6\7" + struct.pack("<IQI", 0, at, 1))(data)

        cases: list[tuple[Callable[[bytearray], None], str]] = [
            (parts, "a zip archive in several parts"),
            (sizes, "is stored, but has two sizes"),
            (zip64(b"\0" * 20), "the zip64 end record is missing"),
            (zip64(far), "no zip64 end record at byte 0"),
            (torn64, "a zip archive in several parts"),
        ]
        for change, words in cases:
            with self.subTest(words=words):
                self.refused("multimode", bytes_of(change), "pytorch_model.bin: ", words)

    def test_configs_refused(self) -> None:
        """config.json and generation_config.json."""

        def config(file: str = "config.json", **edits: Any) -> Callable[[Path], None]:
            def changed(folder: Path) -> None:
                path = folder / "base" / file
                before = json.loads(path.read_text()) if path.exists() else {}
                path.write_text(json.dumps(before | edits))
                (folder / "base" / "tokenizer_config.json").unlink()

            return changed

        half, yarn = {"rope_type": "default", "partial_rotary_factor": 0.5}, {"rope_type": "yarn", "factor": 2.0}
        many, generation = list(range(9)), "generation_config.json"
        cases: list[tuple[str, Callable[[Path], None], str]] = [
            ("simcot", config(eos_token_id=many), "$.eos_token_id: expected at most 8 ids"),
            (
                "simcot",
                config(generation, eos_token_id=many),
                f"{generation}: $.eos_token_id: expected at most 8 ids",
            ),
            (
                "simcot",
                config(hidden_size=13, head_dim=None),
                "$.hidden_size: expected a multiple of num_attention_heads (3), found 13",
            ),
            ("simcot", config(head_dim=5), "$.head_dim: expected an even number"),
            ("simcot", config(mlp_bias=True), "a bias in the MLP's linear layers is not supported"),
            ("simcot", config(sliding_window=8), "attention in a sliding window is not supported"),
            ("simcot", config(layer_types=["full_attention", "sliding_attention"]), '"sliding_attention" is not supported'),
            ("simcot", config(partial_rotary_factor=0.5), "RoPE over a part of the head is not supported"),
            (
                "simcot",
                config(rope_parameters=half),
                "RoPE over a part of the head",
            ),
            (
                "simcot",
                config(rope_scaling=yarn),
                "a supported RoPE scaling (default, linear, llama3)",
            ),
            ("simcot", config(pretraining_tp=2), "sliced linear layers are not supported"),
            ("simcot", config(hidden_act="relu"), "a supported activation (silu, swish)"),
            ("simcot", config(quantization_config={"quant_method": "gptq"}), "a quantised model is not supported"),
            ("simcot", config(model_type="olmo2"), "a supported architecture (gpt2, llama, qwen2, qwen3, mistral)"),
            ("named-tokens", config(use_sliding_window=True), "attention in a sliding window is not supported"),
            ("mistral", config(sliding_window=4096), "attention in a sliding window is not supported"),
            ("coconut", config(scale_attn_by_inverse_layer_idx=True), "scaling attention by the layer is not supported"),
            ("coconut", config(activation_function="relu"), "a supported activation (gelu_new, gelu_pytorch_tanh, gelu)"),
        ]
        for model, change, words in cases:
            with self.subTest(words=words, model=model):
                self.refused(model, change, words)

    def test_tokens_refused(self) -> None:
        """Tokens that are ambiguous, not there, or not tokens; tokenizers of other kinds."""

        def tokenizer(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
            def changed(folder: Path) -> None:
                path = folder / "base" / "tokenizer.json"
                data = json.loads(path.read_text())
                change(data)
                path.write_text(json.dumps(data))

            return changed

        def add(*spellings: str, **flags: Any) -> Callable[[dict[str, Any]], None]:
            def changed(data: dict[str, Any]) -> None:
                like = data["added_tokens"][-1]
                first = like["id"] + 1
                data["added_tokens"] += [like | {"id": first + i, "content": s} | flags for i, s in enumerate(spellings)]

            return changed

        def disagree(folder: Path) -> None:
            path = folder / "base" / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"latent_start_id": 3, "latent_end_id": 4}))
            tokenizer(add("<|bocot|>", "<|eocot|>"))(folder)

        def pre_tokenizer(*parts: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
            return lambda data: data.update(pre_tokenizer={"type": "Sequence", "pretokenizers": list(parts)})

        def decoder(data: dict[str, Any]) -> None:
            data["decoder"] = {"type": "Sequence", "decoders": []}

        def twice(data: dict[str, Any]) -> None:
            data["added_tokens"] += data["added_tokens"][-1:]

        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        digits = {"type": "Digits", "individual_digits": True}
        names = ("<|bocot|>", "<|eocot|>", "<|start-latent|>", "<|end-latent|>")
        cases: list[tuple[Callable[[Path], None], str, dict[str, Any]]] = [
            (disagree, "the bot token is 3 in config.json, but", {}),
            (lambda _: None, 'protocol.tokens.bot: "<|no|>" is not a token of the tokenizer', {"tokens": {"bot": "<|no|>"}}),
            (lambda _: None, "protocol.answer_start: expected at most 32 tokens, found", {"answer_start": [{"text": "0a" * 30}]}),
            (lambda _: None, "$.protocol.first_input", {"first_input": {"text": "a"}}),
            (tokenizer(twice), "occurs twice", {}),
            (tokenizer(pre_tokenizer(*[digits] * 20, level)), "pre-tokenizers are not supported", {}),
            (tokenizer(decoder), "expected one ByteLevel, found 0", {}),
            (tokenizer(lambda d: d.update(normalizer={"type": "Lowercase"})), "$.normalizer", {}),
            (tokenizer(lambda d: d["model"].update(type="WordPiece")), "$.model.type", {}),
        ]
        for change, words, protocol in cases:
            with self.subTest(words=words):
                self.refused("gpt2-ln", change, words, **protocol)
        self.refused("llama-rope3", tokenizer(add(*names)), "the tokenizer has both <|bocot|>")
        self.refused("qwen2", tokenizer(add("e\u0301", normalized=True)), "is not in form C")


if __name__ == "__main__":
    harness.main()
