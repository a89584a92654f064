"""The two tokenizers: byte-level BPE in the manner of GPT-2 and of LLaMA-3.

Both are trained (with `tokenizers`) on the text of the templates until each of their words and each number 0..99 is
one token; all 256 bytes are in the vocabulary, so any text encodes.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from problems import load_templates, training_set

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus(blank_numbers: bool) -> list[str]:
    """Text that holds every word of the templates in its places, and every number."""
    problems = training_set(4000, 5)
    words = [w for t in load_templates() for ws in t.words.values() for w in ws]
    lines = [p.question for p in problems] + [p.chain for p in problems]
    lines += [" " + w for w in words] + words
    lines += ["The answer is: 17"] * 200
    for _ in range(50):
        lines += [str(k) for k in range(100)]
        if blank_numbers:
            lines += [f" {k}" for k in range(100)]
    return lines


def train_bpe(tok: Tokenizer, lines: list[str]) -> None:
    """Train until nothing is left to merge."""
    tok.train_from_iterator(
        lines,
        BpeTrainer(
            vocab_size=100_000,
            min_frequency=2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )


def make_gpt2(folder: Path) -> Tokenizer:
    """Write a GPT-2 style tokenizer; `<|endoftext|>` has the last id."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train_bpe(tok, corpus(blank_numbers=True))
    tok.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    eos = "<|endoftext|>"
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": eos,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": 128,
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": eos,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tok


def make_llama(folder: Path) -> Tokenizer:
    """Write a LLaMA-3 style tokenizer; the two special tokens have the last ids."""
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    train_bpe(tok, corpus(blank_numbers=False))
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    tok.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in (bos, eos)])
    tok.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, tok.token_to_id(bos))],
            ),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 256,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tok


MAKERS = {"gpt2": make_gpt2, "llama": make_llama}
