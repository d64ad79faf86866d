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
source=http://data.csail.mit.edu/clevrer   # CC0

# Continues a broken download; a finished file is moved into place, so that it is never taken for whole too early.
fetch() {
  [ -e "$data/$2" ] && return
  echo "downloading $2"
  curl --fail --location --continue-at - --output "$data/$2.part" "$source/$1"
  mv "$data/$2.part" "$data/$2"
}

# An archive is unpacked once; the marker is written last.
unpack() {
  [ -e "$data/$1.unpacked" ] && return
  mkdir -p "$data/$2"
  unzip -q -o "$data/$1" -d "$data/$2"
  touch "$data/$1.unpacked"
}

mkdir -p $data
for split in train validation; do
  fetch questions/$split.json questions_$split.json
  fetch annotations/$split/annotation_$split.zip annotation_$split.zip
  fetch videos/$split/video_$split.zip video_$split.zip
  unpack annotation_$split.zip annotations/$split
  unpack video_$split.zip videos
done
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
