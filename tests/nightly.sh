#!/usr/bin/env bash
# nightly.sh [HOURS [SEED]]: searches for inputs that break the program, under the sanitizers, for HOURS (8) in all. Half of
# the time goes to the libFuzzer targets, the other half to damaged stores, results, archives, models and jobs, nine in ten
# of them read by one process. The seed is the day, so that each night looks elsewhere; it is printed. Exit code 1: something
# was found, and the lines above say what. New inputs of the fuzz targets lie in build-fuzz/found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/setup.sh
hours=${1:-8} seed=${2:-$(date +%Y%m%d)}
seconds=$(awk -v h="$hours" 'BEGIN {print int(h * 3600)}')
targets=(tests/fuzz/fuzz_*.c)
cores=$(nproc)
each=$((seconds / 2 * cores / ${#targets[@]}))
failed=0
echo "seed $seed; ${#targets[@]} targets for $each s each on $cores cores"
bash tests/fuzz/run.sh "$((each > 0 ? each : 1))" "$seed" || failed=1

lp_build debug-asan
lp_mpi_environment 1
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
export ASAN_OPTIONS=detect_leaks=0
python=.venv/bin/python
end=$((SECONDS + seconds / 2))
for ((turn = 0; SECONDS < end; turn++)); do
  first=$((seed * 1000000 + turn * 1000))
  $python tests/mutate.py build-asan/latentpatch --driver build-asan/tests/mutation_driver --count 900 --seed "$first" || failed=1
  $python tests/mutate.py build-asan/latentpatch --count 100 --seed "$((first + 900))" || failed=1
done
exit "$failed"
