#!/usr/bin/env bash
# emulated_demo.sh LATENTPATCH MODULE_FOLDER JOB: a few pairs of a demo job, from cache to results, on the emulated
# device: the same table on the cpu and with fp32 on tensor cores; in bf16 the same with less memory.
set -euo pipefail
program=$(realpath "$1") module=$(realpath "$2") job=$(realpath "$3")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The module is looked for beside the executable.
cp "$program" "$module/liblatentpatch_cuda.so" "$work"

conditions='[{"site": "resid_post", "layers": "all", "steps": "first:1-3", "donor": "clean"},
  {"site": "latent_raw", "steps": "all", "donor": ["nearest_token", {"nearest_token": {"by": "cosine", "shift": 1}}]},
  {"site": "latent_in", "steps": "all", "operation": "keep", "subspace": {"nearest_token": {"by": "cosine", "top": 5}}}]'
run() { # NAME SETTING...
  local name=$1 settings=()
  shift
  for setting in "$@" pairs.limit=2 decode.max_new_tokens=6 sweep.controls=false "sweep.conditions=$conditions" "store.file=$work/$name.store.h5" "results.file=$work/$name.results.h5" \
    "results.csv=$work/$name.csv" "results.summary=$work/$name.json"; do
    settings+=(--set "$setting")
  done
  "$work/latentpatch" run "$job" "${settings[@]}" --verbose >"$work/$name.out" 2>"$work/$name.log" ||
    { cat "$work/$name.log"; exit 1; }
}

run cuda engine.device=cuda
run cpu engine.device=cpu
run split engine.device=cuda engine.dtype=fp32-tc
run bf16 engine.device=cuda engine.dtype=bf16
run narrow engine.device=cuda engine.dtype=bf16 engine.memory_limit=24MiB
cmp "$work/cuda.csv" "$work/cpu.csv"
cmp "$work/split.csv" "$work/cpu.csv"
cmp "$work/bf16.csv" "$work/narrow.csv"
printf '%s of %s lines differ in bf16\n' "$(diff "$work/cpu.csv" "$work/bf16.csv" | grep -c '^>' || true)" "$(wc -l <"$work/cpu.csv")"
