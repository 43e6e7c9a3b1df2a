#!/usr/bin/env bash
# A grid of learning rates and seeds as an array job of SLURM:
#
#     sbatch examples/sweeps/slurm_array.sh --model cnn --epochs 20
#     fmnist-gpu compare sweeps/slurm/*/
#
# The arguments are flags of `fmnist-gpu train`, the same for every task. Before its time is up, and if it is preempted, SLURM sends SIGTERM:
# the training saves a checkpoint and exits with 143, and the task is queued again, to resume where it stopped.
#
#SBATCH --job-name=fmnist-gpu
#SBATCH --array=0-8%4
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=01:00:00
# To this script (B:), a minute before the end. It passes the signal on.
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
# A task that was queued again continues its log.
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail

program=${FMNIST_GPU:-fmnist-gpu}
out=${SWEEP_OUT:-sweeps/slurm}
learning_rates=(0.0003 0.001 0.003)
seeds=(0 1 2)

task=${SLURM_ARRAY_TASK_ID:?"not a task of an array: submit this script with sbatch"}
rate=${learning_rates[task / ${#seeds[@]}]}
seed=${seeds[task % ${#seeds[@]}]}
run=$out/rate-$rate-seed-$seed

if [ -e "$run/config.json" ]; then
    arguments=(--resume "$run")
else
    # Whatever is there holds no run: the task was stopped before it began. Hyper-parameters are chosen by the images held out.
    arguments=(--out "$run" --force --learning-rate "$rate" --seed "$seed" --validation-split 0.1 "$@")
fi
mkdir -p "$out"

# In the background: bash handles a signal only once the command in the foreground has ended.
"$program" train "${arguments[@]}" --json --quiet --threads "${SLURM_CPUS_PER_TASK:-1}" &
training=$!
trap 'kill -TERM "$training" 2>/dev/null || true' TERM
code=0
wait "$training" || code=$?
# A signal ends `wait` at once; the training is still saving its checkpoint.
while kill -0 "$training" 2>/dev/null; do
    code=0
    wait "$training" || code=$?
done

if [ "$code" -eq 143 ]; then
    # SLURM may have queued it already, if it preempted the task.
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task" || echo "task $task was not queued again: resume it by submitting the array once more" >&2
fi
exit "$code"
