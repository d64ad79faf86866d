# Sourced by scripts/gpu_check.sh: what its parts do. Each prints one JSON object, logs to stderr and keeps to $limit.
#
# Expects the script's variables of the same names.
# shellcheck shell=bash disable=SC2154,SC2034

# The 3B at the paper's lengths on a GPU; small, whatever is quick.
choose_sizes() {
  size=3b dtype=bf16 group=8 questions=2 rows=16 graph_rows=("--graph-rows=16,64") decoded=128 tokens=300
  prompt=("--grid=8,22,34" --text-tokens 200) learnt=(--completion-tokens 300)
  video=(--set video.min_frames=16 --set video.max_frames=16 --set video.min_pixels=100352 --set video.max_pixels=153664)
  quickstart=() small_kernels=() peer_options=(--completion-tokens "$decoded")
  if [ $mode != full ]; then
    size=tiny group=2 questions=1 rows=2 graph_rows=("--graph-rows=2,4") decoded=16 tokens=6
    prompt=("--grid=2,8,8" --text-tokens 20) learnt=(--completion-tokens 8)
    video=(--set video.min_frames=4 --set video.max_frames=4 --set video.min_pixels=12544 --set video.max_pixels=12544)
    quickstart=(--fast) small_kernels=(--small) peer_options=(--completion-tokens 4)
  fi
  if [ $mode = cpu ]; then
    # As many tokens as on a GPU: fewer of the tiny model's steps are too short to be timed.
    device=cpu dtype=f32 graph_rows=() decoded=300 peer_options+=(--cpu --dtype float32)
  fi
  on_device=(--set "model.device=$device")
  sampling=(--set "sampling.group_size=$group" --set "train.questions_per_step=$questions")
  work=("${prompt[@]}" "${on_device[@]}" "${sampling[@]}" --set "model.dtype=$dtype")
}

# Memory, if there is enough for the models, else the place of everything else.
fast_folder() { # CHOSEN PLACE
  local free
  free=$(df --output=avail -B 1G /dev/shm 2>/dev/null | tail -n 1 || echo 0)
  if [ -z "$1" ] && [ "${free:-0}" -ge 16 ]; then
    mktemp -d /dev/shm/gpu_check.XXXXXX
  else
    mktemp -d "$2/gpu_check_models.XXXXXX"
  fi
}

# ---- what must be there

card_query() { # FIELDS
  nvidia-smi --id="${device#cuda:}" --query-gpu="$1" --format=csv,noheader,nounits
}

cards() { nvidia-smi --list-gpus 2>/dev/null | wc -l; }

# The libraries, the driver and the card; what is missing is said here, not by the first part that needs it.
start_check() {
  local missing card='' version
  missing=$(ldd "$binary" 2>/dev/null | sed -n 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p' | tr '\n' ' ')
  if [ -n "$missing" ]; then
    echo "the program does not start: the loader finds no $missing(LD_LIBRARY_PATH=${LD_LIBRARY_PATH-}; scripts/lib/cuda_libraries.sh)" >&2
    return 1
  fi
  version=$(limited "$binary" --version) || return
  if [ $mode != cpu ]; then
    if ! command -v nvidia-smi >/dev/null 2>&1; then
      echo "no nvidia-smi here: is there a driver?" >&2
      return 1
    fi
    card=$(limited nvidia-smi --id="${device#cuda:}" --format=csv,noheader,nounits \
      --query-gpu=name,driver_version,memory.total,memory.free,compute_cap) || { echo "nvidia-smi: $card" >&2; return 1; }
  fi
  printf '%s\n' "$card" | awk -F ', *' -v program="$version" -v mode="$mode" -v ncu="$(command -v ncu || true)" \
    -v sanitizer="$(command -v compute-sanitizer || true)" '{
      printf "{\"program\":\"%s\",\"mode\":\"%s\"", program, mode
      if (NF >= 5) {
        printf ",\"card\":\"%s\",\"driver\":\"%s\",\"memory_bytes\":%.0f,\"free_bytes\":%.0f,\"capability\":\"%s\"",
          $1, $2, $3 * 1048576, $4 * 1048576, $5
      }
      printf ",\"ncu\":\"%s\",\"compute_sanitizer\":\"%s\"}\n", ncu, sanitizer
    }'
}

python_has_peer() {
  limited python3 -c "
import json, sys
try:
    import safetensors, torch, transformers
    transformers.Qwen2_5_VLForConditionalGeneration
except (ImportError, AttributeError) as error:
    sys.exit(print(json.dumps({'left_out': str(error).replace('\"', ' ')}, separators=(',', ':'))))
if '$mode' != 'cpu' and not torch.cuda.is_available():
    sys.exit(print('{\"left_out\":\"this Python has a PyTorch that sees no GPU\"}'))
print(json.dumps({'torch': torch.__version__, 'transformers': transformers.__version__}, separators=(',', ':')))"
}

# The 3B, and one with a single layer of its sizes (and two in the vision tower: one with windows, one without).
models() {
  mkdir -p "$scratch/layer" && run inspect model "$model" --init $size --dtype $dtype >&2 &&
    tr -d '\n' <"$model/config.json" | sed -E 's/("num_hidden_layers": *)[0-9]+/\11/; s/("depth": *)[0-9]+/\12/
      s/("fullatt_block_indexes": *)\[[^]]*\]/\1[1]/' >"$scratch/layer/config.json" &&
    run inspect model "$layer" --init "$scratch/layer/config.json" --dtype $dtype >&2
}

# ---- parts

parity_tiny() {
  run inspect model "$tiny" --init tiny >&2 && run inspect device parity --model "$tiny" "${on_device[@]}"
}

# Tokens are timed by a difference of two times; the program says so where other work made that useless.
decoding() {
  local code _
  for _ in 1 2 3; do
    code=0
    run inspect device decode --model "$model" --rows $rows "${graph_rows[@]}" --completion-tokens $decoded --repeats 1 "${work[@]}" || code=$?
    if [ $code = 0 ] || ! grep -q 'other work took the time' "$scratch/decode.log"; then break; fi
  done
  return $code
}

# Bytes that `estimate` expects in a memory mode.
expected_bytes() { # SETTING…
  run estimate --json --for train-cdpo "${on_device[@]}" "${sampling[@]}" "${video[@]}" "$@" \
    --set "model.path=$model" --set "model.bias_model=$model" --set "model.dtype=$dtype" \
    --set "sampling.max_new_tokens=$tokens" 2>/dev/null | grep -oE '"peak":[0-9]+' | cut -d: -f2
}

# Whether a memory mode fits the card; where the card's memory is not known, yes.
fits() { # SETTING…
  local expected available
  load_results "$out"
  available=$(number start memory_bytes)
  expected=$(expected_bytes "$@" || true)
  if [ "${available:-0}" -gt 0 ] && [ "${expected:-0}" -gt "$available" ]; then
    printf '{"left_out":"%s bytes expected, the card has %s"}\n' "$expected" "$available"
    return 1
  fi
}

learning() { # MEMORY OPTION…
  local memory=(--set "optimizer.memory=$1")
  fits "${memory[@]}" || return 0
  run inspect device train --model "$model" "${learnt[@]}" "${work[@]}" "${memory[@]}" "${settings[@]}" "${@:2}"
}

# Two training steps; the result is the line of times and memory of the second, which the first has warmed up.
cdpo_steps() { # MEMORY SETTING…
  local folder=$scratch/cdpo_$1 memory=(--set "optimizer.memory=$1" "${@:2}" "${settings[@]}")
  fits "${memory[@]}" || return 0
  rm -rf "$folder"
  run train-cdpo --resume never "${on_device[@]}" "${sampling[@]}" "${video[@]}" "${memory[@]}" \
    --set "output_dir=$folder" --set "model.path=$model" --set "model.bias_model=$model" --set "model.dtype=$dtype" \
    --set "data.questions=$world/train_questions.json" --set "data.video_root=$world/videos" \
    --set "sampling.max_new_tokens=$tokens" --set train.steps=2 --set checkpoint.every=0 >&2 &&
    tail -n 1 "$folder/timings.jsonl"
}

peer() {
  limited python3 benches/peers/gpu_step.py --model "$model" --work "$scratch/work.safetensors" "${peer_options[@]}"
}

# In a folder of its own: what runs/ holds stays.
miniature() { # OPTION…
  local place=$scratch/quickstart
  mkdir -p "$place/data" && cp -r scripts configs "$place/" && cp -r data/mini "$place/data/" &&
    limited "$place/scripts/quickstart.sh" --binary "$binary" --device "$device" "$@" >&2
}

# The same steps by one rank and by two; prints both gradient norms, which must agree.
two_ranks() {
  local ranks place=auto
  if [ $mode = cpu ]; then place=cpu; fi
  for ranks in 1 2; do
    run train-cdpo --resume never --ranks $ranks --set "output_dir=$scratch/ranks_$ranks" \
      --set "model.device=$place" --set model.path=data/mini --set model.bias_model=data/mini --set model.dtype=f32 \
      --set "data.questions=$world/train_questions.json" --set "data.video_root=$world/videos" \
      --set video.min_frames=8 --set video.max_frames=8 --set video.min_pixels=12544 --set video.max_pixels=12544 \
      --set sampling.group_size=4 --set sampling.max_new_tokens=64 \
      --set train.questions_per_step=4 --set train.steps=2 --set checkpoint.every=0 >&2 || return 1
  done
  cat "$scratch"/ranks_{1,2}/metrics.jsonl | grep -oE '"grad_norm":[^,]*' | sed 's/.*://' | awk '
    { norm[NR] = $1 }
    END {
      printf "{\"one_rank\":%s,\"two_ranks\":%s}\n", norm[2], norm[4]
      for (i = 1; i <= 2; i++) if (!(norm[i] > 0) || (norm[i] - norm[i + 2])^2 > (1e-3 * norm[i])^2) exit 1
    }'
}

# ---- NVIDIA's tools

tool_part() { # TOOL OTHER… -- NAME ABOUT LIMIT COMMAND…
  local tool=$1 name arguments=("${@:2}")
  while [ "$2" != -- ]; do shift; done
  name=$3
  if [ $mode = cpu ]; then
    leave_out "$name" "a CPU has no kernels to watch"
  elif ! command -v "$tool" >/dev/null 2>&1; then
    leave_out "$name" "no $tool here"
  else
    part_after "${arguments[@]}"
  fi
}

# Leaves a part out whose tool does not work here, by the first line in which the tool says so.
tool_does_not_work() { # TOOL LOG PATTERN
  local said
  said=$(grep -m 1 -E "$3" "$2" 2>/dev/null || true)
  [ -n "$said" ] && printf '{"left_out":"%s does not work here: %s"}\n' "$1" "$(printf '%s' "${said##*== }" | cut -c 1-200 | escaped)"
}

# The profiler's times of every kernel of one layer's work. It runs kernels one by one and so shows no overlap; it writes them
# when the program has ended, so that the work must be short.
kernel_times() { # decode|train OPTION…
  local csv=$out/$1_kernels.csv log=$scratch/$1_kernels.log code=0
  limited ncu --clock-control none --cache-control none --metrics gpu__time_duration.sum --print-units base --csv \
    --launch-count 4000 --log-file "$csv" "$binary" inspect device "$1" --model "$layer" --repeats 1 "${work[@]}" "${@:2}" >&2 || code=$?
  if [ "$(wc -c <"$csv")" -gt 8000000 ]; then head -c 8000000 "$csv" >"$csv.tmp" && mv "$csv.tmp" "$csv"; fi
  if ! sum_kernels "$csv"; then
    if tool_does_not_work ncu "$csv" '==ERROR== .*(ERR_NVGPUCTRPERM|LibraryNotLoaded|DriverNotLoaded|not supported|resource)'; then return 0; fi
    grep -m 3 '==ERROR==' "$csv" >&2 || true
    return 1
  fi
  # Times between kernels that are run one by one mean nothing.
  if grep -q 'other work took the time' "$log"; then return 0; fi
  return $code
}

# Kernels by name and grid, those that take most first: launches, mean and total microseconds.
sum_kernels() { # CSV
  awk '
    !/^"/ { next }
    { count = split(substr($0, 2, length($0) - 2), field, "\",\"") }
    !header {
      for (i = 1; i <= count; i++) column[field[i]] = i
      header = 1
      next
    }
    field[column["Metric Name"]] == "gpu__time_duration.sum" {
      value = field[column["Metric Value"]]
      # With thousands separators, and a field of rules behind it in some versions.
      gsub(/[",]/, "", value)
      name = field[column["Kernel Name"]] " " field[column["Grid Size"]]
      launches[name]++
      nanoseconds[name] += value
      all++
    }
    END {
      if (!all) exit 1
      for (name in launches) printf "%.3f\t%d\t%.3f\t%s\n", nanoseconds[name] / 1e3, launches[name], nanoseconds[name] / launches[name] / 1e3, name
    }' "$1" | sort -t "$(printf '\t')" -k 1,1nr | escape_names | awk -F '\t' '
    { all += $2; total += $1 }
    NR <= 40 {
      list = list (NR > 1 ? "," : "") sprintf("{\"kernel\":\"%s\",\"launches\":%d,\"mean_us\":%s,\"total_us\":%s}", substr($4, 1, 160), $2, $3, $1)
    }
    END {
      if (!NR) exit 1
      printf "{\"launches\":%d,\"total_us\":%.1f,\"kernels\":[%s]}\n", all, total, list
    }'
}

escape_names() { sed 's/[\\"]/_/g'; }

# Every kernel under one of the sanitizer's tools.
sanitized() { # TOOL
  local log=$scratch/$1.txt code=0
  limited compute-sanitizer --tool "$1" --error-exitcode 86 --print-limit 20 --log-file "$log" \
    "$binary" inspect device kernels --small "${on_device[@]}" >&2 || code=$?
  cat "$log" >&2
  if [ $code != 0 ] && ! grep -q 'SUMMARY: ' "$log" &&
    tool_does_not_work compute-sanitizer "$log" 'not supported|Internal Sanitizer Error|before first instrumented|LibraryNotLoaded'; then return 0; fi
  printf '{"summary":"%s"}\n' "$(sed -n 's/^=*[[:space:]]*\([A-Z]* SUMMARY: .*\)/\1/p' "$log" | tail -n 1 | escaped)"
  return $code
}

# ---- what has to be carried

print_pack() {
  local tree program all limit=$((64 << 20))
  tree=$({ git ls-files -z --cached --others --exclude-standard; if [ -d shared ]; then find shared -type f -print0; fi; } |
    sort -zu | xargs -0 stat -c %s 2>/dev/null | awk '{ sum += $1 } END { printf "%d", sum }')
  program=$(stat -c %s "$binary")
  all=$((tree + program))
  awk -v tree="$tree" -v program="$program" -v all=$all -v limit=$limit -v name="$binary" 'BEGIN {
    printf "%12d bytes  the tree: tracked files and those that git does not ignore\n", tree
    printf "%12d bytes  %s\n", program, name
    printf "%12d bytes  together, %.1f of at most %.0f MiB\n", all, all / 1048576, limit / 1048576 }'
  ldd "$binary" 2>/dev/null | grep -oE 'lib(av|sw)[a-z]+\.so[^ ]*' | sort -u | sed 's/$/ is not in the program: build it with a static FFmpeg (FFMPEG_DIR)/' || true
  [ $all -le $limit ]
}
