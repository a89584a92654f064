#!/usr/bin/env bash
# load.sh LATENTPATCH BASE CODI...: how long a checkpoint takes to load, cold and warm, and what memory that needs.
#
# Loading is all that `latentpatch cache` does before it computes: read and check the headers, map the file, widen the
# 16-bit tensors, merge LoRA, look for NaN and infinity, SHA-256 of every file. It is timed as `cache` on a store of one
# short pair that is complete already. `cold` means that this machine's page cache was told to drop the file (fincore
# says whether it did; what lies below a virtual disk may still hold it); `disk` is a plain read of the cold file with
# dd, in turns with it. Wall times mean little where others compute too: the CPU seconds stand beside them. LORA_ALPHA
# and RUNS may be set; CGROUP names a control group (its folder, version 1) in which everything runs, such as one that
# makes the disk slower (blkio.throttle.read_bps_device).
set -euo pipefail
if (($# < 3)); then
  printf 'usage: bash bench/load.sh LATENTPATCH BASE CODI...\n' >&2
  exit 2
fi
program=$(realpath "$1") base=$(realpath "$2")
shift 2
runs=${RUNS:-3}
for need in /usr/bin/time fincore dd; do
  command -v "$need" >/dev/null || { printf 'load.sh: %s is missing (Debian packages time, util-linux)\n' "$need" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/pairs.json" <<'EOF'
{"format": "latentpatch-pairs", "version": 1, "pairs": [{"id": "p1", "clean": {"question": "1 + 2", "answer": 3},
 "corrupted": {"question": "1 + 3", "answer": 4}}]}
EOF

# Runs a command in CGROUP.
grouped() {
  if [[ -z ${CGROUP:-} ]]; then "$@"; else bash -c 'echo $$ >"$1/tasks" && shift && exec "$@"' grouped "$CGROUP" "$@"; fi
}

drop() {
  sync "$1"
  dd if="$1" iflag=nocache count=0 status=none
}

# The lines `wall cpu peak_kb` of one load.
load() {
  if ! grouped /usr/bin/time -f '%e %U %S %M' -o "$work/time" "$program" cache "$work/job.json" --quiet >"$work/out" 2>&1; then
    cat "$work/out" >&2
    exit 1
  fi
  awk '{ printf "%.2f %.2f %d\n", $1, $2 + $3, $4 }' "$work/time"
}

for codi in "$@"; do
  codi=$(realpath "$codi")
  file=$codi
  if [[ -d $codi ]]; then
    file=$codi/model.safetensors
    [[ -e $file ]] || file=$codi/pytorch_model.bin
  fi
  rm -f "$work"/*.store.h5
  cat >"$work/job.json" <<EOF
{"model": {"base": "$base", "codi": "$codi", "lora": {"alpha": ${LORA_ALPHA:-32}}}, "protocol": {"steps": 1},
 "pairs": {"file": "pairs.json"}, "store": {"file": "a.store.h5"}, "decode": {"max_new_tokens": 1}}
EOF
  load >/dev/null
  bytes=$(stat -c %s "$file")
  # A plain read and a load take turns, so that a change of the disk's speed meets both.
  : >"$work/disk"
  : >"$work/cold"
  for ((i = 0; i < runs; i++)); do
    drop "$file"
    cached=$(fincore -bno RES "$file")
    start=$(date +%s.%N)
    grouped dd if="$file" of=/dev/null bs=4M status=none
    awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f\n", b - a }' >>"$work/disk"
    drop "$file"
    load >>"$work/cold"
  done
  read -r disk < <(sort -n "$work/disk")
  read -r cold_wall cold_cpu _ < <(sort -n "$work/cold")
  for ((i = 0; i < runs; i++)); do load; done | sort -n >"$work/warm"
  read -r wall cpu peak <"$work/warm"
  printf '%s\n' "$(basename "$file") of $(basename "$(dirname "$(dirname "$file")")")"
  awk -v n="$bytes" -v left="$cached" -v d="$disk" -v cw="$cold_wall" -v cc="$cold_cpu" -v w="$wall" -v c="$cpu" \
    -v k="$peak" -v r="$runs" 'BEGIN {
      printf "  file            %8.1f MB (%.1f MB of it still cached when called cold)\n", n / 1e6, left / 1e6
      printf "  disk, cold      %8.2f s  (%.0f MB/s; best of %d)\n", d, n / 1e6 / d, r
      printf "  load, cold      %8.2f s  (%.2f s CPU; best of %d)\n", cw, cc, r
      printf "  load, warm      %8.2f s  (%.2f s CPU; best of %d)\n", w, c, r
      printf "  peak RSS        %8.1f MB (with the mapped pages of the file)\n", k * 1.024 / 1000 }'
done
