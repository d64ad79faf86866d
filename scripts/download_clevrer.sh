#!/usr/bin/env bash
# CLEVRER's training and validation parts from the official addresses into data/clevrer: about 19 GB, CC0.
# Run it again to continue. CLEVRER_URL replaces the address.
#   scripts/download_clevrer.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

data=data/clevrer
source=${CLEVRER_URL:-http://data.csail.mit.edu/clevrer}
# The archives hold folders of a thousand: annotation_00000-01000/annotation_00000.json, video_00000-01000/video_00000.mp4.
for split in train validation; do
  fetch "$source/questions/$split.json" $data/questions_$split.json
  fetch "$source/annotations/$split/annotation_$split.zip" $data/annotation_$split.zip
  fetch "$source/videos/$split/video_$split.zip" $data/video_$split.zip
  unpack $data/annotation_$split.zip $data/annotations/$split
  unpack $data/video_$split.zip $data/videos
done
