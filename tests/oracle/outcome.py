"""The published rules that turn an answer's text into an outcome class."""

from __future__ import annotations

import re

NUMBER = r"(-?\d+(?:\.\d+)?)"
RULES = tuple(
    re.compile(p, re.IGNORECASE)
    for p in (
        r"####\s*" + NUMBER,
        r"(?:answer|total|result)(?:\s+is)?\s*[:=]?\s*\$?\s*" + NUMBER,
        r"\$?\s*" + NUMBER + r"\s*\Z",
    )
)
LAST = re.compile(NUMBER)
CLASSES = ("clean_answer", "corrupted_answer", "other", "gibberish")


def extract(text: str) -> float | None:
    """The number of an answer: the first rule that matches, else the last number."""
    for rule in RULES:
        found = rule.search(text)
        if found:
            return float(found.group(1))
    numbers = LAST.findall(text)
    return float(numbers[-1]) if numbers else None


def match(a: float | None, b: float | None) -> bool:
    """Equal within a hundredth."""
    return a is not None and b is not None and abs(float(a) - float(b)) < 0.01


def classify(text: str, clean: float, corrupted: float) -> str:
    """The outcome class of an answer."""
    number = extract(text)
    if number is None:
        return "gibberish" if len(text) < 10 or not any(c.isalpha() for c in text) else "other"
    if match(number, clean):
        return "clean_answer"
    return "corrupted_answer" if match(number, corrupted) else "other"
