#!/usr/bin/env bash
# What a GPU computes and how fast, in one call of eight minutes, from a prebuilt program alone: no Rust, no network, no
# downloads. It checks kernels and small models against the CPU, measures the card's own rates, holds decoding and training of
# a randomly initialised Qwen2.5-VL-3B against them and against transformers, and watches the kernels with NVIDIA's tools.
# The most telling parts come first; what no longer fits into the time is left out and says so.
#
#   scripts/gpu_check.sh [--more] [--binary FILE] [--out DIR] [--scratch DIR] [--device NAME] [--set KEY=VALUE]…
#                        [--seconds N] [--patience N] [--small | --cpu]
#   scripts/gpu_check.sh --pack [--binary FILE]
#   scripts/gpu_check.sh --table DIR
#
#   --more             the rest: CDPO steps in the memory modes that move data to the host, the miniature, two ranks
#   --binary FILE      the program (default dist/videothinker, as scripts/cuda_build.sh leaves it)
#   --out DIR          where results go (default runs/gpu_check); what is there is replaced
#   --scratch DIR      where models and runs lie meanwhile, some 20 GB (default below /tmp, models in /dev/shm if it holds them)
#   --device NAME      which card (default cuda:0)
#   --set KEY=VALUE    a setting for every training part
#   --seconds N        for everything together (default 480)
#   --patience N       multiplies every part's limit, for slow devices (default 1)
#   --small            tiny models instead of the 3B; their speeds say nothing
#   --cpu              the same on the CPU: the check's own logic, a minute or two
#   --pack             what has to be carried to the machine with the card, and its size: at most 64 MiB
#   --table DIR        the table of results that are there, also of a check that was killed
#
# DIR/results.jsonl gets a line whenever a part ends: its name, exit code, seconds and result, or why it was left out. DIR also
# has table.txt, log.txt and the profiler's *_kernels.csv. Exit code 0: every part that ran passed; 1: one did not; 2: bad arguments.
set -euo pipefail
# shellcheck source=lib/gpu_check_run.sh
. "$(dirname "$0")/lib/gpu_check_run.sh"
mark_processes "$0" "$@"
start=$PWD
cd "$(dirname "$0")/.."

bad_argument() { echo "gpu_check: $1" >&2; exit 2; }
# A number from 1 on.
counted() { # OPTION TEXT
  case $2 in '' | *[!0-9]* | 0*) bad_argument "$1 $2: expected a number from 1 on" ;; esac
  printf '%s' "$2"
}
# A path of the user's, who stands in another folder.
from_start() { cd "$start" && realpath -m "$1"; }
# shellcheck source=lib/gpu_check_table.sh
. scripts/lib/gpu_check_table.sh
# shellcheck source=lib/gpu_check_parts.sh
. scripts/lib/gpu_check_parts.sh

binary=dist/videothinker out=runs/gpu_check scratch='' device=cuda:0 settings=() mode=full more=0 pack=0
budget=480 patience=1
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --out | --scratch | --device | --set | --seconds | --patience | --table)
      [ -n "${2-}" ] || bad_argument "$1 needs a value"
      value=$2 ;;&
    --binary) binary=$(from_start "$value"); shift ;;
    --out) out=$(from_start "$value"); shift ;;
    --scratch) scratch=$(from_start "$value"); shift ;;
    --device) device=$value; shift ;;
    --set) settings+=(--set "$value"); shift ;;
    --seconds) budget=$(counted "$1" "$value"); shift ;;
    --patience) patience=$(counted "$1" "$value"); shift ;;
    --more) more=1 ;;
    --small) mode=small ;;
    --cpu) mode=cpu ;;
    --pack) pack=1 ;;
    --table) write_table "$(from_start "$value")"; exit ;;
    *)
      sed -n '2,26s/^# \{0,1\}//p' scripts/gpu_check.sh
      if [ "$1" = --help ]; then exit 0; else bad_argument "$1: no such option"; fi ;;
  esac
  shift
done
if ! [ -f "$binary" ] || ! [ -x "$binary" ]; then bad_argument "$binary: no such program; build it with scripts/cuda_build.sh"; fi
binary=$(realpath "$binary")
if [ $pack = 1 ]; then print_pack; exit; fi
if [ $mode != cpu ]; then
  # shellcheck source=lib/cuda_libraries.sh
  . scripts/lib/cuda_libraries.sh
fi
choose_sizes

# Only what a check wrote: the folder may hold other things.
mkdir -p "$out" || bad_argument "--out $out: no results can be written there"
rm -f "$out"/results.jsonl "$out"/table.txt "$out"/log.txt "$out"/*_kernels.csv
place=${scratch:-${TMPDIR:-/tmp}}
mkdir -p "$place" || bad_argument "--scratch $place: nothing can be written there"
fast=$(fast_folder "$scratch" "$place")
scratch=$(mktemp -d "$place/gpu_check.XXXXXX")
model=$fast/model layer=$fast/layer tiny=$scratch/tiny world=$scratch/world
results=$out/results.jsonl
start_watch
results_open=1
trap conclude EXIT
trap 'conclude 143' TERM
trap 'conclude 130' INT HUP

part start 5 20 start_check
if ! grep -q '^{"part":"start","exit_code":0,' "$results"; then
  stopped="the check could not start" failed=1
fi
begin model 0 120 models
begin world 0 120 run data mini --train 8 --validation 1 --out "$world" --json
begin python 0 90 python_has_peer
# The first that opens the card: its libraries may come from a cold disk.
part rates 6 60 run inspect device rates "${on_device[@]}"
# A device that does not answer now never will.
if ! await rates && [ -z "$stopped" ]; then stopped="the device does not work: see the rates"; fi

if [ $more = 0 ]; then
  part kernels 25 60 run inspect device kernels "${small_kernels[@]}" "${on_device[@]}"
  part parity_tiny 10 60 parity_tiny
  part parity_mini 10 60 run inspect device parity --model data/mini "${on_device[@]}"
  part_after model -- decode 40 90 decoding
  part_after model -- train_full 30 60 learning full --repeats 3 --record "$scratch/work.safetensors"
  part_after python train_full -- transformers 70 100 peer
  part_after model world -- cdpo_full 30 60 cdpo_steps full
  tool_part ncu model -- decode_kernels 20 60 kernel_times decode --rows "${rows%%,*}" --completion-tokens 8
  tool_part ncu model -- train_kernels 25 60 kernel_times train "${learnt[@]}"
  tool_part compute-sanitizer -- memcheck 30 60 sanitized memcheck
  tool_part compute-sanitizer -- racecheck 30 60 sanitized racecheck
  part_after model -- train_compact 15 60 learning compact --repeats 1
  part miniature 20 60 miniature --fast
  part_after model -- train_host 45 60 learning host --repeats 1
else
  for memory in compact host; do part_after model world -- cdpo_$memory 45 90 cdpo_steps $memory; done
  part_after model world -- cdpo_host_streamed 45 90 cdpo_steps host --set model.bias_placement=host
  if [ $mode != cpu ] && [ "$(cards)" -lt 2 ]; then
    leave_out ranks "one GPU"
  elif [ $mode != cpu ] && ! grep -q 'libnccl\.so' "$binary"; then
    leave_out ranks "the program is built without NCCL"
  else
    part_after world -- ranks 45 120 two_ranks
  fi
  part miniature 60 1200 miniature "${quickstart[@]}"
fi
for name in model world python; do await $name || true; done

write_table "$out" | tee "$scratch/table.txt" >&2
mv "$scratch/table.txt" "$out/table.txt"
exit $failed
