#!/usr/bin/env bash
# What the tests of slurm/ need from Debian or Ubuntu; nothing is started. Exit code 77, with one line that says why, where
# it cannot be had.
set -euo pipefail
needs=(munged slurmctld slurmd sbatch)
missing=0
for need in "${needs[@]}"; do command -v "$need" >/dev/null || missing=1; done
((missing)) || exit 0
line="apt-get install -y --no-install-recommends slurm-wlm slurmctld slurmd slurm-client munge"
if ! command -v apt-get >/dev/null; then
  echo "skipped: no Slurm here, and no apt-get to install it"
  exit 77
elif ((EUID != 0)); then
  echo "skipped: no Slurm here (as root: $line)"
  exit 77
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! DEBIAN_FRONTEND=noninteractive $line >"$log" 2>&1 &&
  ! { apt-get update && DEBIAN_FRONTEND=noninteractive $line; } >"$log" 2>&1; then
  echo "skipped: Slurm could not be installed: $(grep -E '^E:' "$log" | head -n 1)"
  exit 77
fi
