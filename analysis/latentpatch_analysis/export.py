"""Exports: long-format CSV and Parquet, and an offline Weights & Biases run (extra `wandb`)."""

from __future__ import annotations

from pathlib import Path

from .analyse import Analysis
from .load import CLASSES, Results


def write_long(results: Results, path: Path | str) -> Path:
    """Writes the long format: `.csv`, `.csv.gz` or `.parquet` (extra `parquet`) by the ending."""
    path = Path(path)
    frame = results.frame()
    if path.name.endswith((".csv", ".csv.gz")):
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        raise ValueError(f"{path}: expected a name ending in .csv, .csv.gz or .parquet")
    return path


def write_wandb(analysis: Analysis, folder: Path | str, project: str = "latentpatch") -> Path:
    """Writes an offline run (sync it later with `wandb sync`); nothing is sent from here."""
    try:
        import wandb
    except ImportError as error:
        raise RuntimeError("the extra is missing: pip install 'latentpatch-analysis[wandb]'") from error
    r = analysis.results
    run = wandb.init(
        mode="offline", dir=str(folder), project=project, name=r.label, config={"job": r.job, **r.provenance}
    )
    for line in analysis.table[analysis.table["in_family"]].itertuples():
        run.log(
            {
                "layer": line.layer,
                "n_steps": line.n_steps,
                **{f"{line.direction}/{line.site}/{c}": getattr(line, c) / line.n for c in CLASSES},
            }
        )
    run.log({"classes": wandb.Table(dataframe=analysis.table), "tests": wandb.Table(dataframe=analysis.tests)})
    run.finish()
    return Path(folder)
