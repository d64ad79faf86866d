#!/usr/bin/env bash
# A stripped release binary for CUDA on a machine with or without a CUDA toolkit, and what it needs where it runs.
# No GPU and no driver are needed to build.
#
#   scripts/cuda_build.sh [--nccl] [--slim] [--profile NAME] [--toolkit DIR] [--out FILE]
#
#   --nccl           for training on several GPUs at once; the binary then needs libnccl.so.2 where it runs
#   --slim           leave out candle's kernels for GGUF weights and mixtures of experts: nothing here uses them, and they
#                    are nine tenths of the kernels' compile time
#   --profile NAME   cargo's profile (default release)
#   --toolkit DIR    where a toolkit is put together when there is no nvcc (default ~/.cache/videothinker/cuda)
#   --out FILE       where the binary goes (default dist/videothinker)
#
# CUDA_COMPUTE_CAP (default 80) is the capability to build for. Kernels are PTX: 80 runs on every card from the A100 on,
# 86 and 89 on those and later ones. From 90 on candle builds its kernels for that one capability (sm_90a: H100, H200).
# FFMPEG_DIR, a static FFmpeg (scripts/ffmpeg_static.sh), makes a binary that needs no FFmpeg where it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
# shellcheck source=lib/cuda_environment.sh
. scripts/lib/cuda_environment.sh

slim=0 features=cuda profile=release toolkit=${XDG_CACHE_HOME:-$HOME/.cache}/videothinker/cuda out=dist/videothinker
while [ $# -gt 0 ]; do
  case $1 in
    --nccl) features=cuda,nccl ;;
    --slim) slim=1 ;;
    --profile) profile=${2:?--profile NAME}; shift ;;
    --toolkit) toolkit=${2:?--toolkit DIR}; shift ;;
    --out) out=${2:?--out FILE}; shift ;;
    *) sed -n '2,17s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done

require_packages
require_rust
cuda_environment "$toolkit" "$profile" $slim
if [ -n "${FFMPEG_DIR:-}" ]; then features=$features,video-static; fi
cargo build --profile "$profile" --locked --features "$features"

mkdir -p "$(dirname "$out")"
# Where cargo puts it: one profile's folder has another name.
if [ "$profile" = dev ]; then profile=debug; fi
strip -o "$out" "$CARGO_TARGET_DIR/$profile/videothinker"

printf '%s: %s bytes, kernels for compute capability %s\n' "$out" "$(wc -c < "$out")" "$CUDA_COMPUTE_CAP"
echo "Libraries it needs:"
readelf -d "$out" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/  \1/p'
cat <<END
Where it runs, libcuda.so.1 comes with the driver; the CUDA libraries with a toolkit, or with a Python that has PyTorch:
  . scripts/lib/cuda_libraries.sh     sets LD_LIBRARY_PATH from that Python's packages
END
if [ -z "${FFMPEG_DIR:-}" ]; then echo "libav* and libsw* are FFmpeg's: install them there, or build with a static FFmpeg (FFMPEG_DIR)."; fi
