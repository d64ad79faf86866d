#!/usr/bin/env bash
# Where the CPU time of a training step goes: perf's samples of a run, added up by kind of work.
#   benches/profile.sh train-cdpo --config F [--replay F]... any training command of the release binary
# Needs perf (Linux). Shares are of all samples of the process, start and loading included.
case ${1:-} in -h | --help) sed -n "2,/^[^#]/s/^# \{0,1\}//p" "$0"; exit 0 ;; esac
set -euo pipefail
cd "$(dirname "$0")/.."

samples=$(mktemp)
trap 'rm -f "$samples"' EXIT
perf record --quiet --event cpu-clock --freq 499 --output "$samples" -- target/release/videothinker "$@" >&2
perf report --input "$samples" --no-children --sort dso,symbol --stdio --field-separator '|' 2>/dev/null |
  awk -F'|' '
    /^ *[0-9]/ {
      share = $1 + 0; library = $2; name = $3
      if (name ~ /malloc|calloc|realloc|cfree|_int_free|sysmalloc|brk|mmap|munmap|page_fault|clear_page|asm_exc_page|zap_|memset/) kind = "allocation and page faults"
      else if (name ~ /gemm|matmul|pack_/) kind = "matrix products"
      else if (name ~ /memmove|memcpy|copy_strided|copy2d/) kind = "copies"
      else if (name ~ /attention/) kind = "attention (softmax, masks)"
      else if (name ~ /simd|fused|swiglu|rms_norm|layer_norm|softmax|rotary|vexp|binary_map|unary_map|optimizer|adamw|sum_of_squares/) kind = "elementwise, norms, optimizer"
      else if (name ~ /head|sampler|logprob|draw/) kind = "head and sampler"
      else if (name ~ /rayon|crossbeam|sched_yield|futex|spin|barrier/) kind = "thread pool (waiting)"
      else if (library ~ /libav|libsw|libx264/ || name ~ /video|resize|yuv/) kind = "video"
      else if (library ~ /kernel/) kind = "kernel, other"
      else { kind = "other"; if (share > 0.5) others = others sprintf("    %5.1f %%  %s\n", share, name) }
      sum[kind] += share
    }
    END {
      for (kind in sum) printf "%5.1f %%  %s\n", sum[kind], kind | "sort -rn"
      close("sort -rn")
      if (others) printf "in \"other\":\n%s", others
    }'
