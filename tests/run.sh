#!/usr/bin/env bash
# All tests, from any folder: set-up, builds (optimised; address + undefined sanitizers), ctest in both, ruff and pytest.
# The last line is the sum over all of them. Exit code 0: nothing failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/setup.sh

lp_install "${lp_build_needs[@]}" "${lp_python_needs[@]}" "${lp_test_needs[@]}"
lp_install_known "${lp_some_tests_need[@]}"
# Before the tests, because two of them that install at once meet at apt's lock. What it says goes into the tests' own reason.
bash tests/slurm/install.sh >/dev/null || true
python=()
if lp_python tests/requirements.txt -r tests/requirements.txt; then
  python=("-DPython3_EXECUTABLE=$PWD/.venv/bin/python")
fi
lp_build default "${python[@]}"
lp_mpi_environment 4
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

reports=build/reports
rm -rf "$reports"
mkdir -p "$reports"
failed=0
# One more than there are cores, because one of them may be a test that mostly waits (tests/lists/ops.cmake). The builds
# of what comes next run beside the tests.
at_once=$(lp_cores)
{
  renice -n 10 -p "$BASHPID" >/dev/null 2>&1 || true
  lp_build debug-asan "${python[@]}"
} &
build=$!
lp_say "ctest, preset default"
ctest --test-dir build -j"$((at_once + 1))" --output-on-failure --no-tests=error --output-junit "$PWD/$reports/ctest-default.xml" ||
  failed=1
wait "$build"
nice -n 10 bash tests/fuzz/run.sh build &
build=$!
lp_say "ctest, preset debug-asan: unit, fuzz and cli tests"
ctest --test-dir build-asan -j"$at_once" --output-on-failure --no-tests=error -R '^(unit|fuzz|cli)\.' \
  --output-junit "$PWD/$reports/ctest-debug-asan.xml" || failed=1

wait "$build" || true # what was wrong with it is said again by what comes next
# Beside each other, because neither fills all cores.
pytest=
if lp_python analysis/pyproject.toml -c tests/requirements.txt -e './analysis[test]'; then
  timeout 900 .venv/bin/python -m pytest -q analysis/tests --junitxml "$reports/pytest-analysis.xml" \
    >"$reports/pytest.log" 2>&1 &
  pytest=$!
else
  printf 'skipped: analysis/tests (no Python packages)\n'
  touch "$reports/pytest-analysis.skipped"
fi
lp_say "fuzz targets, 20 s each from their corpus; pytest beside them"
fuzz=0
bash tests/fuzz/run.sh 20 | tee "$reports/fuzz.log" || fuzz=$?
if ((fuzz != 0 && fuzz != 77)); then touch "$reports/fuzz.failed"; fi
if [[ $pytest ]]; then
  wait "$pytest" || failed=1
  cat "$reports/pytest.log"
fi

python3 tests/count.py "$reports" || failed=1
exit "$failed"
