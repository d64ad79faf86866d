#!/usr/bin/env bash
# Builds the software CUDA device: libcuda, cuBLAS, cuRAND, NCCL and the kernels, for the CPU.
#
#   CUDA_HOME=DIR tests/device/build.sh OUT [PTX_FOLDER…]
#
#   CUDA_HOME    a CUDA toolkit (headers only; scripts/cuda_toolkit.sh makes one without a GPU)
#   PTX_FOLDER   where the kernels' PTX lies (default: what scripts/cuda_build.sh left under target/cuda)
#
# A library is built anew when what it is made of has changed, so that a second call is done at once. Then:
#
#   LD_LIBRARY_PATH=OUT:$CUDA_HOME/lib videothinker … --set model.device=cuda:0
# shellcheck disable=SC2317  # functions are called through `beside`
set -euo pipefail
out=${1:?usage: CUDA_HOME=DIR tests/device/build.sh OUT [PTX_FOLDER…]}
shift
mkdir -p "$out/made"
out=$(cd "$out" && pwd)
if [ $# -gt 0 ]; then ptx_folders=("$@"); else ptx_folders=("$(dirname "$0")"/../../target/cuda/release/build); fi
for i in "${!ptx_folders[@]}"; do ptx_folders[i]=$(cd "${ptx_folders[i]}" && pwd); done
cd "$(dirname "$0")/../.."
include=${CUDA_HOME:?folder of a CUDA toolkit}/include
[ -f "$include/cuda.h" ] || { echo "$include has no cuda.h: CUDA_HOME must be a CUDA toolkit (scripts/cuda_toolkit.sh makes one)" >&2; exit 1; }
compiler=${CXX:-c++}
common=(-std=c++17 -O2 -shared -fPIC)
# What the compiler is and what `native` means to it.
version=$("$compiler" -march=native -dM -E -x c++ - </dev/null; "$compiler" --version)

# made FILE SOURCES… -- COMMAND…: runs COMMAND -o FILE unless FILE is there and was made of the same.
made() {
  local file=$1 sources=()
  shift
  while [ "$1" != -- ]; do sources+=("$1"); shift; done
  shift
  local stamp
  stamp=$({ echo "$version" "$@"; cat "${sources[@]}"; } | sha256sum)
  if [ -f "$out/$file" ] && [ "$(cat "$out/made/$file" 2>/dev/null)" = "$stamp" ]; then return; fi
  echo "building $file"
  # By a name of its own: a program that runs keeps the library that it has.
  "$@" -o "$out/made/$file.new"
  mv "$out/made/$file.new" "$out/$file"
  echo "$stamp" >"$out/made/$file"
}

# beside COMMAND…: runs it beside others, two at a time.
running=()
beside() {
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do sleep 0.05; done
  "$@" &
  running+=($!)
}

# driver: the library that the others call.
driver_sources=(tests/device/{clocks,copies,device,graphs,memory,modules,settings,streams}.cpp)
driver() {
  made libcuda.so.1 "${driver_sources[@]}" tests/device/*.hpp tests/device/kernels/table.hpp -- \
    "$compiler" "${common[@]}" -Wall -I "$include" -I tests/device -Wl,-soname,libcuda.so.1 "${driver_sources[@]}" -ldl -lpthread
}
# standin NAME SOURCE FLAGS…: a library on top of it.
standin() {
  local name=$1 source=$2
  shift 2
  made "$name" "$source" tests/device/sim.hpp -- \
    "$compiler" "${common[@]}" -Wall -I "$include" -I tests/device "-Wl,-soname,$name" "$@" "$source" -Wl,--no-as-needed -L "$out" -l:libcuda.so.1 -lrt
}

# The newest PTX of a name: a build folder may have that of earlier builds too.
find_ptx() {
  find "${ptx_folders[@]}" -name "$1.ptx" -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d ' ' -f 2-
}
# entries NAME SOURCE PTX: made/NAME.cpp, which offers the entry points that the PTX has, of the source it was made of.
entries() {
  local name=$1 source=$2 ptx=$3
  [ -n "$ptx" ] || { echo "no PTX of $name below ${ptx_folders[*]}: run scripts/cuda_build.sh first" >&2; return 1; }
  {
    echo '#include "run.hpp"'
    echo "#include \"$(basename "$source")\""
    echo 'extern "C" __attribute__((visibility("default"))) const Entry device_entries[] = {'
    grep -oE '\.entry [A-Za-z0-9_]+' "$ptx" | awk '{ print "  ENTRY(" $2 ")," }'
    echo '  {nullptr, 0, nullptr, nullptr, nullptr}};'
  } >"$out/made/$name.cpp"
}

# compile_kernels FLAGS… -o FILE: to an object first, since linking with the sanitizers' names would bring their libraries.
compile_kernels() {
  local file=${*: -1}
  "$compiler" "${common[@]}" -ffp-contract=off -fno-strict-aliasing -w -fvisibility=hidden -fno-gnu-unique -c "${@:1:$#-1}" "$file.o"
  "$compiler" -shared "$file.o" -o "$file" -lpthread
  rm "$file.o"
}

# kernels NAME SOURCE PTX FLAGS…: the library kernels_NAME.so.
kernels() {
  local name=$1 source=$2
  entries "${name#checked_}" "$source" "$3"
  local unit=$out/made/${name#checked_}.cpp
  local sources=("$unit" "$(dirname "$source")"/*.cu* tests/device/kernels/*.hpp tests/kernels/*.hpp)
  # shellcheck disable=SC2086  # several flags
  made "kernels_$name.so" "${sources[@]}" -- compile_kernels -I tests/device/kernels -I tests/kernels \
    -I "$(dirname "$source")" "${@:4}" "$unit" ${KERNEL_FLAGS-}
}

# checked_kernels NAME SOURCE PTX: kernels of ours, and once more with every access checked.
checked_kernels() {
  kernels "$@" -DOWN -DEMULATED -I src/model/ops/cuda/source
  kernels "checked_$1" "${@:2}" -DOWN -DEMULATED -I src/model/ops/cuda/source -O1 -DCHECK_ACCESS -fsanitize=thread,alignment
}

# faults.ptx, its library, and the program.
faults() {
  made faults.ptx tests/device/kernels/faults.cu src/model/ops/cuda/source/common.cuh -- \
    "$CUDA_HOME/bin/nvcc" --ptx -std=c++17 -arch compute_80 -I src/model/ops/cuda/source tests/device/kernels/faults.cu
  checked_kernels faults tests/device/kernels/faults.cu "$out/faults.ptx"
  made faults tests/device/faults.cpp -- \
    "$compiler" -std=c++17 -O1 -Wall -Wno-unused-variable -I "$include" tests/device/faults.cpp -L "$out" -l:libcuda.so.1 -lpthread
}

driver
# cudarc asks for its symbols with versions.
beside standin libcublas.so.13 tests/device/blas.cpp -O3 -march=native -Wl,--default-symver
beside standin libcurand.so.10 tests/device/rand.cpp -Wl,--default-symver
if [ -f "$include/nccl.h" ]; then
  beside standin libnccl.so.2 tests/device/nccl.cpp
  ln -sf libnccl.so.2 "$out/libnccl.so"
fi
manifest=$(cargo metadata --locked --offline --format-version 1 --features cuda --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" | grep -oE '"[^"]*/candle-kernels-[0-9.]+/Cargo.toml"' | head -n 1 | tr -d '"' || true)
candle=$(dirname "${manifest:?candle-kernels is not among the fetched crates: run cargo fetch first}")/src
# Candle's files include CUDA's headers by name: empty ones here.
for header in cuda_fp16.h cuda_bf16.h cuda_fp8.h cuda.h cuda/std/limits; do
  mkdir -p "$(dirname "$out/made/stub/$header")"
  [ -f "$out/made/stub/$header" ] || : >"$out/made/stub/$header"
done
for source in src/model/ops/cuda/source/*.cu; do
  name=$(basename "$source" .cu)
  beside checked_kernels "own_$name" "$source" "$(find_ptx "$name")"
done
for name in affine binary cast fill indexing ternary unary; do
  beside kernels "$name" "$candle/$name.cu" "$(find_ptx "$name")" -DFLAT -DCANDLE -O1 -I "$out/made/stub"
done
beside kernels reduce "$candle/reduce.cu" "$(find_ptx reduce)" -DCANDLE -I "$out/made/stub"
# The program of planted faults, with kernels of its own.
beside faults
failed=0
for job in "${running[@]}"; do wait "$job" || failed=1; done
exit $failed
