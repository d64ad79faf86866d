#!/usr/bin/env bash
# What a GPU computes and how fast, from a prebuilt program alone: no Rust, no network, no downloads. It checks kernels and
# small models against the CPU, measures the card's own rates, and holds decoding and training of a randomly
# initialised Qwen2.5-VL-3B against them; then it runs the miniature experiment and, where Python has transformers,
# the same work there. A part that fails is recorded and the rest goes on.
#
#   scripts/gpu_check.sh [--binary FILE] [--out DIR] [--device NAME] [--set KEY=VALUE]… [--cpu]
#
#   --binary FILE      the program (default dist/videothinker, as scripts/cuda_build.sh leaves it)
#   --out DIR          where results and logs go (default runs/gpu_check); what is there is replaced
#   --device NAME      which card (default cuda:0)
#   --set KEY=VALUE    a setting for every training part
#   --cpu              the script's own logic with tiny models on the CPU: a few minutes; its speeds say nothing
#
# Writes DIR/check.json and prints a table. Exit code 0: every part passed; 1: one did not; 2: bad arguments.
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."

binary=dist/videothinker out=runs/gpu_check device=cuda:0 cpu=0 settings=()
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=$(cd "$start" && realpath "${2:?--binary FILE}"); shift ;;
    --out) out=$(cd "$start" && realpath -m "${2:?--out DIR}"); shift ;;
    --device) device=${2:?--device NAME}; shift ;;
    --set) settings+=(--set "${2:?--set KEY=VALUE}"); shift ;;
    --cpu) cpu=1 ;;
    *) sed -n '2,16s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done
[ -x "$binary" ] || { echo "$binary: no such program; build it with scripts/cuda_build.sh" >&2; exit 2; }
binary=$(realpath "$binary")
limit=${PART_SECONDS:-1200}

# The 3B at the paper's lengths on a GPU; on the CPU whatever is quick.
size=3b dtype=bf16 rows=8,32,64 group=8 questions=2
prompt=("--grid=8,22,34" --text-tokens 200)
video=(--set video.min_frames=16 --set video.max_frames=16 --set video.min_pixels=100352 --set video.max_pixels=153664)
tokens=300 learnt=(--completion-tokens 300) quickstart=() peer=()
if [ $cpu = 1 ]; then
  device=cpu size=tiny dtype=f32 rows=2,4 group=2
  prompt=("--grid=2,8,8" --text-tokens 20)
  video=(--set video.min_frames=4 --set video.max_frames=4 --set video.min_pixels=12544 --set video.max_pixels=12544)
  tokens=6 learnt=(--completion-tokens 24) quickstart=(--fast) peer=(--cpu)
else
  # shellcheck source=lib/cuda_libraries.sh
  . scripts/lib/cuda_libraries.sh
fi
on_device=(--set "model.device=$device")
sampling=(--set "sampling.group_size=$group" --set "train.questions_per_step=$questions")

case $out in *[!/]*) rm -rf "$out/parts" "$out/scratch" "$out/check.json" ;; esac
mkdir -p "$out/parts" "$out/scratch"
out=$(realpath "$out")
model=$out/scratch/model tiny=$out/scratch/tiny world=$out/scratch/world

# ---- running parts

names=() failed=0

run() { timeout "$limit" "$binary" "$@"; }

record() { # NAME CODE SECONDS
  printf '%s %s\n' "$2" "$3" >"$out/parts/$1.code"
  names+=("$1")
}

# Runs a command; what it prints is the part's result: one JSON object, or nothing.
part() { # NAME COMMAND…
  local name=$1 code=0 began=$SECONDS
  shift
  printf '%-24s' "$name" >&2
  "$@" >"$out/parts/$name.json" 2>"$out/parts/$name.log" || code=$?
  record "$name" $code $((SECONDS - began))
  if [ $code = 0 ]; then
    printf 'ok, %d s\n' $((SECONDS - began)) >&2
  else
    failed=1
    printf 'FAILED with exit code %d\n' $code >&2
  fi
}

leave_out() { # NAME REASON
  printf '%-24sleft out: %s\n' "$1" "$2" >&2
  printf '{"left_out":"%s"}\n' "$2" >"$out/parts/$1.json"
  record "$1" 0 0
}

# ---- reading results

# The first number of a key in a part's result; nothing where there is none.
number() { # PART KEY
  grep -oE "\"$2\":-?[0-9.]+([eE][-+]?[0-9]+)?" "$out/parts/$1.json" 2>/dev/null | head -n 1 | sed 's/.*"://' || true
}

# "measured possible share" of the N-th object of a key in a part's result.
shares() { # PART KEY [N]
  { grep -oE "\"$2\":\{[^}]*\}" "$out/parts/$1.json" 2>/dev/null || true; } |
    sed -n "${3:-1}{s/\"[a-z_]*\"://g; s/[{}]//g; s/,/ /g; p;}"
}

# What of a comparison is beyond its bound, a line each; NaN and infinity are null.
beyond() { # PART
  { grep -oE '\{"(what|kernel)":"[^"]*","dtype":"[^"]*","max_error":[^,]*,"bound":[^}]*\}' "$out/parts/$1.json" || true; } |
    sed -E 's/"(what|kernel|dtype|max_error|bound)"://g; s/[{}"]//g' |
    awk -F, '$3 == "null" || $3 > $4 { printf "  %s in %s: off by %.3g, at most %.3g\n", $1, $2, $3, $4 }'
}

# ---- parts

# Two training steps; the result is the line of times and memory of the second, which the first has warmed up.
cdpo_steps() { # FOLDER SETTING…
  local folder=$1
  shift
  run train-cdpo --resume never "${on_device[@]}" "${sampling[@]}" "${video[@]}" "$@" \
    --set "output_dir=$folder" --set "model.path=$model" --set "model.bias_model=$model" --set "model.dtype=$dtype" \
    --set "data.questions=$world/train_questions.json" --set "data.video_root=$world/videos" \
    --set "sampling.max_new_tokens=$tokens" --set train.steps=2 --set checkpoint.every=0 >&2 &&
    tail -n 1 "$folder/timings.jsonl"
}

# Bytes that `estimate` expects in a memory mode.
expected_bytes() { # SETTING…
  run estimate --json --for train-cdpo "${on_device[@]}" "${sampling[@]}" "${video[@]}" "$@" \
    --set "model.path=$model" --set "model.bias_model=$model" --set "model.dtype=$dtype" \
    --set "sampling.max_new_tokens=$tokens" 2>/dev/null | grep -oE '"peak":[0-9]+' | cut -d: -f2
}

# Bytes of the card's memory; 0 where that is not known.
card_bytes() {
  if [ $cpu = 1 ]; then echo 0; return; fi
  nvidia-smi --id="${device#cuda:}" --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null |
    awk '{ bytes = $1 * 1048576 } END { printf "%d\n", bytes }'
}

# Learning alone, and whole steps, in one memory mode, if it fits.
memory_mode() { # NAME SETTING…
  local name=$1 expected available
  shift
  expected=$(expected_bytes "$@" || true)
  available=$(card_bytes || true)
  if [ "${available:-0}" -gt 0 ] && [ "${expected:-0}" -gt "$available" ]; then
    leave_out "train_$name" "$expected bytes expected, the card has $available"
    return
  fi
  part "train_$name" run inspect device train --model "$model" "${prompt[@]}" "${learnt[@]}" "${on_device[@]}" "${sampling[@]}" \
    --set "model.dtype=$dtype" "$@"
  part "cdpo_$name" cdpo_steps "$out/scratch/cdpo_$name" "$@"
}

miniature() {
  local place=$out/scratch/quickstart
  mkdir -p "$place/data" && cp -r scripts configs "$place/" && cp -r data/mini "$place/data/" &&
    timeout "$((3 * limit))" "$place/scripts/quickstart.sh" --binary "$binary" --device "$device" \
      ${quickstart[@]+"${quickstart[@]}"} >&2
}

# The same steps by one rank and by two; prints both gradient norms, which must agree.
two_ranks() {
  local ranks place=auto
  if [ $cpu = 1 ]; then place=cpu; fi
  for ranks in 1 2; do
    run train-cdpo --resume never --ranks $ranks --set "output_dir=$out/scratch/ranks_$ranks" \
      --set "model.device=$place" --set model.path=data/mini --set model.bias_model=data/mini --set model.dtype=f32 \
      --set "data.questions=$world/train_questions.json" --set "data.video_root=$world/videos" \
      --set video.min_frames=8 --set video.max_frames=8 --set video.min_pixels=12544 --set video.max_pixels=12544 \
      --set sampling.group_size=4 --set sampling.max_new_tokens=64 \
      --set train.questions_per_step=4 --set train.steps=2 --set checkpoint.every=0 >&2 || return 1
  done
  cat "$out"/scratch/ranks_{1,2}/metrics.jsonl | grep -oE '"grad_norm":[^,]*' | sed 's/.*://' | awk '
    { norm[NR] = $1 }
    END {
      printf "{\"one_rank\":%s,\"two_ranks\":%s}\n", norm[2], norm[4]
      for (i = 1; i <= 2; i++) if (!(norm[i] > 0) || (norm[i] - norm[i + 2])^2 > (1e-3 * norm[i])^2) exit 1
    }'
}

python_has_peer() {
  local test="import torch, transformers; transformers.Qwen2_5_VLForConditionalGeneration"
  if [ $cpu = 0 ]; then test="$test; assert torch.cuda.is_available()"; fi
  command -v python3 >/dev/null 2>&1 && python3 -c "$test" >/dev/null 2>&1
}

part rates run inspect device rates "${on_device[@]}"
part kernels run inspect device kernels "${on_device[@]}"
part init_tiny run inspect model "$tiny" --init tiny
part parity_tiny run inspect device parity --model "$tiny" "${on_device[@]}"
part parity_mini run inspect device parity --model data/mini "${on_device[@]}"
part init_model run inspect model "$model" --init $size --dtype $dtype
part world run data mini --train 8 --validation 1 --out "$world" --json
# As many tokens on the CPU: fewer of the tiny model's steps are too short to be timed.
decoding() { # SETTING…
  run inspect device decode --model "$model" --rows $rows "${prompt[@]}" --completion-tokens 300 "${on_device[@]}" \
    --set "sampling.group_size=$group" --set "model.dtype=$dtype" "$@"
}
part decode decoding
if [ $cpu = 0 ]; then part decode_graph decoding --set sampling.cuda_graph=true; fi
for memory in full compact host; do
  memory_mode $memory --set optimizer.memory=$memory ${settings[@]+"${settings[@]}"}
done
memory_mode host_streamed --set optimizer.memory=host --set model.bias_placement=host ${settings[@]+"${settings[@]}"}
if [ $cpu = 0 ] && [ "$(nvidia-smi --list-gpus | wc -l)" -lt 2 ]; then
  leave_out ranks "one GPU"
elif [ $cpu = 0 ] && ! grep -q 'libnccl\.so' "$binary"; then
  leave_out ranks "the program is built without NCCL"
else
  part ranks two_ranks
fi
part quickstart miniature
if python_has_peer; then
  part ours run inspect device train --model "$model" "${prompt[@]}" "${learnt[@]}" "${on_device[@]}" --set "model.dtype=$dtype" \
    --set "sampling.group_size=$group" --set train.questions_per_step=1
  part transformers timeout "$limit" python3 benches/peers/gpu_step.py --model "$model" "${prompt[@]}" "${learnt[@]}" \
    --group-size $group ${peer[@]+"${peer[@]}"}
else
  leave_out transformers "no Python here has torch and transformers for this device"
fi

# ---- one JSON, one table

{
  printf '{"cpu_mode":%s,"binary":"%s","device":"%s","passed":%s,"parts":{' \
    "$([ $cpu = 1 ] && echo true || echo false)" "$("$binary" --version)" "$device" \
    "$([ $failed = 0 ] && echo true || echo false)"
  separator=''
  for name in "${names[@]}"; do
    read -r code seconds <"$out/parts/$name.code"
    result=$(tail -n 1 "$out/parts/$name.json")
    case $result in '{'*) ;; *) result=null ;; esac
    printf '%s"%s":{"exit_code":%d,"seconds":%d,"result":%s}' "$separator" "$name" "$code" "$seconds" "$result"
    separator=,
  done
  printf '}}\n'
} >"$out/check.json"

row() { # NAME MEASURED UNIT POSSIBLE SHARE
  awk -v name="$1" -v measured="$2" -v unit="$3" -v possible="$4" -v share="$5" 'BEGIN {
    if (measured == "") exit
    printf "%-42s %12s %-10s", name, sprintf("%.4g", measured), unit
    if (possible != "") printf " %12s", sprintf("%.4g", possible)
    if (share != "") printf " %7.1f %%", 100 * share
    printf "\n" }'
}

of_share() { # NAME UNIT SCALE "MEASURED POSSIBLE SHARE"
  local values
  read -r -a values <<<"$4"
  [ ${#values[@]} = 3 ] || return 0
  row "$1" "$(scaled "${values[0]}" "$3")" "$2" "$(scaled "${values[1]}" "$3")" "${values[2]}"
}

scaled() { awk -v value="$1" -v scale="$2" 'BEGIN { if (value != "") printf "%.6g", value / scale }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.6g", a / b }'; }

print_table() {
  printf '%-42s %12s %-10s %12s %9s\n' "" measured "" possible share
  row "copy (read and written)" "$(scaled "$(number rates copy)" 1e9)" GB/s "" ""
  row "bf16 products" "$(scaled "$(number rates bf16)" 1e12)" TFLOP/s "" ""
  row "f32 products" "$(scaled "$(number rates f32)" 1e12)" TFLOP/s "" ""
  local index=1 each name
  for each in ${rows//,/ }; do
    of_share "decoding, $each rows" tokens/s 1 "$(shares decode tokens_per_second $index)"
    of_share "  by a CUDA graph" tokens/s 1 "$(shares decode_graph tokens_per_second $index)"
    index=$((index + 1))
  done
  for name in full compact host host_streamed; do
    of_share "learning, $name: products (MFU)" TFLOP/s 1e12 "$(shares train_$name backward_flops_per_second)"
    row "learning, $name: update" "$(number train_$name update_seconds)" s "" ""
    of_share "learning, $name: memory / estimate" GB 1e9 "$(shares train_$name peak_bytes)"
    row "CDPO step, $name" "$(number cdpo_$name step_time)" s "" ""
    row "  memory / estimate" "$(scaled "$(number cdpo_$name memory/peak_bytes)" 1e9)" GB \
      "$(scaled "$(number cdpo_$name memory/estimate_bytes)" 1e9)" \
      "$(ratio "$(number cdpo_$name memory/peak_bytes)" "$(number cdpo_$name memory/estimate_bytes)")"
  done
  row "transformers: decoding" "$(number transformers decode_tokens_per_second)" tokens/s "" ""
  row "  ours is faster by" "$(ratio "$(shares decode tokens_per_second 1 | cut -d' ' -f1)" \
    "$(number transformers decode_tokens_per_second)")" times "" ""
  row "transformers: scoring" "$(number transformers score_seconds)" s "" ""
  row "  ours is faster by" "$(ratio "$(number transformers score_seconds)" "$(number ours bias_seconds)")" times "" ""
  row "transformers: forward + backward" "$(number transformers backward_seconds)" s "" ""
  row "  ours is faster by" "$(ratio "$(number transformers backward_seconds)" "$(number ours backward_seconds)")" times "" ""
}

printf '\n'
print_table | tee "$out/table.txt"
printf '\n'
for name in "${names[@]}"; do
  read -r code _ <"$out/parts/$name.code"
  if [ "$code" != 0 ]; then
    printf 'FAILED: %s (%s)\n' "$name" "$out/parts/$name.log"
    beyond "$name"
    tail -n 3 "$out/parts/$name.log"
  fi
done
printf 'All results: %s\n' "$out/check.json"
exit $failed
