"""`latentpatch-compare`: published files made from results with known changes, and results with known differences."""

from __future__ import annotations

import copy
import json

import h5py
import make_results
import numpy as np
import pytest

from latentpatch import agreement, load_results, published
from latentpatch.load import LayoutError

N = 6
OUTCOMES = {v: k for k, v in published.OUTCOMES.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three layers, first:1-3, pairs whose ids are numbers as in the published files."""
    path = tmp_path_factory.mktemp("agree") / "gpt2.results.h5"
    plan = make_results.Plan(pairs=N, excluded=0, steps=3, step_sets=("first",), metrics=False)
    make_results.write_results(path, plan)
    change(path, protocol="bot-first", ids=[str(i) for i in range(N)])
    return path


def change(path, ids=None, questions=None, answers=None, **provenance):
    """Other ids, clean questions, clean answers or provenance in a results file."""
    with h5py.File(path, "r+") as file:
        for key, value in provenance.items():
            file["provenance"].attrs[key] = value
        for name, values in (("id", ids), ("clean_question", questions)):
            if values is not None:
                kind = file[f"/pairs/{name}"].dtype
                del file[f"/pairs/{name}"]
                file[f"/pairs/{name}"] = np.array([v.encode() for v in values], kind)
        if answers is not None:
            file["/pairs/clean_answer"][:] = answers


def copied(results, tmp_path, name="copy.results.h5", **what):
    path = tmp_path / name
    path.write_bytes(results.read_bytes())
    change(path, **what)
    return path


def patching(results, n):
    """What the original's scripts would have written, had they found what is in the results."""
    r = load_results(results)
    names = {f"L{layer}": depth for layer, depth in enumerate(published.DEPTHS)}
    listed = []
    for i in range(N):
        p = r.pairs.iloc[i]
        record = {
            "pair_id": i,
            "clean": {"generated": p["clean_text"], "expected": int(p["clean_answer"])},
            "corrupted": {"generated": p["corrupted_text"], "expected": int(p["corrupted_answer"])},
            "patched": {},
        }
        for layer, depth in names.items():
            j = r.conditions["name"].tolist().index(f"denoise/clean/replace/resid_post/{layer}/first:{n}")
            text = r.answers[r.answer[i, j]]
            record["patched"][depth] = {"classification": OUTCOMES[int(r.cls[i, j])], "generated": text}
        listed.append(record)
    return {"valid_results": listed, "config": {"tokens_patched": n}}


def write(folder, data, name="gpt2-published.json"):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def run(capsys, *arguments):
    code = agreement.main([str(a) for a in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_equal_files_at_once_with_their_total(results, tmp_path, capsys):
    files = [write(tmp_path, patching(results, n), f"gpt2-{n}.json") for n in (1, 2)]
    code, out, err = run(capsys, *files, results, copied(results, tmp_path))
    assert (code, err) == (0, "")
    assert out.count(f"unpatched texts equal: clean {N}, corrupted {N} of {N}") == 4
    assert out.count("  early   L0            6      6      6") == 4
    assert "what differs" not in out
    rows = 4 * 3 * N + N * len(load_results(results).conditions)
    assert f"total: 5 comparisons; rows {rows}, outcome equal {rows}, text equal {rows}" in out
    assert "not checked: question texts" in out


def test_changed_rows_are_found_and_escaped(results, tmp_path, capsys):
    data = patching(results, 2)
    late = data["valid_results"][3]["patched"]["late"]
    late["classification"] = other = "gibberish" if late["classification"] != "gibberish" else "clean_answer"
    data["valid_results"][4]["patched"]["early"]["generated"] = "\x1b[31mred\nline \u202e\u200b end"
    text = json.dumps(data).replace('"config"', '"statistics": [Infinity, -Infinity, NaN], "config"')
    code, out, _ = run(capsys, write(tmp_path, text), results)
    assert code == 0
    assert "  late    L2            5      6      6" in out
    assert "  early   L0            6      5      6" in out
    assert "  total                17     17     18" in out
    assert f"pair 3, denoise/clean/replace/resid_post/L2/first:2: published {other}" in out
    assert '"\\x1b[31mred\\nline \\u202e\\u200b end"' in out
    assert "\x1b" not in out


def test_only_the_same_problem_is_compared(results, tmp_path, capsys):
    data = patching(results, 1)
    for i in (1, 4):
        data["valid_results"][i]["clean"]["expected"] += 1
    listed = [
        {"pair_id": i, **{s: {"question": str(p[f"{s}_question"]), "answer": 0} for s in ("clean", "corrupted")}}
        for i, p in load_results(results).pairs.iterrows()
    ]
    listed[2]["clean"]["question"] += " "
    code, out, _ = run(capsys, write(tmp_path, data), results, "--pairs", write(tmp_path, listed, "pairs.json"))
    assert code == 0
    assert (
        f"pairs: 3 the same in both (of {N} and {N}); same id but another question: 1, "
        "same id but other expected answers: 2\n" in out
    )
    assert "pair 1: published expected 14 and 14, here 13 and 14" in out
    assert "pair 2: same id, another question" in out
    assert "rows 9, outcome equal 9" in out
    for record in data["valid_results"]:
        record["corrupted"]["expected"] = -1
    code, out, err = run(capsys, write(tmp_path, data), results)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "pairs: 0 the same in both" in err


def test_results_of_other_problems_are_not_compared(results, tmp_path, capsys):
    """Two files that share all ids and hardly a problem."""
    questions = load_results(results).pairs["clean_question"].tolist()
    other = copied(results, tmp_path, questions=[questions[0], *(q + "?" for q in questions[1:])])
    code, out, _ = run(capsys, results, other)
    assert code == 0
    assert "pairs: 1 the same in both (of 6 and 6); same id but another question: 5" in out
    answers = load_results(results).pairs["clean_answer"] + np.repeat([0, 7], 3)
    code, out, _ = run(capsys, results, copied(results, tmp_path, "b.results.h5", answers=answers))
    assert (
        "pairs: 3 the same in both (of 6 and 6); same id but another question: 0, same id but other expected answers: 3"
        in out
    )
    assert "pairs of the same id that are another problem: 3" in out


def test_model_family_and_protocol(results, tmp_path, capsys):
    llama = copied(results, tmp_path, "b.results.h5", model="some-llama")
    code, out, err = run(capsys, results, llama)
    assert (code, out) == (1, "")
    assert "model family differs, gpt2 and llama" in err
    code, out, _ = run(capsys, results, llama, "--anyway")
    assert code == 0
    assert "model family gpt2 beside llama" in out
    codi = copied(results, tmp_path, "c.results.h5", protocol="codi")
    published_file = write(tmp_path, patching(results, 1))
    code, out, err = run(capsys, published_file, codi)
    assert (code, out) == (1, "")
    assert "protocol differs, bot-first and codi" in err
    # With a partner of its own for every file, pairs of files that do not belong together do not make it fail.
    code, out, err = run(capsys, published_file, results, copied(results, tmp_path, "d.results.h5"))
    assert (code, err) == (0, "")


def test_layers_are_asked_for(results, tmp_path, capsys):
    two = tmp_path / "gpt2-two.results.h5"
    make_results.write_results(two, make_results.Plan(pairs=N, excluded=0, layers=2, steps=3, metrics=False))
    change(two, protocol="bot-first", ids=[str(i) for i in range(N)])
    file = write(tmp_path, patching(results, 2))
    code, _, err = run(capsys, file, two)
    assert code == 1
    assert "--layers 4,8,14" in err
    assert run(capsys, file, results, "--layers", "0,1,2")[0] == 0
    with pytest.raises(SystemExit) as end:
        agreement.main([str(file), str(results), "--layers", "0,1"])
    assert end.value.code == 2
    data = patching(results, 3)
    data["config"]["tokens_patched"] = 5
    code, _, err = run(capsys, write(tmp_path, data), results)
    assert code == 1
    assert "no condition denoise/clean/replace/resid_post with first:5" in err


def test_necessity_and_baseline(results, tmp_path, capsys):
    r = load_results(results)
    zero = copied(results, tmp_path, "zero.results.h5")
    with h5py.File(zero, "r+") as file:
        names = [n.decode() for n in file["/conditions/name"][:]]
        j = names.index("denoise/clean/replace/resid_post/L1/first:3")
        donor = file["/conditions/donor"]
        donor[j] = b"zero"
        file["provenance"].attrs["steps"] = 3
    right = r.cls[:, j] == 1
    listed = [
        {"pair_id": i, "clean_ablated_correct": True, "corrupted_ablated_correct": bool(right[i]) != (i == 2)}
        for i in range(N)
    ]
    code, out, err = run(capsys, write(tmp_path, listed), zero)
    assert (code, err) == (0, "")
    assert (
        f"  corrupted L1      none                         5      6{right.sum() + (-1 if right[2] else 1):>11}" in out
    )
    assert "pair 2, denoise/clean/replace/resid_post/L1/first:3: published" in out
    side = {"output": "no such text", "correct": True}
    baseline = {"results": [{"pair_id": i, "clean": side, "corrupted": side, "both_correct": True} for i in range(N)]}
    code, out, _ = run(capsys, write(tmp_path, baseline), results)
    assert code == 0
    assert f"unpatched texts equal: clean 0, corrupted 0 of {N}" in out
    assert out.count("unpatched: published") == 2 * N


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"valid_results": [{"pair_id": 1}]}', '$.valid_results[0]: expected the key "clean", found no such key'),
        ('{"valid_results": []}', "$.valid_results: expected at least one pair"),
        ("{}", "expected per-pair results"),
        ('{"results": [1]}', "$.results[0]: expected an object"),
        ('{"valid_results": [{"pair_id": "1"}]}', "$.valid_results[0].pair_id: expected a whole number"),
        ('{"valid_results": [], "config": {"tokens_patched": 0}}', "$.config.tokens_patched: expected a number"),
        ("{", "line 1: expected JSON"),
    ],
)
def test_broken_files(results, tmp_path, capsys, text, words):
    code, out, err = run(capsys, write(tmp_path, text), results)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert words in err


def test_an_id_twice(results):
    """Of two pairs of one id, the one with the same expected answers is meant."""
    p = published.load_published(write(results.parent, patching(results, 1)))
    wrong = copy.deepcopy(p.pairs[2])
    wrong.expected = (1.0, 2.0)
    p.pairs.insert(0, wrong)
    a = agreement.compare_published(p, load_results(results), agreement.Options())
    assert (a.pairs, a.other_answer, a.same_text) == (N, 0, 3 * N)


def test_published_files_are_read(original_dir, results):
    """Every published per-pair file; our results are of other problems, which is found before anything is compared."""
    kinds = []
    for path in sorted(original_dir.glob("*/*.json")):
        if path.name.startswith(("prefix_zero", "recovery")):
            continue  # single problems; a file without outcomes
        p = published.load_published(path)
        kinds.append((p.kind, p.family))
        published.add_questions(p, original_dir.parent / "pairs" / "pairs_532_gpt4.json")
    assert len(kinds) == 18
    assert {family for _, family in kinds} == {"gpt2", "llama"}
    before = published.load_published(original_dir / "llama" / "ablation_6tok.json")
    published.add_questions(before, original_dir.parent / "pairs" / "pairs_045_before_fixes.json")
    assert sum(pair.questions is not None for pair in before.pairs) == 23
    with pytest.raises(LayoutError, match="expected the list of pairs"):
        published.add_questions(before, original_dir / "llama" / "ablation_6tok.json")
