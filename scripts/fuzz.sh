#!/usr/bin/env bash
# Looks for input that crashes, hangs or swells the readers of clips and question files: with cargo-fuzz
# (`cargo install cargo-fuzz`) the targets in fuzz/, else the seeded mutants of tests/suite/corrupt.rs with new seeds.
#   scripts/fuzz.sh [SECONDS] [TARGET…]   for each target (default: 600, and all)
#   FUZZ_SEED=N scripts/fuzz.sh           the mutants from this seed on, to see a finding again
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$(dirname "$0")/.."
seconds=${1:-600}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(clip questions parquet)

if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is missing (cargo install cargo-fuzz): seeded mutants instead" >&2
  FUZZ_SECONDS=$seconds FUZZ_SEED=${FUZZ_SEED:-$(date +%s)} \
    exec cargo test --release --test suite corrupt::new_mutants -- --ignored --nocapture
fi

corpus=fuzz/corpus
mkdir -p $corpus/clip $corpus/questions $corpus/parquet
find tests/golden/video/clips -maxdepth 1 -type f -exec cp {} $corpus/clip \;
cp tests/golden/benchmark/*.parquet $corpus/parquet
cp fuzz/seeds/* $corpus/questions
if [ ! -d $corpus/world ]; then
  cargo run --quiet -- data mini --out $corpus/world --train 2 --validation 0 --sft 0
fi
cp $corpus/world/*.json $corpus/world/annotations/train/*.json $corpus/questions
cp $corpus/world/videos/*/*.mp4 $corpus/clip

# The versions of the main build.
[ -e fuzz/Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock
# The flags that the fuzzer needs are unstable; this makes the installed compiler take them, whichever it is.
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
  cargo fuzz run "$target" -- -max_total_time="$seconds" -timeout=30 -rss_limit_mb=3072
done
