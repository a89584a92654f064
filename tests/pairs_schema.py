"""The JSON Schema of pair files accepts exactly what the program accepts (repeated ids and equal answers apart, which
no schema can see). Valid files are broken in every place, one break a file, and both sides give their verdict.

    python tests/pairs_schema.py PATH/TO/pairs_driver       (exit 77 without the jsonschema package)
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import jsonschema
except ImportError:
    print("skipped: no jsonschema package")
    sys.exit(77)

SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "pairs.schema.json"

FULL: dict[str, Any] = {
    "format": "latentpatch-pairs",
    "version": 1,
    "source": "s",
    "seed": 3,
    "about": "a",
    "pairs": [
        {
            "id": "a",
            "clean": {"question": "1?", "answer": 1, "solution": "<<1=1>>"},
            "corrupted": {"question": "2?", "answer": 2.5},
            "source": "t#1",
            "index": 4,
            "change": {"from": "1", "to": "2"},
            "steps": 1,
            "split": "test",
            "graph": [{"equation": "1", "clean": "1", "corrupted": "2", "uses": [0]}],
            "template": "t",
            "tokens": {"gpt2": [3, 3]},
            "notes": "n",
        },
        {
            "id": 12,
            "clean": {"question": "3?", "answer": -3},
            "corrupted": {"question": "4?", "answer": 4},
        },
    ],
}
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    7.0,
    1e15,
    2e15,
    9007199254740994,
    "",
    " \n",
    "x",
    "\u00a0",
    "a\tb",
    "a\n",
    "tune",
    [],
    [1],
    [1, 2],
    [1, 2, 3],
    ["a", "b"],
    {},
    {"x": 1},
]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def variants() -> Iterator[tuple[str, Any]]:
    yield "whole", FULL
    for path in places(FULL):
        if not path:
            continue
        removed = copy.deepcopy(FULL)
        del at(removed, path[:-1])[path[-1]]
        yield f"without {path}", removed
        for value in VALUES:
            changed = copy.deepcopy(FULL)
            at(changed, path[:-1])[path[-1]] = value
            yield f"{path} = {value!r}", changed
        if isinstance(at(FULL, path), dict):
            extended = copy.deepcopy(FULL)
            at(extended, path)["unknown"] = 1
            yield f"unknown key in {path}", extended


def main() -> int:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    jsonschema.Draft202012Validator.check_schema(validator.schema)
    documents = list(variants())
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.json" for i in range(len(documents))]
        for path, (_, document) in zip(paths, documents, strict=True):
            path.write_text(json.dumps(document), encoding="utf-8")
        names = "".join(f"{path}\n" for path in paths)
        run = subprocess.run([sys.argv[1]], input=names, capture_output=True, text=True, check=True)
    verdicts = run.stdout.splitlines()
    differences = 0
    for (what, document), verdict in zip(documents, verdicts, strict=True):
        if (verdict == "ok") != validator.is_valid(document) and "occurs twice" not in verdict:
            differences += 1
            print(f"{what}: program {verdict}, schema {validator.is_valid(document)}")
    print(f"{len(documents)} files, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
