#!/usr/bin/env bash
# Installs what the tests need and runs them all. Arguments go to cargo test:
#   scripts/test.sh                 everything
#   scripts/test.sh --test suite    only the integration tests
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

require_packages
require_rust
exec cargo test --locked "$@"
