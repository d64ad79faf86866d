#!/usr/bin/env bash
# The paper's CLEVRER experiment from the official files: download, prepare, train both stages, evaluate.
# Needs a CUDA GPU with room for Qwen2.5-VL-3B training, curl, unzip and 260 GB of disk: 40 for the data, 53 for the last checkpoint
# of each of three runs and as much again while one is replaced. Re-running continues.
#
#   scripts/reproduce_clevrer.sh [--download-only] [--binary FILE] [--base MODEL] [--device NAME] [--ranks N] [--set KEY=VALUE]…
#
#   --download-only    stop after the download
#   --binary FILE      use this program instead of building one with scripts/cuda_build.sh
#   --base MODEL       train from this folder or hub id instead of Qwen/Qwen2.5-VL-3B-Instruct
#   --device NAME      train and evaluate on this device (default auto: the first GPU)
#   --ranks N          train on N GPUs of this machine, which share a step's questions (at most train.questions_per_step, 2)
#   --set KEY=VALUE    a setting of every training, such as optimizer.memory=compact for a card of 48 GB
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."

run='' download_only=0 base=Qwen/Qwen2.5-VL-3B-Instruct device=auto ranks=1 settings=()
while [ $# -gt 0 ]; do
  case $1 in
    --download-only) download_only=1 ;;
    --binary) run=$(cd "$start" && realpath "${2:?--binary FILE}"); shift ;;
    --base) base=$(cd "$start" && if [ -d "${2:?--base MODEL}" ]; then realpath "$2"; else echo "$2"; fi); shift ;;
    --device) device=${2:?--device NAME}; shift ;;
    --ranks) ranks=${2:?--ranks N}; shift ;;
    --set) settings+=("${2:?--set KEY=VALUE}"); shift ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done

data=data/clevrer
scripts/download_clevrer.sh
if [ $download_only = 1 ]; then exit; fi

if [ -z "$run" ]; then
  run=dist/videothinker
  nccl=()
  if [ "$ranks" -gt 1 ]; then nccl=(--nccl); fi
  [ -x $run ] || scripts/cuda_build.sh --slim ${nccl[@]+"${nccl[@]}"} --out $run
fi
# shellcheck source=lib/cuda_libraries.sh
. scripts/lib/cuda_libraries.sh

for split in train validation; do
  [ -e $data/$split.json ] || "$run" data clevrer --questions $data/questions_$split.json \
    --annotations $data/annotations/$split --out $data/$split.json
done
# Stage 1 asks its questions without their condition (configs/clevrer/bias.toml).
[ -e $data/train_stripped.json ] || "$run" data clevrer --strip-condition --questions $data/questions_train.json \
  --annotations $data/annotations/train --out $data/train_stripped.json

train() { # VERB NAME [ARGUMENT…]
  local setting arguments=(--set "model.path=$base" --set "model.device=$device")
  for setting in ${settings[@]+"${settings[@]}"}; do arguments+=(--set "$setting"); done
  "$run" "$1" --config "configs/clevrer/$2.toml" --ranks "$ranks" "${arguments[@]}" "${@:3}"
}
last_checkpoint() { ls -d "runs/clevrer/$1"/checkpoints/step-* | sort | tail -n 1; }
evaluate() { # NAME MODEL
  "$run" eval --config configs/eval/clevrer.toml --set "model.device=$device" --model "$2" --out "runs/clevrer/eval/$1"
}

"$run" data check --config configs/clevrer/cdpo.toml --set "model.path=$base" --against $data/validation.json
train train-bias bias --dry-run
train train-bias bias
train train-cdpo cdpo --set "model.bias_model=$(last_checkpoint bias)"
train train-cdpo grpo

evaluate base "$base"
for name in bias grpo cdpo; do
  evaluate $name "$(last_checkpoint $name)"
done
"$run" eval --table base=runs/clevrer/eval/base "bias model=runs/clevrer/eval/bias" \
  "GRPO baseline=runs/clevrer/eval/grpo" CDPO=runs/clevrer/eval/cdpo
