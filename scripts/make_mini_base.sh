#!/usr/bin/env bash
# Makes the miniature base model in data/mini/ again: a world with worked answers, an untrained model with a tokenizer
# made from them, supervised training, and the result put in place. Somewhat over half an hour on two cores.
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

last=$(ls -d runs/mini/sft/checkpoints/step-* | sort | tail -n 1)
mkdir -p data/mini
find "$last" -maxdepth 1 -type f -exec cp {} data/mini/ \;
echo "data/mini: $last"
