#!/usr/bin/env bash
# The scripts of slurm/ and of their tests under shellcheck.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
command -v shellcheck >/dev/null || { echo "skipped: no program shellcheck"; exit 77; }
exec shellcheck -x slurm/*.sh slurm/*.sbatch slurm/site.conf slurm/sites/*.conf tests/slurm/*.sh
