#!/usr/bin/env bash
# Tests the CUDA build, end to end, on a machine without a GPU: the binary of scripts/cuda_build.sh runs unchanged on the
# software device of tests/device/, and its results are held against the same program's on the CPU.
#
#   scripts/test_cuda.sh [ARGUMENT…]         arguments go to the test program: a filter, --nocapture, --test-threads 1, …
#   scripts/test_cuda.sh --include-ignored   the slow ones too, and those of the crate itself that need several GPUs
#   UPDATE_RESULTS=1 scripts/test_cuda.sh faults    writes benches/results/faults.md, the table of faults planted and found
#
# What takes long is kept under ${XDG_CACHE_HOME:-~/.cache}/videothinker: the toolkit (NVIDIA's wheels), the binary with its
# kernels' PTX (by a hash of all that it is made of), the device's libraries (each by its sources).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
# shellcheck source=lib/cuda_environment.sh
. scripts/lib/cuda_environment.sh

case ${1-} in -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

cache=${XDG_CACHE_HOME:-$HOME/.cache}/videothinker
builds=$cache/cuda_tests
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
# Builds that are kept: another branch's or checkout's may be wanted again.
kept=3

# Everything that the binary depends on, in one hash.
key() {
  {
    rustc --version
    cc --version
    if command -v nvcc >/dev/null 2>&1; then nvcc --version; fi
    pkg-config --modversion libavcodec libavformat libavutil libswscale 2>/dev/null || true
    printf '%s\n' "$CUDA_COMPUTE_CAP" "${FFMPEG_DIR-}" "${RUSTFLAGS-}"
    find src build.rs Cargo.toml Cargo.lock scripts/cuda_{build,toolkit}.sh scripts/lib/{cuda_environment,nvcc_cache}.sh -type f -print0 |
      sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c1-40
}

# make_build FOLDER: the binary and the newest PTX of each name. Under another name first, so that an interruption leaves no half.
# In the tests' profile: integers are checked for overflow, and most dependencies are those of the tests.
make_build() {
  local part ptx
  mkdir -p "$builds"
  part=$(mktemp -d "$builds/part.XXXXXX")
  scripts/cuda_build.sh --slim --nccl --profile dev --out "$part/videothinker"
  mkdir "$part/ptx"
  # Oldest first: a build folder has those of earlier builds too.
  find "$CARGO_TARGET_DIR"/debug/build/{candle-kernels,videothinker}-*/out -name '*.ptx' -printf '%T@ %p\n' | sort -n |
    while read -r _ ptx; do cp "$ptx" "$part/ptx/"; done
  # Another process may have been as far at once.
  mv -T "$part" "$1" 2>/dev/null || rm -rf "$part"
}

# Those that were not used for the longest time go, and what an interruption left.
prune() {
  local folder
  find "$builds" -maxdepth 1 -name 'part.*' -mmin +120 -exec rm -rf {} +
  find "$builds" -mindepth 1 -maxdepth 1 -type d ! -name 'part.*' ! -name device -printf '%T@ %p\n' | sort -rn | tail -n +$((kept + 1)) |
    while read -r _ folder; do rm -rf "$folder"; done
}

# Tests of the crate with CUDA in it, which is compiled once more for them.
unit_tests() (
  cuda_environment "$cache/cuda" dev 1
  LD_LIBRARY_PATH=$builds/device:$CUDA_HOME/lib SIM_DEVICES=4 cargo test --locked --features cuda,nccl --lib -- --ignored nccl::
)

require_packages
require_rust
build=$builds/$(key)
[ -d "$build" ] || make_build "$build"
touch "$build"
prune
exports=$(CUDA_ARCH=$CUDA_COMPUTE_CAP scripts/cuda_toolkit.sh "$cache/cuda")
CUDA_HOME=$(eval "$exports"; echo "$CUDA_HOME")
export CUDA_HOME
cargo fetch --quiet --locked
tests/device/build.sh "$builds/device" "$build/ptx"

export VIDEOTHINKER_CUDA_BINARY=$build/videothinker VIDEOTHINKER_SOFTWARE_DEVICE=$builds/device
case " $* " in *' --include-ignored '*) unit_tests ;; esac
exec cargo test --locked --test device -- "$@"
