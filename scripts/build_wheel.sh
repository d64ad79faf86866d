#!/usr/bin/env bash
# A Python wheel and an archive of the program for CPUs, with FFmpeg inside: neither needs anything where it runs but glibc.
#
#   scripts/build_wheel.sh [--ffmpeg SOURCES] [--out DIR]
#
#   --ffmpeg SOURCES  FFmpeg's sources (5.1 or later), unpacked; without it Debian's are fetched by `apt-get source`.
#                     FFMPEG_DIR, a static FFmpeg that is there already, goes before both.
#   --out DIR         where wheel, archive and SHA256SUMS go (default dist)
#
# Then: pip install dist/videothinker-*.whl, or unpack the archive and put its `videothinker` on the PATH.
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

sources='' out=dist
while [ $# -gt 0 ]; do
  case $1 in
    --ffmpeg) sources=$(cd "$start" && realpath "${2:?--ffmpeg SOURCES}"); shift ;;
    --out) out=$(cd "$start" && realpath -m "${2:?--out DIR}"); shift ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; if [ "$1" = --help ]; then exit 0; else exit 2; fi ;;
  esac
  shift
done
cache=${XDG_CACHE_HOME:-$HOME/.cache}/videothinker

# Debian's own sources, without changing which repositories the system knows.
fetch_sources() {
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "FFmpeg's sources are missing: unpack a release from https://ffmpeg.org and name it by --ffmpeg" >&2
    exit 1
  fi
  command -v dpkg-source >/dev/null 2>&1 || as_root apt-get install -y --no-install-recommends dpkg-dev
  local release list=$cache/sources.list
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mkdir -p "$cache"
  # The mirror that this system uses already.
  { apt-cache policy | grep -oE 'https?://[^ ]+ '"$release/main" | head -n 1 | sed -E "s|^(.*) $release/main|deb-src \1 $release main|"; } > "$list"
  mkdir -p "$cache/ffmpeg-sources"
  (
    cd "$cache/ffmpeg-sources"
    options=(-o "Dir::Etc::sourcelist=$list" -o Dir::Etc::sourceparts=/nonexistent -o "Dir::State::lists=$cache/apt-lists")
    mkdir -p "$cache/apt-lists/partial"
    apt-get "${options[@]}" update >&2
    apt-get "${options[@]}" source --download-only ffmpeg >&2
    tar xf ffmpeg_*.orig.tar.[xg]z
  )
  echo "$cache"/ffmpeg-sources/ffmpeg-*/
}

require_packages
require_rust
if [ -z "${FFMPEG_DIR:-}" ]; then
  if [ ! -f "$cache/ffmpeg/lib/libavcodec.a" ]; then
    if command -v apt-get >/dev/null 2>&1; then
      { command -v nasm && command -v make && [ -f "$(cc -print-file-name=libz.a)" ]; } >/dev/null 2>&1 ||
        as_root apt-get install -y --no-install-recommends nasm make zlib1g-dev
    fi
    scripts/ffmpeg_static.sh "${sources:-$(fetch_sources)}" "$cache/ffmpeg"
  fi
  export FFMPEG_DIR=$cache/ffmpeg
fi
maturin=$cache/maturin/bin/maturin
if [ ! -x "$maturin" ]; then
  python3 -m venv "$cache/maturin"
  "$cache/maturin/bin/pip" install -q 'maturin>=1.9,<2'
fi
"$maturin" build --release --locked --features video-static --out "$out"

# The same program as an archive, named as cargo-binstall looks for it.
wheel=$(ls -t "$out"/videothinker-*.whl | head -n 1)
version=$(basename "$wheel" | cut -d- -f2)
target=$(rustc -vV | sed -n 's/^host: //p')
name=videothinker-v$version-$target
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/$name"
python3 -m zipfile -e "$wheel" "$work/wheel"
cp "$work"/wheel/videothinker-*.data/scripts/videothinker LICENSE README.md CHANGELOG.md "$work/$name/"
chmod +x "$work/$name/videothinker"
tar czf "$out/$name.tar.gz" -C "$work" "$name"
(cd "$out" && sha256sum "$(basename "$wheel")" "$name.tar.gz" > SHA256SUMS)

echo "$wheel"
echo "$out/$name.tar.gz"
echo "Libraries it needs:"
readelf -d "$work/$name/videothinker" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/  \1/p'
