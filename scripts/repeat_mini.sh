#!/usr/bin/env bash
# The three trainings of scripts/quickstart.sh once more for each seed, on its world, and the spread of the results.
# About a quarter of an hour a seed on two cores; run it again to continue after an interruption.
#
#   scripts/repeat_mini.sh [SEED...]     default: 1 2 3
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- 1 2 3
runs=runs/mini
run=target/release/videothinker
if [ ! -d $runs/world ] || [ ! -d $runs/eval/base ]; then
  echo "run scripts/quickstart.sh first: it makes the world and evaluates the base model" >&2
  exit 1
fi

last_checkpoint() { ls -d "$1"/checkpoints/step-* | sort | tail -n 1; }

rows=()
for seed; do
  here=$runs/repeat/$seed
  mkdir -p "$here"
  $run train-bias --config configs/mini/bias.toml --set seed="$seed" --set output_dir="$here/bias"
  $run train-cdpo --config configs/mini/grpo.toml --set seed="$seed" --set output_dir="$here/grpo"
  $run train-cdpo --config configs/mini/cdpo.toml --set seed="$seed" --set output_dir="$here/cdpo" \
    --set model.bias_model="$(last_checkpoint "$here/bias")"
  for name in bias grpo cdpo; do
    $run eval run --config configs/mini/eval.toml --model "$(last_checkpoint "$here/$name")" --out "$here/eval/$name" >/dev/null
    rows+=("$name $seed=$here/eval/$name")
  done
done

table=$($run eval table "base=$runs/eval/base" "${rows[@]}" --markdown)
printf '%s\n' "$table"
# Per model: mean and standard deviation over the seeds of observational, inferential, all, and where it lies.
printf '\nOver the seeds: mean, standard deviation, lowest to highest (exactly right, %%)\n'
printf '%s\n' "$table" | awk -F'|' '
  $2 ~ /^ *(bias|grpo|cdpo) [0-9]+ *$/ {
    split($2, label, " ")
    for (column = 3; column <= 5; column++) {
      value = $column + 0; key = label[1] SUBSEP column
      count[key]++; sum[key] += value; squares[key] += value * value
      if (count[key] == 1 || value < least[key]) least[key] = value
      if (count[key] == 1 || value > most[key]) most[key] = value
    }
  }
  END {
    split("bias grpo cdpo", models, " "); split("observational inferential all", kinds, " ")
    for (m = 1; m <= 3; m++) for (column = 3; column <= 5; column++) {
      key = models[m] SUBSEP column; n = count[key]
      if (!n) continue
      mean = sum[key] / n
      deviation = n > 1 ? sqrt((squares[key] - n * mean * mean) / (n - 1) + 1e-12) : 0
      printf "  %-5s %-14s %5.1f  %4.1f  %.1f to %.1f  (%d seeds)\n", models[m], kinds[column - 2], mean, deviation, least[key], most[key], n
    }
  }'
