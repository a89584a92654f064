"""Steering vectors for jobs/demo-steering-*.json, from a store of the demo model with all its pairs.

    python make_steering.py STORE.h5 FOLDER

FOLDER/steering.npy is the mean of latent_raw over the runs that answer right minus the mean over those that answer
wrong, over both runs of every pair and all steps; steering_random.npy a Gaussian direction of the same length.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np


def main() -> None:
    """Reads, averages, writes."""
    store, folder = sys.argv[1], Path(sys.argv[2])
    states, right = [], []
    with h5py.File(store) as f:
        for side in ("clean", "corrupted"):
            states.append(f[f"runs/{side}/latent_raw"][:].astype(np.float64))
            right.append(f[f"runs/{side}/outcome"][:] == ("clean", "corrupted").index(side))
    x = np.concatenate(states).mean(axis=1)
    ok = np.concatenate(right)
    direction = (x[ok].mean(axis=0) - x[~ok].mean(axis=0)).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal(direction.size)
    noise *= np.linalg.norm(direction) / np.linalg.norm(noise)
    np.save(folder / "steering.npy", direction)
    np.save(folder / "steering_random.npy", noise.astype(np.float32))
    print(f"right {ok.sum()}, wrong {(~ok).sum()}, length {np.linalg.norm(direction):.3f} of {np.linalg.norm(x[0]):.3f}")


if __name__ == "__main__":
    main()
