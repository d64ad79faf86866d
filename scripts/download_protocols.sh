#!/usr/bin/env bash
# The files that hold the words of the evaluation protocols, from the authors' and the benchmarks' repositories into
# data/protocols: less than 1 MB. Each stays under its own licence. Then for instance
#   videothinker eval run --config configs/eval/mvbench.toml --set eval.protocol=official --set eval.protocol_from=data/protocols/mvbench …
# Run it again to continue.
#   scripts/download_protocols.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

source=${PROTOCOLS_URL:-https://raw.githubusercontent.com}
while read -r name repository branch file; do
  fetch "$source/$repository/$branch/$file" "data/protocols/$name/$file"
done <<'END'
authors falonss703/VideoThinker main src/eval/eval_bench.py
mvbench OpenGVLab/Ask-Anything main video_chat2/mvbench.ipynb
tempcompass llyx97/TempCompass main run_qwen2_vl.py
video_holmes TencentARC/Video-Holmes main evaluate.py
mmvu yale-nlp/MMVU main utils/constant.py
videomme MME-Benchmarks/Video-MME main README.md
END
