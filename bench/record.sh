#!/usr/bin/env bash
# Measures this machine and appends one line to bench/record.csv; bench/RESULTS.md draws all lines.
#
#   LATENTPATCH_TORCH_PYTHON=python-with-torch bench/record.sh [OPTIONS of bench/compare.py]   # a processor
#   bench/record.sh --gpu OUT/compare.json                  # a GPU: a line a dtype of what compare_cuda.py has written
#   bench/record.sh --draw                                  # draws the lines again
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${LATENTPATCH_TORCH_PYTHON:-python3}
if [[ ${1:-} == --gpu || ${1:-} == --draw ]]; then
  exec "$python" bench/record.py "$@"
fi
out=$(mktemp)
trap 'rm -f "$out"' EXIT
bash bench/compare.sh "$@" | tee "$out"
"$python" bench/record.py --compare "$out"
