# Sourced where a CUDA build runs: finds the CUDA libraries among the Python packages that PyTorch brings, unless the
# loader finds them already. Never puts a toolkit's stubs on the path: they would hide the driver's libcuda.
# shellcheck shell=bash

python_cuda_libraries() {
  command -v python3 >/dev/null 2>&1 || return 0
  python3 - <<'END'
import importlib.util
import pathlib

spec = importlib.util.find_spec("nvidia")
roots = [pathlib.Path(path) for path in (spec.submodule_search_locations if spec else [])]
folders = {library.parent for root in roots for library in root.glob("*/lib/lib*.so*")}
print(":".join(sorted(str(folder) for folder in folders)))
END
}

if ! ldconfig -p 2>/dev/null | grep -q 'libcublas\.so\.'; then
  cuda_libraries=$(python_cuda_libraries)
  if [ -n "$cuda_libraries" ]; then
    export LD_LIBRARY_PATH=$cuda_libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  fi
fi
