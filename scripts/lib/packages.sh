# Sourced by the other scripts: makes sure that C and C++ compilers, pkg-config, FFmpeg's libraries and libclang are there.
# shellcheck shell=bash

# What the build needs, checked by capability: an FFmpeg from another source than the package manager is fine too.
have_compiler() { command -v cc >/dev/null 2>&1 && command -v c++ >/dev/null 2>&1; }
have_ffmpeg() {
  [ -n "${FFMPEG_DIR:-}" ] ||
    { command -v pkg-config >/dev/null 2>&1 && pkg-config --exists libavutil libavcodec libavformat libswscale; }
}
# The library alone is not enough: bindgen also reads clang's own headers, which Debian packs separately.
have_clang_headers() {
  ! compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null ||
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
}
have_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] ||
    compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null ||
    compgen -G '/usr/lib*/libclang.so*' >/dev/null ||
    compgen -G '/usr/lib/*-linux-gnu/libclang.so*' >/dev/null ||
    compgen -G '/Library/Developer/CommandLineTools/usr/lib/libclang.dylib' >/dev/null
}

# The packages of this system that bring what is missing, one per line.
missing_packages() {
  case $1 in
    apt-get)
      have_compiler || printf '%s\n' g++ libc6-dev
      have_ffmpeg || printf '%s\n' pkg-config libavutil-dev libavcodec-dev libavformat-dev libswscale-dev
      { have_libclang && have_clang_headers; } || printf '%s\n' libclang-dev ;;
    dnf)
      have_compiler || printf '%s\n' gcc-c++
      have_ffmpeg || printf '%s\n' pkgconf-pkg-config ffmpeg-free-devel
      have_libclang || printf '%s\n' clang-devel ;;
    pacman)
      have_compiler || printf '%s\n' gcc
      have_ffmpeg || printf '%s\n' pkgconf ffmpeg
      have_libclang || printf '%s\n' clang ;;
    brew)
      have_ffmpeg || printf '%s\n' pkgconf ffmpeg
      have_libclang || printf '%s\n' llvm ;;
  esac
}

# Asks on a terminal; without one, or with --yes, or in CI, the answer is yes.
agreed() {
  if [ "${ASSUME_YES:-0}" = 1 ] || [ -n "${CI:-}" ] || [ ! -t 0 ]; then return 0; fi
  local reply
  read -r -p "$1 [Y/n] " reply
  [[ ! $reply =~ ^[Nn] ]]
}

require_rust() {
  if ! command -v cargo >/dev/null 2>&1 && [ -f "$HOME/.cargo/env" ]; then
    # shellcheck source=/dev/null
    . "$HOME/.cargo/env"
  fi
  if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing. Install it from https://rustup.rs (version 1.94 or later), then run this again." >&2
    return 1
  fi
}

# Homebrew keeps its llvm off the default paths: bindgen is told where it is.
find_brew_libclang() {
  local lib
  lib=$(brew --prefix)/opt/llvm/lib
  if ! have_libclang && [ -d "$lib" ]; then export LIBCLANG_PATH=$lib; fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# The package manager of this system, of those that the scripts know.
package_manager() {
  local candidate
  for candidate in apt-get dnf pacman brew; do
    if command -v "$candidate" >/dev/null 2>&1; then echo "$candidate"; return; fi
  done
  return 1
}

NEEDED="Needed: C and C++ compilers, pkg-config, FFmpeg's development files (libavutil, libavcodec, libavformat, libswscale) \
and libclang. No apt, dnf, pacman or brew here: install them by hand, then run this again."

# What a person types to install packages.
install_command() {
  case $1 in
    pacman) echo "sudo pacman -S" ;;
    brew) echo "brew install" ;;
    *) echo "sudo $1 install" ;;
  esac
}

require_packages() {
  local manager=""
  manager=$(package_manager) || true
  if [ "$manager" = brew ]; then find_brew_libclang; fi
  if have_compiler && have_ffmpeg && have_libclang && have_clang_headers; then return 0; fi
  if [ -z "$manager" ]; then
    echo "$NEEDED" >&2
    return 1
  fi
  local packages
  packages=$(missing_packages "$manager" | tr '\n' ' ')
  echo "Missing system packages, to be installed with $manager: $packages" >&2
  agreed "Install them?" || { echo "Nothing was installed." >&2; return 1; }
  # shellcheck disable=SC2086  # a list of words
  case $manager in
    apt-get)
      as_root apt-get update -q >&2
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages >&2 ;;
    dnf) as_root dnf install -y $packages >&2 ;;
    pacman) as_root pacman -S --needed --noconfirm $packages >&2 ;;
    brew)
      brew install $packages >&2
      find_brew_libclang ;;
  esac
}
