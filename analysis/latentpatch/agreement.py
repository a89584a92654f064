"""Command `latentpatch-compare`: do two files say the same, pair by pair? Published files of the original study beside
results files, and results files beside each other.

Two rows are compared only where they are of the same problem: the id, the question texts and the expected answers are
equal, as far as a file states them. The command says what a file does not state. Files of different model families or
protocols are not set beside each other unless asked to. The command looks for differing
outcomes, so they do not make it fail.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import __version__, command, load_results
from .command import printable
from .load import CLASSES, NOT_RUN, Results
from .published import DEPTHS, SIDES, Published, PublishedPair, add_questions, family_of, load_published

NAME = "latentpatch-compare"


class Mismatch(Exception):
    """Two files that cannot be set beside each other; the text says why."""


@dataclass
class Options:
    layers: tuple[int, int, int] | None = None
    most: int = 20
    anyway: bool = False


@dataclass
class Agreement:
    """What two files have in common, as lines for a terminal, and the totals."""

    title: str
    lines: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    pairs: int = 0
    other_question: int = 0
    other_answer: int = 0
    rows: int = 0
    same_outcome: int = 0
    same_text: int = 0
    one_only: int = 0


def family(r: Results) -> str | None:
    model = r.job.get("model", {}) if isinstance(r.job, dict) else {}
    return family_of(r.model, str(model.get("base", "")), str(model.get("codi", "")))


def check_kind(names: tuple[str, str], families: tuple[str | None, str | None], protocols: tuple[str, str]) -> None:
    """Raises Mismatch where both files say what they are, and say different things."""
    for what, (a, b) in (("model family", families), ("protocol", protocols)):
        if a and b and a != b:
            raise Mismatch(
                f"{names[0]} and {names[1]}: {what} differs, {a} and {b} (--anyway compares them all the same)"
            )


def stated(families: tuple[str | None, str | None], protocols: tuple[str, str]) -> str:
    parts = []
    for what, (a, b) in (("model family", families), ("protocol", protocols)):
        if a == b:
            parts.append(f"{what} {a or 'not stated'}")
        else:
            parts.append(f"{what} {a or 'not stated'} beside {b or 'not stated'}")
    return ", ".join(parts)


def same_number(a: float, b: float) -> bool:
    return abs(a - b) < 0.01


# ---- Pairs -----------------------------------------------------------------------------------------------------------


def _problem(r: Results, i: int) -> tuple[tuple[str, str], tuple[float, float]]:
    p = r.pairs
    questions = (str(p["clean_question"].iloc[i]), str(p["corrupted_question"].iloc[i]))
    return questions, (float(p["clean_answer"].iloc[i]), float(p["corrupted_answer"].iloc[i]))


def _same_answers(a: tuple[float | None, float | None], b: tuple[float, float]) -> bool:
    return all(x is None or same_number(x, y) for x, y in zip(a, b, strict=True))


def match_published(p: Published, r: Results, a: Agreement) -> list[tuple[PublishedPair, int]]:
    """Pairs of one id that are the same problem. Of an id that the file has twice, the one that is."""
    by_id: dict[str, list[PublishedPair]] = {}
    for pair in p.pairs:
        by_id.setdefault(pair.id, []).append(pair)
    out = []
    for i, key in enumerate(r.pairs["id"]):
        candidates = by_id.get(str(key), [])
        if not candidates:
            continue
        questions, answers = _problem(r, i)
        fits = [c for c in candidates if _same_answers(c.expected, answers)]
        exact = [c for c in fits if c.questions is None or c.questions == questions]
        if exact:
            out.append((exact[0], i))
        elif fits:
            a.other_question += 1
            a.differing.append(f"pair {key}: same id, another question")
        else:
            a.other_answer += 1
            there = " and ".join("?" if x is None else f"{x:g}" for x in candidates[0].expected)
            a.differing.append(f"pair {key}: published expected {there}, here {answers[0]:g} and {answers[1]:g}")
    return out


def match_results(x: Results, y: Results, a: Agreement) -> list[tuple[int, int]]:
    place = {key: i for i, key in enumerate(y.pairs["id"])}
    out = []
    for i, key in enumerate(x.pairs["id"]):
        if key not in place:
            continue
        (qx, ax), (qy, ay) = _problem(x, i), _problem(y, place[key])
        if qx != qy:
            a.other_question += 1
            a.differing.append(f"pair {key}: same id, another question")
        elif not _same_answers(ax, ay):
            a.other_answer += 1
            a.differing.append(f"pair {key}: expected {ax[0]:g} and {ax[1]:g}, there {ay[0]:g} and {ay[1]:g}")
        else:
            out.append((i, place[key]))
    return out


def _say_pairs(a: Agreement, n: tuple[int, int], unchecked: str = "") -> None:
    a.lines.append(
        f"pairs: {a.pairs} the same in both (of {n[0]} and {n[1]}); same id but another question: {a.other_question}, "
        f"same id but other expected answers: {a.other_answer}{unchecked}"
    )
    if not a.pairs:
        raise Mismatch(f"{a.title}: {a.lines.pop()}; nothing can be compared")


# ---- Published beside results ----------------------------------------------------------------------------------------


def _is_patching(r: Results, mask: int) -> np.ndarray:
    c = r.conditions
    wanted = (c["role"] == "effect") & (c["direction"] == "denoise") & (c["donor"] == "clean")
    wanted &= (c["operation"] == "replace") & (c["site"] == "resid_post") & (c["phase"] == "thought")
    wanted &= (c["step_mask"] == mask) & (c["layer"] >= 0) & (c["from_step"] < 0) & (c["stop_after"] == 0)
    return np.flatnonzero(wanted)


def _tables(r: Results, mask: int, layers: tuple[int, int, int] | None) -> Iterator[tuple[str, list[int]]]:
    """(how it was done, conditions for early, middle and late): one for each way in which the results have them."""
    c, groups = r.conditions, {}
    for i in _is_patching(r, mask):
        groups.setdefault((c["defects"][i], c["from_layer"][i] >= 0), {}).setdefault(int(c["layer"][i]), int(i))
    for (defects, from_layer), by_layer in groups.items():
        chosen = layers or tuple(sorted(by_layer))
        if len(chosen) == 3 and all(layer in by_layer for layer in chosen):
            how = f"defects: {defects or 'none'}{', donor from other layers' if from_layer else ''}"
            yield how, [by_layer[layer] for layer in chosen]


def _counts(kinds: list[int]) -> str:
    return "/".join(str(kinds.count(k)) for k in range(len(CLASSES)))


def _patching(p: Published, r: Results, matched: list[tuple[PublishedPair, int]], o: Options, a: Agreement) -> None:
    mask = (1 << p.n_tokens) - 1
    if not len(_is_patching(r, mask)):
        raise Mismatch(
            f"{a.title}: the results have no condition denoise/clean/replace/resid_post with first:{p.n_tokens}"
        )
    tables = list(_tables(r, mask, o.layers))
    if not tables:
        raise Mismatch(
            f"{a.title}: the results have not three layers at first:{p.n_tokens}, or not those given; "
            "say which are early, middle and late, for example --layers 4,8,14"
        )
    for how, conditions in tables:
        a.lines.append(f"first {p.n_tokens} thoughts, {how}")
        a.lines.append(
            f"  {'':<7} {'layer':<6}{'outcome=':>9}{'text=':>7}{'pairs':>7}  {'published c/c/o/g':<20}  here c/c/o/g"
        )
        total = [0, 0, 0]
        for depth, j in zip(DEPTHS, conditions, strict=True):
            there, here, same = [], [], [0, 0]
            for pair, i in matched:
                if r.cls[i, j] == NOT_RUN:
                    continue
                kind, text = pair.patched[depth]
                ours, ours_text = int(r.cls[i, j]), r.answers[r.answer[i, j]]
                there.append(kind)
                here.append(ours)
                same[0] += kind == ours
                same[1] += text == ours_text
                if kind != ours or text != ours_text:
                    a.differing.append(
                        f'pair {pair.id}, {r.conditions["name"][j]}: published {CLASSES[kind]} "{printable(text)}", '
                        f'here {CLASSES[ours]} "{printable(ours_text)}"'
                    )
            row = (*same, len(there))
            total = [x + y for x, y in zip(total, row, strict=True)]
            layer = f"L{r.conditions['layer'][j]}"
            a.lines.append(
                f"  {depth:<7} {layer:<6}{row[0]:>9}{row[1]:>7}{row[2]:>7}  {_counts(there):<20}  {_counts(here)}"
            )
        a.lines.append(f"  {'total':<7} {'':<6}{total[0]:>9}{total[1]:>7}{total[2]:>7}")
        a.same_outcome += total[0]
        a.same_text += total[1]
        a.rows += total[2]


def _necessity(p: Published, r: Results, matched: list[tuple[PublishedPair, int]], a: Agreement) -> None:
    c = r.conditions
    steps = int(r.provenance.get("steps", 6))
    zeroed = (c["donor"] == "zero") & (c["operation"] == "replace") & (c["site"] == "resid_post")
    zeroed &= c["step_mask"] == (1 << steps) - 1
    if not zeroed.any():
        raise Mismatch(f"{a.title}: the results have no condition zero/replace/resid_post at all {steps} steps")
    a.lines.append("all thoughts zeroed: answers still right")
    a.lines.append(f"  {'run':<10}{'layers':<8}{'defects':<24}{'equal':>6}{'pairs':>7}{'published':>11}{'here':>6}")
    for j in np.flatnonzero(zeroed):
        side = 0 if c["direction"][j] == "noise" else 1
        n = same = there_right = here_right = 0
        for pair, i in matched:
            kind = int(r.cls[i, j])
            if kind == NOT_RUN:
                continue
            _, answers = _problem(r, i)
            right = kind == side or (kind == 0 and same_number(*answers))
            n += 1
            same += right == pair.ablated[side]
            there_right += pair.ablated[side]
            here_right += right
            if right != pair.ablated[side]:
                words = ("wrong", "right")
                a.differing.append(
                    f"pair {pair.id}, {c['name'][j]}: published {words[pair.ablated[side]]}, here {words[right]} "
                    f"({CLASSES[kind]})"
                )
        a.lines.append(
            f"  {SIDES[side]:<10}{'L' + c['layers'][j]:<8}{c['defects'][j] or 'none':<24}{same:>6}{n:>7}"
            f"{there_right:>11}"
            f"{here_right:>6}"
        )
        a.rows += n
        a.same_outcome += same


def compare_published(p: Published, r: Results, o: Options) -> Agreement:
    """One published file beside one results file."""
    a = Agreement(f"{p.path} ({p.kind}) and {r.path}")
    families, protocols = (p.family, family(r)), (p.protocol, str(r.provenance.get("protocol", "")))
    if not o.anyway:
        check_kind((p.path, r.path), families, protocols)
    a.lines.append(stated(families, protocols))
    matched = match_published(p, r, a)
    a.pairs = len(matched)
    unchecked = [
        words
        for words, missing in (
            ("question texts (--pairs FILE)", any(pair.questions is None for pair, _ in matched)),
            ("expected answers", any(None in pair.expected for pair, _ in matched)),
        )
        if missing
    ]
    note = f"; the published file does not state, so not checked: {', '.join(unchecked)}" if unchecked else ""
    _say_pairs(a, (len(p.pairs), len(r.pairs)), note)
    if p.kind == "patching":
        ours = {str(r.pairs["id"].iloc[i]) for i in r.included}
        there = {pair.id for pair in p.pairs}
        a.lines.append(
            f"pass the filter in both: {len(ours & there)}, published only: {len(there - ours)}, "
            f"here only: {len(ours - there)}"
        )
    if p.kind != "necessity":
        equal = [0, 0]
        for pair, i in matched:
            for k, side in enumerate(SIDES):
                here = str(r.pairs[f"{side}_text"].iloc[i])
                equal[k] += here == pair.text[k]
                if here != pair.text[k]:
                    a.differing.append(
                        f'pair {pair.id}, {side} unpatched: published "{printable(pair.text[k])}", '
                        f'here "{printable(here)}"'
                    )
        a.lines.append(f"unpatched texts equal: clean {equal[0]}, corrupted {equal[1]} of {len(matched)}")
    if p.kind == "patching":
        _patching(p, r, matched, o, a)
    elif p.kind == "necessity":
        _necessity(p, r, matched, a)
    return a


# ---- Results beside results ------------------------------------------------------------------------------------------


def compare_results(x: Results, y: Results, o: Options) -> Agreement:
    """Rows of the conditions (by name) and pairs (by id, questions and answers) that both files have."""
    a = Agreement(f"{x.path} and {y.path}")
    families = (family(x), family(y))
    protocols = (str(x.provenance.get("protocol", "")), str(y.provenance.get("protocol", "")))
    if not o.anyway:
        check_kind((x.path, y.path), families, protocols)
    a.lines.append(stated(families, protocols))
    for key in ("model", "model_files", "executor", "device", "dtype", "classifier"):
        values = [str(r.provenance.get(key, "not stated")) for r in (x, y)]
        if values[0] != values[1]:
            shown = "" if key == "model_files" else f": {printable(values[0])} and {printable(values[1])}"
            a.lines.append(f"{key.replace('_', ' ')} differ{'' if key == 'model_files' else 's'}{shown}")
    matched = match_results(x, y, a)
    a.pairs = len(matched)
    _say_pairs(a, (len(x.pairs), len(y.pairs)))
    names = {name: j for j, name in enumerate(y.conditions["name"])}
    both = [(j, names[name]) for j, name in enumerate(x.conditions["name"]) if name in names]
    a.lines.append(f"conditions: {len(both)} in both (of {len(x.conditions)} and {len(y.conditions)})")
    if not both:
        raise Mismatch(f"{a.title}: no condition is in both files")
    i, k = np.array(matched).T[:, :, None]
    j, q = np.array(both).T[:, None, :]
    cx, cy = x.cls[i, j], y.cls[k, q]
    ran = (cx != NOT_RUN) & (cy != NOT_RUN)
    a.one_only = int(((cx != NOT_RUN) != (cy != NOT_RUN)).sum())
    place = {text: n for n, text in enumerate(dict.fromkeys([*x.answers, *y.answers]))}
    tx, ty = (np.array([*(place[t] for t in r.answers), -1]) for r in (x, y))
    same_outcome, same_text = cx == cy, tx[x.answer[i, j]] == ty[y.answer[k, q]]
    a.rows, a.same_outcome, a.same_text = int(ran.sum()), int((ran & same_outcome).sum()), int((ran & same_text).sum())
    a.lines.append(
        f"rows: {a.rows}  outcome differs: {a.rows - a.same_outcome}  text differs: {a.rows - a.same_text}  "
        f"run in one file only: {a.one_only}"
    )
    for m, n in zip(*np.nonzero(ran & ~(same_outcome & same_text)), strict=True):
        (row_x, row_y), (col_x, col_y) = matched[m], both[n]
        a.differing.append(
            f"pair {x.pairs['id'].iloc[row_x]}, {x.conditions['name'][col_x]}: {CLASSES[cx[m, n]]} "
            f'"{printable(x.answers[x.answer[row_x, col_x]])}" -> {CLASSES[cy[m, n]]} '
            f'"{printable(y.answers[y.answer[row_y, col_y]])}"'
        )
    return a


# ---- The command -----------------------------------------------------------------------------------------------------


def show(a: Agreement, most: int) -> str:
    out = [printable(a.title, 1000), *(f"  {line}" for line in a.lines)]
    if a.differing:
        out.append("  what differs:")
        out += [f"    {printable(line, 1000)}" for line in (a.differing[:most] if most else a.differing)]
        if most and len(a.differing) > most:
            out.append(f"    and {len(a.differing) - most} more (--all)")
    return "\n".join(out)


def _layers(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f'expected three layers such as 4,8,14, found "{printable(text, 60)}"')
    return tuple(map(int, parts))


def parser() -> command.Parser:
    out = command.Parser(
        prog=NAME,
        description="Sets files beside each other, pair by pair: published per-pair results of the original study "
        "(JSON) beside each results file, and the first results file beside each other one. Differences do not make it fail.",
    )
    out.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="results files (.h5) and published files (.json)"
    )
    out.add_argument(
        "--pairs", type=Path, metavar="FILE", help="pair file of the published study, to check question texts"
    )
    out.add_argument(
        "--layers",
        type=_layers,
        metavar="A,B,C",
        help="early, middle and late, where the results have not just three layers",
    )
    out.add_argument(
        "--anyway", action="store_true", help="also compare files of different model families or protocols"
    )
    out.add_argument("--all", action="store_true", help="list all differences, not the first 20 of each comparison")
    out.add_argument("--version", action="version", version=f"latentpatch-compare {__version__}")
    return out


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: every file was compared with another one; 1: a file could not be; 2: usage."""
    return command.run(NAME, lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    args = parser().parse_args(arguments)
    options = Options(args.layers, 0 if args.all else 20, args.anyway)
    if len(args.files) < 2:
        parser().error("give two files or more")
    published, results = [], []
    for path in args.files:
        if path.suffix == ".json":
            published.append(load_published(path))
            if args.pairs:
                add_questions(published[-1], args.pairs)
        else:
            results.append(load_results(path))
    if not results:
        parser().error("give at least one results file (.h5)")
    jobs = [(p, r) for p in published for r in results] + [(results[0], r) for r in results[1:]]
    done: list[Agreement] = []
    compared: set[int] = set()
    refused: list[tuple[object, object, str]] = []
    for left, right in jobs:
        try:
            if isinstance(left, Published):
                done.append(compare_published(left, right, options))
            else:
                done.append(compare_results(left, right, options))
        except Mismatch as error:
            refused.append((left, right, str(error)))
            continue
        compared |= {id(left), id(right)}
        print(show(done[-1], options.most), end="\n\n")
    # Of many files at once, those of another model have their own partner: only a file without any is an error.
    alone = [text for left, right, text in refused if id(left) not in compared or id(right) not in compared]
    for text in alone:
        command.say(NAME, text)
    if done:
        rows, outcome, text = (sum(getattr(a, name) for a in done) for name in ("rows", "same_outcome", "same_text"))
        other = sum(a.other_question + a.other_answer for a in done)
        left_out = f", {len(refused)} not comparable" if refused else ""
        print(
            f"total: {len(done)} comparisons{left_out}; rows {rows}, outcome equal {outcome}, text equal {text}; "
            f"pairs of the same id that are another problem: {other}"
        )
    return int(bool(alone))


if __name__ == "__main__":
    sys.exit(main())
