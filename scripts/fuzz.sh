#!/usr/bin/env bash
# Looks for input that crashes, hangs or swells the readers of clips and JSON files. With cargo-fuzz and a nightly
# toolchain the targets in fuzz/ are run, else the seeded mutants of tests/suite/corrupt.rs with new seeds.
#   scripts/fuzz.sh [SECONDS]     for each target (default 600)
#   FUZZ_SEED=N scripts/fuzz.sh   the mutants from this seed on, to see a finding again
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}

if cargo +nightly fuzz --version >/dev/null 2>&1; then
  mkdir -p fuzz/corpus/clip fuzz/corpus/questions
  find tests/golden/video/clips -maxdepth 1 -type f -exec cp -t fuzz/corpus/clip {} +
  cargo run --release --quiet -- data mini --out fuzz/corpus/world --train 4 --validation 0
  cp fuzz/corpus/world/*.json fuzz/corpus/world/annotations/train/*.json fuzz/corpus/questions
  for target in clip questions; do
    cargo +nightly fuzz run $target -- -max_total_time="$seconds" -timeout=30 -rss_limit_mb=3072
  done
else
  echo "cargo-fuzz or a nightly toolchain is missing: seeded mutants instead" >&2
  FUZZ_SECONDS=$seconds FUZZ_SEED=${FUZZ_SEED:-$(date +%s)} \
    cargo test --release --test suite corrupt::new_mutants -- --ignored --nocapture
fi
