#!/usr/bin/env bash
# latentpatch beside the usual way (bench/peer_hf.py), on the same random GPT-2 124M checkpoint and pairs, in one go.
#
#   LATENTPATCH_TORCH_PYTHON=python-with-torch bench/compare.sh [--peer-conditions N] [--repeat N] ...
#
# Builds the program where there is none yet; keeps checkpoint and pairs in build/bench. Options: bench/compare.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${LATENTPATCH_TORCH_PYTHON:?set it to a Python with the packages of tests/oracle/requirements.txt}
build=${LATENTPATCH_BUILD:-build}
if [[ ! -x $build/latentpatch ]]; then
  cmake --preset default -B "$build" >/dev/null
  cmake --build "$build" --target latentpatch
fi
work=build/bench
mkdir -p "$work"
if [[ ! -f $work/gpt2-124m/lora.json ]]; then
  "$python" bench/make_checkpoint.py --shape gpt2-124m --dtype fp32 "$work/gpt2-124m"
fi
if [[ ! -f $work/pairs.json ]]; then
  "$python" bench/make_pairs.py --tokenizer "$work/gpt2-124m/base/tokenizer.json" --pairs 8 --tokens 70 "$work/pairs.json"
fi
if [[ ! -x $work/gemm_peak || bench/gemm_peak.c -nt $work/gemm_peak ]]; then
  # shellcheck disable=SC2046
  ${CC:-cc} -std=c17 -D_POSIX_C_SOURCE=200809L -O2 bench/gemm_peak.c -o "$work/gemm_peak" $(pkg-config --cflags --libs openblas)
fi
exec "$python" bench/compare.py --program "$build/latentpatch" --work "$work" "$@"
