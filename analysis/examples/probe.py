"""Linear probes for the answer: how well does each (layer, thought step) of a store tell the answer to come?

Run: python probe.py STORE.store.h5 [--site resid_post] [--csv probe.csv]
Needs scikit-learn: pip install 'latentpatch[probe]'

Both runs of every complete pair are rows. Folds keep all rows of a source problem together, so that a probe is never
tested
on a problem it was trained on (clean and corrupted questions differ by one number and would leak).
"""

# %% Imports
from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import latentpatch as lp
from latentpatch import output


# %% One probe
def probe(x: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: int = 5) -> tuple[float, float]:
    """Held-out R squared and the share of answers hit when rounded to the nearest integer. x [n, d], y [n]."""
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 5, 13)))
    held_out = cross_val_predict(model, x, y, groups=groups, cv=GroupKFold(min(folds, len(np.unique(groups)))))
    residual, total = ((y - held_out) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return float(1 - residual / total), float((np.round(held_out) == np.round(y)).mean())


# %% All layers and steps of a site
def probe_store(path: str, site: str = "resid_post", target: str = "answer") -> pd.DataFrame:
    """A line per (layer, step). target: `answer` (of the pair file) or `number` (what the model answered)."""
    with lp.load_store(path) as store:
        values, labels = [], []
        for run in ("clean", "corrupted"):
            values.append(store.activations(site, run))
            labels.append(
                store.pairs[f"{run}_answer"].to_numpy() if target == "answer" else store.column("number", run)
            )
        layers = store.layers(site) or [-1]
        groups = np.tile(pd.factorize(store.pairs["source"].to_numpy())[0], 2)
    x, y = np.concatenate(values), np.concatenate(labels).astype(float)
    if x.ndim == 3:
        x = x[:, None]
    keep = np.isfinite(y)
    lines = []
    for i, layer in enumerate(layers):
        for step in range(x.shape[2]):
            r2, hit = probe(x[keep, i, step], y[keep], groups[keep])
            lines.append({"layer": layer, "step": step, "n": int(keep.sum()), "r2": r2, "exact": hit})
    return pd.DataFrame(lines)


# %% Command line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--site", default="resid_post")
    parser.add_argument("--target", choices=("answer", "number"), default="answer")
    parser.add_argument("--csv")
    args = parser.parse_args()
    table = probe_store(args.store, args.site, args.target)
    print(table.pivot(index="layer", columns="step", values="r2").sort_index(ascending=False).round(2).to_string())
    if args.csv:
        output.write(args.csv, table.to_csv(index=False))


if __name__ == "__main__":
    main()
