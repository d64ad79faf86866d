#!/usr/bin/env bash
# TempCompass' questions (from its repository) and videos (from the Hugging Face hub) into data/tempcompass.
# The videos are the property of their owners. Run it again to continue.
#   scripts/download_tempcompass.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

data=data/tempcompass
source=https://raw.githubusercontent.com/llyx97/TempCompass/main
for task in multi-choice yes_no caption_matching captioning; do
  fetch $source/questions/$task.json $data/questions/$task.json
done
fetch $source/meta_info.json $data/meta_info.json
hub_dataset lmms-lab/TempCompass $data '*.zip'
for archive in $data/*.zip; do
  unpack "$archive" $data/videos
done
