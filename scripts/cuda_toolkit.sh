#!/usr/bin/env bash
# Puts a CUDA 13.0 build toolkit together from NVIDIA's Python wheels: no root, no GPU and no driver needed.
# Use it where no CUDA toolkit is installed; with one, plain `cargo build --features cuda` is enough.
#
#   eval "$(scripts/cuda_toolkit.sh DIR)"    make or refresh the toolkit under DIR and use it in this shell
#   cargo build --release --locked --features cuda
#
# Only `export ...` lines go to stdout, progress goes to stderr. A second call with the same versions only prints them again.
# CUDA_ARCH (default 80) is the compute capability to build for; see scripts/cuda_build.sh, which does all of this.
case ${1-} in -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
set -euo pipefail

dir=${1:?usage: cuda_toolkit.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd -P)

# CUDA 13.0 Update 2. nvcc must not be newer than the driver's CUDA (driver 580: 13.0), or its PTX is refused.
pins=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-nvrtc==13.0.88
  nvidia-cublas==13.1.0.3
  nvidia-curand==10.4.0.35
  nvidia-nccl-cu13==2.28.9
)

site=$dir/site
root=$site/nvidia/cu13
stamp=$dir/.pins
wanted=$(printf '%s\n' "${pins[@]}")

install_wheels() {
  echo "cuda_toolkit: installing ${#pins[@]} wheels into $site" >&2
  rm -rf "$site" "$stamp"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --no-deps --no-compile --no-cache-dir --only-binary=:all: --target "$site" "${pins[@]}" >&2
}

# The wheels hold libname.so.N only; the linker looks for libname.so, in lib64.
link_names() {
  local library base
  ln -sfn lib "$root/lib64"
  # NCCL has a folder of its own.
  ln -sfn "$site"/nvidia/nccl/lib/libnccl.so.2 "$root/lib/libnccl.so.2"
  ln -sfn "$site"/nvidia/nccl/include/nccl.h "$root/include/nccl.h"
  for library in "$root"/lib/lib*.so.*; do
    base=$(basename "$library")
    case $base in *.alt.so.*|*builtins*) continue ;; esac
    ln -sfn "$base" "$root/lib/${base%%.so.*}.so"
  done
}

# libcuda.so belongs to the driver and is in no wheel. For linking, a stub with every name in cuda.h is enough;
# each returns CUDA_ERROR_STUB_LIBRARY (34), so that a program started against it reports that there is no CUDA.
make_driver_stub() {
  mkdir -p "$root/lib/stubs"
  { grep -ohE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?(_pt[sd][sz])?\b' "$root"/include/cuda{,GL,EGL,Profiler,VDPAU}*.h 2>/dev/null || true; } |
    sort -u | awk '{ print "int " $1 "(void); int " $1 "(void) { return 34; }" }' > "$dir/libcuda_stub.c"
  "${CC:-cc}" -w -O1 -fPIC -shared -nostdlib -Wl,-soname,libcuda.so.1 -o "$root/lib/stubs/libcuda.so.1" "$dir/libcuda_stub.c"
  ln -sfn libcuda.so.1 "$root/lib/stubs/libcuda.so"
}

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  install_wheels
  link_names
  make_driver_stub
  ln -sfn site/nvidia/cu13 "$dir/cuda"
  printf '%s\n' "$wanted" > "$stamp"
fi
"$dir/cuda/bin/nvcc" --version | grep release >&2

printf 'export CUDA_HOME=%q\n' "$dir/cuda"
printf 'export CUDA_PATH=%q\n' "$dir/cuda"
printf 'export PATH=%q:"$PATH"\n' "$dir/cuda/bin"
printf 'export CUDA_COMPUTE_CAP=%q\n' "${CUDA_ARCH:-80}"
printf 'export CUDARC_CUDA_VERSION=13000\n'
# candle's static kernels shrink from 37 to 9 MB
printf 'export NVCC_APPEND_FLAGS=--compress-mode=size\n'
