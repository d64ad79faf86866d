#!/usr/bin/env bash
# What the GPU's assembler makes of every kernel: registers, shared and local memory, spills, and what runs at once on a
# multiprocessor. No GPU is needed; the toolkit is that of scripts/cuda_toolkit.sh when there is no nvcc.
#
#   scripts/ptxas_table.sh [--check] [--toolkit DIR]
#
#   --check          compare with benches/results/ptxas.md instead of writing it; a difference is an error
#   --toolkit DIR    where the toolkit is or is put together (default ~/.cache/videothinker/cuda)
#
# The kernels' PTX is that of a build for capability 80, assembled for 80 (A100) and 90 (H100, H200) as a driver does.
# It is an error if a kernel spills, if one has local memory without a reason in `reason_for_local`, if a block cannot
# run, or if the PTX is newer than driver 580 takes.
set -euo pipefail
cd "$(dirname "$0")/.."

check=0 toolkit=${XDG_CACHE_HOME:-$HOME/.cache}/videothinker/cuda table=benches/results/ptxas.md
while [ $# -gt 0 ]; do
  case $1 in
    --check) check=1 ;;
    --toolkit) toolkit=${2:?--toolkit DIR}; shift ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done

if ! command -v nvcc >/dev/null 2>&1; then
  exports=$(CUDA_ARCH=80 scripts/cuda_toolkit.sh "$toolkit")
  eval "$exports"
fi
export NVCC_CACHE=${NVCC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/videothinker/nvcc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# CUDA 13.0's, which is what driver 580 takes.
newest_ptx=9.0
capabilities=(80 90)

for source in src/model/ops/cuda/source/*.cu; do
  name=$(basename "$source" .cu)
  scripts/lib/nvcc_cache.sh --ptx -std=c++17 -O3 -arch compute_80 -o "$work/$name.ptx" "$source"
  version=$(awk '$1 == ".version" { print $2; exit }' "$work/$name.ptx")
  if [ "$(printf '%s\n' "$version" "$newest_ptx" | sort -V | tail -n 1)" != "$newest_ptx" ]; then
    echo "ptxas_table: $source becomes PTX $version, driver 580 takes $newest_ptx at most: use CUDA 13.0's nvcc" >&2
    exit 1
  fi
  awk '/\.entry/ { sub(/.*\.entry +/, ""); sub(/\(.*/, ""); entry = $1 }
       $1 == ".maxntid" { sub(/,.*/, "", $2); print "threads", entry, $2 }' "$work/$name.ptx" >> "$work/facts"
  for capability in "${capabilities[@]}"; do
    ptxas -v -arch "sm_$capability" -o /dev/null "$work/$name.ptx" 2>&1 |
      awk -v capability="$capability" -v quote="'" '
        /Compiling entry function/ { split($0, part, quote); entry = part[2] }
        /bytes stack frame/ { print "stack", entry, capability, $1, $5 + $9 }
        /Used [0-9]+ registers/ {
          shared = 0
          for (i = 2; i < NF; i++) if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
          match($0, /Used [0-9]+/)
          print "used", entry, capability, substr($0, RSTART + 5, RLENGTH - 5), shared
        }' >> "$work/facts"
  done
done

awk '
  function ceil_to(x, unit) { return int((x + unit - 1) / unit) * unit }
  function least(a, b) { return a < b ? a : b }

  # Why a kernel has local memory; empty if it must not.
  function reason_for_local(entry) {
    if (entry == "decode_rotary") return "digits of 2/pi for angles above 105615 in sinf and cosf; below, it is not touched"
    return ""
  }
  # Dynamic shared memory as the launches in src/model/ops/cuda ask for it, at the widths of the 3B (2048; vision 1280).
  function dynamic(entry) { return entry ~ /^rms_norm_backward_/ ? 4 * 2048 : 0 }

  # Blocks that run at once on a multiprocessor: registers are given to a warp by 256, to four warps at a time; a block
  # has 1 KiB of shared memory for the system. All limits from the CUDA programming guide, compute capabilities.
  function resident(entry, capability,    warps, by_registers, by_shared) {
    warps = ceil_to(threads[entry], 32) / 32
    by_registers = int(int(65536 / ceil_to(32 * registers[entry, capability], 256) / 4) * 4 / warps)
    by_shared = int(shared_of_sm[capability] / ceil_to(shared[entry, capability] + dynamic(entry) + 1024, 128))
    return least(least(32, int(64 / warps)), least(by_registers, by_shared))
  }
  function error(message) { print "ptxas_table: " message > "/dev/stderr"; failed = 1 }

  BEGIN { shared_of_sm[80] = 164 * 1024; shared_of_sm[90] = 228 * 1024 }
  $1 == "threads" { threads[$2] = $3 }
  $1 == "stack" { stack[$2, $3] = $4; spills[$2, $3] = $5 }
  $1 == "used" { registers[$2, $3] = $4; shared[$2, $3] = $5; entries[$2] }
  END {
    for (entry in entries) {
      if (!threads[entry]) error(entry " declares no number of threads")
      row = "| " entry " | " threads[entry] " | " (dynamic(entry) ? dynamic(entry) : "")
      for (capability = 80; capability <= 90; capability += 10) {
        of = entry SUBSEP capability
        if (registers[of] == "") { error(entry " is not assembled for sm_" capability); continue }
        blocks = resident(entry, capability)
        if (spills[of]) error(entry " spills " spills[of] " bytes on sm_" capability)
        if (stack[of] && reason_for_local(entry) == "")
          error(entry " has " stack[of] " bytes of local memory on sm_" capability " and no reason for it here")
        if (!blocks) error("no block of " entry " can run on sm_" capability)
        row = row " | " registers[of] " | " shared[of] " | " stack[of] " | " spills[of] " | " blocks " / " blocks * ceil_to(threads[entry], 32) / 32
      }
      print row " |" | "LC_ALL=C sort"
      if (reason_for_local(entry) != "") notes = notes "\nLocal memory of `" entry "`: " reason_for_local(entry) ".\n"
    }
    close("LC_ALL=C sort")
    printf "%s", notes
    exit failed
  }' "$work/facts" > "$work/rows"

{
  echo "# What the assembler makes of the kernels"
  echo
  echo "Written by \`scripts/ptxas_table.sh\`: $(ptxas --version | sed -n 's/.*release \([^,]*\), V\(.*\)/CUDA \1 (ptxas \2)/p'), PTX for capability 80, without a GPU."
  echo "Bytes; registers of a thread. Threads: the most of a block, for which the kernel is compiled. Dynamic: shared memory"
  echo "that the launch asks for beside the static, at the widths of the 3B. Resident: blocks / warps at once on a"
  echo "multiprocessor, of at most 64 warps."
  echo
  echo "| kernel | threads | dynamic | sm_80: registers | static | local | spills | resident | sm_90: registers | static | local | spills | resident |"
  echo "| --- |$(for _ in {1..12}; do printf ' ---: |'; done)"
  cat "$work/rows"
} > "$work/table"

if [ $check = 0 ]; then
  cp "$work/table" "$table"
  echo "$table: $(grep -c '^| [a-z]*_' "$table") kernels, no spill"
elif ! diff -u "$table" "$work/table" >&2; then
  echo "ptxas_table: $table is out of date: run scripts/ptxas_table.sh and commit what it writes" >&2
  exit 1
else
  echo "$table: up to date, no spill"
fi
