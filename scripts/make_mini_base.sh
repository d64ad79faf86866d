#!/usr/bin/env bash
# Makes the miniature base model in data/mini/ again: a world with worked answers, an untrained model with a tokenizer
# made from them, supervised training; then a short one on answers whose writers do not know when thinking pays and imagine
# wrongly; and the result put in place. Three quarters of an hour on two cores, with --from a few minutes.
#
#   scripts/make_mini_base.sh [--share S] [--noise P] [--from DIR] [--out DIR]
#
#   --share S   of the answers of the short training think, whatever the kind of question (default 0.6)
#   --noise P   is the probability that they imagine an option wrongly (default 0.25)
#   --from DIR  leave the long training out and begin with this model, such as data/mini
#   --out DIR   default data/mini
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

# Share and noise were chosen before any run that is reported (docs/evidence.md).
share=0.6 noise=0.25 from='' out=data/mini
while [ $# -gt 0 ]; do
  case $1 in
    --share | --noise | --from | --out) [ $# -gt 1 ] || { echo "$1 takes a value" >&2; exit 2; } ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ] || [ "$1" = -h ]; then exit 0; else exit 2; fi ;;
  esac
  case $1 in
    --share) share=$2 ;;
    --noise) noise=$2 ;;
    --from) from=$(cd "$start" && realpath "$2") ;;
    --out) out=$(cd "$start" && realpath -m "$2") ;;
  esac
  shift 2
done

require_packages
require_rust
cargo build --release --locked
run=target/release/videothinker

last_checkpoint() { ls -d "$1"/checkpoints/step-* | sort | tail -n 1; }

if [ -z "$from" ]; then
  scenes=${SCENES:-24000}
  if [ ! -e runs/mini/untrained/config.json ]; then
    $run data mini --out runs/mini/sft_world --train 0 --validation 0 --sft "$scenes" --seed 7 --model runs/mini/untrained
  fi
  $run train-sft --config configs/mini/sft.toml
  from=$(last_checkpoint runs/mini/sft)
fi

styles=runs/mini/styles_${share}_$noise
if [ ! -e "$styles/world/sft.jsonl" ]; then
  $run data mini --out "$styles/world" --train 0 --validation 0 --sft 2500 --seed 8 \
    --thinker-share "$share" --thinker-noise "$noise" --strip-condition
fi
$run train-sft --config configs/mini/sft_styles.toml --set "output_dir=$styles/sft" --set "model.path=$from" \
  --set "data.questions=$styles/world/sft.jsonl" --set "data.video_root=$styles/world/videos"

last=$(last_checkpoint "$styles/sft")
mkdir -p "$out"
find "$last" -maxdepth 1 -type f -exec cp {} "$out/" \;
echo "$out: $last"
