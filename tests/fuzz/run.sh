#!/usr/bin/env bash
# run.sh [SECONDS [SEED]] | build: every libFuzzer target from its corpus for SECONDS (20) with a fixed seed, as many at once
# as there are cores. The words of a schema are the dictionary of the target that reads such files. Builds the preset fuzz
# (clang); `build` does no more than that. 0 as SECONDS: until one fails, for a night. What a target found lies in
# build-fuzz/found; exit code 1. 77: no clang.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-20} seed=${2:-1}
command -v clang >/dev/null 2>&1 || {
  echo "skipped: clang was not found"
  exit 77
}
targets=()
for source in tests/fuzz/fuzz_*.c; do targets+=("$(basename "$source" .c)"); done
log=$(mktemp)
if ! { cmake --preset fuzz && cmake --build --preset fuzz --target "${targets[@]}"; } >"$log" 2>&1; then
  tail -40 "$log"
  exit 1
fi
rm -f "$log"
[[ $seconds == build ]] && exit
found=build-fuzz/found
mkdir -p "$found"
one() {
  local target=$1 name=${1##*/fuzz_} work
  work=$(mktemp -d)
  local schema=schemas/$name.schema.json options=()
  if [[ -f $schema ]]; then
    # "word" becomes "\"word\"", which is a string of JSON as the dictionary spells it.
    grep -oE '"[A-Za-z_][A-Za-z_ -]*"' "$schema" | sort -u | sed 's/"/\\"/g; s/.*/"&"/' >"$found/$name.dict"
    options=("-dict=$found/$name.dict")
  fi
  # New inputs go to the first folder; the corpus of the repository is only read.
  if "$target" -seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="$found/$name-" ${options[@]+"${options[@]}"} "$work" "tests/fuzz/corpus/$name" >"$found/$name.log" 2>&1; then
    printf '%-12s %s inputs\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$found/$name.log")"
    rm -rf "$work"
  else
    # The machine may be gone when somebody reads the finding: what was said before the fault, where, and the input itself.
    printf '%-12s FAILED\n' "$name"
    grep -m1 -B3 -A16 -aE 'ERROR|runtime error' "$found/$name.log" || tail -20 "$found/$name.log"
    local input
    for input in "$found/$name"-*; do
      if [[ -f $input ]]; then printf '%s\n%s\n' "$input" "$(head -c 4096 "$input" | base64 -w 0)"; fi
    done
    rm -rf "$work"
    return 1
  fi
}
export -f one
export seed seconds found
printf '%s\0' "${targets[@]/#/build-fuzz/tests/}" | xargs -0 -P "$(env -u OMP_NUM_THREADS nproc)" -I{} bash -c 'one {}'
