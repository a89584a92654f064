#!/usr/bin/env bash
# The demo, on a fresh machine and from any folder: installs what is missing, builds, and runs the demo job for both demo
# models with two MPI ranks. Output goes to out/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/setup.sh

lp_install "${lp_build_needs[@]}"
lp_build default
lp_mpi_environment 2
for model in gpt2 llama; do
  printf '\n'
  mpirun -n 2 build/latentpatch run "jobs/demo-$model.json"
done

# The report needs Python packages; the demo is complete without them.
printf '\n'
if [[ -e analysis/pyproject.toml ]] && lp_install "${lp_python_needs[@]}" &&
  lp_python analysis/pyproject.toml -e ./analysis &&
  page=$(.venv/bin/latentpatch-report --quiet -o out/report out/demo-gpt2.results.h5 out/demo-llama.results.h5); then
  printf 'report: %s\n' "$(realpath "$page")"
else
  printf 'report: not made (see above); the results are complete without it\n'
fi
