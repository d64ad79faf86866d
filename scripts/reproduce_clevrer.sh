#!/usr/bin/env bash
# The CLEVRER part of scripts/reproduce_paper.sh alone: base, bias model, GRPO and CDPO on CLEVRER's validation questions, from the
# official files. Needs a CUDA GPU with room for Qwen2.5-VL-3B training and 260 GB of disk: 40 for the data, 53 for
# the last checkpoint of each of three runs and as much again while one is replaced. Re-running continues. Takes that script's options.
#
#   scripts/reproduce_clevrer.sh [--dry-run] [--download-only] [--binary FILE] [--base MODEL] [--device NAME] [--ranks N] [--set KEY=VALUE]…
set -euo pipefail
exec "$(dirname "$0")/reproduce_paper.sh" --benchmarks clevrer --models base,bias,grpo,cdpo --no-ablations "$@"
