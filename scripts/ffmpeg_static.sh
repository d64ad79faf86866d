#!/usr/bin/env bash
# A small LGPL FFmpeg as static libraries (demuxers and decoders only), for a binary that needs no FFmpeg where it runs.
# Needs a C compiler, make, nasm, zlib with its static library (zlib1g-dev) and the sources of FFmpeg 5.1 or later:
#
#   apt-get source --download-only ffmpeg && tar xf ffmpeg_*.orig.tar.xz      (or from https://ffmpeg.org)
#   scripts/ffmpeg_static.sh SOURCES PREFIX
#   FFMPEG_DIR=PREFIX scripts/cuda_build.sh
set -euo pipefail

sources=$(cd "${1:?usage: ffmpeg_static.sh SOURCES PREFIX}" && pwd -P)
prefix=$(realpath -m "${2:?usage: ffmpeg_static.sh SOURCES PREFIX}")

decoders=h264,hevc,av1,vp8,vp9,mpeg4,mpeg1video,mpeg2video,msmpeg4v1,msmpeg4v2,msmpeg4v3,h263,h263p,flv,mjpeg
decoders+=,wmv1,wmv2,wmv3,vc1,theora,prores,gif,png,rawvideo,ffv1,huffyuv
parsers=h264,hevc,av1,vp8,vp9,mpeg4video,mpegvideo,mjpeg,vc1,h263,png,gif
demuxers=mov,matroska,avi,flv,mpegts,mpegps,mpegvideo,asf,ogg,gif,h264,hevc,m4v,ivf,rm
filters=vp9_superframe_split,av1_frame_split,extract_extradata,h264_mp4toannexb,hevc_mp4toannexb,null

zlib=$("${CC:-cc}" -print-file-name=libz.a)
if [ ! -f "$zlib" ]; then
  echo "zlib's static library (libz.a) is missing: without it no PNG is read. Debian: apt-get install zlib1g-dev" >&2
  exit 1
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cd "$build"
"$sources/configure" --prefix="$prefix" --enable-static --disable-shared --enable-pic --disable-programs --disable-doc \
  --disable-debug --disable-autodetect --enable-zlib --disable-network --disable-everything \
  --disable-avdevice --disable-avfilter --disable-swresample --enable-decoder=$decoders --enable-parser=$parsers --enable-demuxer=$demuxers \
  --enable-bsf=$filters --enable-protocol=file
make -j "$(nproc)"
make install
# Cargo links FFmpeg's libraries and no others.
mkdir zlib
cd zlib
"${AR:-ar}" x "$zlib"
"${AR:-ar}" qs "$prefix/lib/libavcodec.a" ./*.o
