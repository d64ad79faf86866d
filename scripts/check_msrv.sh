#!/usr/bin/env bash
# Whether the oldest Rust that Cargo.toml allows (rust-version) compiles everything, tests and benches included. Needs rustup, which
# fetches that version if it is missing. Not for each change: all dependencies are compiled once more, into target/msrv.
#   scripts/check_msrv.sh
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$(dirname "$0")/.."

version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
if ! cargo "+$version" --version >/dev/null 2>&1; then
  rustup toolchain install "$version" --profile minimal
fi
CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR=target/msrv exec cargo "+$version" check --locked --all-targets
