#!/usr/bin/env bash
# Video-MME's questions, subtitles and videos from the Hugging Face hub into data/videomme: about 100 GB, and as much
# again unpacked. Its licence: academic research only, no commercial use, no distribution; --i-agree says that you keep
# to it. Run it again to continue.
#   scripts/download_video_mme.sh --i-agree
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib/download.sh
. scripts/lib/download.sh

if [ "${1:-}" != --i-agree ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0"
  exit 2
fi
# The archives hold subtitle/<videoID>.srt and data/<videoID>.mp4 (lmms-eval reads them there: tasks/videomme/utils.py).
data=data/videomme
hub_dataset lmms-lab/Video-MME $data 'videomme/*.parquet' 'subtitle.zip' 'videos_chunked_*.zip'
unpack $data/subtitle.zip $data
for archive in "$data"/videos_chunked_*.zip; do
  unpack "$archive" $data
done
