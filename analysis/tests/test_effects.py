"""Effects of several conditions together, against numbers that follow from how the results were made."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from latentpatch import effects, stats
from latentpatch.load import NOT_RUN, Results

P, SOURCES, STEPS = 120, 30, 3


def make_condition(steps: str, **more: object) -> dict[str, object]:
    """One line of `/conditions`."""
    line = {
        "name": f"{steps}/{more.get('layers', 1)}",
        "role": "effect",
        "direction": "denoise",
        "phase": "thought",
        "site": "resid_post",
        "head": -1,
    }
    line |= {
        "layer": 1,
        "layers": "1",
        "steps": steps,
        "step_mask": 0,
        "n_steps": 1,
        "donor": "clean",
        "vector": -1,
        "draw": 0,
    }
    line |= {"from_site": "", "from_layer": -1, "from_step": -1, "operation": "replace", "factor": 1.0}
    return line | {"stop_after": 0, "defects": "", "dead": 0} | more


def make(conditions: list[dict[str, object]], cls: np.ndarray) -> Results:
    """Results of P pairs, four of each source; the last pair is not included."""
    sources = [f"s{i % SOURCES}" for i in range(P)]
    pairs = pd.DataFrame({"id": [f"p{i}" for i in range(P)], "source": sources, "included": [1] * (P - 1) + [0]})
    cls = np.asarray(cls, np.uint8)
    cls[-1] = NOT_RUN
    return Results("x", "x", pairs, pd.DataFrame(conditions), cls, cls * 1.0, cls * 0, cls * 0, [""])


@pytest.fixture
def joint() -> Results:
    """A (thought 0) wins 20 of 119 pairs, B (thought 1) 30, both 90; and thought 2, of which no union is there."""
    lines = [
        make_condition("u", role="unpatched", layers="", donor="", phase="", site=""),
        make_condition("single:0", step_mask=1),
        make_condition("single:1", step_mask=2),
        make_condition("set:0,1", step_mask=3, n_steps=2),
        make_condition("single:2", step_mask=4),
        make_condition("set:0,1", step_mask=3, n_steps=2, layers="2"),
    ]
    cls = np.ones((P, len(lines)))
    for c, n in enumerate((0, 20, 30, 90, 50, 90)):
        cls[:n, c] = 0
    return make(lines, cls)


def test_joint(joint: Results) -> None:
    """The interaction is that of the shares; its interval holds it and is the bootstrap's over sources."""
    assert effects.find_joint(joint) == [(1, 2, 3)]
    cluster = pd.factorize(joint.pairs["source"].to_numpy()[joint.included])[0]
    table = effects.joint_table(joint, cluster, 500)
    (line,) = table.itertuples()
    assert (line.n, line.sources) == (P - 1, SOURCES)
    assert line.interaction == pytest.approx((90 - 20 - 30) / (P - 1))
    per_source = np.zeros((SOURCES, 2))
    score = (joint.cls[:-1, 3] == 0) * 1.0 - (joint.cls[:-1, 1] == 0) - (joint.cls[:-1, 2] == 0)
    np.add.at(per_source, cluster, np.column_stack([score, np.ones(P - 1)]))
    wanted = stats.cluster_bootstrap(per_source, lambda s: (s[:, 0] / s[:, 1])[:, None], 500)
    assert (line.low, line.high) == pytest.approx((wanted.low[0], wanted.high[0]))
    assert line.low < line.interaction < line.high
    rows = effects.effects(joint, cluster, 200).joint_rows
    assert [rows[0][k] for k in ("a", "b", "interaction")] == ["layer 1, thought 0", "layer 1, thought 1", "+33.6"]


def test_joint_leaves_out_what_did_not_run(joint: Results) -> None:
    """Only pairs that all four were run on count."""
    joint.cls[:10, 2] = NOT_RUN
    (line,) = effects.joint_table(joint, np.arange(P - 1), 200).itertuples()
    assert line.n == P - 11
    assert line.interaction == pytest.approx((80 - 10 - 20) / (P - 11))


def test_joint_over_layers() -> None:
    """Layers 0 and 1 together are the union of layer 0 and layer 1."""
    lines = [
        make_condition("u", role="unpatched"),
        make_condition("a", layers="0", step_mask=1),
        make_condition("b", layers="1", step_mask=1),
        make_condition("ab", layers="0-1", step_mask=1),
    ]
    assert effects.find_joint(make(lines, np.ones((P, 4)))) == [(1, 2, 3)]


def test_steps() -> None:
    """Means over included pairs; steps that a run does not make count for nothing."""
    lines = [
        make_condition("u", role="unpatched"),
        *(make_condition(f"single:{i}", step_mask=1 << i) for i in range(STEPS)),
    ]
    r = make(lines, np.ones((P, len(lines))))
    kl = np.zeros((P, len(lines), STEPS), np.float32)
    for i in range(STEPS):
        kl[:, 1 + i, i:] = 1 + i
    kl[0, 1, 2] = np.nan
    kl[1, 1, 2] = 4
    kl[-1] = 100  # of the pair that is not included
    r.steps = {"kl": kl, "cosine": np.ones_like(kl), "change": kl / 2}
    table = effects.step_table(r).set_index(["condition", "step"])
    assert table.loc[("single:0/1", 2), "n"] == P - 2
    assert table.loc[("single:0/1", 2), "kl"] == pytest.approx((P - 3 + 4) / (P - 2))
    assert table.loc[("single:2/1", 2), "change"] == pytest.approx(1.5)


def test_stops() -> None:
    """The curve over early stops."""
    lines = [make_condition("u", role="unpatched")]
    lines += [
        make_condition("single:0", name=f"stop{t}", donor="self", role="control", stop_after=t, step_mask=1)
        for t in (1, 2, 3)
    ]
    cls = np.ones((P, 4))
    for c in (1, 2, 3):
        cls[: 20 * c, c] = 2
    r = make(lines, cls)
    found = effects.effects(r, np.arange(P - 1), 200)
    assert list(found.stops["other"]) == pytest.approx([20 / 119, 40 / 119, 60 / 119])
    assert not len(found.steps)
    assert not len(found.joint)
