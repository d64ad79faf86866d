#!/usr/bin/env bash
# Makes the miniature base model in data/mini/ again: a world with worked answers, an untrained model with a tokenizer
# made from them, supervised training; then a short one on answers whose writers do not know when thinking pays and imagine
# wrongly; and the result put in place. Three quarters of an hour on two cores.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

require_packages
require_rust
cargo build --release --locked
run=target/release/videothinker

scenes=${SCENES:-24000}
if [ ! -e runs/mini/untrained/config.json ]; then
  $run data mini --out runs/mini/sft_world --train 0 --validation 0 --sft "$scenes" --seed 7 --model runs/mini/untrained
fi
$run train-sft --config configs/mini/sft.toml

# Share and noise were chosen before any run that is reported (docs/evidence.md).
if [ ! -e runs/mini/styles_world/sft.jsonl ]; then
  $run data mini --out runs/mini/styles_world --train 0 --validation 0 --sft 2500 --seed 8 \
    --thinker-share 0.6 --thinker-noise 0.25 --strip-condition
fi
$run train-sft --config configs/mini/sft_styles.toml

last=$(ls -d runs/mini/sft_styles/checkpoints/step-* | sort | tail -n 1)
mkdir -p data/mini
find "$last" -maxdepth 1 -type f -exec cp {} data/mini/ \;
echo "data/mini: $last"
