#!/usr/bin/env bash
# The whole experiment in miniature, on a CPU: builds the program, makes the miniature world, trains the bias model, the
# GRPO baseline and the CDPO policy from the base model in data/mini/, evaluates all four and prints the table.
# Run it again to continue after an interruption.
#
#   scripts/quickstart.sh [--yes] [--binary FILE] [--device NAME] [--fast]
#
#   --yes            install missing system packages without asking
#   --binary FILE    use this program instead of building one
#   --device NAME    train and evaluate on this device, such as cuda:0, instead of the CPU
#   --fast           two steps on a few clips: whether everything works, not what is learnt
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

run='' world=() settings=()
while [ $# -gt 0 ]; do
  case $1 in
    --yes) export ASSUME_YES=1 ;;
    --binary) run=$(cd "$start" && realpath "${2:?--binary FILE}"); shift ;;
    --device) settings+=(--set "model.device=${2:?--device NAME}"); shift ;;
    --fast)
      world=(--train 8 --validation 2)
      settings+=(--set train.steps=2 --set train.questions_per_step=2 --set sampling.max_new_tokens=16) ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done

runs=runs/mini
times=()

phase() { # NAME COMMAND…
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@"
  times+=("$(printf '%-28s %3d min %02d s' "$name" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)))")
}

# Made under another name first, so that an interruption leaves no half of a world.
make_world() {
  if [ ! -d $runs/world ]; then
    rm -rf $runs/world.part
    "$run" data mini --out $runs/world.part --seed 2026 ${world[@]+"${world[@]}"}
    mv $runs/world.part $runs/world
  fi
  # Stage 1 asks observational questions without their condition.
  "$run" data clevrer --questions $runs/world/train.json --annotations $runs/world/annotations/train --strip-condition \
    --out $runs/world/train_stripped.json >/dev/null
}

last_checkpoint() { ls -d "$runs/$1"/checkpoints/step-* | sort | tail -n 1; }

train() { # VERB NAME [SETTING…]
  "$run" "$1" --config "configs/mini/$2.toml" ${settings[@]+"${settings[@]}"} "${@:3}"
}

# Stage 2 is repelled from the bias model that stage 1 ended with.
repelled() { train train-cdpo cdpo --set "model.bias_model=$(last_checkpoint bias)"; }

evaluate() { # NAME MODEL
  "$run" eval run --config configs/mini/eval.toml ${settings[@]+"${settings[@]}"} --model "$2" --out "$runs/eval/$1"
}

# Seconds per step and peak memory of a run, from its log of times.
cost() { # NAME
  sed -E 's/.*"step_time":([0-9.e+-]+).*"memory\/peak_bytes":([0-9]+).*/\1 \2/' "$runs/$1/timings.jsonl" |
    awk -v name="$1" '{ time += $1; if ($2 > peak) peak = $2 }
      END { printf "  %-6s %4d steps, %.2f s per step, peak memory %.0f MB\n", name, NR, time / NR, peak / 1e6 }'
}

# A metric's mean over the first and the last quarter of a run.
change() { # NAME METRIC
  sed -nE 's|.*"'"$2"'":([-0-9.e+]+).*|\1|p' "$runs/$1/metrics.jsonl" |
    awk '{ value[NR] = $1 }
      END {
        quarter = int((NR + 3) / 4)
        for (i = 1; i <= quarter; i++) { first += value[i]; last += value[NR + 1 - i] }
        if (NR) printf "%.3f → %.3f", first / quarter, last / quarter
      }'
}

# Share of an evaluation's answers that go on after what is seen.
thinking() { # NAME
  awk -v name="$1" '
    { kind = /"kind":"inferential"/ ? 2 : 1; all[kind]++ }
    /"completion":"[^"]*Without the/ { thinks[kind]++ }
    function percent(kind) { return all[kind] ? sprintf("%5.1f", 100 * thinks[kind] / all[kind]) : "    –" }
    END { printf "  %-6s %s %s\n", name, percent(1), percent(2) }' "$runs/eval/$1/outputs.jsonl"
}

if [ -z "$run" ]; then
  require_rust
  phase "system packages" require_packages
  phase "build" cargo build --release --locked
  run=target/release/videothinker
fi
mkdir -p $runs
phase "miniature world" make_world
phase "stage 1: bias model" train train-bias bias
phase "stage 2: CDPO" repelled
phase "baseline: GRPO" train train-grpo grpo
phase "evaluate base" evaluate base data/mini
phase "evaluate bias model" evaluate bias "$(last_checkpoint bias)"
phase "evaluate GRPO baseline" evaluate grpo "$(last_checkpoint grpo)"
phase "evaluate CDPO" evaluate cdpo "$(last_checkpoint cdpo)"

printf '\nTime per phase\n'
printf '  %s\n' "${times[@]}"
printf '\nCost of training\n'
for name in bias cdpo grpo; do cost $name; done
printf '\nFrom the first to the last quarter of the steps\n'
printf '  %-6s reward %s\n' bias "$(change bias reward)" grpo "$(change grpo reward)" cdpo "$(change cdpo reward)"
printf '  %-6s KL to the bias model %s\n' cdpo "$(change cdpo kl)"
printf '\nAccuracy on the validation questions, %%, with 95 %% confidence intervals\n\n'
"$run" eval table "base=$runs/eval/base" "bias model=$runs/eval/bias" "GRPO baseline=$runs/eval/grpo" "CDPO=$runs/eval/cdpo"
printf '\nAnswers that think the removed object away, %% of those to observational and to inferential questions\n\n'
for name in base bias grpo cdpo; do thinking $name; done
printf '\nThe claim: GRPO learns the shortcut, CDPO is kept from it. CDPO (second) against GRPO (first), question by question\n\n'
"$run" eval compare $runs/eval/grpo $runs/eval/cdpo
cat <<END

This is one run with one seed; scripts/evidence.sh repeats it with several, and docs/evidence.md says what came of it.

Where to look
  $runs/{bias,grpo,cdpo}/metrics.jsonl    one line per training step
  $runs/{bias,grpo,cdpo}/rollouts.jsonl   every completion with its rewards
  $runs/{bias,grpo,cdpo}/checkpoints/     models that transformers and vLLM load
  $runs/eval/*/outputs.jsonl              every answer
END
