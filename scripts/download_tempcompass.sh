#!/usr/bin/env bash
# TempCompass' questions (from its repository) and videos (from the Hugging Face hub) into data/tempcompass.
# The videos are the property of their owners. Run it again to continue. TEMPCOMPASS_URL replaces the questions' address.
#   scripts/download_tempcompass.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

data=data/tempcompass
source=${TEMPCOMPASS_URL:-https://raw.githubusercontent.com/llyx97/TempCompass/main}
for task in multi-choice yes_no caption_matching captioning; do
  fetch "$source/questions/$task.json" $data/questions/$task.json
done
fetch "$source/meta_info.json" $data/meta_info.json
# The archive holds videos/<id>.mp4 (lmms-eval reads them there: tasks/tempcompass/utils.py).
hub_dataset lmms-lab/TempCompass $data '*.zip'
for archive in "$data"/*.zip; do
  unpack "$archive" $data
done
