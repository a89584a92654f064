"""Random Unicode strings through our tokenizer and through the `tokenizers` package: every id and decoding must agree.

    tokenizer_random.py DRIVER [--count N] [--seed N]

DRIVER is the program tokenizer_driver of the build. The tokenizers are those of the fixtures and of the demo models,
the published ones of GPT-2 and LLaMA-3 where the outside data is ($LATENTPATCH_TEST_DATA or ../shared/data), and
variants of the first that use the rarer settings (prefix space, stripping and single-word added tokens, templates,
missing bytes).
Exit code 77 and a line `skipped: ...` where the package is missing.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SKIPPED = 77
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
ALMOST_WHITE_SPACE = "\x1c\x1f\u180e\u200b\u2060\ufeff"
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'lL", "'\u017f", "\u2019s", "''", "'x"]
JOINED = [
    "e\u0301",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1e9\U0001f1ea",
    "\u0e01\u0e33",
    "\ufb01",
    "\u0130",
]
BASES = "aeoAEIOUncs\u0915\u0995\u1025\u1100\u1161\u11a8\u1112\u1175\u304b\u3046\uac00\u0414\u03b1\u212b\u1e9b"
MARKS = "".join(chr(c) for c in range(0x300, 0x346)) + "\u093c\u09be\u102e\u3099\u309a\u05b0\u05bc\u0f71\u0f72\u1161\u11a8"
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = [
    "John",
    " has",
    " 12",
    " apples",
    ".",
    " How",
    " many",
    "?",
    "<<3*4=12>>",
    "$1,200.50",
    " the",
    "answer",
    "\n\n",
    "####",
]


# Digits of Unicode 15 and 16, which Pythons from 3.12 know and PCRE2 10.42 (Debian 12, Ubuntu 24.04) does not.
NEW_DIGITS = tuple(
    range(first, first + n)
    for first, n in (
        (0x10D40, 10),
        (0x116D0, 20),
        (0x11BF0, 10),
        (0x11F50, 10),
        (0x16130, 10),
        (0x16D70, 10),
        (0x1CCF0, 10),
        (0x1D2C0, 20),
        (0x1E4F0, 10),
        (0x1E5F1, 10),
    )
)


def scalar(rng: random.Random, low: int, high: int) -> str:
    """A random code point that is no surrogate."""
    while True:
        code = rng.randint(low, high)
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def pieces(rng: random.Random, numbers: list[str], spellings: list[str]) -> Callable[[], str]:
    """A maker of short texts of every kind that pre-tokenization tells apart."""
    makers: list[Callable[[], str]] = [
        lambda: scalar(rng, 0, 0x10FFFF),
        lambda: scalar(rng, 0, 0x323AF),
        lambda: scalar(rng, 0, 0x2FFF),
        lambda: chr(rng.randint(0, 0xFF)),
        lambda: chr(rng.randint(0x20, 0x7E)) * rng.randint(1, 4),
        lambda: "".join(rng.choices(WHITE_SPACE, k=rng.randint(1, 4))),
        lambda: " " * rng.randint(1, 20),
        lambda: rng.choice(["\n", "\r\n", "\r", "\n\n", " \n", "\n "]),
        lambda: rng.choice(ALMOST_WHITE_SPACE),
        lambda: "".join(rng.choices(numbers, k=rng.randint(1, 5))),
        lambda: str(rng.randint(0, 10 ** rng.randint(1, 12))),
        lambda: rng.choice(CONTRACTIONS),
        lambda: rng.choice(JOINED),
        lambda: rng.choice(WORDS),
        lambda: rng.choice(spellings),
        lambda: rng.choice(spellings)[: rng.randint(0, 6)],
        lambda: rng.choice(BASES) + "".join(rng.choices(MARKS, k=rng.randint(1, 5))),
        lambda: unicodedata.normalize("NFD", scalar(rng, 0x80, 0x2FFF)),
    ]
    return lambda: rng.choice(makers)()


def texts(rng: random.Random, count: int, spellings: list[str]) -> Iterator[bytes]:
    """Random texts as bytes; every tenth is not UTF-8."""
    numbers = [
        chr(c)
        for c in range(0x110000)
        if unicodedata.category(chr(c)).startswith("N") and not any(c in digits for digits in NEW_DIGITS)
    ]
    piece = pieces(rng, numbers, spellings)
    for i in range(count):
        if i % 10 == 9:  # bytes that are not UTF-8
            raw = bytearray("".join(piece() for _ in range(rng.randint(1, 6))).encode())
            for _ in range(rng.randint(1, 4)):
                at = rng.randint(0, len(raw))
                raw[at : at + rng.randint(0, 1)] = bytes([rng.choice([rng.randint(0x80, 0xFF), 0xE0, 0xED, 0xF0, 0xF4, 0x80])])
            yield bytes(raw)
        elif i % 1000 == 8:  # long pre-tokens
            yield "".join(rng.choices("abcdeABCDE", k=rng.randint(500, 5000))).encode()
        else:
            yield "".join(piece() for _ in range(rng.randint(0, 12))).encode()


def add(document: dict[str, Any], content: str, **flags: bool) -> dict[str, Any]:
    """Adds a token to the document, with the id that the package would give it."""
    vocab = document["model"]["vocab"]
    n = len(vocab) + len([t for t in document["added_tokens"] if t["content"] not in vocab])
    token: dict[str, Any] = {"id": vocab.get(content, n), "content": content}
    token |= {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False} | flags
    document["added_tokens"].append(token)
    return token


def variants(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rarer settings, each alone, made from a GPT-2 kind of tokenizer.json."""
    beyond = [token for token in document["added_tokens"] if token["content"] not in document["model"]["vocab"]]
    document = document | {"added_tokens": beyond[:1]}

    def changed() -> dict[str, Any]:
        return copy.deepcopy(document)

    prefixed = changed()
    prefixed["pre_tokenizer"]["add_prefix_space"] = True
    yield "prefix space", prefixed

    stripping = changed()
    add(stripping, "has", single_word=True)
    add(stripping, "apples", lstrip=True, normalized=True)
    add(stripping, "12", rstrip=True)
    add(stripping, "  ", rstrip=True, lstrip=True)
    add(stripping, "\n")
    add(stripping, "app", normalized=True, single_word=True, special=True)
    add(stripping, "the", lstrip=True, rstrip=True, single_word=True)
    add(stripping, "\u0301", single_word=True)
    add(stripping, "<<", normalized=True)
    add(stripping, "<<3", special=True)
    add(stripping, "\u0120\u0120", special=True)
    yield "added tokens", stripping

    template = changed()
    first, last = document["added_tokens"][0], add(template, "<last>", special=True)
    pieces_around = [
        {"SpecialToken": {"id": "start", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<last>", "type_id": 0}},
    ]
    single = {
        "type": "TemplateProcessing",
        "single": pieces_around,
        "pair": [*pieces_around, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "start": {"id": "start", "ids": [first["id"], 3], "tokens": [first["content"], "x"]},
            "<last>": {"id": "<last>", "ids": [last["id"]], "tokens": ["<last>"]},
        },
    }
    template["post_processor"] = {"type": "Sequence", "processors": [single, document["post_processor"]]}
    yield "templates", template

    whole = changed()
    whole["model"]["ignore_merges"] = True
    whole["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m for m in whole["model"]["merges"]]
    yield "ignore_merges, merges as strings", whole

    split = changed()
    splits = [
        "\\p{N}{1,3}",
        "(?i:'s|'re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\s*[\\r\\n]+",
        "\\S|(?=\\p{Lu})",
        "[\\s\\p{P}]++",
    ]
    split["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            *({"type": "Split", "pattern": {"Regex": s}, "behavior": "Isolated", "invert": False} for s in splits[:2]),
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False},
        ],
    }
    yield "two splits and a prefix space", split
    for pattern in splits[2:]:
        odd = copy.deepcopy(split)
        odd["pre_tokenizer"]["pretokenizers"][:2] = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        ]
        yield f"split at {pattern}", odd

    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    qwen = changed()
    qwen["normalizer"] = {"type": "NFC"}
    pattern = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    qwen["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [pattern, level]}
    add(qwen, "<|im_end|>", special=True)
    add(qwen, "has", normalized=True)
    add(qwen, "\u212b")
    yield "NFC and Qwen's pattern", qwen

    for individual in (True, False):
        digits = changed()
        step = {"type": "Digits", "individual_digits": individual}
        digits["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step, document["pre_tokenizer"]]}
        yield f"digits, individual {individual}", digits

    neutral = changed()
    nothing = {"type": "Sequence", "pretokenizers": []}
    neutral["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}
    neutral["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [nothing, document["pre_tokenizer"]]}
    neutral["post_processor"] = {"type": "Sequence", "processors": []}
    neutral["decoder"] = {"type": "Sequence", "decoders": [document["decoder"]]}
    neutral["model"]["dropout"] = 0.0
    yield "neutral parts", neutral

    holes = changed()
    holes["added_tokens"] = []
    holes["model"]["vocab"] = {token: 2 * i for token, i in document["model"]["vocab"].items()}
    yield "ids with holes", holes

    missing = changed()
    vocab = missing["model"]["vocab"]
    gone = {token for token in vocab if set(token) & {"e", "\u0120", "\u00c3"}}
    kept = [token for token in vocab if token not in gone]
    missing["model"]["vocab"] = {token: i for i, token in enumerate(kept)}
    sides = [m if isinstance(m, list) else m.split(" ") for m in missing["model"]["merges"]]
    missing["model"]["merges"] = [m for m in sides if not (set(m[0] + m[1]) & {"e", "\u0120", "\u00c3"})]
    missing["added_tokens"] = []
    add(missing, "<none>", special=True)
    missing["post_processor"] = None
    yield "bytes without a token", missing


def ours(driver: str, path: str, inputs: list[bytes], special: bool, skip: bool) -> list[tuple[list[int], str]]:
    """The ids and the decoding that our tokenizer gives for each input."""
    stream = b"".join(struct.pack("<I", len(text)) + text for text in inputs)
    command = [driver, path, "special" if special else "plain", "skip" if skip else "all"]
    done = subprocess.run(command, input=stream, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.decode().strip())
    out, at, results = done.stdout, 0, []
    for _ in inputs:
        (n,) = struct.unpack_from("<I", out, at)
        ids = list(struct.unpack_from(f"<{n}i", out, at + 4))
        at += 4 + 4 * n
        (length,) = struct.unpack_from("<I", out, at)
        results.append((ids, out[at + 4 : at + 4 + length].decode()))
        at += 4 + length
    return results


def compare(driver: str, path: str, name: str, count: int, seed: int, special: bool) -> int:
    """Compares one tokenizer on its own random texts; returns the number of differences."""
    from tokenizers import Tokenizer

    rng = random.Random(f"{seed} {name}")
    theirs = Tokenizer.from_file(path)
    spellings = [token.content for token in theirs.get_added_tokens_decoder().values()][:20]
    spellings += [
        "<|",
        "|>",
        "has",
        "apples",
    ]
    inputs = list(texts(rng, count, spellings))
    got = ours(driver, path, inputs, special, skip=special)
    wrong = 0
    for start in range(0, count, 1000):
        batch = [text.decode("utf-8", "replace") for text in inputs[start : start + 1000]]
        encoded = theirs.encode_batch(batch, add_special_tokens=special)
        decoded = theirs.decode_batch([e.ids for e in encoded], skip_special_tokens=special)
        for i, (encoding, text) in enumerate(zip(encoded, decoded, strict=True)):
            if got[start + i] != (encoding.ids, text):
                wrong += 1
                if wrong <= 5:
                    print(f"{name}: {inputs[start + i]!r}\n  ours   {got[start + i]}\n  theirs {(encoding.ids, text)}")
    print(f"{name}: {count} texts, {sum(len(ids) for ids, _ in got)} tokens, {wrong} differences")
    return wrong


def published(root: Path) -> Iterator[Path]:
    """The real tokenizers, where they are."""
    folder = Path(os.environ.get("LATENTPATCH_TEST_DATA", root.parent / "shared" / "data"))
    for model in ("gpt2", "llama3"):
        path = folder / model / "tokenizer.json"
        if path.is_file():
            yield path
        else:
            print(f"skipped: no outside data ({model}/tokenizer.json)")


def main() -> int:
    """Compares everything; 0 when all agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driver")
    parser.add_argument("--count", type=int, default=50000, help="texts over all tokenizers, shared out evenly")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if importlib.util.find_spec("tokenizers") is None:
        print("skipped: no Python package `tokenizers`")
        return SKIPPED
    root = Path(__file__).resolve().parent.parent
    fixtures = root / "tests" / "fixtures"
    paths = [fixtures / "tokenizer_gpt2.json", fixtures / "tokenizer_llama.json"]
    paths += sorted(root.glob("jobs/demo/*/base/tokenizer.json"))
    paths += published(root)

    with tempfile.TemporaryDirectory() as folder:
        rounds = [(str(path), "/".join(path.parts[-3:])) for path in paths]
        for i, (name, document) in enumerate(variants(json.loads(paths[0].read_text(encoding="utf-8")))):
            file = Path(folder) / f"variant_{i}.json"
            file.write_text(json.dumps(document), encoding="utf-8")
            rounds.append((str(file), name))
        each = options.count // len(rounds) // 2 + 1
        wrong = 0
        for path, name in rounds:
            wrong += compare(options.driver, path, name, each, options.seed, special=False)
            wrong += compare(options.driver, path, f"{name}, special", each, options.seed, special=True)
    print(f"{2 * each * len(rounds)} texts in all, {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
