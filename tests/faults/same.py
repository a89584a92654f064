"""Whether two stores or two results files hold the same: every dataset and attribute but those of /provenance, by HDF5's
own h5diff. A store's checksums are among them, so its values are compared to the bit."""

from __future__ import annotations

import subprocess
from pathlib import Path


def difference(first: Path, second: Path) -> str:
    """What differs, or nothing. The CSV beside results is compared byte for byte."""
    run = subprocess.run(["h5diff", "--exclude-path", "/provenance", str(first), str(second)], capture_output=True, text=True)
    if run.returncode != 0 or run.stdout:
        return f"{first} and {second}: h5diff says {run.returncode}: {(run.stdout + run.stderr).strip()[:500]}"
    if first.name.endswith(".results.h5"):
        names = [path.with_name(path.name.replace(".results.h5", ".csv")) for path in (first, second)]
        if names[0].read_bytes() != names[1].read_bytes():
            return f"{names[0]} and {names[1]} differ"
    return ""
