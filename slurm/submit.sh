#!/usr/bin/env bash
# Submits cache -> sweep -> report to Slurm: for one job file, or for several as job arrays. See --help.
set -euo pipefail
lp_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: submit.sh JOB.json [JOB.json ...] [options] [-- SBATCH_OPTION ...]

Submits the chain cache -> sweep -> report; a stage starts when the one before has succeeded, and is cancelled when it
has failed. Several job files become job arrays: the sweep of each waits for its own cache, the report for all sweeps.
Logs, settings, tables and the report go to one new folder below out/slurm.

  --dry-run              print the commands; submit and write nothing
  --site FILE            what the cluster needs otherwise than site.conf beside this script; slurm/sites has examples
  --nodes N, --tasks-per-node N, --cpus-per-task N
  --gpus-per-task N      GPUs of a rank
  --gres LIST            sbatch --gres of a node, e.g. gpu:4, instead of --gpus-per-task
  --cpus-per-gpu N       instead of --cpus-per-task
  --cpu                  no GPUs
  --time TIME            limit of cache and of sweep; --cache-time, --sweep-time: of one of them
  --signal-seconds N     ask a stage to end this long before its limit
  --max-restarts N       how often a stage may be requeued
  --partition NAME, --account NAME
  --array-limit N        at most N job files at a time
  --only STAGES          some of the stages, e.g. --only sweep,report
  --set KEY=VALUE        change every job file, as latentpatch --set does
  --logs FOLDER          the folder, instead of a new one
  --program FILE         the latentpatch to run
  --check                run "latentpatch plan" on every job file first
  -- OPTION ...          more options of sbatch, for every job
TEXT
}

fail() {
  printf 'submit.sh: error: %s\n' "$*" >&2
  exit 2
}

jobs=()
lp_settings=()
stages=cache,sweep,report
site=$lp_root/slurm/site.conf
folder='' array_limit='' dry_run=0 check=0
more=()
declare -A set_by_option=()
while (($# > 0)); do
  option=$1
  shift
  case $option in
  -h | --help)
    usage
    exit 0
    ;;
  --dry-run) dry_run=1 ;;
  --check) check=1 ;;
  --cpu)
    set_by_option[lp_gpus_per_task]=0
    set_by_option[lp_gres]=
    set_by_option[lp_cpus_per_gpu]=0
    ;;
  --)
    more=("$@")
    break
    ;;
  --site | --nodes | --tasks-per-node | --cpus-per-task | --gpus-per-task | --gres | --cpus-per-gpu | --signal-seconds | --max-restarts | --time | --cache-time | \
    --sweep-time | --partition | --account | --program | --array-limit | --only | --set | --logs)
    (($# > 0)) || fail "$option: expected a value after it"
    value=$1
    shift
    case $option in
    --site) site=$value ;;
    --nodes | --tasks-per-node | --cpus-per-task | --gpus-per-task | --cpus-per-gpu | --signal-seconds | --max-restarts)
      [[ $value =~ ^0*[0-9]{1,9}$ ]] || fail "$option: expected a whole number, found \"$value\""
      name=${option#--}
      set_by_option[lp_${name//-/_}]=$value
      ;;
    --time)
      set_by_option[lp_cache_time]=$value
      set_by_option[lp_sweep_time]=$value
      ;;
    --cache-time | --sweep-time | --partition | --account | --program | --gres)
      name=${option#--}
      set_by_option[lp_${name//-/_}]=$value
      ;;
    --array-limit)
      [[ $value =~ ^[1-9][0-9]*$ ]] || fail "$option: expected a number from 1, found \"$value\""
      array_limit=%$value
      ;;
    --only)
      [[ $value =~ ^(cache|sweep|report)(,(cache|sweep|report))*$ ]] ||
        fail "--only: expected some of cache,sweep,report, found \"$value\""
      stages=$value
      ;;
    --set) lp_settings+=(--set "$value") ;;
    --logs) folder=$value ;;
    esac
    ;;
  --*) fail "unknown option $option (submit.sh --help)" ;;
  *) jobs+=("$option") ;;
  esac
done
((${#jobs[@]} > 0)) || fail "expected a job file (submit.sh --help)"

[[ -f $site && -r $site ]] || fail "$site: cannot be read"
[[ $(<"$site") != *$'\r'* ]] || fail "$site: has line ends of Windows (CR LF); sed 's/\r\$//' takes the CR away"
# By its path: a name without a slash would be looked for in PATH first.
site=$(realpath "$site")
# The defaults, and what this site has otherwise.
# shellcheck source=slurm/site.conf
source "$lp_root/slurm/site.conf"
# A command that fails in there, exit or return ends this script too, and would do so without a word.
trap 'fail "$site: ended before its last line, with exit code $?"' EXIT
# shellcheck source=slurm/site.conf
source "$site"
trap - EXIT
# One way of asking for GPUs or CPUs on the command line puts the site's other way out of force.
[[ -z ${set_by_option[lp_gpus_per_task]+x} ]] || lp_gres=''
[[ -z ${set_by_option[lp_cpus_per_task]+x} ]] || lp_cpus_per_gpu=0
for name in "${!set_by_option[@]}"; do printf -v "$name" '%s' "${set_by_option[$name]}"; done
# In base ten, whatever zeros are in front.
for name in lp_nodes lp_tasks_per_node lp_cpus_per_task lp_gpus_per_task lp_cpus_per_gpu lp_signal_seconds lp_max_restarts; do
  [[ ${!name} =~ ^0*[0-9]{1,9}$ ]] || fail "$site: $name: expected a whole number, found \"${!name}\""
  printf -v "$name" '%d' "$((10#${!name}))"
done
# Built in the repository, or installed (lp_root is then share/latentpatch of the prefix).
if [[ -z $lp_program ]]; then
  lp_program=$lp_root/build/latentpatch
  for place in build-release ../../bin; do
    [[ -x $lp_program || ! -x $lp_root/$place/latentpatch ]] || lp_program=$lp_root/$place/latentpatch
  done
fi
whole=()
for job in "${jobs[@]}"; do
  [[ -f $job && -r $job ]] || fail "$job: cannot be read"
  [[ $job != *$'\n'* ]] || fail "a job file with a line break in its name: $(printf '%q' "$job")"
  path=$(realpath "$job")
  for other in "${whole[@]}"; do [[ $other != "$path" ]] || fail "$job: the same job file twice"; done
  whole+=("$path")
done

if ((${#jobs[@]} == 1)); then
  name=$(basename "${whole[0]}" .json)
  array=() suffix=%j after=afterok
else
  name=$(basename "${whole[0]}" .json)+$((${#jobs[@]} - 1))
  # A task of the sweep waits for the task of the cache with the same number.
  array=("--array=0-$((${#jobs[@]} - 1))$array_limit") suffix=%A_%a after=aftercorr
fi
lp_out=$lp_root/out/slurm
[[ -e $lp_root/CMakeLists.txt ]] || lp_out=$PWD/out/slurm
folder=$(realpath -m "${folder:-${lp_log_folder:-$lp_out}/$name-$(date +%Y%m%d-%H%M%S)}")
# A backslash makes Slurm leave %j as it is.
[[ $folder != *[$'\n\\']* ]] || fail "a folder with a line break or a backslash in its name: $(printf '%q' "$folder")"
# Slurm replaces %j and the like in the names of logs.
logs=${folder//%/%%}

# An empty word is no option: sbatch would take it for the script.
for list in lp_sbatch_extra lp_srun_extra; do
  declare -n words=$list
  for i in "${!words[@]}"; do [[ -n ${words[i]} ]] || unset "words[$i]"; done
done

shared=(--parsable --open-mode=append --kill-on-invalid-dep=yes)
[[ -z $lp_account ]] || shared+=("--account=$lp_account")
[[ -z $lp_qos ]] || shared+=("--qos=$lp_qos")
stage_options=("--nodes=$lp_nodes" "--ntasks-per-node=$lp_tasks_per_node" --requeue "--signal=B:USR1@$lp_signal_seconds"
  "${array[@]}")
lp_srun=("--mpi=$lp_srun_mpi" "--cpu-bind=$lp_srun_cpu_bind" --kill-on-bad-exit=1)
# Slurm takes one of each pair only. What srun does not hear again, some versions forget.
if [[ -n $lp_gres ]]; then
  gpus=("--gres=$lp_gres")
elif ((lp_gpus_per_task > 0)); then
  gpus=("--gpus-per-task=$lp_gpus_per_task")
else
  gpus=()
fi
if ((${#gpus[@]} > 0 && lp_cpus_per_gpu > 0)); then
  cpus=("--cpus-per-gpu=$lp_cpus_per_gpu")
else
  cpus=("--cpus-per-task=$lp_cpus_per_task")
fi
stage_options+=("${cpus[@]}" "${gpus[@]}")
lp_srun+=("${cpus[@]}" "${gpus[@]}")
lp_srun+=("${lp_srun_extra[@]}")
[[ -z $lp_partition ]] || stage_options+=("--partition=$lp_partition")
[[ -z $lp_constraint ]] || stage_options+=("--constraint=$lp_constraint")
[[ -z $lp_memory ]] || stage_options+=("--mem=$lp_memory")
stage_options+=("${lp_sbatch_extra[@]}" "${more[@]}")
report_options=(--nodes=1 --ntasks=1 "${more[@]}")
[[ -z ${lp_report_constraint:-$lp_constraint} ]] || report_options+=("--constraint=${lp_report_constraint:-$lp_constraint}")
[[ -z ${lp_report_partition:-$lp_partition} ]] || report_options+=("--partition=${lp_report_partition:-$lp_partition}")

settings() {
  printf 'lp_root=%q\nlp_program=%q\nlp_max_restarts=%q\nlp_uses_gpus=%q\n' \
    "$lp_root" "$(realpath "$lp_program")" "$lp_max_restarts" "${#gpus[@]}"
  printf 'lp_srun=('
  printf ' %q' "${lp_srun[@]}"
  printf ' )\nlp_settings=('
  ((${#lp_settings[@]} == 0)) || printf ' %q' "${lp_settings[@]}"
  printf ' )\n'
}

# What was written goes; a folder that was there stays, and one with logs.
undo() {
  rm -f "$folder"/{jobs.txt,site.conf,settings.sh}
  ((!made)) || rmdir "$folder" 2>/dev/null || true
}

# submit STAGE ID_BEFORE: prints the job's id.
submit() {
  local stage=$1 before=$2 options=("${shared[@]}") id
  options+=("--job-name=$stage-$name")
  if [[ $stage == report ]]; then
    options+=("${report_options[@]}" "--time=$lp_report_time" "--output=$logs/report-%j.log")
    [[ -z $before ]] || options+=("--dependency=afterok:$before")
  else
    local limit=lp_${stage}_time
    options+=("${stage_options[@]}" "--time=${!limit}" "--output=$logs/$stage-$suffix.log")
    [[ -z $before ]] || options+=("--dependency=$after:$before")
  fi
  if ((dry_run)); then
    printf '%s\n' "$(printf ' %q' sbatch "${options[@]}" "$lp_root/slurm/$stage.sbatch" "$folder")" | cut -c2- >&3
    printf 'JOB_ID_OF_%s\n' "${stage^^}"
    return
  fi
  id=$(sbatch "${options[@]}" "$lp_root/slurm/$stage.sbatch" "$folder") || return 1
  # A site's own sbatch may print more. Without an id the next stage would not wait.
  id=${id##*$'\n'}
  id=${id%%;*}
  [[ $id =~ ^[0-9]+$ ]] || {
    printf 'sbatch: expected a job id as its last line, found %q\n' "$id" >&2
    return 1
  }
  printf '%s\n' "$id"
}

if ((dry_run)); then
  printf '# job files, in the order of the array\n'
  printf '#   %s\n' "${whole[@]}"
  printf '# in the jobs\n#   srun%s\n' "$(printf ' %q' "${lp_srun[@]}" "$lp_program" STAGE JOB.json "${lp_settings[@]}")"
else
  command -v sbatch >/dev/null || fail "sbatch was not found: is this a login node of the cluster?"
  [[ -f $lp_program && -x $lp_program ]] || fail "$lp_program: expected the program, found none (cmake --preset release && cmake --build --preset release)"
  if ((check)); then
    for job in "${whole[@]}"; do "$lp_program" plan "$job" "${lp_settings[@]}" >/dev/null || exit 1; done
  fi
  [[ ! -e $folder/jobs.txt ]] || fail "$folder: holds another submission"
  made=0
  [[ -e $folder ]] || made=1
  mkdir -p "$folder"
  files=(site.conf settings.sh summary.txt report)
  for ((i = 0; i < ${#whole[@]}; i++)); do files+=("cache.$i.txt" "sweep.$i.txt"); done
  for file in "${files[@]}"; do
    [[ ! -e $folder/$file && ! -L $folder/$file ]] || fail "$folder/$file: is there already"
  done
  # Of two submissions at once, one makes the list.
  (set -o noclobber && printf '%s\n' "${whole[@]}" >"$folder/jobs.txt") 2>/dev/null ||
    fail "$folder/jobs.txt: cannot be made, or holds another submission"
  if ! { cat "$lp_root/slurm/site.conf" "$site" >"$folder/site.conf" && settings >"$folder/settings.sh"; }; then
    undo
    fail "$folder: cannot be written"
  fi
fi

before='' submitted=()
exec 3>&1
for stage in cache sweep report; do
  [[ ,$stages, == *,$stage,* ]] || continue
  if ! before=$(submit "$stage" "$before"); then
    ((${#submitted[@]} == 0)) || scancel "${submitted[@]}"
    undo
    fail "sbatch refused the stage $stage; nothing stays submitted"
  fi
  submitted+=("$before")
  ((dry_run)) || printf '%s %s\n' "$stage" "$before"
done
((dry_run)) || printf 'logs %s\n' "$folder"
