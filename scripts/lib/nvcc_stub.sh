#!/usr/bin/env bash
# Stands in for nvcc where there is no CUDA toolkit, so that the CUDA code can be checked and linted (never run): it
# writes empty outputs where build scripts expect compiled ones. A program linked from it would have no kernels.
#
#   NVCC=$PWD/scripts/lib/nvcc_stub.sh CUDARC_CUDA_VERSION=13000 CUDA_COMPUTE_CAP=90 \
#     cargo clippy --features cuda --all-targets -- -D warnings
set -euo pipefail

output='' folder=. ending=o sources=()
while [ $# -gt 0 ]; do
  case $1 in
    --version)
      printf 'nvcc: a stand-in without a compiler\nCuda compilation tools, release 13.0, V13.0.88\n'
      exit ;;
    -o | --output-file) output=$2; shift ;;
    -odir | --output-directory) folder=$2; shift ;;
    -ptx | --ptx) ending=ptx ;;
    -cubin | --cubin) ending=cubin ;;
    -fatbin | --fatbin) ending=fatbin ;;
    -lib | --lib) ending=a ;;
    *.cu) sources+=("$1") ;;
  esac
  shift
done

if [ -z "$output" ]; then
  for source in "${sources[@]}"; do : > "$folder/$(basename "$source" .cu).$ending"; done
elif [ $ending = a ]; then
  rm -f "$output"
  ar cr "$output"
else
  : > "$output"
fi
