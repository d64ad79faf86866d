# The paper's experiments in parts, for scripts/reproduce_paper.sh: models, trainings, evaluations, files, tables.
# A caller has set: run (the program), base (the model to train from), device, ranks, settings, eval_settings (arrays), and its
# folder is the one that data/, runs/ and configs/ are in.
# shellcheck shell=bash disable=SC2154,SC2034

# Published models. The authors' README calls the first falonss703/VideoThinker-R1; on the hub both belong to Falconss1.
released_policy=Falconss1/VideoThinker-R1-3B
released_bias=Falconss1/VideoThinker-R1-Bias-3B
videorft=QiWang98/VideoRFT-3B

all_benchmarks=(clevrer mmvu mvbench tempcompass videomme video_holmes)
main_models=(base videorft grpo bias cdpo)
released_models=(base videorft released_bias released)
# What else stage 2 is compared with: repulsion from the base model and from VideoRFT-3B, attraction to the bias model.
ablation_models=(self_repel repel_videorft attract)

benchmark_title() {
  case $1 in
    clevrer) echo CLEVRER ;;
    mmvu) echo "MMVU (mc)" ;;
    mvbench) echo MVBench ;;
    tempcompass) echo TempCompass ;;
    tempcompass_flat) echo "TempCompass (7,540)" ;;
    videomme) echo Video-MME ;;
    video_holmes) echo Video-Holmes ;;
    *) return 1 ;;
  esac
}

model_title() {
  case $1 in
    base) echo "base (CoT)" ;;
    videorft) echo VideoRFT-3B ;;
    grpo) echo GRPO ;;
    bias) echo "bias model" ;;
    cdpo) echo "${cdpo_title:-CDPO}" ;;
    released_bias) echo "released bias model" ;;
    released) echo "released VideoThinker-R1" ;;
    self_repel) echo "repel base" ;;
    repel_videorft) echo "repel VideoRFT" ;;
    attract) echo "attract to bias model" ;;
    *) return 1 ;;
  esac
}

# A model that is trained here, as opposed to one that is only asked.
is_trained() {
  case $1 in
    bias) [ -z "${bias_model:-}" ] ;;
    grpo | cdpo | self_repel | repel_videorft | attract) true ;;
    *) false ;;
  esac
}

last_checkpoint() { # NAME
  local checkpoints=("runs/clevrer/$1"/checkpoints/step-*)
  printf '%s\n' "${checkpoints[@]}" | sort | tail -n 1
}

# The folder or hub id of a model.
model_of() { # NAME
  case $1 in
    base) echo "$base" ;;
    videorft) echo "$videorft" ;;
    released) echo "$released_policy" ;;
    released_bias) echo "$released_bias" ;;
    bias) if [ -n "${bias_model:-}" ]; then echo "$bias_model"; else last_checkpoint bias; fi ;;
    *) last_checkpoint "$1" ;;
  esac
}

# step NAME PRODUCT COMMAND…: runs a command unless the same one has finished before and what it made is still there. One that
# was interrupted is started again, and continues where it was.
step() {
  local name=$1 product=$2 done=runs/paper/done/$1
  shift 2
  ran=0
  if [ -e "$product" ] && [ -e "$done" ] && [ "$(cat "$done")" = "$*" ]; then
    echo "== $name: done before" >&2
    return
  fi
  printf '\n== %s\n' "$name" >&2
  ran=1
  "$@" >&2
  mkdir -p "$(dirname "$done")"
  printf '%s\n' "$*" >"$done"
}

# Official CLEVRER files become training and validation questions with their kinds.
prepare_clevrer() {
  local split
  for split in train validation; do
    step "questions-$split" "data/clevrer/$split.json" "$run" data clevrer --questions "data/clevrer/questions_$split.json" \
      --annotations "data/clevrer/annotations/$split" --out "data/clevrer/$split.json"
  done
  # Stage 1 asks its questions without their condition (configs/clevrer/bias.toml).
  step questions-stripped data/clevrer/train_stripped.json "$run" data clevrer --strip-condition \
    --questions data/clevrer/questions_train.json --annotations data/clevrer/annotations/train --out data/clevrer/train_stripped.json
}

# Every clip that is trained on decodes, none is among those of the evaluation.
check_clevrer() {
  step check data/clevrer/train.json "$run" data check --config configs/clevrer/cdpo.toml --set "model.path=$base" \
    ${settings[@]+"${settings[@]}"} --against data/clevrer/validation.json
}

# Settings of a training; stage 1 and the baseline have no KL term, what --set says of one is stage 2's.
settings_of() { # VERB
  local setting
  chosen=()
  for setting in ${settings[@]+"${settings[@]}"}; do
    case $1/$setting in
      */--set) ;;
      train-bias/kl.* | train-grpo/kl.*) ;;
      *) chosen+=(--set "$setting") ;;
    esac
  done
}

train() { # VERB NAME [ARGUMENT…]
  settings_of "$1"
  step "train-$2" "runs/clevrer/$2/checkpoints" "$run" "$1" --config "configs/clevrer/$2.toml" --ranks "$ranks" \
    --set "model.path=$base" --set "model.device=$device" ${chosen[@]+"${chosen[@]}"} "${@:3}"
  # Answers of another model than this are not passed over.
  if [ $ran = 1 ]; then rm -f runs/paper/done/eval-"$2"-*; fi
}

# Stage 2 and what it is compared with; stage 1 comes before what needs its model.
train_model() { # NAME
  case $1 in
    bias) train train-bias bias ;;
    grpo) train train-grpo grpo ;;
    cdpo | attract) train train-cdpo "$1" --set "model.bias_model=$(model_of bias)" ;;
    self_repel) train train-cdpo self_repel --set "model.bias_model=$base" ;;
    repel_videorft) train train-cdpo repel_videorft --set "model.bias_model=$videorft" ;;
  esac
}

# Asked in the authors' own words where their file is (videothinker data download protocols). MVBench's 200 clips of NTU RGB+D are left
# out and counted where they are not.
evaluate() { # MODEL BENCHMARK
  local out=runs/paper/eval/$1/$2 more=()
  if [ -d data/protocols/authors ]; then more+=(--set eval.protocol_from=data/protocols/authors); fi
  if [ "$2" = mvbench ] && [ ! -d data/mvbench/video/nturgbd ]; then more+=(--set data.on_bad_video=skip); fi
  step "eval-$1-$2" "$out/scores.json" "$run" eval run --config "configs/eval/$2.toml" --set "model.device=$device" \
    ${more[@]+"${more[@]}"} ${eval_settings[@]+"${eval_settings[@]}"} --model "$(model_of "$1")" --out "$out"
}

# Published accuracies, % (the authors' README; the ablations: the paper).
published_main() {
  cat <<'END'
published: base (CoT)|44.7|52.8|49.6|30.0|52.0
published: VideoRFT-3B|59.3|55.1|59.5|61.0|45.4
published: GRPO|64.9|52.0|54.9|41.4|50.3
published: CDPO|79.1|56.8|60.9|63.5|52.4
END
}
published_ablations() {
  cat <<'END'
published: repel base|63.3
published: repel VideoRFT|75.4
published: repel bias model (CDPO)|79.1
END
}

# The published rows as cells of `eval table --grid`, for the benchmarks that are shown.
published_cells() { # FUNCTION BENCHMARK…
  local rows=$1 row numbers column title shown
  shift
  while IFS='|' read -r row numbers; do
    IFS='|' read -r -a numbers <<<"$numbers"
    for column in "${!numbers[@]}"; do
      for shown in "$@"; do
        if [ "$shown" = "${all_benchmarks[$column]}" ]; then
          title=$(benchmark_title "$shown")
          echo "$row/$title=${numbers[$column]}"
        fi
      done
    done
  done < <("$rows")
}

# table FUNCTION MODELS BENCHMARKS: models in rows, benchmarks in columns, the published rows below.
table() {
  local published=$1 model benchmark cells=()
  local -a models benchmarks
  read -r -a models <<<"$2"
  read -r -a benchmarks <<<"$3"
  for model in "${models[@]}"; do
    for benchmark in "${benchmarks[@]}"; do
      cells+=("$(model_title "$model")/$(benchmark_title "$benchmark")=runs/paper/eval/$model/$benchmark")
    done
  done
  while IFS= read -r benchmark; do cells+=("$benchmark"); done < <(published_cells "$published" "${benchmarks[@]}")
  "$run" eval table --markdown --grid "${cells[@]}"
}

# What has to be known to read the published numbers.
caveats() {
  cat <<'END'
Exactly right answers, %, with 95 % confidence intervals clustered by clip. The published rows are the authors' (their README; the
second table: the paper). How they were scored is not known in full: the 79.1 on CLEVRER cannot be the share of exact matches of
single letters, which their evaluation prompt asks for, since 3,945 of the 9,238 counterfactual validation questions have one right
option and at most 42.7 % of such answers can be right. TempCompass is its 5,536 questions that rules score; the published numbers are of 7,540,
captions among them (--benchmarks tempcompass_flat asks those as questions with options, in a form of our own). Where no row or a dash stands, we know of no published number.
END
}
