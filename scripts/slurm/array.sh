#!/usr/bin/env bash
# The paper's stage-2 comparison as a job array, one GPU each: CDPO, plain GRPO, attraction, repulsion from the
# base model and from VideoRFT-3B.
# Start it when stage 1 (configs/clevrer/bias.toml, whose questions `data clevrer --strip-condition` writes) has finished, or let
# SLURM wait for it:
#
#   bias=$(sbatch --parsable scripts/slurm/train.sh train-bias --config configs/clevrer/bias.toml)
#   sbatch --dependency=afterok:$bias scripts/slurm/array.sh
#
# Arguments are passed on to every run, for instance `--set seed=7`.
#
#SBATCH --job-name=videothinker-stage2
#SBATCH --array=0-4
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.txt
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

binary=${VIDEOTHINKER:-target/release/videothinker}
configs=(cdpo grpo attract self_repel repel_videorft)

srun "$binary" train-cdpo --config "configs/clevrer/${configs[$SLURM_ARRAY_TASK_ID]}.toml" "$@"
status=$?
if [ "$status" = 3 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
