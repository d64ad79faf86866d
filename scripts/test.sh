#!/usr/bin/env bash
# Installs what the tests need and runs them all. Arguments go to cargo test:
#   scripts/test.sh                 everything
#   scripts/test.sh --test suite    only the integration tests
case ${1:-} in -h | --help) sed -n "2,/^[^#]/s/^# \{0,1\}//p" "$0"; exit 0 ;; esac
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

require_packages
require_rust
exec cargo test --locked "$@"
