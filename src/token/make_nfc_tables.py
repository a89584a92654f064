"""Write nfc_tables.h: canonical decompositions and combining classes, as the `tokenizers` package has them.

    python make_nfc_tables.py > nfc_tables.h

The package's tables are older than Python's: what it does not know yet is left out, so that the same text has the same
tokens.
"""

from __future__ import annotations

import unicodedata

from tokenizers import normalizers

NFC = normalizers.NFC()
COLUMNS = 118


def known_class(c: int) -> int:
    """The combining class, 0 where the package takes the character for a starter."""
    own = unicodedata.combining(chr(c))
    lower, higher = "\u0334", "\u0345"  # classes 1 and 240
    moved = (
        NFC.normalize_str("q" + chr(c) + lower) == "q" + lower + chr(c)
        if own > 1
        else own == 1
    )
    moved = moved or (
        own > 1 and NFC.normalize_str("q" + higher + chr(c)) == "q" + chr(c) + higher
    )
    return own if moved else 0


def wrapped(items: list[str]) -> str:
    """Items in lines."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > COLUMNS:
            lines.append(line)
            line = "   "
        line += " " + item + ","
    return "\n".join([*lines, line])


def print_table(name: str, items: list[str]) -> None:
    """A C array of numbers."""
    print(f"static const uint32_t {name} = {{\n{wrapped(items)}\n}};")


def runs(points: list[int]) -> list[str]:
    """Neighbouring characters as {first, last, place of the first}."""
    found: list[list[int]] = []
    for i, c in enumerate(points):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c, i])
    return [f"{{0x{a:x}, 0x{b:x}, {i}}}" for a, b, i in found]


def main() -> None:
    """Print the tables."""
    points = [
        c
        for c in range(0x110000)
        if not 0xD800 <= c < 0xE000 and not 0xAC00 <= c < 0xD7A4
    ]
    singles, pairs, classes = [], [], []
    for c in points:
        parts = unicodedata.decomposition(chr(c)).split()
        if parts and not parts[0].startswith("<"):
            a, b = int(parts[0], 16), int(parts[1], 16) if len(parts) == 2 else 0
            composes = b and NFC.normalize_str(chr(a) + chr(b)) == chr(c)
            if b and not composes and NFC.normalize_str(chr(c)) == chr(c):
                continue  # not known to the package
            (pairs if b else singles).append((c, a, b, composes))
        k = known_class(c)
        if k and classes and classes[-1][1] == c - 1 and classes[-1][2] == k:
            classes[-1][1] = c
        elif k:
            classes.append([c, c, k])
    print(
        "/* Made by make_nfc_tables.py: canonical decompositions and combining classes of Unicode. */"
    )
    print("/* Runs are {first, last, place of the first one's entry}. */")
    print("/* Characters that stand for one other. */")
    print_table("nfc_single_runs[][3]", runs([c for c, *_ in singles]))
    print_table("nfc_singles[]", [f"0x{a:x}" for _, a, _, _ in singles])
    print(
        "/* Characters that stand for two others: these, and whether they are put together again. */"
    )
    print_table("nfc_pair_runs[][3]", runs([c for c, *_ in pairs]))
    print_table(
        "nfc_pairs[][3]",
        [f"{{0x{a:x}, 0x{b:x}, {int(bool(k))}}}" for _, a, b, k in pairs],
    )
    print("/* Canonical combining classes other than 0: first, last, class. */")
    print_table(
        "nfc_classes[][3]", [f"{{0x{a:x}, 0x{b:x}, {k}}}" for a, b, k in classes]
    )


if __name__ == "__main__":
    main()
