#!/usr/bin/env bash
# A Python wheel and an archive of the program with FFmpeg inside: they need nothing where they run but glibc.
#
#   scripts/build_wheel.sh [--cuda] [--ffmpeg SOURCES] [--dav1d SOURCES] [--out DIR]
#
#   --cuda            for NVIDIA GPUs: a wheel `videothinker-cuda` that takes CUDA's libraries from the Python packages that
#                     PyTorch brings too. CUDA_COMPUTE_CAP (default 80) as for scripts/cuda_build.sh
#   --ffmpeg SOURCES  FFmpeg's sources (5.1 or later), unpacked; without it Debian's are fetched by `apt-get source`.
#                     FFMPEG_DIR, a static FFmpeg that is there already, goes before both.
#   --dav1d SOURCES   the same for dav1d, which decodes AV1; --ffmpeg without it leaves AV1 out
#   --out DIR         where wheel, archive and SHA256SUMS go (default dist)
#
# Then: pip install dist/videothinker-*.whl, or unpack the archive and put its `videothinker` on the PATH.
set -euo pipefail
shopt -s inherit_errexit
start=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
# shellcheck source=lib/cuda_environment.sh
. scripts/lib/cuda_environment.sh

ffmpeg='' dav1d='' out=$PWD/dist project=videothinker features=video-static
while [ $# -gt 0 ]; do
  case $1 in
    --cuda) project=videothinker-cuda features=cuda,nccl,video-static ;;
    --ffmpeg) ffmpeg=$(cd "$start" && realpath "${2:?--ffmpeg SOURCES}"); shift ;;
    --dav1d) dav1d=$(cd "$start" && realpath "${2:?--dav1d SOURCES}"); shift ;;
    --out) out=$(cd "$start" && realpath -m "${2:?--out DIR}"); shift ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done
cache=${XDG_CACHE_HOME:-$HOME/.cache}/videothinker

# Debian's own sources of a package, without changing which repositories the system knows. Prints their folder.
fetch_sources() { # PACKAGE
  local release folder=$cache/sources/$1 list=$cache/sources.list
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  rm -rf "$folder"
  mkdir -p "$folder" "$cache/apt-lists/partial"
  # The mirror that this system uses already.
  apt-cache policy | grep -oE 'https?://[^ ]+ '"$release/main" | head -n 1 | sed -E "s|^(.*) $release/main|deb-src \1 $release main|" > "$list"
  (
    cd "$folder"
    options=(-o "Dir::Etc::sourcelist=$list" -o Dir::Etc::sourceparts=/nonexistent
      -o "Dir::State::lists=$cache/apt-lists" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    apt-get "${options[@]}" source --download-only "$1" >&2
    tar xf "$(find . -name "$1_*.orig.tar.*" ! -name '*.asc')" --one-top-level=unpacked --strip-components=1
  )
  echo "$folder/unpacked"
}

static_ffmpeg() { # PREFIX
  if [ -n "$ffmpeg" ]; then
    scripts/ffmpeg_static.sh "$ffmpeg" "$1" ${dav1d:+"$dav1d"}
    return
  fi
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "FFmpeg's sources are missing: unpack a release from https://ffmpeg.org and name it by --ffmpeg" >&2
    exit 1
  fi
  local tool missing=()
  for tool in nasm make meson; do command -v $tool >/dev/null 2>&1 || missing+=("$tool"); done
  command -v ninja >/dev/null 2>&1 || missing+=(ninja-build)
  command -v dpkg-source >/dev/null 2>&1 || missing+=(dpkg-dev)
  [ -f "$(cc -print-file-name=libz.a)" ] || missing+=(zlib1g-dev)
  if [ ${#missing[@]} -gt 0 ]; then as_root apt-get install -y --no-install-recommends "${missing[@]}"; fi
  ffmpeg=$(fetch_sources ffmpeg)
  dav1d=${dav1d:-$(fetch_sources dav1d)}
  scripts/ffmpeg_static.sh "$ffmpeg" "$1" "$dav1d"
}

require_packages
require_rust
if [ -z "${FFMPEG_DIR:-}" ]; then
  export FFMPEG_DIR=$cache/ffmpeg
  if [ ! -d "$FFMPEG_DIR/licenses" ]; then static_ffmpeg "$FFMPEG_DIR"; fi
fi
maturin=$cache/maturin/bin/maturin
if [ ! -x "$maturin" ]; then
  if command -v apt-get >/dev/null 2>&1 && ! python3 -c 'import ensurepip' 2>/dev/null; then
    as_root apt-get install -y --no-install-recommends python3-venv
  fi
  python3 -m venv "$cache/maturin"
  "$cache/maturin/bin/pip" install -q 'maturin>=1.9,<2'
fi

work=$(mktemp -d)
options=()
trap 'rm -rf "$work"' EXIT
# The project of pyproject.toml with the licences of what is linked in, and for GPUs with what it needs from PyPI.
cp LICENSE README.md "$work/"
cp -r "$FFMPEG_DIR/licenses" "$work/" 2>/dev/null || mkdir "$work/licenses"
sed -e "s|^name = .*|name = \"$project\"|" -e 's|^license-files = .*|license-files = ["LICENSE", "licenses/*"]|' \
  -e "s|^bindings = .*|&\nmanifest-path = \"$PWD/Cargo.toml\"|" pyproject.toml > "$work/pyproject.toml"
if [ "$project" = videothinker-cuda ]; then
  toolkit=$cache/cuda
  cuda_environment "$toolkit" release 1
  release=$("$NVCC" --version | sed -nE 's/.*release ([0-9]+).*/\1/p')
  if [ "$release" -ge 13 ]; then suffix=''; else suffix=-cu$release; fi
  packages=$(printf '"nvidia-%s", ' "cublas$suffix" "curand$suffix" "nccl-cu$release")
  if [ "$release" -ge 13 ]; then packages=${packages/\"nvidia-cublas\"/\"nvidia-cublas==$release.*\"}; fi
  # Libraries that PyPI has are not to be put into the wheel.
  options=(--auditwheel skip --compatibility "manylinux_$(getconf GNU_LIBC_VERSION | sed 's/.* //; s/\./_/')")
  sed -i "s|^license = .*|&\ndependencies = [${packages%, }]|" "$work/pyproject.toml"
fi
(cd "$work" && "$maturin" build --release --locked --features "$features" --out "$work/dist" ${options[@]+"${options[@]}"})

# The same program as an archive, named as cargo-binstall looks for it, with what its first hour needs.
mkdir -p "$out"
mv "$work"/dist/*.whl "$out/"
wheel=$(ls -t "$out/${project//-/_}"-*.whl | head -n 1)
version=$(basename "$wheel" | cut -d- -f2)
name=$project-v$version-$(rustc -vV | sed -n 's/^host: //p')
mkdir "$work/$name"
python3 -m zipfile -e "$wheel" "$work/wheel"
cp "$work"/wheel/*.data/scripts/videothinker "$work/$name/"
chmod +x "$work/$name/videothinker"
cp -r LICENSE README.md CHANGELOG.md configs docs "$work/licenses" "$work/$name/"
mkdir "$work/$name/data"
cp -r data/README.md data/mini "$work/$name/data/"
# What the documents lead to.
mkdir -p "$work/$name/benches" "$work/$name/tests/device"
cp -r CONTRIBUTING.md dev "$work/$name/"
cp -r benches/results "$work/$name/benches/"
cp tests/device/README.md "$work/$name/tests/device/"
tar czf "$out/$name.tar.gz" -C "$work" "$name"
(cd "$out" && sha256sum videothinker*.whl videothinker*.tar.gz > SHA256SUMS)

echo "$wheel"
echo "$out/$name.tar.gz"
echo "Libraries it needs:"
readelf -d "$work/$name/videothinker" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/  \1/p'
