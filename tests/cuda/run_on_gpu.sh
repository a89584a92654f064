#!/usr/bin/env bash
# run_on_gpu.sh PACKED OUT SECTION...: the checks that need a GPU, on a machine that has one and little else.
#
# PACKED is a folder made by pack.sh; the rest of the repository lies where this script does. A section that fails does
# not end the others; each says how long it took. The group `first` is meant when no section is named. A group ends
# within LP_GPU_SECONDS (570): what is left of them limits each check, and a section for which nothing is left is skipped
# and counts as failed. Minutes are estimates for one H100; checkpoints are made while `quick` runs.
#   first: quick states rival kernels start (9 min)     second: conformance devices sanitizer (10 min)
#
#   quick        what never ran on a device: attention and products in each dtype, racecheck of attention (2 min)
#   states       states of the thoughts in each dtype, and transformers' in fp32, against float64, by site (2 min)
#   rival        bench/peer_batched.py, all conditions of 16 pairs in one batch, beside ours: the same texts, seconds a
#                condition in fp32, tf32, bf16 (2 min; RIVAL_DTYPES chooses)
#   kernels      device seconds by kernel over a sweep of 64 pairs in fp32, fp32-tc and bf16 (2 min; needs a C compiler
#                and CUPTI)
#   start        the timeline of a start (1 min)
#   conformance  every operation in each dtype against double precision, row independence, and the kernel class of each
#                shape of the public models, of which none may be unaligned (3 min)
#   devices      two ranks on two devices, where there are two: the same bytes (1 min)
#   sanitizer    compute-sanitizer memcheck, racecheck, synccheck on the small sizes (6 min)
#   demo         both demo models on cpu and cuda: the rows that differ; other batch sizes: the same bytes (4 min)
#   bench        bench/compare_cuda.py: LLaMA-3.2-1B shape, 64 pairs, in fp32, tf32 and bf16 beside the peer (9 min;
#                BENCH_PARTS and BENCH_DTYPES choose some of it)
#   many         the same sweep over 500 pairs with 8 new tokens, fp32 and bf16 (6 min; MANY_PAIRS)
#   split        errors of fp32-tc's products against float64, and their rates, at the shapes of LLaMA-1B (1 min)
#   profile      nsys over a short sweep, where it is installed (2 min)
# LP_GPU_WORK names a folder that stays, so that the next call finds the checkpoints.
# Everything goes to OUT; OUT/summary.txt has a line a check. Exit code 1 when one failed.
# Without a GPU: LP_GPU_DEVICE=cpu LP_GPU_SHAPE=tiny-llama try states, rival, start, bench and many.
# shellcheck disable=SC2317 # sections are called by their names
set -uo pipefail
if (($# < 2)); then
  printf 'usage: bash tests/cuda/run_on_gpu.sh PACKED OUT [SECTION...]\n' >&2
  exit 2
fi
packed=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift 2
(($# > 0)) || set -- first
sections=()
for section in "$@"; do
  case $section in
    first) sections+=(quick states rival kernels start) ;;
    second) sections+=(conformance devices sanitizer) ;;
    *) sections+=("$section") ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
# shellcheck source=/dev/null
source "$packed/environment"
if [[ -n ${LP_GPU_WORK:-} ]]; then
  work=$LP_GPU_WORK
  mkdir -p "$work"
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
failed=0
device=${LP_GPU_DEVICE:-cuda} shape=${LP_GPU_SHAPE:-llama-3.2-1b} seconds=${LP_GPU_SECONDS:-570}

say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# check NAME SECONDS COMMAND...: output to OUT/NAME.log, a line with the outcome and the wall time.
check() {
  local name=$1 limit=$2 start=$SECONDS rc=0 left=$((seconds - SECONDS))
  shift 2
  if ((left < 5)); then
    printf 'no time is left of %s s\n' "$seconds" >"$out/$name.log"
    say "FAILED $name: no time is left of $seconds s"
    failed=1
    return
  fi
  # What a program printed before it was stopped is wanted.
  timeout -k 5 "$((left < limit ? left : limit))" stdbuf -oL "$@" >"$out/$name.log" 2>&1 || rc=$?
  if ((rc == 0)); then
    say "ok     $name ($((SECONDS - start)) s)"
  else
    ((rc != 124)) || printf 'stopped: it took too long\n' >>"$out/$name.log"
    say "FAILED $name: exit $rc after $((SECONDS - start)) s: $(grep -v '^$' "$out/$name.log" | tail -n 1)"
    failed=1
  fi
}

# sweep NAME SECONDS JOB SETTING...: `run` of a job with its files in the work folder.
sweep() {
  local name=$1 limit=$2 job=$3 store=$4
  shift 4
  check "$name" "$limit" "$packed/latentpatch" run "$job" --set "store.file=$work/$store.store.h5" \
    --set "results.file=$work/$name.h5" --set "results.csv=$work/$name.csv" --set "results.summary=$work/$name.json" "$@"
}

# compare NAME SECONDS PARTS DTYPES OPTION...: parts of bench/compare_cuda.py, which makes what is missing.
compare() {
  local name=$1 limit=$2 parts=$3 dtypes=$4
  shift 4
  check "$name" "$limit" python3 bench/compare_cuda.py --program "$packed/latentpatch" --forward "$packed/bench_forward" \
    --device "$device" --shape "$shape" --work "$work/bench" --out "$out/$name" --parts "$parts" --dtypes "$dtypes" "$@"
}

# The checkpoints of the sections that follow, beside a section that does not need them.
make_checkpoints() {
  local section plain=0 scaled=0
  for section in "${sections[@]}"; do
    case $section in
      states) scaled=1 ;;
      rival | kernels | start | bench | many | profile) plain=1 ;;
    esac
  done
  if [[ -e $work/states/$shape-scaled/lora.json ]]; then scaled=0; fi
  if ((scaled)); then
    python3 bench/make_checkpoint.py --shape "$shape" --init scaled "$work/states/$shape-scaled" &
  fi
  if ((plain)) && [[ ! -e $work/bench/$shape/lora.json ]]; then
    python3 bench/make_checkpoint.py --shape "$shape" "$work/bench/$shape" || return
  fi
  ((scaled == 0)) || wait "$!"
}

section_quick() {
  local dtype
  for dtype in fp32 fp32-tc bf16 tf32; do
    check "quick-$dtype" 60 "$packed/lp_conformance" cuda "$dtype" small attention products
  done
  for dtype in fp32 fp32-tc bf16; do
    check "quick-racecheck-$dtype" 90 compute-sanitizer --target-processes all --tool racecheck \
      --kernel-name kns=attend --error-exitcode 3 "$packed/lp_conformance" cuda "$dtype" small attention
  done
}

section_conformance() {
  local dtype
  for dtype in fp32 tf32 bf16 fp32-tc; do
    check "conformance-$dtype" 180 "$packed/lp_conformance" cuda "$dtype" verbose
    grep -h 'operands at multiples of' "$out/conformance-$dtype.log" >"$out/kernel-classes-$dtype.txt"
    say "       kernels of $dtype: $(wc -l <"$out/kernel-classes-$dtype.txt") shapes, $(grep -c 'tensor cores' "$out/kernel-classes-$dtype.txt") on tensor cores (kernel-classes-$dtype.txt)"
  done
}

section_states() {
  check states 200 python3 bench/states.py --program "$packed/latentpatch" --work "$work/states" --device "$device" \
    --shape "$shape" --dtypes "${STATES_DTYPES:-fp32,fp32-tc,tf32,bf16}"
  cat "$out/states.log"
}

# One sweep of 64 pairs that says when each part of its start began and ended.
section_start() {
  local dtype=${START_DTYPE:-bf16}
  compare start 120 sweep "$dtype" --many-pairs 0
  rm -f "$work/bench/64-$dtype.results.h5"
  check start-timeline 100 "$packed/latentpatch" sweep "$work/bench/64-$dtype.json" --verbose
  grep -h 'ready after seconds' "$out/start-timeline.log"
}

section_devices() {
  local n
  n=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
  if ((n < 2)) || ! command -v mpiexec >/dev/null; then
    say "skipped: devices ($n devices$(command -v mpiexec >/dev/null || printf ', no mpiexec'))"
    return
  fi
  sweep devices-one 100 jobs/demo-gpt2.json devices-one --set engine.device=cuda
  # The packed environment is that of one rank alone.
  check devices-two 100 env OMPI_MCA_btl=self,vader mpiexec --allow-run-as-root -n 2 "$packed/latentpatch" run jobs/demo-gpt2.json --verbose \
    --set engine.device=cuda --set "store.file=$work/devices-two.store.h5" --set "results.file=$work/devices-two.h5" \
    --set "results.csv=$work/devices-two.csv" --set "results.summary=$work/devices-two.json"
  check devices-same-rows 5 cmp "$work/devices-one.csv" "$work/devices-two.csv"
}

section_sanitizer() {
  local tool
  # An allocation that must fail is asked for on purpose. Hazards of the library's own kernels are not ours.
  for tool in "memcheck --report-api-errors no" "racecheck --kernel-name kns=_kernel" "synccheck --kernel-name kns=_kernel"; do
    # shellcheck disable=SC2086 # words
    check "sanitizer-${tool%% *}" 150 compute-sanitizer --target-processes all --tool $tool --error-exitcode 3 \
      "$packed/lp_conformance" cuda fp32 small
  done
  check sanitizer-memcheck-bf16 150 compute-sanitizer --target-processes all --tool memcheck --report-api-errors no \
    --error-exitcode 3 "$packed/lp_conformance" cuda bf16 small
}

section_demo() {
  local model
  for model in gpt2 llama; do
    sweep "demo-$model-cpu" 100 "jobs/demo-$model.json" "$model-cpu" --set engine.device=cpu
    sweep "demo-$model-cuda" 60 "jobs/demo-$model.json" "$model-cuda" --set engine.device=cuda
    check "demo-$model-differences" 20 python3 tests/cuda/differ.py "$work/demo-$model-cpu.csv" "$work/demo-$model-cuda.csv"
    check "demo-$model-same-rows" 5 cmp "$work/demo-$model-cpu.csv" "$work/demo-$model-cuda.csv"
    sweep "demo-$model-cuda-little" 100 "jobs/demo-$model.json" "$model-little" --set engine.device=cuda \
      --set engine.memory_limit=96MiB
    check "demo-$model-any-batch" 5 cmp "$work/demo-$model-cuda.csv" "$work/demo-$model-cuda-little.csv"
    for dtype in fp32-tc tf32 bf16; do
      sweep "demo-$model-$dtype" 60 "jobs/demo-$model.json" "$model-$dtype" --set engine.device=cuda --set "engine.dtype=$dtype"
      check "demo-$model-$dtype-differences" 20 python3 tests/cuda/differ.py "$work/demo-$model-cuda.csv" "$work/demo-$model-$dtype.csv"
    done
  done
}

section_bench() {
  compare bench 570 "${BENCH_PARTS:-gemm,sweep,peer,rival,agreement,forward}" "${BENCH_DTYPES:-fp32,tf32,bf16}"
  cat "$out/bench.log"
}

section_many() {
  compare many 570 many "${BENCH_DTYPES:-fp32,bf16}" --many-pairs "${MANY_PAIRS:-500}"
  cat "$out/many.log"
}

section_rival() {
  compare rival 270 sweep,rival "${RIVAL_DTYPES:-fp32,tf32,bf16}" --pairs "${RIVAL_PAIRS:-32}" --many-pairs 0
  check rival-texts 20 python3 tests/cuda/differ.py --texts "$work/bench/${RIVAL_PAIRS:-32}-fp32.csv" "$work/bench/rival.fp32.csv"
  cat "$out/rival.log" "$out/rival-texts.log"
}

section_kernels() {
  local library=$work/libkernel_times.so cuda=${CUDA_HOME:-/usr/local/cuda} dtype cupti include
  # CUPTI of the toolkit, or else of pip's packages.
  cupti=$(find -L "$cuda"/lib64 "$cuda"/extras "$(python3 -c 'import nvidia; print(nvidia.__path__[0])' 2>/dev/null)" \
    -name 'libcupti.so*' 2>/dev/null | head -n 1)
  include=$(find -L "$cuda"/include "$cuda"/extras "${cupti%/lib*}" -name cupti.h 2>/dev/null | head -n 1)
  if ! cc -O2 -shared -fPIC bench/kernel_times.c -o "$library" -I "$(dirname "$include")" -I "$cuda/include" "$cupti" \
    >"$out/kernels.log" 2>&1; then
    say "FAILED kernels: $(grep -v '^$' "$out/kernels.log" | head -n 1)"
    failed=1
    return
  fi
  for dtype in ${KERNELS_DTYPES:-fp32 fp32-tc bf16}; do
    compare "kernels-$dtype" 100 sweep "$dtype" --many-pairs 0
    rm -f "$work/bench/64-$dtype.results.h5"
    check "kernels-$dtype-times" 60 env CUDA_INJECTION64_PATH="$library" KERNEL_TIMES="$out/kernels-$dtype.txt" \
      LD_LIBRARY_PATH="$(dirname "$cupti"):${LD_LIBRARY_PATH:-}" \
      "$packed/latentpatch" sweep "$work/bench/64-$dtype.json"
    check "kernels-$dtype-table" 5 head -n 12 "$out/kernels-$dtype.txt"
    cat "$out/kernels-$dtype-table.log"
  done
}

section_split() {
  check split 60 python3 bench/split_gemm.py
  cat "$out/split.log"
}

section_profile() {
  local job=$work/bench/8-bf16.json
  compare profile-sweep 100 sweep bf16 --pairs 8 --many-pairs 0
  if command -v nsys >/dev/null; then
    rm -f "$work/bench/8-bf16.results.h5"
    check profile 110 nsys profile --stats=true -o "$work/profile" "$packed/latentpatch" sweep "$job"
  else
    say "skipped: profile (no nsys)"
  fi
}

for section in "${sections[@]}"; do
  if ! declare -F "section_$section" >/dev/null; then
    printf 'run_on_gpu.sh: no section %s\n' "$section" >&2
    exit 2
  fi
done
{
  nvidia-smi
  nvcc --version | tail -n 2
  python3 -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
  python3 -c 'import peft; print("peft", peft.__version__)'
  nproc
} >"$out/machine.txt" 2>&1

make_checkpoints >"$out/checkpoints.log" 2>&1 &
making=$!
for section in "${sections[@]}"; do
  start=$SECONDS
  case $section in
    quick | conformance | devices | sanitizer | demo | split) ;;
    *) wait "$making" || say "FAILED checkpoints: $(tail -n 1 "$out/checkpoints.log")" ;;
  esac
  (
    failed=0
    "section_$section"
    exit "$failed"
  ) || failed=1
  say "       $section took $((SECONDS - start)) s, $SECONDS s so far"
done
wait
cp "$work"/demo-*.json "$out/" 2>/dev/null
exit "$failed"
