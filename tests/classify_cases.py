"""Makes tests/fixtures/classify_cases.jsonl: texts with the number and the outcome that each classifier must find.

The expected values come from the classifiers' rules run by Python's own `re`, `float` and `str.isalpha`.

    classify_cases.py > tests/fixtures/classify_cases.jsonl      the committed cases
    classify_cases.py --random 50000 --seed 7 > cases.jsonl      more; then: test_classify cases.jsonl
    classify_cases.py --letters                                  the table of src/pairs/unicode_letters.h
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import unicodedata

NUMBER = r"-?\d+(?:\.\d+)?"
HASHES = re.compile(rf"####\s*({NUMBER})", re.IGNORECASE)
KEYWORD = re.compile(rf"(?:answer|total|result)(?:\s+is)?\s*[:=]?\s*\$?\s*({NUMBER})", re.IGNORECASE)
AT_THE_END = re.compile(rf"\$?\s*({NUMBER})\s*$")
CODI_NUMBER = re.compile(r"-?\d+\.?\d*")

WRITTEN = [
    "", ".", " ", "17", "The answer is: 17", "The answer is: 17.", "The answer is: 17\n\n", "THE ANSWER IS 17 apples",
    "The answer is: -17", "The answer is: - 17", "The answer is: $17", "The answer is: $ 17", "The answer is: $-17",
    "The answer is: -$17", "The answer is: 17.0", "The answer is: 17.009", "The answer is: 17.01",
    "The answer is: 16.991", "The answer is: 16.99", "The answer is: 20", "The answer is: 19.9951",
    "The answer is: 1,700", "The answer is 1,017", "It costs 1,017", "It costs 1,017 dollars", "1,0,1,7",
    "answer:=17", "answer : = 17", "answer == 17", "answer is is 17", "answeris 17", "answer is17", "answer\tis\n17",
    "subtotal 17 and 20", "resultant 17", "results 17", "result17", "the total of 20 is 17",
    "total: 20. The answer is 17", "answer: 3 answer: 17", "#### 17", "####17", "##### 17", "### 17 ###",
    "answer 20 #### 17", "#### answer: 20", "####\u00a017", "####\u200b17", "17 apples and 20 pears",
    "17 apples and 20 pears.", "12.34.56", "12.34.56 apples", "1.2.3.4", "5-3", "5--3", "5 - 3 = 2", "3*4=12>>",
    "<<3*4=12>>The answer is: 12", ".5", "-.5", "5.", "5. ", "5.apples", "-5.-", "1e3", "the answer is 1e3",
    "answer is 0x11", "answer: 00017", "answer: 017.50", "answer is: \u0661\u0667", "answer is: -\u0661\u0667.\u0665",
    "\U0001d7cf\U0001d7d5", "x\u00b2", "\u00bd", "\u2463 \u3287", "an\u017fwer is 17", "AN\u017fWER IS 17",
    "re\u017fult i\u017f 17", "answer \u0131s 17", "answer \u0130s 17", "an\u0455wer is 17 of 20",
    "tota\u01c9 17 of 20", "answer\u0085is\u200917", "answer\x1cis\x1f17", "answer\u180eis 17 20", "17\u3000",
    "answer\x1cis\x1f17 of 20 pears", "answer \u0130s 17 of 20 pears", "answer \u0131s 17 of 20 pears",
    "answer = 17 of 20 pears", "answer: 17 of 20 pears", "answer := 17 of 20 pears", "answer $ 17 of 20 pears",
    "9007199254740993." + "0" * 900 + "1", "9007199254740993" + "0" * 900 + ".5", "17\x1c\x1d", "17\u200b",
    "17\ufeff", "was was was was", "//////////////", "abcdefghi", "abcdefghij", "\u4e00" * 9, "\u4e00" * 10,
    ",,,,,,,,,,,,", "...........a", "\U0001f600" * 9, "\U0001f600" * 10, "\U0001f600" * 9 + "a", "\u0301" * 12,
    "\u02b0" + "!" * 9, "\u2160" * 12, "\u00aa" + " " * 9, "9" * 400, "answer: " + "9" * 309,
    "answer: 0." + "0" * 400 + "1", "17" + "0" * 320, "1" * 20 + "." + "1" * 30, "9007199254740993",
    "9007199254740993.0000000000001", "0." + "3" * 900, str(2**1024 - 2**970), str(2**1024 - 2**970 - 1), "-0",
    "answer is -0.0", "0", "0.00", "answer is 17, 20", "17, 20,", "1,2,-3", "5,.,3", "7,", ",7", "-,7", "- 7", "7-",
    "3.,5", "answer is .17", "\u066117", "17\u0661", "1\u0967.5",
]  # fmt: skip
PARTS = [
    "answer", "Answer", "ANSWER", "total", "Total", "result", "RESULT", "an\u017fwer", "re\u017fult", " is", " IS",
    "is", " \u0131s", " i\u017f", ":", "=", " ", "  ", "\n", "\t", "\u00a0", "\u2009", "\x1c", "\u180e", "$", "-",
    ".", ",", "#", "####", "###", "1", "2", "17", "20", "0", "1,000", "3.50", "17.005", "16.99", "\u0661", "\u0967",
    "\uff11", "\U0001d7ce", "\u00b2", "\u00bd", "a", "apples", "the", "<<", ">>", "/", "\u4e00", "\u0301",
    "\U0001f600", "e5",
]  # fmt: skip


def last_group(found: list[str]) -> str | None:
    """The last of the numbers found, as text."""
    return found[-1] if found else None


def extract(classifier: str, text: str) -> float | None:
    """The number that the classifier takes from the text; None where there is none."""
    if classifier == "codi":
        number = last_group(CODI_NUMBER.findall(text.replace(",", "")))
        return None if number is None else float(number)
    for rule in (HASHES, KEYWORD, AT_THE_END):
        if match := rule.search(text):
            return float(match.group(1))
    number = last_group(re.findall(NUMBER, text))
    return None if number is None else float(number)


def matches(classifier: str, a: float, b: float) -> bool:
    """Whether two answers count as the same."""
    return a == b if classifier == "codi" else abs(a - b) < 0.01


def outcome(classifier: str, text: str, number: float | None, clean: float, corrupted: float) -> str:
    """The outcome of a text, named as in the C code."""
    if number is None:
        return "gibberish" if len(text) < 10 or not any(c.isalpha() for c in text) else "other"
    if matches(classifier, number, clean):
        return "clean_answer"
    return "corrupted_answer" if matches(classifier, number, corrupted) else "other"


def case(classifier: str, text: str, clean: float, corrupted: float) -> str:
    """One line of the case file."""
    number = extract(classifier, text)
    row = {"classifier": classifier, "text": text, "clean": clean, "corrupted": corrupted, "number": number}
    row["outcome"] = outcome(classifier, text, number, clean, corrupted)
    # JSON has no infinity; 1e999 reads as one.
    return json.dumps(row).replace('"number": Infinity', '"number": 1e999').replace('"number": -Infinity', '"number": -1e999')


def random_text(rng: random.Random) -> str:
    """A text of parts that the rules look at, in any order."""
    parts = rng.choices(PARTS, k=rng.randint(0, 12))
    if rng.random() < 0.2:
        code = rng.choice([rng.randint(1, 0x2FFF), rng.randint(1, 0x10FFFF)])
        # Digits and letters newer than Unicode 14 depend on the Python that runs this.
        if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn":
            parts.insert(rng.randint(0, len(parts)), chr(code))
    return "".join(parts)


def letter_table() -> None:
    """Prints the ranges of letters of this Python."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if chr(code).isalpha():
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    line = "   "
    for first, last in ranges:
        entry = f" {{0x{first:x}, 0x{last:x}}},"
        if len(line) + len(entry) > 110:
            print(line)
            line = "   "
        line += entry
    print(line)


def main() -> None:
    """Prints what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N random cases in place of the committed ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--letters", action="store_true")
    options = parser.parse_args()
    if options.letters:
        letter_table()
        return
    rng = random.Random(options.seed)
    inputs = [random_text(rng) for _ in range(options.random or 300)]
    if not options.random:
        inputs = WRITTEN + inputs
    for text in inputs:
        for classifier in ("seed", "codi"):
            print(case(classifier, text, 17, 20))
    if not options.random:
        for classifier in ("seed", "codi"):
            for clean, corrupted in (
                (17, 17),
                (17.005, 17),
                (0, -0.0),
                (1e15, 1e15 + 1),
                (0.1, 0.3),
                (math.pi, 3.14159),
            ):
                for text in (
                    "answer is 17",
                    "answer is 17.01",
                    "0",
                    "-0",
                    "1000000000000000",
                    "0.1",
                    "0.30",
                    "3.141592653589793",
                    "3.14159",
                ):
                    print(case(classifier, text, clean, corrupted))


if __name__ == "__main__":
    main()
