#!/usr/bin/env bash
# The paper's tables: downloads the data, trains both stages and what they are compared with, evaluates every model on six
# benchmarks, prints the main table and the ablations beside the published numbers. Run it again to continue: what is finished is
# passed over. Needs a CUDA GPU and about 600 GB of disk; --mini shows all of it in miniature on a CPU.
#
#   scripts/reproduce_paper.sh [OPTION]…
#
#   --dry-run            list every file with its size, here and published, and estimate memory and time; then stop
#   --mini               the whole script on a miniature world, with stand-ins for the benchmarks, on a CPU; into runs/paper_mini
#   --download-only      stop after the downloads
#   --i-agree            you keep to Video-MME's licence (academic research only); without it that benchmark is left out
#   --benchmarks LIST    of clevrer,mmvu,mvbench,tempcompass,videomme,video_holmes (default: these) and tempcompass_flat
#   --models LIST        rows of the main table, of base,videorft,grpo,bias,cdpo,released_bias,released (default: the first five)
#   --no-ablations       without the second table
#   --released           train nothing: the authors' released model and bias model beside base and VideoRFT-3B
#   --bias-model MODEL   repel from this folder or hub id instead of training stage 1, such as Falconss1/VideoThinker-R1-Bias-3B
#   --binary FILE        use this program instead of building one with scripts/cuda_build.sh
#   --base MODEL         train from this folder or hub id instead of Qwen/Qwen2.5-VL-3B-Instruct
#   --device NAME        train and evaluate on this device (default auto: the first GPU)
#   --ranks N            train on N GPUs of this machine, which share a step's questions (at most train.questions_per_step, 2)
#   --set KEY=VALUE      a setting of every training, such as optimizer.memory=compact for a card of 48 GB
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."
root=$PWD
# shellcheck source=lib/paper.sh
. scripts/lib/paper.sh
# shellcheck source=lib/paper_files.sh
. scripts/lib/paper_files.sh
# shellcheck source=lib/paper_mini.sh
. scripts/lib/paper_mini.sh

here() { cd "$start" && if [ -e "$1" ]; then realpath "$1"; else echo "$1"; fi; }
refuse() { echo "$*" >&2; exit 2; }

run='' dry_run=0 mini=0 download_only=0 agreed=0 ablations=1 released=0
base=Qwen/Qwen2.5-VL-3B-Instruct bias_model='' device=auto ranks=1
settings=() eval_settings=()
benchmarks=("${all_benchmarks[@]}") models=("${main_models[@]}")
while [ $# -gt 0 ]; do
  case $1 in
    --benchmarks | --models | --bias-model | --binary | --base | --device | --ranks | --set)
      case ${2:-} in '' | -*) refuse "$1 wants a value (--help)" ;; esac ;;
  esac
  case $1 in
    --dry-run) dry_run=1 ;;
    --mini | --miniature) mini=1 ;;
    --download-only) download_only=1 ;;
    --i-agree) agreed=1 ;;
    --benchmarks) IFS=, read -r -a benchmarks <<<"$2"; shift ;;
    --models) IFS=, read -r -a models <<<"$2"; shift ;;
    --no-ablations) ablations=0 ;;
    --released) released=1 ;;
    --bias-model) bias_model=$(here "$2"); shift ;;
    --binary) run=$(here "$2"); shift ;;
    --base) base=$(here "$2"); shift ;;
    --device) device=$2; shift ;;
    --ranks) ranks=$2; shift ;;
    --set) settings+=(--set "$2"); shift ;;
    -h | --help) sed -n '2,24s/^# \{0,1\}//p' "$0"; exit ;;
    *) refuse "$1: there is no such option (--help)" ;;
  esac
  shift
done
case $ranks in 1 | 2) ;; *) refuse "--ranks $ranks: 1 or 2, as many as a step has questions" ;; esac
[ -z "$run" ] || [ -x "$run" ] || refuse "--binary $run: there is no such program"
for setting in ${settings[@]+"${settings[@]}"}; do
  case $setting in --set | ?*.?*=*) ;; *) refuse "--set $setting: write it as KEY=VALUE" ;; esac
done
if [ $released = 1 ]; then
  models=("${released_models[@]}")
  ablations=0
fi
for name in "${benchmarks[@]}"; do
  benchmark_title "$name" >/dev/null || refuse "--benchmarks $name: one of ${all_benchmarks[*]} tempcompass_flat"
done
for name in "${models[@]}"; do
  model_title "$name" >/dev/null || refuse "--models $name: one of ${main_models[*]} released_bias released"
done

# What is trained, stage 1 first; what is trained needs CLEVRER.
wanted=("${models[@]}")
if [ $ablations = 1 ]; then wanted+=(cdpo "${ablation_models[@]}"); fi
trained=()
add_trained() { # NAME: once, if it is trained here
  is_trained "$1" && [[ " ${trained[*]-} " != *" $1 "* ]] && trained+=("$1")
  return 0
}
for name in "${wanted[@]}"; do
  case $name in bias | cdpo | attract) add_trained bias ;; esac
done
for name in "${wanted[@]}"; do add_trained "$name"; done
downloads=("${benchmarks[@]}")
if [ ${#trained[@]} -gt 0 ] || [ $ablations = 1 ]; then
  [[ " ${downloads[*]} " == *" clevrer "* ]] || downloads+=(clevrer)
fi

# A program that is there; none is built for a list of files.
find_binary() {
  local candidate
  for candidate in dist/videothinker target/release/videothinker; do
    if [ -z "$run" ] && [ -x $candidate ]; then run=$root/$candidate; fi
  done
}

if [ $mini = 1 ] && [ $dry_run = 0 ]; then
  if [ -z "$run" ]; then
    # shellcheck source=lib/packages.sh
    . scripts/lib/packages.sh
    require_rust
    require_packages
    cargo build --release --locked
    run=$root/target/release/videothinker
  fi
  mini_settings
  mini_workplace
fi

if [ $dry_run = 1 ]; then
  find_binary
  echo "Data (videothinker data download)"
  list_files "${downloads[@]/_flat/}" $([ $mini = 1 ] || echo protocols)
  printf '\nModels\n'
  line state here published model from
  {
    if [ ${#trained[@]} -gt 0 ]; then echo "$base"; fi
    for name in "${wanted[@]}"; do is_trained "$name" || model_of "$name"; done
    if [ $ablations = 1 ]; then echo "$videorft"; fi
  } | sort -u | while IFS= read -r name; do list_model "$name"; done
  printf '\nRuns\n'
  for name in ${trained[@]+"${trained[@]}"}; do list_run "$name"; done
  printf '\nDisk here: %s free\n' "$(df -Ph . | awk 'NR == 2 { print $4 }')"
  if [ ${#trained[@]} = 0 ]; then
    printf '\nNothing is trained. An evaluation needs the model, 7.5 GB, and about as much again.\n'
  elif [ -z "$run" ] || ! "$run" --version >/dev/null 2>&1; then
    printf '\nBuild the program (cargo build --release --locked) for estimates of memory and time.\n'
  else
    if is_trained bias; then printf '\nStage 1 (bias)\n'; estimates configs/clevrer/bias.toml train-bias; fi
    printf '\nStage 2 (CDPO), and each of its comparisons\n'
    repulsor=()
    if [ -n "$bias_model" ]; then repulsor=(--set "model.bias_model=$bias_model"); fi
    estimates configs/clevrer/cdpo.toml train-cdpo ${repulsor[@]+"${repulsor[@]}"}
    printf '\nThe authors trained both stages in some 8 hours on two A6000. Evaluations are not estimated.\n'
  fi
  exit
fi

if [ $mini = 0 ]; then
  # Downloads need no CUDA.
  if [ $download_only = 1 ]; then find_binary; fi
  if [ -z "$run" ] && [ $download_only = 1 ]; then
    # shellcheck source=lib/packages.sh
    . scripts/lib/packages.sh
    require_rust
    require_packages
    cargo build --release --locked
    run=$root/target/release/videothinker
  fi
  if [ -z "$run" ]; then
    run=$root/dist/videothinker
    nccl=()
    if [ "$ranks" -gt 1 ]; then nccl=(--nccl); fi
    [ -x "$run" ] || scripts/cuda_build.sh --slim ${nccl[@]+"${nccl[@]}"} --out "$run"
  fi
  if [ $download_only = 0 ]; then
    # shellcheck source=lib/cuda_libraries.sh
    . scripts/lib/cuda_libraries.sh
  fi
  wanted_data=() agreement=()
  for name in "${downloads[@]}"; do
    case $name in
      videomme)
        if [ $agreed = 1 ]; then
          wanted_data+=(videomme)
          agreement=(--i-agree)
        else
          echo "Video-MME is left out: --i-agree says that you keep to its licence (data/README.md)" >&2
          left=()
          for benchmark in "${benchmarks[@]}"; do [ "$benchmark" = videomme ] || left+=("$benchmark"); done
          benchmarks=(${left[@]+"${left[@]}"})
        fi ;;
      *) wanted_data+=("${name%_flat}") ;;
    esac
  done
  "$run" data download "${wanted_data[@]}" protocols ${agreement[@]+"${agreement[@]}"} >&2
  if [ $download_only = 1 ]; then exit; fi
fi

if [[ " ${downloads[*]} " == *" clevrer "* ]]; then prepare_clevrer; fi
if [ ${#trained[@]} -gt 0 ]; then check_clevrer; fi
for name in ${trained[@]+"${trained[@]}"}; do train_model "$name"; done
for benchmark in "${benchmarks[@]}"; do
  for name in "${models[@]}"; do evaluate "$name" "$benchmark"; done
done
if [ $ablations = 1 ]; then
  for name in "${ablation_models[@]}" cdpo; do evaluate "$name" clevrer; done
fi

tables() {
  printf 'Main table\n\n'
  table published_main "${models[*]}" "${benchmarks[*]}"
  if [ $ablations = 1 ]; then
    printf '\nStage 2, compared with: repulsion from other models, and attraction\n\n'
    cdpo_title="repel bias model (CDPO)" table published_ablations "self_repel repel_videorft cdpo attract" clevrer
  fi
  echo
  caveats
  if [ $mini = 1 ]; then mini_caveat; fi
}
tables | tee runs/paper/tables.md
echo "tables: $PWD/runs/paper/tables.md" >&2
