"""Makes the tokenizer fixtures with the `tokenizers` package (0.21.4): two tiny tokenizers and texts with their tokens.

    tokenizer_cases.py tests/fixtures

writes tokenizer_gpt2.json and tokenizer_llama.json (built like the two real ones, trained on a few sentences, with
added tokens of every kind), tokenizer_odd.json (prefix space; added tokens that meet each other) and
tokenizer_cases.jsonl: per text (as hexadecimal bytes, since some are not UTF-8) the ids without and with the
post-processor, and the decoding with and without special tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCES = [
    "The answer is: 12. How many apples does John have in total?",
    "John has 12 apples and buys 120 more; he'll pay $3.50 for each. They're his.",
    "<<3*4=12>> <<12+120=132>>  There\n\n    are 132 apples, aren't there?",
]
ADDED = [
    AddedToken("<end>", special=True, normalized=False),
    AddedToken("<mask>", special=True, lstrip=True, normalized=False),
    AddedToken("<right>", rstrip=True, normalized=False),
    AddedToken("pad", single_word=True, normalized=False),
    AddedToken("<<", normalized=True),
    AddedToken("<<12", normalized=True, special=True),
    AddedToken("\u00fcber", normalized=False),
]
ODD_ADDED = [
    AddedToken("  ", lstrip=True, rstrip=True, normalized=False),
    AddedToken("12", rstrip=True, normalized=False),
    AddedToken("\n", normalized=False),
    AddedToken("the", lstrip=True, single_word=True, normalized=False),
    AddedToken("xy", normalized=True),
    AddedToken("yz", normalized=False),
    AddedToken("\u4e16\u754c", normalized=False),
    AddedToken("<end>", special=True, normalized=True, rstrip=True),
]
TEXTS: list[str | bytes] = [
    "", " ", "  ", "a", "apples", " apples", "xyz xy yz", "12\n\n12 \n12", "in the the  the<end>  the",
    "John has 12 apples.", "The answer is: 132", "How many?\n\nJohn\r\n has  12   apples \n", "\t\tapples\t",
    "12345678901234567890", "1,200.50", "\u0661\u0662\u0663\u0664 \u00b2\u00b3\u00bd \u2167",
    "don't DON'T we'Re he\u2019s x'\u017f 'S", "he'll'd've", "<<3*4=12>> <<12+1=13>>", "a <<12>> b", "<end>",
    "<end><end>", " <end> ", "John<end>has", "<en", "<mask>", "apples   <mask>   has", "<right>  apples",
    "  <right>\n\n<mask>  x", "\u3000\u00a0<mask>", "pad", " pad ", "padding", "xpad pad", "pad.pad", "_pad",
    "pad\u0301", "\u00fcber \u00fcberall", "\u4f60\u597d\uff0c\u4e16\u754c", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "e\u0301\u0301",
    "\u180e \u180e\u200b\u2060\ufeff", "x\u0085y\u2028z\u1680", "\x00\x01\x1f\x7f",
    "\u0378\ue000\U000f0000\U0010ffff\uffff", "\u1c89\ua7cb\U00031350\U0002ebf0 \U00010d40\U0001e4f5",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 40, " " * 33 + "x", "\n" * 9, "Ġthe Ċ ĠĠ",
    "\u2126\u212a\u0130\u0131\ufb01", b"\xe0\x80\x80", b"\xff", b"\x80\x80", b"apples\xc3", b"\xe2\x82 12",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf\xf0\x9f\x98", b"\xf0\x9f\x98\x80\xf0\x28\x8c\x28",
    b"a\xfe<end>\xfe",
]  # fmt: skip


def tiny(kind: str) -> Tokenizer:
    """A tokenizer built like GPT-2's or LLaMA-3's, with some 70 tokens beyond the bytes."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama"))
    if kind != "llama":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "odd")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens(ODD_ADDED if kind == "odd" else ADDED)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if kind == "llama":
        tokenizer.add_special_tokens(["<begin>"])
        begin = tokenizer.token_to_id("<begin>")
        template = processors.TemplateProcessing(
            single="<begin> $A", pair="<begin> $A <begin>:1 $B:1", special_tokens=[("<begin>", begin)]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def main() -> None:
    """Writes the four files."""
    folder = Path(sys.argv[1])
    rows = []
    for kind in ("gpt2", "llama", "odd"):
        tokenizer = tiny(kind)
        tokenizer.save(str(folder / f"tokenizer_{kind}.json"), pretty=False)
        for text in [*TEXTS, *SENTENCES]:
            raw = text if isinstance(text, bytes) else text.encode()
            plain = tokenizer.encode(raw.decode("utf-8", "replace"), add_special_tokens=False).ids
            special = tokenizer.encode(raw.decode("utf-8", "replace")).ids
            decoded = tokenizer.decode(special, skip_special_tokens=False).encode().hex()
            skipped = tokenizer.decode(special, skip_special_tokens=True).encode().hex()
            rows.append(
                {
                    "tokenizer": kind,
                    "text": raw.hex(),
                    "plain": plain,
                    "special": special,
                    "all": decoded,
                    "skip": skipped,
                }
            )
        # Ids in an order that no text has: half characters, special tokens, ids that nobody has.
        n = tokenizer.get_vocab_size()
        for ids in (
            [n + 5, 40, n, 1 << 30],
            [222, 223],
            [172, 253, 245, 250],
            list(range(n - 12, n)),
            list(range(0, n, 7)),
        ):
            decoded = tokenizer.decode(ids, skip_special_tokens=False).encode().hex()
            skipped = tokenizer.decode(ids, skip_special_tokens=True).encode().hex()
            rows.append({"tokenizer": kind, "text": None, "plain": None, "special": ids, "all": decoded, "skip": skipped})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "tokenizer_cases.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
