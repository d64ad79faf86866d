#!/usr/bin/env bash
# MMVU's validation questions and videos from the Hugging Face hub into data/mmvu: about 1 GB.
# The videos are the property of their owners and for research. Run it again to continue.
#   scripts/download_mmvu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

hub_dataset yale-nlp/MMVU data/mmvu 'validation.json' 'videos/*'
