"""Compare schemas/*.json with the files that are there and with the program's own readers.

    python test_schemas.py JOB_DRIVER [LATENTPATCH]

Every job and pair file of jobs/ must be valid; a list of good and bad jobs must be judged alike by job.schema.json and by
the reader (JOB_DRIVER, tests/unit/job_driver.c); LATENTPATCH must end with exit code 1 and the message on a few bad ones.
Exit code 77: this Python has no jsonschema.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from jsonschema import Draft202012Validator
except ImportError:
    print("skipped: no Python package jsonschema")
    sys.exit(77)

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "schemas"
GROUP: dict[str, Any] = {"site": "resid_post", "layers": "all", "steps": "first:1-6"}
JOB: dict[str, Any] = {
    "model": {"base": "b", "codi": "c"},
    "pairs": {"file": "p.json"},
    "store": {"file": "s.store.h5"},
    "sweep": {"conditions": [GROUP]},
    "results": {"file": "r.results.h5"},
}
DROP = object()  # as a value: take the key away


def edited(path: str, value: Any) -> dict[str, Any]:
    """The plain job with one place changed: "sweep.conditions.0.steps"."""
    job = copy.deepcopy(JOB)
    node: Any = job
    *parents, last = path.split(".")
    for key in parents:
        if isinstance(node, list):
            node = node[int(key)]
        else:
            node = node.setdefault(key, {})
    if value is DROP:
        del node[last]
    elif isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return job


def with_group(**keys: Any) -> dict[str, Any]:
    """The plain job with one group of conditions changed; None drops a key."""
    group = {k: v for k, v in (GROUP | keys).items() if v is not None}
    job = edited("sweep.conditions", [group])
    job["sweep"]["vectors"] = ["v.npy", "w.npy"]
    return job


EDGE: dict[str, Any] = {"from": {"phase": "answer"}, "to": {"steps": "single:0"}, "layers": "all"}


def with_edges(edges: dict[str, Any] | list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """The plain job with a group of attention edges alone; an edge's None drops a key."""
    changed = [{k: v for k, v in (EDGE | e).items() if v is not None} for e in (edges if isinstance(edges, list) else [edges])]
    group = {"forbid": changed if isinstance(edges, list) else changed[0], **keys}
    return edited("sweep.conditions", [group])


PROMPT: dict[str, Any] = {"phase": "prompt", "steps": None, "index": -1}
ANSWER: dict[str, Any] = {"phase": "answer", "steps": None, "index": 0}

GOOD = [
    edited("readout", "logit_lens top 1"),
    edited("readout", "logit_lens top 50"),
    edited("readout", None),
    JOB,
    edited("comment", {"any": ["thing"]}),
    edited("$schema", "../schemas/job.schema.json"),
    edited("$schema", None),
    edited("model.comment", "why"),
    edited("model.lora", {"comment": 1}),
    *(edited(f"{name}.comment", ["any"]) for name in ("protocol", "pairs", "store", "sweep", "decode", "results", "engine")),
    edited("sweep", None),
    edited("model.codi", None),
    edited("model.lora", {"rank": 128, "alpha": 32}),
    edited("model.base_rounding", "fp16"),
    edited("protocol", {"name": "bot-first", "steps": 64, "remove_eos": False, "normalise_spaces": True}),
    edited("protocol", None),
    edited("protocol", {"name": "coconut", "feedback": "projection", "first_input": "bot", "not_chosen": ["pad"]}),
    edited("protocol.tokens", {"bot": "<|bocot|>", "eot": 5, "pad": None}),
    edited("protocol", {"after_question": [{"text": "\n"}, {"token": "<x>"}, {"token": 5}, "eos"]}),
    edited("protocol", {"first_input": {"token": 5}, "answer_start": ["eot", {"text": " a"}], "stop": ["eos"]}),
    edited("pairs.limit", 3),
    edited("pairs.equal_answers", "allow"),
    edited("store.sites", ["k", {"site": "v"}, {"phase": "prompt", "site": "resid_post", "index": [-1, 0]}]),
    edited("store.sites", [{"phase": "answer", "site": "latent_raw", "index": [0]}, {"phase": None, "site": "k"}]),
    edited("sweep.filter", "all"),
    edited("sweep.directions", ["denoise", "noise"]),
    edited("sweep.controls", False),
    edited("sweep.controls", ["self"]),
    edited("sweep.controls", []),
    edited("sweep.seed", 9007199254740992),
    edited("decode", {"max_new_tokens": 1, "eos": "</s>"}),
    edited("metrics", ["logits", "answer_logprob"]),
    edited("classifier", "codi"),
    edited("results.csv", "x.csv"),
    edited("engine", {"executor": "reference", "device": "cpu", "dtype": "bf16", "threads": 4, "memory_limit": 4000000000}),
    edited("engine.memory_limit", "1.5GiB"),
    edited("engine.hang_limit", 0),
    edited("engine.memory_limit", "100"),
    edited("protocol.steps", 6.0),
    with_group(site=["k", "v"], layers=[0, "2-3", "late"], heads=[0, 1]),
    with_group(site="latent_in", layers=None),
    with_group(site=["q", "z"], heads=[0, 3]),
    with_edges({}),
    with_edges({"from": {"phase": "answer", "index": ["all", 0, "together:1-3"]}, "heads": "all"}),
    with_edges({"to": {"phase": "prompt", "index": [-1, "-2", "together:-4--2", "together:0-3"]}, "kv_heads": [0, "0-1"]}),
    with_edges({"from": {"steps": ["single:1-5", "all"]}, "heads": ["window:2", "together:all"], "layers": "window:3"}),
    with_edges([{"comment": "x"}, {"layers": None, "heads": None, "kv_heads": 1}], layers="all"),
    with_group(forbid=EDGE, operation="scale", factor=0),
    with_group(forbid=None),
    with_group(layers="together:0-3", steps=["subset:all", "complement:set:0,5"]),
    with_group(layers=["window:2", "together:all", "early", 11], steps="window:2-3"),
    with_group(donor=["clean", "self", "zero", "mean", "shuffled", "random", "corrupted"]),
    with_group(donor=["zero", {"mean": {"by": "answer", "value": "different", "least": 2}}, {"mean": {"steps": "all"}}]),
    with_group(donor={"noise": {"sigma": [0, 2], "around": "mean", "in": "rms", "by": "source", "steps": "all"}}),
    with_group(donor={"noise": {"sigma": 1}}, operation="add"),
    with_group(donor="file", vector=1),
    with_group(operation="lerp", factor=[0, 0.5]),
    with_group(operation="scale"),
    with_group(donor=["nearest_token", "zero"]),
    with_group(donor={"nearest_token": {"by": "cosine", "shift": -1, "layer_norm": True, "keep_norm": None}}, only="numbers"),
    with_group(donor="zero", only="all", last_prompt=True, site=["latent_raw", "attn_out+mlp_out"]),
    with_group(operation="lerp", factor=0.5, donor={"nearest_token": {}}),
    with_group(operation="keep", subspace={"nearest_token": {"top": 16, "keep_norm": True}}, last_prompt=None),
    with_group(operation="remove", subspace={"nearest_token": {"add_along": {"token": "5", "factor": -3}}}, only=None),
    with_group(donor=[{"mean": {"by": "result:0", "least": 2}}, {"mean": {"by": "equation:-1", "value": "different"}}]),
    with_group(site="k+v"),
    with_group(site=["v+k", "attn_out+mlp_out+resid_pre", "latent_in"]),
    with_group(site=["k+v", "z"], heads=[0, 1]),
    with_group(operation="remove", subspace=1),
    with_group(operation="swap", subspace=0, donor=["clean", "zero"]),
    with_group(layers=[1, 2], **{"from": {"layers": [0, 1]}}),
    with_group(**{"from": {"site": "attn_out", "step": 5}}),
    with_group(defects=["off_by_one", "prefill_leak", "decode_leak"]),
    with_group(defects="decode_leak", site="v"),
    with_group(steps="first:2", stop_after=2),
    with_group(**PROMPT),
    with_group(**(PROMPT | {"index": [0, "all", -3]})),
    with_group(**(ANSWER | {"index": "all"})),
    with_group(**(ANSWER | {"from": {"step": 5}, "defects": []})),
    edited("sweep.conditions.0.index", None),
    edited("sweep.conditions.0.comment", "why"),
]

# What a reader must refuse, and part of its message.
BAD: list[tuple[Any, str]] = [
    (edited("$schema", 3), "$.$schema: expected a string"),
    (edited("pairs.$schema", "x"), "$.pairs"),
    (edited("readout", "logit_lens top 51"), "$.readout"),
    (edited("readout", "logit_lens top 05"), "$.readout"),
    (edited("readout", "logit_lens"), "$.readout"),
    (edited("readout", ["logit_lens top 5"]), "$.readout"),
    (edited("sweep.controls", ["self", "unpatched"]), "$.sweep.controls[1]"),
    ([], "$: expected an object"),
    (edited("models", {}), 'unknown key "models"'),
    (edited("model", DROP), 'the key "model" is missing'),
    (edited("model", None), 'the key "model" is missing'),
    (edited("model.base", DROP), 'the key "base" is missing'),
    (edited("model.base", ""), "$.model.base: expected a string that is not empty"),
    (edited("model.codi", 1), "$.model.codi: expected a string"),
    (edited("model.Name", "x"), 'unknown key "Name"'),
    (edited("model.lora", 128), "$.model.lora: expected an object"),
    (edited("model.lora", {"rank": 0}), "$.model.lora.rank: expected an integer"),
    (edited("model.lora", {"r": 1}), 'unknown key "r"'),
    (edited("model.lora", {"alpha": -1}), "$.model.lora.alpha: expected a number"),
    (edited("model.base_rounding", "bf16"), "$.model.base_rounding: expected one of"),
    (edited("protocol", "codi"), "$.protocol: expected an object"),
    (edited("protocol.name", "bot_first"), "$.protocol.name: expected one of"),
    (edited("protocol.tokens", {"start": 1}), '$.protocol.tokens: unknown key "start"'),
    (edited("protocol.tokens", {"bot": -1}), "$.protocol.tokens.bot: expected an integer"),
    (edited("protocol.feedback", "prj"), "$.protocol.feedback: expected one of"),
    (edited("protocol.first_input", {"text": "a"}), "$.protocol.first_input: expected"),
    (edited("protocol.answer_start", []), "$.protocol.answer_start: expected at least one entry"),
    (edited("protocol.stop", ["end"]), "$.protocol.stop[0]: expected one of"),
    (edited("protocol.stop", [{"token": -1}]), "$.protocol.stop[0].token: expected an integer"),
    (edited("protocol.stop", [{"text": ""}]), "$.protocol.stop[0].text: expected 1 to 63 bytes"),
    (edited("protocol.not_chosen", ["eot"] * 9), "$.protocol.not_chosen: expected at most 8"),
    (edited("protocol.steps", -1), "$.protocol.steps: expected an integer"),
    (edited("protocol.steps", 65), "$.protocol.steps: expected an integer"),
    (edited("protocol.steps", "6"), "$.protocol.steps: expected an integer"),
    (edited("protocol.steps", 1.5), "$.protocol.steps: expected an integer"),
    (edited("protocol.remove_eos", 1), "$.protocol.remove_eos: expected true or false"),
    (edited("pairs", DROP), '$.pairs: the key "file" is missing'),
    (edited("pairs.file", DROP), '$.pairs: the key "file" is missing'),
    (edited("pairs.limit", -1), "$.pairs.limit: expected an integer"),
    (edited("pairs.equal_answers", True), "$.pairs.equal_answers: expected one of"),
    (edited("store", DROP), '$.store: the key "file" is missing'),
    (edited("store.sites", "k"), "$.store.sites: expected an array"),
    (edited("store.sites", ["key"]), "$.store.sites[0]: expected one of"),
    (edited("store.sites", [{"phase": "prompt", "site": "k"}]), 'the key "index" is missing'),
    (edited("store.sites", [{"site": "k", "index": [0]}]), "expected no index"),
    (edited("store.sites", [{"phase": "answer", "site": "k", "index": [-1]}]), "index[0]: expected an integer"),
    (edited("store.sites", [{"phase": "prompt", "site": "k", "index": 0}]), "index: expected an array"),
    (edited("store.sites", [{"phase": "prompt", "site": "k", "index": []}]), "index: expected at least one position"),
    (edited("store.sites", [{"phase": "answer", "site": "k", "index": []}]), "index: expected at least one position"),
    (edited("store.sites", [{"site": "k", "layer": 0}]), 'unknown key "layer"'),
    (edited("sweep", {}), 'the key "conditions" is missing'),
    (edited("sweep.conditions", []), "expected at least one condition, found none"),
    (edited("sweep.conditions", GROUP), "$.sweep.conditions: expected an array"),
    (edited("sweep.filter", "none"), "$.sweep.filter: expected one of"),
    (edited("sweep.directions", "noise"), "$.sweep.directions: expected an array"),
    (edited("sweep.directions", ["both"]), "$.sweep.directions[0]: expected one of"),
    (edited("sweep.directions", []), "sweep.directions: expected at least one direction"),
    (edited("sweep.controls", "self"), "$.sweep.controls: expected true or false"),
    (edited("sweep.controls", ["zero"]), "$.sweep.controls[0]: expected one of"),
    (edited("sweep.seed", -1), "$.sweep.seed: expected an integer"),
    (edited("sweep.vectors", [1]), "$.sweep.vectors[0]: expected a string"),
    (edited("results", DROP), '$.results: the key "file" is missing'),
    (edited("results", None), '$.results: the key "file" is missing'),
    (edited("results.json", "x"), 'unknown key "json"'),
    (edited("decode.max_new_tokens", 0), "$.decode.max_new_tokens: expected an integer"),
    (edited("decode.eos", ""), "$.decode.eos: expected a string that is not empty"),
    (edited("metrics", "logits"), "$.metrics: expected an array"),
    (edited("metrics", ["kl"]), "$.metrics[0]: expected one of"),
    (edited("classifier", "exact"), "$.classifier: expected one of"),
    (edited("engine.device", "gpu"), "$.engine.device: expected one of"),
    (edited("engine.executor", "fast"), "$.engine.executor: expected one of"),
    (edited("engine.dtype", "fp16"), "$.engine.dtype: expected one of"),
    (edited("engine.threads", 1025), "$.engine.threads: expected an integer"),
    (edited("engine.batch", 8), 'unknown key "batch"'),
    (edited("engine.hang_limit", 604801), "$.engine.hang_limit: expected an integer"),
    (edited("engine.memory_limit", "4 GiB"), "$.engine.memory_limit: expected a number of bytes"),
    (edited("engine.memory_limit", "-4GiB"), "$.engine.memory_limit: expected a number of bytes"),
    (edited("engine.memory_limit", True), "$.engine.memory_limit: expected a number of bytes"),
    (with_group(site=None), 'the key "site" is missing'),
    (with_group(site="key"), ".site: expected one of"),
    (with_group(site=[]), ".site: expected at least one"),
    (with_group(site="k+k"), ".site: expected different sites with layers and + between them"),
    (with_group(site="v+k+attn_out+v"), ".site: expected different sites with layers"),
    (with_group(site=["k", "k+"]), ".site[1]: expected different sites with layers"),
    (with_group(site="+v"), ".site: expected different sites with layers"),
    (with_group(site="k+key"), ".site: expected different sites with layers"),
    (with_group(site="latent_in+resid_pre"), ".site: expected different sites with layers"),
    (with_group(site="k+v", layers=None), "no layers"),
    (with_group(site="k+attn_out", heads=0), ".heads: only for the sites q, k, v and z"),
    (with_group(layers=None), "no layers"),
    (with_group(layers=[]), ".layers: expected at least one"),
    (with_group(site="latent_in", layers=[]), ".layers: expected at least one"),
    (with_group(layers=-1), ".layers: expected an integer"),
    (with_group(layers="0,1"), ".layers: expected layers"),
    (with_group(steps=None), "no steps"),
    (with_group(steps=[]), ".steps: expected at least one"),
    (with_group(steps=3), ".steps: expected a string"),
    (with_group(steps="first"), ".steps: expected a step set"),
    (with_group(steps="set:0-2"), ".steps: expected a step set"),
    (with_group(steps="complement:complement:all"), ".steps: expected a step set"),
    (with_group(phase="thoughts"), ".phase: expected one of"),
    (with_group(index=0), ".index: only for the phases prompt and answer"),
    (with_group(phase="prompt", index=0), ".steps: only for phase thought"),
    (with_group(phase="prompt", steps=None), "no index"),
    (with_group(**(ANSWER | {"index": -1})), ".index: expected an integer from 0"),
    (with_group(**(PROMPT | {"index": "last"})), ".index: expected an integer"),
    (with_group(**(PROMPT | {"defects": "decode_leak"})), "defects: only for phase thought"),
    (with_group(heads=0), "heads: only for the sites q, k, v and z"),
    (with_group(site="z", heads=-1), ".heads: expected an integer from 0 to 3"),
    (with_edges([]), ".forbid: expected at least one element"),
    (with_edges({"from": None}), 'the key "from" is missing'),
    (with_edges({"to": {"phase": "answers"}}), ".forbid.to.phase: expected one of"),
    (with_edges({"to": {"index": 0}}), ".forbid.to.index: only for the phases prompt and answer"),
    (with_edges({"to": {"phase": "prompt", "steps": "all"}}), ".forbid.to.steps: only for phase thought"),
    (with_edges({"to": {"steps": "0"}}), ".forbid.to.steps: expected a step set"),
    (with_edges({"to": {"phase": "prompt", "index": "0-3"}}), ".forbid.to.index: expected positions of the prompt"),
    (with_edges({"to": {"phase": "answer", "index": -1}}), ".forbid.to.index: expected an integer"),
    (with_edges({"to": {"phase": "answer", "index": "-1"}}), ".forbid.to.index: expected positions of the answer"),
    (with_edges({"heads": "early"}), ".forbid.heads: expected heads within 0-3"),
    (with_edges({"heads": 0, "kv_heads": 0}), ".forbid.kv_heads: expected heads or kv_heads, found both"),
    (with_edges({"head": 0}), 'unknown key "head"'),
    (with_edges({}, steps="all"), ".steps: only together with a site"),
    (with_edges({}, donor="zero"), ".donor: only together with a site"),
    (with_group(site="k", heads=[]), ".heads: expected at least one"),
    (with_group(site="k", heads=-1), ".heads: expected an integer"),
    (with_group(donor="other"), ".donor: expected one of"),
    (with_group(donor=[]), ".donor: expected at least one"),
    (with_group(donor={"mean": {"by": "colour"}}), ".donor.mean.by: expected one of"),
    *(
        (with_group(donor={"mean": {"by": by}}), '.donor.mean.by: expected "result:I" or "equation:I" with a step')
        for by in ("result:", "result:+1", "result:1.5", "equation:1001", "results:1", "answer:0")
    ),
    (with_group(donor={"mean": {"least": 2}}), '.donor.mean.least: expected the key "by"'),
    (with_group(donor={"noise": {}}), 'the key "sigma" is missing'),
    (with_group(donor={"noise": {"sigma": -1}}, operation="add"), ".donor.noise.sigma: expected a number"),
    (with_group(donor={"noise": {"sigma": 1}, "mean": {}}), 'expected one of the keys "mean", "noise" and'),
    (with_group(donor={}), 'expected one of the keys "mean", "noise" and "nearest_token"'),
    (with_group(donor={"nearest_token": {"by": "l2"}}), ".donor.nearest_token.by: expected one of"),
    (with_group(donor={"nearest_token": {"top": 2}}), 'unknown key "top"'),
    (with_group(donor={"nearest_token": {"shift": 0.5}}), ".shift: expected an integer"),
    (with_group(donor="nearest_token", operation="scale"), "only for the operations replace, add and lerp"),
    (with_group(donor="nearest_token", **{"from": {"step": 1}}), ".from: not for the donor nearest_token"),
    (with_group(donor=["zero", "nearest_token"], site="k"), "expected sites as wide as an embedding"),
    (with_group(donor="zero", site="attn_out+v", only="numbers"), "expected sites as wide as an embedding"),
    (with_group(only="words"), ".only: expected one of"),
    (with_group(last_prompt=1), ".last_prompt: expected true or false"),
    (with_group(last_prompt=True, defects=["prefill_leak"]), ".last_prompt: only for phase thought, without"),
    (with_group(**PROMPT, last_prompt=True), ".last_prompt: only for phase thought, without"),
    (with_edges({}, only="numbers"), ".only: only together with a site"),
    (with_group(operation="keep", subspace={"nearest_token": {"top": 17}}), ".top: expected an integer from 1 to 16"),
    (with_group(operation="keep", subspace={"nearest_token": {"add_along": None}}), 'unknown key "add_along"'),
    (with_group(operation="remove", subspace={"nearest_token": {"keep_norm": True}}), 'unknown key "keep_norm"'),
    (with_group(operation="remove", subspace={"nearest_token": {"add_along": {"token": "5"}}}), 'the key "factor" is missing'),
    (with_group(operation="remove", subspace={"nearest_token": {"add_along": {"token": "", "factor": 1}}}), "a text of 1 to 63"),
    (with_group(operation="swap", subspace={"nearest_token": {}}), "expected an index into sweep.vectors"),
    (with_group(operation="keep", subspace={"nearest": {}}), 'unknown key "nearest"'),
    (with_group(donor="file"), 'donor "file" needs the key "vector"'),
    (with_group(donor=["clean", "file"]), 'donor "file" needs the key "vector"'),
    (with_group(vector=0), ".vector: only for donor file"),
    (with_group(operation="keep"), 'the key "subspace" is missing'),
    (with_group(operation="keep", subspace=0, donor="zero"), "the operations remove and keep take none"),
    (with_group(operation="keep", subspace=0, factor=2), ".factor: only for the operations add, scale and lerp"),
    (with_group(subspace=0), ".subspace: only for the operations remove, keep and swap"),
    (with_group(operation="swap", subspace=-1), ".subspace: expected an integer from 0"),
    (with_group(operation="mul"), ".operation: expected one of"),
    (with_group(factor=2), ".factor: only for the operations add, scale and lerp"),
    (with_group(operation="add", factor="2"), ".factor: expected a number"),
    (with_group(operation="add", factor=[]), ".factor: expected at least one"),
    (with_group(**{"from": {"phase": "prompt"}}), 'unknown key "phase"'),
    (with_group(**{"from": {"step": -1}}), ".from.step: expected an integer"),
    (with_group(**{"from": "k"}), ".from: expected an object"),
    (with_group(site="v", defects="off_by_one"), "off_by_one is only for site resid_post"),
    (with_group(defects=["leak"]), ".defects[0]: expected one of"),
    (with_group(stop_after=0), ".stop_after: expected an integer"),
    (with_group(sites="k"), 'unknown key "sites"'),
]


def schema(name: str) -> Draft202012Validator:
    """A schema, itself checked."""
    document = json.loads((SCHEMAS / name).read_text())
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def problems_of_files() -> list[str]:
    """Schema errors of the files in jobs/."""
    files = [(p, "job.schema.json") for p in sorted((ROOT / "jobs").glob("*.json"))]
    files += [(p, "pairs.schema.json") for p in sorted((ROOT / "jobs").glob("**/pairs*.json"))]
    found = []
    for path, name in files:
        for error in schema(name).iter_errors(json.loads(path.read_text())):
            found.append(f"{path.relative_to(ROOT)}: {error.json_path}: {error.message[:200]}")
    print(f"{len(files)} files of jobs/ checked")
    return found


def problems_of_cases(driver: str, program: str | None) -> list[str]:
    """Where schema and reader do not judge a case as they should."""
    judge = schema("job.schema.json")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, job in enumerate(GOOD + [job for job, _ in BAD]):
            path = Path(folder) / f"{i}.json"
            path.write_text(json.dumps(job))
            paths.append(str(path))
        run = subprocess.run([driver, *paths], capture_output=True, text=True, check=True)
        verdicts = run.stdout.splitlines()
        if len(verdicts) != len(paths):
            return [f"{driver}: {len(verdicts)} lines for {len(paths)} jobs"]
        for job, verdict in zip(GOOD, verdicts[: len(GOOD)], strict=True):
            errors = [e.message[:200] for e in judge.iter_errors(job)]
            if errors:
                found.append(f"good job refused by the schema: {json.dumps(job)}: {errors[0]}")
            if verdict != "ok":
                found.append(f"good job refused by the reader: {json.dumps(job)}: {verdict}")
        for (job, message), verdict in zip(BAD, verdicts[len(GOOD) :], strict=True):
            if judge.is_valid(job):
                found.append(f"bad job accepted by the schema: {json.dumps(job)}")
            if message not in verdict:
                found.append(f"bad job: {json.dumps(job)}\n  expected ...{message}\n  found {verdict}")
        if program:
            for k in (1, 15, 50):
                command = [program, "run", paths[len(GOOD) + k]]
                ended = subprocess.run(command, capture_output=True, text=True, check=False)
                if ended.returncode != 1 or BAD[k][1] not in ended.stderr or ended.stderr.count("\n") != 1:
                    found.append(f"{command}: exit code {ended.returncode}, stderr {ended.stderr!r}")
    print(f"{len(GOOD)} good and {len(BAD)} bad jobs judged by the schema and by the reader")
    return found


def main() -> int:
    """Print what does not agree."""
    program = sys.argv[2] if len(sys.argv) > 2 else None
    problems = problems_of_files() + problems_of_cases(sys.argv[1], program)
    for line in problems:
        print(line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
