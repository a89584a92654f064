# Sourced by cache.sbatch and sweep.sbatch, which have read the run folder's settings.sh and site.conf.
# shellcheck shell=bash disable=SC2154

lp_say() { printf '%s %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$*"; }

# The name that means this job alone: the plain number of an array's last task is that of the whole array.
lp_job_name() {
  if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    printf '%s_%s' "$SLURM_ARRAY_JOB_ID" "$SLURM_ARRAY_TASK_ID"
  else
    printf '%s' "$SLURM_JOB_ID"
  fi
}

# The state and reason of this job: "RUNNING None", "COMPLETING TimeLimit", or empty where Slurm does not answer.
lp_job_state() {
  local shown
  shown=$(scontrol -o show job "$(lp_job_name)" 2>/dev/null) || return 0
  sed -nE '1s/.*JobState=([A-Z_]+) Reason=([^ ]+).*/\1 \2/p' <<<"$shown"
}

# What a rank may take follows from the allocation; a node's size says nothing where it is shared.
lp_own_share() {
  local bytes=0
  # Without a number of CPUs a task (--cpus-per-gpu) the program counts those that it is bound to.
  printf '%s\n' --set "engine.threads=${SLURM_CPUS_PER_TASK:-$((lp_uses_gpus > 0 ? 0 : 1))}"
  if ((lp_uses_gpus > 0)); then return; fi
  printf '%s\n' --set engine.device=cpu
  if ((${SLURM_MEM_PER_NODE:-0} > 0)); then
    bytes=$((SLURM_MEM_PER_NODE * 1048576 / ${SLURM_NTASKS_PER_NODE:-1}))
  elif ((${SLURM_MEM_PER_CPU:-0} > 0)); then
    bytes=$((SLURM_MEM_PER_CPU * 1048576 * ${SLURM_CPUS_PER_TASK:-1}))
  fi
  if ((bytes > 0)); then printf '%s\n' --set "engine.memory_limit=$((bytes / 2))"; fi
}

# lp_requeue REASON: back into the queue, or the end.
lp_requeue() {
  local lives=${SLURM_RESTART_COUNT:-0} state
  state=$(lp_job_state)
  # Cancelled by somebody: not ours to bring back.
  if [[ $state != RUNNING\ * && $state != *\ TimeLimit ]]; then
    lp_say "$1; not requeued: the job is ${state:-unknown to Slurm}. Submitting it again continues it."
    exit 75
  fi
  if ((lives >= lp_max_restarts)); then
    lp_say "$1; not requeued: that was life $((lives + 1)), and $lp_max_restarts restarts are allowed." \
      "Submitting it again continues it."
    exit 75
  fi
  lp_say "$1; requeued (restart $((lives + 1)) of at most $lp_max_restarts)"
  trap '' TERM USR1
  scontrol requeue "$(lp_job_name)" || {
    lp_say "Slurm refused to requeue. Submitting the job again continues it."
    exit 75
  }
  exit 0
}

# lp_run_stage cache|sweep RUN_FOLDER: the stage of the job file that is this array task's, under srun.
lp_run_stage() {
  local stage=$1 folder=$2 index=${SLURM_ARRAY_TASK_ID:-0} share code=0 asked='' told=0
  local job output="$folder/$stage.$index.txt"
  job=$(sed -n "$((index + 1))p" "$folder/jobs.txt")
  if [[ -z $job ]]; then
    lp_say "$folder/jobs.txt: expected a job file in line $((index + 1)), found none"
    exit 1
  fi
  mapfile -t share < <(lp_own_share)
  # Slurm 23.11 hands down sbatch's --gpus-per-task under this name as well, and then refuses it beside the option itself.
  unset SLURM_TRES_PER_TASK
  local command=(srun "${lp_srun[@]}" "$lp_program" "$stage" "$job" "${share[@]}" "${lp_settings[@]}")
  lp_say "$stage of $job: job $(lp_job_name), life $((${SLURM_RESTART_COUNT:-0} + 1)), nodes $SLURM_JOB_NODELIST"
  lp_say "${command[*]}"

  # The table goes to a file of its own; `report` finds the results through it. srun runs in the background, because Bash
  # runs a trap only between commands and in `wait`.
  trap 'asked=USR1' USR1
  trap 'asked=TERM' TERM
  "${command[@]}" >"$output" &
  local srun=$!
  while :; do
    code=0
    wait "$srun" || code=$?
    if [[ -n $asked ]] && ! ((told)); then
      told=1
      lp_say "$asked: asking the ranks to end at the next pair"
      kill -USR1 "$srun" 2>/dev/null || true
    elif ((code <= 128)) || ! kill -0 "$srun" 2>/dev/null; then
      break
    fi
  done
  cat "$output"
  if ((code == 0)); then
    lp_say "$stage: done"
    return
  fi
  # Asked before all ranks were there to hear it, they end in other ways than with 75.
  if ((code == 75)) || [[ -n $asked ]]; then lp_requeue "$stage stopped with exit code $code"; fi
  lp_say "$stage failed with exit code $code"
  exit "$code"
}
