#!/usr/bin/env bash
# One training run on one GPU of a SLURM cluster, or on several (a task for each). Five minutes before the time limit the run saves a checkpoint,
# stops with exit code 3 and is queued again; it then continues where it was.
#
#   sbatch scripts/slurm/train.sh train-bias --config configs/clevrer/bias.toml
#   sbatch --time=12:00:00 scripts/slurm/train.sh train-cdpo --config configs/clevrer/cdpo.toml --set kl.coefficient=0.02
#   sbatch --gres=gpu:4 --ntasks=4 scripts/slurm/train.sh train-bias --config configs/clevrer/bias.toml --set train.questions_per_step=4
#
#SBATCH --job-name=videothinker
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

# The binary: built once on the login node with `cargo build --release --locked --features cuda`
# (for several GPUs `cuda,nccl`).
binary=${VIDEOTHINKER:-target/release/videothinker}

srun "$binary" "$@"
status=$?
if [ "$status" = 3 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
