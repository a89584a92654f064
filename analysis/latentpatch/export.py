"""Exports: long-format CSV and Parquet, LaTeX tables, and an offline Weights & Biases run (extra `wandb`)."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .analyse import Analysis
from .load import CLASSES, LABELS, Results
from .output import write

_TEX_SPECIAL = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\to$",
    "×": r"$\times$",
}


def long_format(results: Results, kind: str) -> bytes:
    """The long format as a file's bytes; kind: `csv`, `csv.gz` or `parquet` (extra `parquet`)."""
    frame = results.frame()
    if kind == "parquet":
        out = io.BytesIO()
        frame.to_parquet(out, index=False)
        return out.getvalue()
    text = frame.to_csv(index=False).encode()
    return gzip.compress(text, mtime=0) if kind == "csv.gz" else text


def write_long(results: Results, path: Path | str) -> Path:
    """Writes the long format, by the ending of a name that nothing has yet."""
    kinds = [kind for kind in ("csv", "csv.gz", "parquet") if Path(path).name.endswith(f".{kind}")]
    if not kinds:
        raise ValueError(f"{path}: expected a name ending in .csv, .csv.gz or .parquet")
    return write(path, long_format(results, kinds[0]))


def tex_escape(text: str) -> str:
    """The text as LaTeX prints it."""
    return "".join(_TEX_SPECIAL.get(c, c) for c in text)


def _tex_p(value: float) -> str:
    if value != value:
        return ""
    return "$<$0.001" if value < 0.001 else f"{value:.3f}"


def latex_table(rows: Iterable[Mapping[str, Any]], caption: str) -> str:
    """Class shares as a LaTeX `longtable` (packages booktabs and longtable).

    A row: layer, steps, n, the share of each class in % with its Wilson 95 % interval, the Holm-corrected p against the
    unpatched run and against the shuffled donor. Dead cells are left out; a copy of another row names it instead of p.
    """
    head = ["Layer", "Steps", "$n$", *(rf"{tex_escape(LABELS[c].capitalize())} (\%)" for c in CLASSES)]
    head += [r"$p_\mathrm{unpatched}$", r"$p_\mathrm{shuffled}$"]
    lines = [
        r"% \usepackage{booktabs,longtable}",
        r"\begin{longtable}{ll" + "r" * (len(head) - 2) + "}",
        rf"\caption{{{tex_escape(caption)}}}\\",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        r"\endhead",
    ]
    for row in rows:
        if row["mark"] == "dead":
            continue
        shares = [rf"{c['pct']:.1f} {{\scriptsize [{c['low']:.1f}, {c['high']:.1f}]}}" for c in row["classes"]]
        tests = (
            [tex_escape(row["mark"]), ""] if row["mark"] else [_tex_p(row["p_unpatched"]), _tex_p(row["p_shuffled"])]
        )
        cells = [tex_escape(row["where"]), tex_escape(row["steps"]), str(row["n"]), *shares, *tests]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{longtable}", ""])


def write_wandb(analysis: Analysis, folder: Path | str, project: str = "latentpatch") -> Path:
    """Writes an offline run (sync it later with `wandb sync`); nothing is sent from here."""
    try:
        import wandb
    except ImportError as error:
        raise RuntimeError("the extra is missing: pip install 'latentpatch[wandb]'") from error
    r = analysis.results
    run = wandb.init(
        mode="offline", dir=str(folder), project=project, name=r.label, config={"job": r.job, **r.provenance}
    )
    titles = dict(zip(analysis.panels["panel"], analysis.panels["title"], strict=True))
    for line in analysis.table[analysis.table["in_family"]].itertuples():
        run.log(
            {
                "layer": line.layer,
                "n_steps": line.n_steps,
                **{f"{titles[line.panel]}/{c}": getattr(line, c) / line.n for c in CLASSES},
            }
        )
    run.log({"classes": wandb.Table(dataframe=analysis.table), "tests": wandb.Table(dataframe=analysis.tests)})
    run.finish()
    return Path(folder)
