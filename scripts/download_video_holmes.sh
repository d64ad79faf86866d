#!/usr/bin/env bash
# Video-Holmes' questions and films from the Hugging Face hub into data/video_holmes. Apache 2.0 for academic purposes;
# the films are the property of their owners. Run it again to continue.
#   scripts/download_video_holmes.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

data=data/video_holmes
# The archive holds the folder videos/ (Video-Holmes' README.md and evaluate.py), or videos_cropped/ (lmms-eval:
# tasks/video_holmes/utils.py): both are read.
hub_dataset TencentARC/Video-Holmes $data 'test_Video-Holmes.json' 'train_Video-Holmes.json' 'videos.zip'
unpack $data/videos.zip $data
