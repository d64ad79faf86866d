#!/usr/bin/env bash
# Whether the method does what the paper says, in miniature: every model of the comparison trained with several seeds, each seed
# with a world of its own, evaluated greedily and by sampling, put together by `videothinker study`. docs/evidence.md says what
# came of it. Run it again to continue after an interruption: what is finished is kept.
#
#   scripts/evidence.sh [--quick | --all] [--seeds N] [--base DIR] [--out DIR] [--binary FILE] [--yes]
#
#   --quick          two seeds of the four models of the claim and no controls, in a seventh of the time
#   --all            also what is tried besides, with the first two seeds: sharper repulsions and sweeps; twice the time
#   --seeds N        seeds of the claim and its controls (default 5, at most 99)
#   --base DIR       another base model than data/mini, such as one that scripts/make_mini_base.sh has made with other answers
#   --out DIR        default runs/evidence
#   --binary FILE    use this program instead of building one
#   --yes            install missing system packages without asking
set -Eeuo pipefail
start=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

run='' out=runs/evidence seeds='' steps=100 validation=800 quick='' all='' base=data/mini
refuse() {
  echo "$1" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in --seeds | --base | --out | --binary) [ -n "${2:-}" ] || refuse "$1 takes a value" ;; esac
  case $1 in
    --quick) quick=1 ;;
    --all) all=1 ;;
    --seeds) seeds=$2; shift ;;
    --base) base=$(cd "$start" && realpath -m -- "$2"); shift ;;
    --out) out=$(cd "$start" && realpath -m -- "$2"); shift ;;
    --binary) run=$(cd "$start" && realpath -m -- "$2"); shift ;;
    --yes) export ASSUME_YES=1 ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done
[ -z "$quick" ] || [ -z "$all" ] || refuse "--quick and --all exclude each other"
[ -z "$quick" ] || seeds=${seeds:-2}
seeds=${seeds:-5}
case $seeds in [1-9] | [1-9][0-9]) ;; *) refuse "--seeds takes a number from 1 to 99, not '$seeds'" ;; esac
[ -f "$base/config.json" ] || refuse "--base $base: no model folder, for it has no config.json"
[ -z "$run" ] || { [ -f "$run" ] && [ -x "$run" ]; } || refuse "--binary $run: no program that can be run"

if [ -z "$run" ]; then
  require_rust
  require_packages
  cargo build --release --locked
  run=target/release/videothinker
fi

# How strongly policies are repelled, chosen on a world of its own before any of these runs (dev/LOG.md).
coefficient=0.1
strong=0.3
# What it is held at (nats per token), and how sure the bias model is where it acts: it gives thinking on 0.1 to 0.2, which is
# an entropy of 0.3 to 0.5 nats at that token.
target=0.03
sure=0.5

here='' world=''

# What a program said goes to the seed's log: where something fails, its end is shown.
trap 'if [ -s "$here/log.txt" ]; then tail -n 5 "$here/log.txt" >&2; echo "more in $here/log.txt" >&2; fi' ERR

say() { printf '%s  seed %s: %s\n' "$(date +%H:%M)" "${here##*-}" "$*"; }

# World of questions, made under another name first so that an interruption leaves no half of one.
make_world() { # NAME SEED [OPTION…]
  local folder=$here/$1 seed=$2
  [ -d "$folder" ] && return
  say "world $1"
  rm -rf "$folder.part"
  "$run" data mini --out "$folder.part" --seed "$seed" "${@:3}" >/dev/null
  # Stage 1 asks observational questions without their condition, as the paper's figure has it.
  "$run" data clevrer --questions "$folder.part/train.json" --annotations "$folder.part/annotations/train" --strip-condition \
    --out "$folder.part/train_stripped.json" >/dev/null
  mv "$folder.part" "$folder"
}

checkpoint() { printf '%s/%s/checkpoints/step-%06d' "$here" "$1" "$steps"; }

# One evaluation, unless it is there.
answer() { # OUT MODEL [SETTING…]
  [ -e "$1/scores.json" ] && return
  "$run" eval run --config configs/mini/eval.toml --model "$2" --out "$1" \
    --set "data.questions=$here/world/validation_questions.json" --set "data.video_root=$here/world/videos" "${@:3}" \
    >/dev/null 2>>"$here/log.txt"
}

# Greedy answers to the seed's validation questions, and answers sampled as in training.
evaluate() { # NAME MODEL
  answer "$here/eval/$1" "$2"
  answer "$here/sampled/$1" "$2" --set eval.temperature=1.0 --set sampling.top_k=0 --set "seed=$seed"
}

# Trains a model on the questions of $world and evaluates it.
train() { # NAME VERB CONFIG [SETTING…]
  local name=$1 verb=$2 config=$3
  if [ ! -e "$here/sampled/$name/scores.json" ]; then
    say "$name"
    "$run" "$verb" --config "configs/mini/$config.toml" --set "output_dir=$here/$name" --set "seed=$seed" --set "train.steps=$steps" \
      --set checkpoint.every=50 --set 'checkpoint.keep_steps=[]' \
      --set "data.questions=$world/train_questions.json" --set "data.video_root=$world/videos" "${@:4}" 2>>"$here/log.txt"
    evaluate "$name" "$(ls -d "$here/$name"/checkpoints/step-* | sort | tail -n 1)"
  fi
}

bias() { # NAME
  train "$1" train-bias bias --set "data.questions=$world/train_stripped.json"
}

# Stage 2 against a frozen model.
against() { # NAME MODEL DIRECTION COEFFICIENT [SETTING…]
  train "$1" train-cdpo cdpo --set "model.bias_model=$2" --set "kl.direction=$3" --set "kl.coefficient=$4" "${@:5}"
}

# The four models of the claim.
claim() {
  evaluate base "$base"
  bias bias
  train grpo train-grpo grpo
  against cdpo "$(checkpoint bias)" repel $coefficient --set kl.log_token_ratios=true
}

# What else the policy could be pulled to or pushed from.
controls() {
  against grpo-kl "$base" attract $coefficient
  against attract "$(checkpoint bias)" attract $coefficient
  against self-repel "$base" repel $coefficient
  local model
  model=$(sft_model thinker 1)
  against repel-thinker "$model" repel $coefficient
  # Whether the reference must have been trained by stage 1, or only look.
  model=$(sft_model observer 0)
  against repel-observer "$model" repel $coefficient
  # Nearly all of its log-ratios lie beyond a clamp of 3, where nothing repels.
  model=$(random_model)
  against repel-random "$model" repel $coefficient --set kl.clamp=11
}

# A model that has learnt from worked answers without noise instead, all of which think, or none of which.
sft_model() { # NAME SHARE
  # What is substituted does not inherit it, and what fails there fails here.
  set -e
  trap - ERR
  local folder=$out/$1
  if [ ! -d "$folder/checkpoints/step-000100" ]; then
    "$run" data mini --out "$out/$1_world" --train 0 --validation 0 --sft 1000 --seed 4000 --thinker-share "$2" >/dev/null
    "$run" train-sft --config configs/mini/sft_styles.toml --set "data.questions=$out/$1_world/sft.jsonl" \
      --set "data.video_root=$out/$1_world/videos" --set "model.path=$base" --set "output_dir=$folder" --set train.steps=100 \
      --set checkpoint.every=50 2>>"$here/log.txt"
  fi
  echo "$folder/checkpoints/step-000100"
}

# A model of the same sizes that has learnt nothing.
random_model() {
  set -e
  trap - ERR
  local folder=$here/random
  [ -e "$folder/config.json" ] ||
    "$run" inspect model "$folder" --init "$base" --tokenizer "$base" --dtype f32 --seed "$seed" >/dev/null
  echo "$folder"
}

# Stronger repulsion that is held back: by time, by a target, to tokens or completions where the bias model is at work.
sharper() {
  against "cdpo-$strong" "$(checkpoint bias)" repel $strong
  against cdpo-decay "$(checkpoint bias)" repel $strong --set kl.schedule=linear
  against cdpo-target "$(checkpoint bias)" repel $strong --set kl.target=$target
  against cdpo-sure "$(checkpoint bias)" repel $strong --set kl.max_bias_entropy=$sure
  answer "$here/bias_answers" "$(checkpoint bias)" --set "data.questions=$world/train_questions.json"
  against cdpo-answers "$(checkpoint bias)" repel $strong --set "kl.bias_answers=$here/bias_answers"
}

# Other lengths, bias models and coefficients.
variations() {
  train grpo-long train-grpo grpo --set train.steps=$((3 * steps))
  for value in 0.01 0.03; do
    against "cdpo-$value" "$(checkpoint bias)" repel $value
  done
  train bias-full train-bias bias --set "data.questions=$world/train_questions.json"
  against cdpo-full "$(checkpoint bias-full)" repel $coefficient
  against cdpo-long "$(checkpoint bias)" repel $coefficient --set train.steps=$((3 * steps))
}

# Fewer questions, and other shares of those that a glance answers.
other_worlds() {
  for questions in 400 800; do
    train "grpo-n$questions" train-grpo grpo --set "data.samples=$questions"
    against "cdpo-n$questions" "$(checkpoint bias)" repel $coefficient --set "data.samples=$questions"
  done
  for share in 50 90; do
    make_world "world-$share" $((3000 + seed)) --train 2200 --validation 0 --inferential-share "0.$((100 - share))"
    world=$here/world-$share
    train "grpo-s$share" train-grpo grpo
    against "cdpo-s$share" "$(checkpoint bias)" repel $coefficient
    world=$here/world
  done
}

each_seed() { # SEEDS PART
  for seed in $(seq 1 "$1"); do
    here=$out/seed-$seed world=$out/seed-$seed/world
    mkdir -p "$here"
    make_world world $((3000 + seed)) --train 2200 --validation "$validation"
    "$2"
  done
}

# What has been trained from one base is not continued from another.
weights=$(cd "$base" && cat config.json ./*.safetensors | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$out/base.sha256" 2>/dev/null || echo "$weights")" != "$weights" ]; then
  refuse "$out has runs of another base model than $base: name another folder with --out, or remove it"
fi
mkdir -p "$out"
echo "$weights" >"$out/base.sha256"

each_seed "$seeds" claim
if [ -z "$quick" ]; then each_seed "$seeds" controls; fi
if [ -n "$all" ]; then
  tried=$((seeds < 2 ? seeds : 2))
  each_seed $tried sharper
  each_seed $tried variations
  each_seed $tried other_worlds
fi
"$run" study scripts/evidence.toml --runs "$out" --out "$out/evidence.html"
printf '\n%s\n' "$out/evidence.html"
