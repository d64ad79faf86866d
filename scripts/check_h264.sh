#!/usr/bin/env bash
# Holds the pictures of H.264 that are left out (src/video/h264) against full decodes of clips made at random: a few minutes,
# for a scheduled run or after a change there. Makes a Python environment for PyAV and numpy in target/ once.
#   scripts/check_h264.sh [CLIPS] [SEED]   default: 300 clips, a new seed
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$(dirname "$0")/.."
clips=${1:-300}
seed=${2:-$(date +%s)}

python=target/check_h264/bin/python
if ! $python -c "import av, numpy" 2>/dev/null; then
  python3 -m venv target/check_h264
  $python -m pip install --quiet av numpy
fi
echo "seed $seed" >&2
exec $python scripts/random_h264.py --clips "$clips" --seed "$seed"
