#!/usr/bin/env bash
# CLEVRER's training and validation parts from the official addresses into data/clevrer: about 19 GB, CC0.
# Run it again to continue.
#   scripts/download_clevrer.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

data=data/clevrer
source=http://data.csail.mit.edu/clevrer
for split in train validation; do
  fetch $source/questions/$split.json $data/questions_$split.json
  fetch $source/annotations/$split/annotation_$split.zip $data/annotation_$split.zip
  fetch $source/videos/$split/video_$split.zip $data/video_$split.zip
  unpack $data/annotation_$split.zip $data/annotations/$split
  unpack $data/video_$split.zip $data/videos
done
