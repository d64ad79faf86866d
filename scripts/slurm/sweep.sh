#!/usr/bin/env bash
# CDPO over the strength of the repulsion and over the number of training questions (configs/sweep/), one GPU each,
# and each model on CLEVRER's validation questions. The paper's values (0.01 and 1,000 questions) are configs/clevrer/cdpo.toml,
# which scripts/slurm/array.sh runs; those around them are our choice, about a factor of 3 and of 2 apart. Start it when stage 1 has
# finished:
#
#   sbatch scripts/slurm/sweep.sh
#   videothinker eval table CDPO=runs/paper/eval/cdpo/clevrer runs/clevrer/sweep/eval/*
#
# Arguments are passed on to every training, for instance `--set seed=7`.
#
#SBATCH --job-name=videothinker-sweep
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=16:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.txt
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

binary=${VIDEOTHINKER:-target/release/videothinker}
configs=(configs/sweep/*.toml)
config=${configs[$SLURM_ARRAY_TASK_ID]}
name=$(basename "$config" .toml)

srun "$binary" train-cdpo --config "$config" "$@"
status=$?
if [ "$status" = 0 ]; then
  checkpoints=("runs/clevrer/sweep/$name"/checkpoints/step-*)
  srun "$binary" eval run --config configs/eval/clevrer.toml --model "${checkpoints[-1]}" --out "runs/clevrer/sweep/eval/$name"
  status=$?
fi
if [ "$status" = 3 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
