#!/usr/bin/env bash
# nvcc with its outputs kept by content. Cargo keeps compiled kernels per profile and target folder; with this, a clean
# checkout or another profile takes them from the cache.
#
#   export NVCC=$PWD/scripts/lib/nvcc_cache.sh NVCC_CACHE=DIR      the real nvcc is REAL_NVCC, or the one on the PATH
#
# An output is known by the compiler's version, its arguments without output paths, and every CUDA source and header
# below the working folder (that of the crate being built). Headers elsewhere, such as the toolkit's, are not looked at.
#
# NVCC_SLIM=1 leaves out candle's kernels for GGUF weights and mixtures of experts, 92 % of the compile time, which
# nothing here calls: their entry points say so and abort.
set -euo pipefail

compiler=${REAL_NVCC:-$(command -v nvcc)}
cache=${NVCC_CACHE:?set NVCC_CACHE to a folder}

arguments=("$@")
output='' folder=. source='' ending='' key=()
while [ $# -gt 0 ]; do
  case $1 in
    -o | --output-file) output=$2; shift ;;
    -odir | --output-directory) folder=$2; shift ;;
    -ptx | --ptx) ending=ptx; key+=("$1") ;;
    -c) ending=o; key+=("$1") ;;
    *.cu) source=$1; key+=("$1") ;;
    *) key+=("$1") ;;
  esac
  shift
done
if [ -z "$ending" ] || [ -z "$source" ]; then exec "$compiler" "${arguments[@]}"; fi
output=${output:-$folder/$(basename "$source" .cu).$ending}

compile_c() { "${CC:-cc}" -x c -c -fPIC -w -o "$output" -; }

# One object defines all entry points as aborting ones, the others are empty.
aborting_entry_points() {
  printf '#include <stdio.h>\n#include <stdlib.h>\n'
  grep -oE 'pub fn [a-zA-Z0-9_]+' src/ffi.rs | awk '{
    print "__attribute__((weak)) void " $3 "(void) { fputs(\"" $3 ": left out of this build\\n\", stderr); abort(); }" }'
}

if [ "${NVCC_SLIM:-0}" = 1 ] && [ -f src/ffi.rs ]; then
  case $source in
    src/moe/moe_gguf.cu) aborting_entry_points | compile_c; exit ;;
    src/moe/* | src/mmq_gguf/* | src/mmvq_gguf.cu) compile_c </dev/null; exit ;;
  esac
fi

hash=$({
  "$compiler" --version
  printf '%s\0' "${key[@]}" "${NVCC_PREPEND_FLAGS-}" "${NVCC_APPEND_FLAGS-}" "${NVCC_CCBIN-}"
  find . -path ./target -prune -o -type f -regex '.*\.\(cu\|cuh\|h\|hpp\|inl\)' -print0 | sort -z | xargs -0 sha256sum
} | sha256sum | cut -c1-40)
kept=$cache/$hash.$ending
if [ ! -f "$kept" ]; then
  "$compiler" "${arguments[@]}"
  mkdir -p "$cache"
  cp "$output" "$kept.$$"
  mv "$kept.$$" "$kept"
  exit
fi
cp "$kept" "$output"
