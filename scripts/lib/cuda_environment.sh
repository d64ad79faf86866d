# Sourced: what cargo needs to build with CUDA.
# shellcheck shell=bash

# Sets CUDA_COMPUTE_CAP (default 80), CARGO_TARGET_DIR (default target/cuda) and the compiler: the nvcc of this machine, or one
# of a toolkit that is put together in a folder. PROFILE is cargo's; SLIM: 1 to leave kernels out that nothing here uses.
cuda_environment() { # TOOLKIT_FOLDER PROFILE SLIM
  local exports
  export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
  if ! command -v nvcc >/dev/null 2>&1; then
    exports=$(CUDA_ARCH=$CUDA_COMPUTE_CAP scripts/cuda_toolkit.sh "$1")
    eval "$exports"
  fi
  export NVCC_CACHE=${NVCC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/videothinker/nvcc}
  export NVCC=$PWD/scripts/lib/nvcc_cache.sh NVCC_SLIM=$3
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/cuda}
  # Cargo does not see that the wrapper leaves kernels out: a change of the switch needs them built again.
  mkdir -p "$CARGO_TARGET_DIR"
  if [ "$(cat "$CARGO_TARGET_DIR/.slim" 2>/dev/null)" != "$3" ]; then
    cargo clean --quiet --profile "$2" -p candle-kernels
    echo "$3" >"$CARGO_TARGET_DIR/.slim"
  fi
}
