# Sourced by scripts/gpu_check.sh: parts that end in time, results that are whole whenever they are read, and no process
# that outlives the check.
#
# Expects: $out, $scratch and $fast (folders), $results (a file in $out), $budget (seconds of all parts), $patience (factor of every limit).
# shellcheck shell=bash disable=SC2154

failed=0 stopped='' limit=60 ends=0 watch='' concluding=''
declare -A running=()

# Every process of this check has this in its environment; `exec` keeps the number of the script's own.
mark_processes() { # SCRIPT ARGUMENT…
  local mark=${GPU_CHECK_RUN-}
  if [ "${mark%%.*}" != $$ ]; then
    GPU_CHECK_RUN=$$.$RANDOM exec bash "$@"
  fi
}

# Kills every process of the check except the one that calls this and the watch.
sweep() {
  local environment pid found spared=" $$ $BASHPID $watch " round
  for round in 1 2 3 4 5 6 7 8 9 10; do
    found=0
    for environment in $(grep -lzxsF "GPU_CHECK_RUN=$GPU_CHECK_RUN" /proc/[0-9]*/environ); do
      pid=${environment//[!0-9]/}
      case $spared in *" $pid "*) continue ;; esac
      # One that is gone already, such as the search itself, cannot be killed.
      if kill -KILL "$pid" 2>/dev/null; then found=1; fi
    done
    if [ $found = 0 ]; then return; fi
    sleep 0.0$round
  done
}

# Outlives the script, in whatever way that ends, to stop what the script started: not even KILL leaves anything behind.
start_watch() {
  # shellcheck disable=SC2016
  setsid bash -c '
    . scripts/lib/gpu_check_run.sh
    parent=$1
    while read -r _ _ _ now _ <"/proc/$$/stat" && [ "$now" = "$parent" ]; do sleep 0.2; done
    sweep
    rm -rf "${@:2}"
  ' watch $$ "$scratch" "$fast" </dev/null >/dev/null 2>&1 &
  watch=$!
}

now() { printf '%s' "${EPOCHREALTIME/,/.}"; }
since() { awk -v then="$1" -v now="$(now)" 'BEGIN { printf "%.1f", now - then }'; }

# A line as the inside of a JSON string, in which double quotes become single ones.
escaped() { tr -d '\000-\010\013-\037' | tr '\t\n"' "  '" | sed 's/\\/\\\\/g; s/ *$//'; }

# Adds a line to the results and a part's log to the others'. Readers see the old file or the new one; parts that end at once
# take turns.
record() { # NAME LINE
  (
    flock 9
    { cat "$results" 2>/dev/null || true; printf '%s\n' "$2"; } >"$out/results.tmp"
    mv "$out/results.tmp" "$results"
    if [ -s "$scratch/$1.log" ]; then
      { printf '== %s\n' "$1"; tail -c 300000 "$scratch/$1.log"; } >>"$out/log.txt"
    fi
  ) 9>"$scratch/lock"
}

leave_out() { # NAME REASON
  printf '%-22s left out: %s\n' "$1" "$2" >&2
  record "$1" "$(printf '{"part":"%s","left_out":"%s"}' "$1" "$(printf '%s' "$2" | escaped)")"
}

# Why a part failed: its limit, else the last line it logged.
reason_of() { # NAME CODE SECONDS
  if { [ "$2" = 124 ] || [ "$2" = 137 ]; } && [ "${3%.*}" -ge "$limit" ]; then
    printf 'stopped after %d s, its limit' "$limit"
  else
    { grep -av '^[[:space:]]*$' "$scratch/$1.log" || echo "exit code $2"; } | tail -n 1 | cut -c 1-400 | escaped
  fi
}

result_of() { # NAME
  local last
  last=$(tail -n 1 "$scratch/$1.out" 2>/dev/null || true)
  case $last in '{"'*'}') printf '%s' "$last" ;; *) printf null ;; esac
}

# Runs a command and records how it ended. What it prints last is its result: a JSON object on a line, or nothing; one of a
# lone "left_out" says why it did not do its work.
attempt() { # NAME COMMAND…
  local name=$1 code=0 began seconds result line
  shift
  began=$(now) ends=$((SECONDS + limit))
  "$@" >"$scratch/$name.out" 2>"$scratch/$name.log" || code=$?
  seconds=$(since "$began") result=$(result_of "$name")
  case $code$result in
    '0{"left_out":"'*)
      result=${result#'{"left_out":"'}
      leave_out "$name" "${result%'"}'}"
      return 0 ;;
  esac
  line=$(printf '{"part":"%s","exit_code":%d,"seconds":%s' "$name" $code "$seconds")
  if [ $code != 0 ]; then line+=$(printf ',"reason":"%s"' "$(reason_of "$name" $code "$seconds")"); fi
  line+=",\"result\":$result}"
  record "$name" "$line"
  printf '%s\n' "$line" | cut -c 1-400 >&2
  return $code
}

# As a job of its own, so that a signal to the script is heard while a part runs.
part_in_turn() { # NAME COMMAND…
  attempt "$@" &
  running[$1]=$!
  if ! wait "${running[$1]}"; then failed=1; fi
  unset "running[$1]"
}

# Seconds for another part: 5 are kept for one that has to be killed, 3 for the table.
seconds_left() { echo $((budget - SECONDS - 8)); }

# Whether there is time; if so, $limit is what the part may take at most.
in_time() { # NAME ABOUT LIMIT
  local left
  left=$(seconds_left)
  if [ -n "$stopped" ]; then
    leave_out "$1" "$stopped"
  elif [ "$left" -lt "$2" ]; then
    leave_out "$1" "it takes about $2 s, and $((left > 0 ? left : 0)) of $budget are left"
  else
    limit=$(($3 * patience))
    limit=$((limit < left ? limit : left))
    return 0
  fi
  return 1
}

part() { # NAME ABOUT LIMIT COMMAND…
  if in_time "${@:1:3}"; then part_in_turn "$1" "${@:4}"; fi
}

# A part beside the following ones; `await` before what needs it.
begin() { # NAME ABOUT LIMIT COMMAND…
  if in_time "${@:1:3}"; then
    attempt "$1" "${@:4}" &
    running[$1]=$!
  fi
}

# Whether a part has succeeded; waits for one that was begun.
await() { # NAME
  local code=0
  if [ -n "${running[$1]-}" ]; then
    wait "${running[$1]}" || code=$?
    unset "running[$1]"
    if [ $code != 0 ]; then failed=1; fi
  fi
  grep -q "^{\"part\":\"$1\",\"exit_code\":0," "$results" 2>/dev/null
}

# A part that needs others that were begun.
part_after() { # OTHER… -- NAME ABOUT LIMIT COMMAND…
  local missing=''
  while [ "$1" != -- ]; do
    await "$1" || missing+=" $1"
    shift
  done
  shift
  if [ -n "$missing" ] && [ -z "$stopped" ]; then
    leave_out "$1" "it needs what has failed or was left out:$missing"
  else
    part "$@"
  fi
}

# In what is left of the part's time. A TERM asks training to save and end: what does not end within seconds of it is killed.
limited() {
  local left=$((ends - SECONDS))
  timeout -k 5 $((left > 1 ? left : 1)) "$@"
}
run() { limited "$binary" "$@"; }

# On every way out but KILL, where the watch does what is most needed. A signal may come while it is under way already, and
# must then not cut it short.
conclude() { # [CODE]
  local code=${1:-$?} name
  if [ -n "$concluding" ]; then return; fi
  concluding=1
  trap '' TERM INT HUP
  sweep
  if [ -d "$scratch" ] && [ -n "${results_open-}" ]; then
    for name in "${!running[@]}"; do
      if grep -q "^{\"part\":\"$name\"," "$results" 2>/dev/null; then continue; fi
      record "$name" "{\"part\":\"$name\",\"exit_code\":143,\"reason\":\"the check was stopped\",\"result\":null}"
    done
    write_table "$out" >"$scratch/table.txt" || true
    mv "$scratch/table.txt" "$out/table.txt"
  fi
  rm -rf "$scratch" "$fast" "$out/results.tmp"
  exit $code
}
