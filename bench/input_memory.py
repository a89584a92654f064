"""How much memory each kind of input takes for each byte of its file.

    python bench/input_memory.py build/latentpatch [NAME ...] [--megabytes 4]

Each input is a worst case of a few megabytes: as many small values as its format allows. Where the program refuses so
many, blanks are put between them until it does not. The memory is the peak of the resident set less that of the same
command on the smallest such input. The last columns are the command's exit code and the line that it printed where it
refused the input.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "jobs" / "demo"
MOST = 16


stretch = 1.0


def repeat(text: str | Callable[[int], str], size: int, separator: str = ",") -> str:
    """As many entries as make `size` bytes. Blanks make each `stretch` times as long."""
    entries, length, i = [], 0, 0
    while length < size or i == 0:
        entry = text if isinstance(text, str) else text(i)
        entry += " " * round((stretch - 1) * (len(entry) + 1) + 0.5) if stretch > 1 else ""
        entries.append(entry)
        length += len(entry) + len(separator)
        i += 1
    return separator.join(entries)


# ---- jobs

DEMO_JOB = json.loads((DEMO.parent / "demo-gpt2.json").read_text())


def job_text(
    sweep: str = "", rest: str = "", conditions: str = '[{"site":"latent_in","steps":"single:0","donor":"clean"}]'
) -> str:
    """The demo job with a sweep of these conditions."""
    model = {key: str(DEMO.parent / DEMO_JOB["model"][key]) for key in ("base", "codi")}
    head = {
        "model": model,
        "pairs": {"file": str(DEMO / "pairs.json"), "limit": 2},
        "decode": {"max_new_tokens": 16},
        "results": {"file": "r.results.h5"},
    }
    head |= {"store": {"file": "s.store.h5"}} if '"store"' not in rest else {}
    return json.dumps(head)[:-1] + f',{rest}"sweep":{{"filter":"all",{sweep}"conditions":{conditions}}}}}'


def job(**parts: Callable[[int], str]) -> Callable[[Path, int], list[str]]:
    """`plan` of such a job; a part is made for a number of bytes."""

    def make(folder: Path, size: int) -> list[str]:
        path = folder / "job.json"
        path.write_text(job_text(**{key: part(size) for key, part in parts.items()}))
        return ["plan", str(path)]

    return make


def one_condition(
    key: str, entry: str | Callable[[int], str], beside: str = '"site":"latent_in","steps":"single:0","donor":"clean"'
) -> Callable[[int], str]:
    """One group with a long list."""
    return lambda size: f'[{{{beside},"{key}":[{repeat(entry, size)}]}}]'


def groups(entry: str | Callable[[int], str]) -> Callable[[int], str]:
    """Many groups."""
    return lambda size: f"[{repeat(entry, size)}]"


# ---- pairs and problems


def pairs(head: str, entry: Callable[[int], str], tail: str, separator: str = ",") -> Callable[[Path, int], list[str]]:
    """`pairs check` of a pair file."""

    def make(folder: Path, size: int) -> list[str]:
        path = folder / "pairs.json"
        path.write_text(head + repeat(entry, size, separator) + tail)
        return ["pairs", "check", str(path)]

    return make


def problems(
    form: str, head: str, entry: str | Callable[[int], str], tail: str, separator: str
) -> Callable[[Path, int], list[str]]:
    """`pairs make` from a source."""

    def make(folder: Path, size: int) -> list[str]:
        path = folder / "source"
        path.write_text(head + repeat(entry, size, separator) + tail)
        (folder / "made.json").unlink(missing_ok=True)
        return [
            "pairs",
            "make",
            "--source",
            str(path),
            "--format",
            form,
            "-o",
            str(folder / "made.json"),
            "--count",
            "1",
        ]

    return make


# ---- models and tokenizers


def model(folder: Path) -> Path:
    """A link to every file of the demo model's base, to be replaced."""
    base = folder / "base"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (base / name).symlink_to(DEMO / "gpt2" / "base" / name)
    return base


def replace(base: Path, name: str, data: bytes | str) -> None:
    """A file of the model that is not a link."""
    (base / name).unlink(missing_ok=True)
    (base / name).write_bytes(data.encode() if isinstance(data, str) else data)


def safetensors(header: Callable[[int], str]) -> Callable[[Path, int], list[str]]:
    """`inspect` of a checkpoint that is all header."""

    def make(folder: Path, size: int) -> list[str]:
        base = model(folder)
        text = header(size).encode()
        replace(base, "model.safetensors", struct.pack("<Q", len(text)) + text)
        return ["inspect", "--base", str(base)]

    return make


def index(size: int) -> str:
    """The index of a sharded checkpoint."""
    return '{"weight_map":{' + repeat(lambda i: f'"{i:x}":"a"', size) + "}}"


def sharded(folder: Path, size: int) -> list[str]:
    """`inspect` of such a checkpoint."""
    base = model(folder)
    (base / "model.safetensors").unlink()
    replace(base, "model.safetensors.index.json", index(size))
    return ["inspect", "--base", str(base)]


def pickled(opcodes: Callable[[int], bytes]) -> Callable[[Path, int], list[str]]:
    """`inspect` of a .bin whose pickle has these opcodes."""

    def make(folder: Path, size: int) -> list[str]:
        base = model(folder)
        (base / "model.safetensors").unlink()
        with zipfile.ZipFile(base / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", opcodes(size))
            archive.writestr("archive/version", b"3\n")
        return ["inspect", "--base", str(base)]

    return make


def tokenizer(text: Callable[[int], str]) -> Callable[[Path, int], list[str]]:
    """`tokenize` with such a tokenizer."""

    def make(folder: Path, size: int) -> list[str]:
        path = folder / "tokenizer.json"
        path.write_text(text(size))
        return ["tokenize", "--tokenizer", str(path), "a"]

    return make


def tokenizer_json(n_words: int, merges: Callable[[int], str] | None = None, added: str = "") -> str:
    """The demo model's tokenizer with other words."""
    whole = json.loads((DEMO / "gpt2" / "base" / "tokenizer.json").read_text())
    letters = [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]
    words = [chr(c) for c in letters] + [word(i) for i in range(n_words)]
    whole["model"] |= {"vocab": {w: i for i, w in enumerate(words)}, "merges": ["here"]}
    whole["added_tokens"] = ["here"]
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    joined = ",".join(merges(i) for i in range(n_words)) if merges else ""
    return text.replace('"added_tokens":["here"]', f'"added_tokens":[{added}]').replace(
        '"merges":["here"]', f'"merges":[{joined}]'
    )


def vocabulary_files(folder: Path, size: int) -> list[str]:
    """`tokenize` with vocab.json and merges.txt."""
    base = folder / "tokens"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    letters = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256)) + list(range(256, 324))
    known = ",".join(f"{json.dumps(chr(c), ensure_ascii=False)}:{i}" for i, c in enumerate(letters))
    words = repeat(lambda i: f'"{word(i)}":{256 + i}', size // 2)
    (base / "vocab.json").write_text("{" + known + "," + words + "}")
    count = words.count(":")
    (base / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(f"{word(i)[:-1]} {word(i)[-1]}" for i in range(count)) + "\n"
    )
    return ["tokenize", "--tokenizer", str(base), "a"]


def word(i: int) -> str:
    """Two letters, then three, ...; each but its last letter is there before it."""
    letters, text, i = "abcdefghijklmnopqrstuvwxyz", "", i + 26
    while True:
        text = letters[i % 26] + text
        i = i // 26 - 1
        if i < 0:
            return text


CASES: dict[str, Callable[[Path, int], list[str]]] = {
    "pickle: lists": pickled(lambda n: b"\x80\x02" + b"]" * n + b"."),
    "pickle: dictionaries": pickled(lambda n: b"\x80\x02" + b"}" * n + b"."),
    "pickle: short texts": pickled(lambda n: b"\x80\x02" + b"X\x01\x00\x00\x00a" * (n // 6) + b"."),
    "pickle: memo": pickled(
        lambda n: b"\x80\x02" + b"".join(b"]r" + struct.pack("<I", i) for i in range(n // 6)) + b"."
    ),
    "pickle: tuples": pickled(lambda n: b"\x80\x02" + b"K\x01\x85" * (n // 3) + b"."),
    "safetensors: small tensors": safetensors(
        lambda n: "{" + repeat(lambda i: f'"{i:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}', n) + "}"
    ),
    "safetensors: dimensions": safetensors(
        lambda n: '{"a":{"dtype":"F32","shape":[' + repeat("0", n) + '],"data_offsets":[0,0]}}'
    ),
    "safetensors: metadata": safetensors(lambda n: '{"__metadata__":{' + repeat(lambda i: f'"{i:x}":"a"', n) + "}}"),
    "safetensors: index": sharded,
    "config.json": lambda folder, n: (
        replace(b := model(folder), "config.json", '{"a":[' + repeat("1", n) + "]}"),
        ["inspect", "--base", str(b)],
    )[1],
    "tokenizer.json: vocabulary": tokenizer(lambda n: tokenizer_json(n // 12)),
    "tokenizer.json: merges": tokenizer(lambda n: tokenizer_json(n // 21, lambda i: f'"{word(i)[:-1]} {word(i)[-1]}"')),
    "tokenizer.json: merges as arrays": tokenizer(
        lambda n: tokenizer_json(n // 24, lambda i: f'["{word(i)[:-1]}","{word(i)[-1]}"]')
    ),
    "tokenizer.json: added tokens": tokenizer(
        lambda n: tokenizer_json(
            0,
            added=repeat(
                lambda i: (
                    f'{{"id":{256 + i},"content":"<{i}>","single_word":false,"lstrip":false,"rstrip":false,'
                    '"normalized":false,"special":true}'
                ),
                n,
            ),
        )
    ),
    "tokenizer.json: other values": tokenizer(lambda n: '{"version":"1.0","truncation":[' + repeat("1", n) + "]}"),
    "vocab.json and merges.txt": vocabulary_files,
    "job: groups": job(conditions=groups('{"site":"latent_in","steps":"single:0","donor":"clean"}')),
    "job: different groups": job(
        conditions=groups(lambda i: f'{{"site":"latent_in","steps":"single:0","operation":"scale","factor":{i}}}')
    ),
    "job: groups of edges": job(
        conditions=groups('{"layers":0,"forbid":{"from":{"phase":"answer"},"to":{"steps":"single:0"}}}')
    ),
    "job: steps": job(conditions=one_condition("steps", '"all"', beside='"site":"latent_in","donor":"clean"')),
    "job: layers": job(
        conditions=one_condition("layers", "1", beside='"site":"resid_post","steps":"single:0","donor":"clean"')
    ),
    "job: donors": job(conditions=one_condition("donor", '"zero"', beside='"site":"latent_in","steps":"single:0"')),
    "job: donors with labels": job(
        conditions=one_condition(
            "donor",
            lambda i: f'{{"mean":{{"by":"result:{i % 1000}"}}}}',
            beside='"site":"latent_in","steps":"single:0"',
        )
    ),
    "job: edits by nearest tokens": job(
        conditions=one_condition(
            "donor",
            lambda i: f'{{"nearest_token":{{"shift":{i % 1000000}}}}}',
            beside='"site":"latent_in","steps":"single:0"',
        )
    ),
    "job: noise": job(
        conditions=lambda n: (
            '[{"site":"latent_in","steps":"single:0","operation":"add",'
            f'"donor":{{"noise":{{"sigma":[{repeat("1", n)}]}}}}}}]'
        )
    ),
    "job: factors": job(
        conditions=one_condition(
            "factor", "1", beside='"site":"latent_in","steps":"single:0","donor":"clean","operation":"scale"'
        )
    ),
    "job: sites": job(conditions=one_condition("site", '"k"', beside='"layers":0,"steps":"single:0","donor":"clean"')),
    "job: heads": job(
        conditions=one_condition("heads", "0", beside='"site":"z","layers":0,"steps":"single:0","donor":"clean"')
    ),
    "job: positions": job(
        conditions=one_condition("index", "1", beside='"site":"resid_post","layers":0,"phase":"prompt","donor":"clean"')
    ),
    "job: edges of one group": job(
        conditions=one_condition("forbid", '{"from":{"phase":"answer"},"to":{"steps":"all"}}', beside='"layers":0')
    ),
    "job: positions of an edge": job(
        conditions=lambda n: (
            '[{"layers":0,"forbid":{"from":{"phase":"answer"},'
            f'"to":{{"phase":"prompt","index":[{repeat("1", n)}]}}}}}}]'
        )
    ),
    "job: vectors": job(sweep=lambda n: f'"vectors":[{repeat(chr(34) + "a" + chr(34), n)}],'),
    "job: directions": job(sweep=lambda n: f'"directions":[{repeat(chr(34) + "noise" + chr(34), n)}],'),
    "job: controls": job(sweep=lambda n: f'"controls":[{repeat(chr(34) + "self" + chr(34), n)}],'),
    "job: metrics": job(rest=lambda n: f'"metrics":[{repeat(chr(34) + "logits" + chr(34), n)}],'),
    "job: store.sites": job(
        rest=lambda n: f'"store":{{"file":"s.store.h5","sites":[{repeat(chr(34) + "k" + chr(34), n)}]}},'
    ),
    "job: positions of store.sites": job(
        rest=lambda n: (
            f'"store":{{"file":"s.store.h5","sites":[{{"phase":"prompt","site":"k","index":[{repeat("1", n)}]}}]}},'
        )
    ),
    "job: comment": job(rest=lambda n: f'"comment":[{repeat("1", n)}],'),
    "pairs, our form": pairs(
        '{"format":"latentpatch-pairs","version":1,"pairs":[',
        lambda i: f'{{"id":{i},"clean":{{"question":"a","answer":1}},"corrupted":{{"question":"a","answer":2}}}}',
        "]}",
    ),
    "pairs with graphs": pairs(
        '{"format":"latentpatch-pairs","version":1,"pairs":[',
        lambda i: (
            f'{{"id":{i},"clean":{{"question":"a","answer":1}},"corrupted":{{"question":"a","answer":2}},"graph":['
            + repeat('{"equation":"a","clean":"1","corrupted":"2","uses":[]}', 2000)
            + "]}"
        ),
        "]}",
    ),
    "pairs, original form": pairs(
        "[",
        lambda i: f'{{"pair_id":{i},"clean":{{"question":"a","answer":1}},"corrupted":{{"question":"a","answer":2}}}}',
        "]",
    ),
    "pairs, original form, flat": pairs(
        "[",
        lambda i: (
            f'{{"id":{i},"variants":{{"clean":{{"question":"a","answer":1}},'
            '"corrupted":{"question":"a","answer":2}}}'
        ),
        "]",
    ),
    "problems: gsm8k": problems("gsm8k", "", '{"question":"a","answer":"#### 1"}', "\n", "\n"),
    "problems: gsm8k-aug": problems("gsm8k-aug", "", "a||#### 1", "\n", "\n"),
    "problems: svamp": problems("svamp", "[", '{"Body":"a","Question":"b","Equation":"1","Answer":1}', "]", ","),
    "problems: gsm-plus": problems(
        "gsm-plus",
        "",
        '{"question":"a","answer":"1","seed_question":"a","seed_solution":"#### 1","seed_answer":"1",'
        '"perturbation_type":"a"}',
        "\n",
        "\n",
    ),
    "problems: templates": problems(
        "templates",
        '{"format":"latentpatch-templates","version":1,"result_range":[1,60],"held_out_modulus":6,"templates":[',
        lambda i: (
            f'{{"id":"{i}","steps":1,"text":"{{a}}","words":{{}},"variables":{{"a":[1,9]}},"constraints":[],'
            '"equations":[],"answer":"a"}'
        ),
        "]}",
        ",",
    ),
}


def run(program: str, words: list[str], folder: Path) -> tuple[int, int, float, str]:
    """Exit code, peak in bytes, processor time, last line on stderr."""
    err = folder / "stderr"
    process = os.fork()
    if process == 0:
        os.chdir(folder)
        handle = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(program, [program, *words])
    _, status, usage = os.wait4(process, 0)
    lines = [line for line in err.read_text(errors="replace").splitlines() if line]
    return (
        os.waitstatus_to_exitcode(status),
        usage.ru_maxrss * 1024,
        usage.ru_utime + usage.ru_stime,
        lines[-1] if lines else "",
    )


def made(make: Callable[[Path, int], list[str]], folder: Path, size: int) -> list[str]:
    """The words of the command. Another process makes the input: what this one holds counts for whom it starts."""
    at = folder / "words"
    if os.fork() == 0:
        at.write_text("\0".join(make(folder, size)))
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
    words = at.read_text().split("\0")
    at.unlink()
    return words


def main() -> None:
    """The table."""
    global stretch
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("names", nargs="*", help="inputs whose name begins so (default: all)")
    parser.add_argument("--megabytes", type=float, default=4)
    options = parser.parse_args()
    program = os.path.abspath(options.program)
    folder = Path(tempfile.mkdtemp(prefix="latentpatch-memory-"))
    worst = 0.0
    print("| input | MB | bytes of memory a byte | seconds | exit code | |\n|---|---|---|---|---|---|")
    try:
        for name, make in CASES.items():
            if options.names and not any(name.startswith(wanted) for wanted in options.names):
                continue
            _, least, _, _ = run(program, made(make, folder, 0), folder)
            words = made(make, folder, int(options.megabytes * 1e6))
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
            code, most, seconds, said = run(program, words, folder)
            refused = re.search(r"need (\d+) bytes of memory: expected at most (\d+)", said)
            note = ""
            if refused:  # with blanks between the values, until it is just not refused
                stretch = 1.05 * int(refused[1]) / int(refused[2])
                words = made(make, folder, int(options.megabytes * 1e6))
                code, most, seconds, said = run(program, words, folder)
                note, stretch = f" with blanks, {stretch:.1f} times as long,", 1.0
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
            ratio = max(0, most - least) / size
            worst = max(worst, ratio)
            said = said.replace(str(folder) + "/", "").replace("|", "/")[:150]
            print(f"| {name}{note} | {size / 1e6:.1f} | {ratio:.1f} | {seconds:.2f} | {code} | {said} |", flush=True)
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        shutil.rmtree(folder)
    sys.exit(f"{worst:.1f} bytes a byte: expected at most {MOST}" if worst > MOST else 0)


if __name__ == "__main__":
    main()
