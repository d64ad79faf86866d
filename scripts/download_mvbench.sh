#!/usr/bin/env bash
# MVBench's questions and clips from the Hugging Face hub into data/mvbench. Give your consent on
# https://huggingface.co/datasets/OpenGVLab/MVBench and set HF_TOKEN first. The clips of NTU RGB+D (the task
# fine_grained_pose) are not in it: they need that dataset's own licence. Run it again to continue.
#   HF_TOKEN=… scripts/download_mvbench.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

data=data/mvbench
# Each archive holds the folder it is named after (star/, clevrer/, …), as mvbench.ipynb reads them; data0613.zip holds
# mended clips of star/ and clevrer/ in data0613/ (lmms-eval: tasks/mvbench/utils.py).
hub_dataset OpenGVLab/MVBench $data 'json/*' 'video/*'
for archive in "$data"/video/*.zip; do
  unpack "$archive" $data/video
done
