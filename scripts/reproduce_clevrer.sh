#!/usr/bin/env bash
# The paper's CLEVRER experiment from the official files: download, prepare, train both stages, evaluate.
# Needs a CUDA GPU with room for Qwen2.5-VL-3B training, about 60 GB of disk, curl and unzip. Re-running continues.
#
#   scripts/reproduce_clevrer.sh [--download-only]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

data=data/clevrer
scripts/download_clevrer.sh
if [ "${1:-}" = --download-only ]; then exit; fi

require_packages
require_rust
cargo build --release --locked --features cuda
run=target/release/videothinker

for split in train validation; do
  [ -e $data/$split.json ] || $run data clevrer --questions $data/questions_$split.json \
    --annotations $data/annotations/$split --out $data/$split.json
done

base=Qwen/Qwen2.5-VL-3B-Instruct
$run train-bias --config configs/clevrer/bias.toml
for name in cdpo grpo; do
  $run train-cdpo --config configs/clevrer/$name.toml
done

evaluate() { $run eval --config configs/eval/clevrer.toml --model "$2" --out "runs/clevrer/eval/$1"; }
evaluate base $base
for name in bias grpo cdpo; do
  evaluate $name runs/clevrer/$name/checkpoints/step-000500
done
$run eval --table base=runs/clevrer/eval/base "bias model=runs/clevrer/eval/bias" \
  "GRPO baseline=runs/clevrer/eval/grpo" CDPO=runs/clevrer/eval/cdpo
