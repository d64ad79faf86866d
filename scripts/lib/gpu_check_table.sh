# Sourced by scripts/gpu_check.sh: a table of the results that are there.
# shellcheck shell=bash

declare -A lines=()
order=()

# The results of a folder by part; of several lines of a part, the last.
load_results() { # DIR
  local line name
  lines=() order=()
  while IFS= read -r line; do
    name=${line#'{"part":"'}
    name=${name%%\"*}
    if [ -z "${lines[$name]-}" ]; then order+=("$name"); fi
    lines[$name]=$line
  done <"$1/results.jsonl"
}

line_of() { printf '%s\n' "${lines[$1]-}"; } # PART

# The first number of a key in a part's result; nothing where there is none.
number() { # PART KEY
  local pattern="\"$2\":(-?[0-9.]+([eE][-+]?[0-9]+)?)"
  if [[ ${lines[$1]-} =~ $pattern ]]; then printf '%s' "${BASH_REMATCH[1]}"; fi
}

# What a pattern's first group matches in a part's line the N-th time; nothing where it does not.
nth_match() { # PART PATTERN [N]
  local rest=${lines[$1]-} count=${3:-1}
  while [[ $rest =~ $2 ]]; do
    count=$((count - 1))
    if [ $count = 0 ]; then printf '%s' "${BASH_REMATCH[1]}"; return; fi
    rest=${rest#*"${BASH_REMATCH[0]}"}
  done
}

# The inside of the N-th object of a key in a part's result.
object() { nth_match "$1" "\"$2\":\\{([^}]*)\\}" "${3:-1}"; } # PART KEY [N]

# "measured possible share" of the N-th object of a key.
shares() { object "$@" | sed -E 's/"[a-z_]*"://g; s/,/ /g'; }

# The N-th text, or true or false, of a key in a part's result.
word() { # PART KEY [N]
  local found
  found=$(nth_match "$1" "\"$2\":(\"[^\"]*\"|true|false)" "${3:-1}")
  printf '%s' "${found//\"/}"
}

# How many comparisons of a part there are, and the one that is nearest to its bound or beyond it; NaN and infinity are null.
nearest() { # PART
  { line_of "$1" | grep -oE '\{"(what|kernel)":"[^"]*","dtype":"[^"]*","max_error":[^,]*,"bound":[^,}]*' || true; } |
    sed -E 's/\{"(what|kernel)":"//; s/","dtype":"/\t/; s/","max_error":/\t/; s/,"bound":/\t/' |
    awk -F '\t' '
      { all++; share = $3 == "null" ? 1e99 : $4 > 0 ? $3 / $4 : $3 > 0 ? 1e99 : 0; if (share > 1) beyond++ }
      !worst || share > most { most = share; worst = sprintf("%s in %s, off by %s of at most %s", $1, $2, $3, $4) }
      END { if (all) printf "%d of %d comparisons within their bounds; nearest: %s\n", all - beyond, all, worst }'
}

scaled() { awk -v value="$1" -v scale="$2" 'BEGIN { if (value != "") printf "%.6g", value / scale }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.6g", a / b }'; }

row() { # NAME MEASURED UNIT POSSIBLE SHARE
  awk -v name="$1" -v measured="$2" -v unit="$3" -v possible="$4" -v share="$5" 'BEGIN {
    if (measured == "") exit
    printf "%-42s %12s %-10s", name, sprintf("%.4g", measured), unit
    if (possible != "") printf " %12s", sprintf("%.4g", possible)
    if (share != "") printf " %7.1f %%", 100 * share
    printf "\n" }'
}

say() { # NAME TEXT
  if [ -n "$2" ]; then printf '%-42s %s\n' "$1" "$2"; fi
}

of_share() { # NAME UNIT SCALE "MEASURED POSSIBLE SHARE"
  local values
  read -r -a values <<<"$4"
  [ ${#values[@]} = 3 ] || return 0
  row "$1" "$(scaled "${values[0]}" "$3")" "$2" "$(scaled "${values[1]}" "$3")" "${values[2]}"
}

decode_rows() {
  local index=1 tokens count how
  while tokens=$(shares decode tokens_per_second $index); [ -n "$tokens" ]; do
    count=$(nth_match decode '"rows":([0-9]+)' $index)
    how=''
    if [ "$(word decode cuda_graph $index)" = true ]; then how=', by a CUDA graph'; fi
    of_share "decoding, $count rows$how" tokens/s 1 "$tokens"
    if [ -n "$how" ]; then say "  steps replayed, one by one" "$(graph_state decode $index)"; fi
    index=$((index + 1))
  done
}

# Steps from the graph and others of the N-th decoding of a part, and why there was no graph.
graph_state() { # PART [N]
  nth_match "$1" '("graph_steps":[0-9]+,"plain_steps":[0-9]+(,"no_graph":"[^"]*")?)' "${2:-1}" |
    sed 's/"[a-z]*_steps"://g; s/,"no_graph":/: no graph: /; s/"//g; s/,/, /'
}

memory_rows() { # MODE
  of_share "learning, $1: products (MFU)" TFLOP/s 1e12 "$(shares "train_$1" backward_flops_per_second)"
  row "  scoring by the bias model" "$(number "train_$1" bias_seconds)" s "" ""
  row "  backward" "$(number "train_$1" backward_seconds)" s "" ""
  row "  update" "$(number "train_$1" update_seconds)" s "" ""
  of_share "  memory / estimate" GB 1e9 "$(shares "train_$1" peak_bytes)"
}

cdpo_rows() { # MODE
  local phase peak estimate
  row "CDPO step, $1" "$(number "cdpo_$1" step_time)" s "" ""
  for phase in video generate bias backward update; do
    row "  $phase" "$(number "cdpo_$1" "time/$phase")" s "" ""
  done
  peak=$(number "cdpo_$1" memory/peak_bytes) estimate=$(number "cdpo_$1" memory/estimate_bytes)
  row "  memory / estimate" "$(scaled "$peak" 1e9)" GB "$(scaled "$estimate" 1e9)" "$(ratio "$peak" "$estimate")"
}

# The peer's number beside ours for the same work.
peer_row() { # NAME PEER'S UNIT TIMES-FASTER
  row "transformers: $1" "$2" "$3" "" ""
  if [ -n "$4" ]; then row "  ours is faster by" "$4" times "" ""; fi
}

peer_rows() {
  local of what tokens
  tokens=$(number transformers decode_tokens_per_second)
  peer_row decoding "$tokens" tokens/s "$(ratio "$(shares decode tokens_per_second 1 | cut -d' ' -f1)" "$tokens")"
  for what in score:bias backward:backward; do
    of=$(number transformers "${what%:*}_seconds")
    peer_row "${what%:*}" "$of" s "$(ratio "$of" "$(number train_full "${what#*:}_seconds")")"
  done
  for what in "ours_peer:ours against transformers" "ours_f32:ours against transformers in f32" "peer_f32:its own against f32"; do
    say "log-probabilities, ${what#*:}" "$(object transformers "${what%%:*}" | sed -E 's/"//g; s/:/ /g; s/,/, /g')"
  done
}

# Writes the table of a folder of results.
write_table() { # DIR
  local name
  [ -s "$1/results.jsonl" ] || { echo "$1/results.jsonl: no results" >&2; return 1; }
  load_results "$1"
  if [ -n "$(word start card)" ]; then say "$(word start card)" "$(word start program), driver $(word start driver)"; fi
  printf '%-42s %12s %-10s %12s %9s\n' "" measured "" possible share
  row "copy (read and written)" "$(scaled "$(number rates copy)" 1e9)" GB/s "" ""
  row "bf16 products" "$(scaled "$(number rates bf16)" 1e12)" TFLOP/s "" ""
  row "f32 products" "$(scaled "$(number rates f32)" 1e12)" TFLOP/s "" ""
  decode_rows
  memory_rows full
  cdpo_rows full
  peer_rows
  for name in compact host; do memory_rows $name; done
  for name in compact host host_streamed; do cdpo_rows $name; done
  for name in kernels parity_tiny parity_mini; do say "$name" "$(nearest $name)"; done
  for name in parity_tiny parity_mini; do say "$name: steps replayed, one by one" "$(graph_state $name)"; done
  for name in memcheck racecheck; do say "$name" "$(word $name summary)"; done
  printf '\n'
  for name in "${order[@]}"; do
    case ${lines[$name]} in
      *'"left_out":"'*) printf 'left out: %s: %s\n' "$name" "$(word "$name" left_out)" ;;
      *'"exit_code":0,'*) ;;
      *) printf 'FAILED: %s: %s\n' "$name" "$(word "$name" reason)" ;;
    esac
  done
}
