#!/usr/bin/env bash
# Video-Holmes' questions and films from the Hugging Face hub into data/video_holmes. Apache 2.0 for academic purposes;
# the films are the property of their owners. Run it again to continue.
#   scripts/download_video_holmes.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

data=data/video_holmes
hub_dataset TencentARC/Video-Holmes $data 'test_Video-Holmes.json' 'train_Video-Holmes.json' 'videos.zip'
unpack $data/videos.zip $data
