#!/usr/bin/env bash
# Makes the small clips of tests/golden/video/clips from FFmpeg's synthetic sources (needs the ffmpeg command with
# libx264, libvpx-vp9 and mpeg4). The clips are committed; run this only to change them, then
# scripts/make_golden_video.py.
#   scripts/make_test_clips.sh [FOLDER]
case ${1:-} in -h | --help) sed -n "2,/^[^#]/s/^# \{0,1\}//p" "$0"; exit 0 ;; esac
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-tests/golden/video/clips}
mkdir -p "$out"
cd "$out"
ffmpeg=(ffmpeg -hide_banner -loglevel error -y -nostdin)
exact=(-fflags +bitexact -flags:v +bitexact -map_metadata -1)

# source SIZE RATE: a moving test picture with hard edges, fine texture and saturated colours
source() { printf 'testsrc2=s=%s:r=%s' "$1" "$2"; }
# clip NAME SIZE RATE FRAMES OPTION...
clip() {
  local name=$1 size=$2 rate=$3 frames=$4
  shift 4
  "${ffmpeg[@]}" -f lavfi -i "$(source "$size" "$rate")" -frames:v "$frames" "$@" "${exact[@]}" "$name"
}
x264=(-c:v libx264 -threads 1 -preset medium)

# B-frames, one long closed group of pictures
clip h264.mp4 160x112 25 64 -pix_fmt yuv420p "${x264[@]}" -crf 36 -bf 3 -g 250
# several closed groups of pictures
clip gops.mp4 160x112 25 64 -pix_fmt yuv420p "${x264[@]}" -crf 38 -bf 3 -x264-params keyint=16:min-keyint=16:scenecut=0
# B frames to which only other B frames refer, by both kinds of entropy coding
clip pyramid.mp4 160x112 25 48 -pix_fmt yuv420p "${x264[@]}" -crf 38 -x264-params ref=1:bframes=3:b-adapt=0:weightp=2:direct=temporal
clip pyramid.mkv 160x112 25 48 -pix_fmt yuv420p "${x264[@]}" -crf 38 \
  -x264-params ref=1:bframes=5:b-adapt=0:keyint=24:scenecut=0:cabac=0:slices=2
# no picture after the first is whole by itself: they are refreshed a part at a time
clip refresh.mp4 160x112 25 64 -pix_fmt yuv420p "${x264[@]}" -crf 38 -x264-params intra-refresh=1:keyint=16:ref=1:bframes=0
# groups of pictures whose leading pictures refer to the one before
clip open_gop.mp4 160x112 25 64 -pix_fmt yuv420p "${x264[@]}" -crf 38 \
  -x264-params keyint=16:min-keyint=16:scenecut=0:open-gop=1:bframes=3
# the High 4:4:4 Predictive profile (as CLEVRER's files), an odd size
clip h264_444_odd.mp4 121x91 25 32 -pix_fmt yuv444p "${x264[@]}" -crf 38 -bf 2
# odd size, 4:2:0
clip odd.webm 121x91 25 32 -pix_fmt yuv420p -c:v libvpx-vp9 -threads 1 -deadline realtime -cpu-used 5 -crf 55 -b:v 0
# VP9 with hidden alternate reference frames
clip vp9.webm 160x112 25 48 -pix_fmt yuv420p -c:v libvpx-vp9 -threads 1 -deadline good -cpu-used 4 -crf 55 -b:v 0 \
  -auto-alt-ref 1 -lag-in-frames 16
# variable frame rate
clip vfr.mp4 160x112 30 48 -vf "select='not(mod(n\,3))+lt(mod(n\,24)\,12)',format=yuv420p" -vsync vfr \
  "${x264[@]}" -crf 38 -bf 2
# full-range BT.709
clip full_range.mp4 160x112 25 24 -vf 'scale=out_color_matrix=bt709:out_range=pc,format=yuvj420p' \
  -colorspace bt709 -color_range pc "${x264[@]}" -crf 36
# high enough to be scaled down
clip large.mp4 640x360 25 12 -pix_fmt yuv420p "${x264[@]}" -crf 44
# no time stamps of its own: frames are known by their order
clip mpeg4.avi 96x64 25 32 -pix_fmt yuv420p -c:v mpeg4 -threads 1 -q:v 16 -bf 2 -g 12
# cut in the middle of a group of pictures by an edit list
"${ffmpeg[@]}" -ss 1.1 -i gops.mp4 -c copy "${exact[@]}" edit_list.mp4
# slots without a frame, where the one before is shown on
clip null_frames.avi 96x64 25 28 -vf "select='lt(n\,20)+not(mod(n\,7))',format=yuv420p" -fps_mode vfr -c:v mpeg4 -threads 1 -q:v 16 -g 12
# B frames in one packet with the picture that they refer to, an empty one behind
clip packed.avi 96x64 25 48 -pix_fmt yuv420p -c:v libxvid -bf 2 -g 12 -q:v 20
# recordings that begin inside a group of pictures: cut from a stream, and without the first packets
"${ffmpeg[@]}" -i gops.mp4 -c copy "${exact[@]}" -f mpegts - | tail -c +5641 > mid_gop.ts
"${ffmpeg[@]}" -i gops.mp4 -c copy -copyinkf -bsf:v "noise=drop='lt(n,7)'" "${exact[@]}" no_key.mkv
# the same at a picture that can be decoded, before others that are shown before it and cannot
clip open.mkv 160x112 25 64 -pix_fmt yuv420p "${x264[@]}" -crf 38 \
  -x264-params keyint=15:min-keyint=15:scenecut=0:open-gop=1:bframes=3:b-adapt=0
"${ffmpeg[@]}" -i open.mkv -c copy -bsf:v "noise=drop='lt(n,13)'" "${exact[@]}" open_start.mp4
rm open.mkv
# to be turned by a quarter
"${ffmpeg[@]}" -i full_range.mp4 -c copy "${exact[@]}" -metadata:s:v:0 rotate=90 rotated.mp4
# what cannot be used
clip one_frame.mp4 96x64 25 1 -pix_fmt yuv420p "${x264[@]}" -crf 40
"${ffmpeg[@]}" -f lavfi -i sine=d=0.3 -c:a aac -b:a 16k -fflags +bitexact -flags:a +bitexact -map_metadata -1 sound_only.mp4
ls -l
