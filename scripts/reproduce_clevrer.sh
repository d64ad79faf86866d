#!/usr/bin/env bash
# The paper's CLEVRER experiment from the official files: download, prepare, train both stages, evaluate.
# Needs a CUDA GPU with room for Qwen2.5-VL-3B training, curl, unzip and 260 GB of disk: 40 for the data, 53 for the last checkpoint
# of each of three runs and as much again while one is replaced. Re-running continues.
#
#   scripts/reproduce_clevrer.sh [--download-only] [--binary FILE]
#
#   --download-only    stop after the download
#   --binary FILE      use this program instead of building one with scripts/cuda_build.sh
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."

run='' download_only=0
while [ $# -gt 0 ]; do
  case $1 in
    --download-only) download_only=1 ;;
    --binary) run=$(cd "$start" && realpath "${2:?--binary FILE}"); shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done

data=data/clevrer
scripts/download_clevrer.sh
if [ $download_only = 1 ]; then exit; fi

if [ -z "$run" ]; then
  run=dist/videothinker
  [ -x $run ] || scripts/cuda_build.sh --slim --out $run
fi
# shellcheck source=lib/cuda_libraries.sh
. scripts/lib/cuda_libraries.sh

for split in train validation; do
  [ -e $data/$split.json ] || "$run" data clevrer --questions $data/questions_$split.json \
    --annotations $data/annotations/$split --out $data/$split.json
done

base=Qwen/Qwen2.5-VL-3B-Instruct
"$run" data check --config configs/clevrer/cdpo.toml --against $data/validation.json
"$run" train-bias --config configs/clevrer/bias.toml --dry-run
"$run" train-bias --config configs/clevrer/bias.toml
for name in cdpo grpo; do
  "$run" train-cdpo --config configs/clevrer/$name.toml
done

evaluate() { "$run" eval --config configs/eval/clevrer.toml --model "$2" --out "runs/clevrer/eval/$1"; }
evaluate base $base
for name in bias grpo cdpo; do
  evaluate $name runs/clevrer/$name/checkpoints/step-000500
done
"$run" eval --table base=runs/clevrer/eval/base "bias model=runs/clevrer/eval/bias" \
  "GRPO baseline=runs/clevrer/eval/grpo" CDPO=runs/clevrer/eval/cdpo
