#!/usr/bin/env bash
# A small LGPL FFmpeg as static libraries, for a binary that needs no FFmpeg where it runs: demuxers, decoders, and what
# `videothinker data mini` writes its clips with (MPEG-4: encoders for H.264 are other projects', most under the GPL).
# Needs a C compiler, make, nasm, zlib with its static library (zlib1g-dev) and the sources of FFmpeg 5.1 or later:
#
#   apt-get source --download-only ffmpeg && tar xf ffmpeg_*.orig.tar.xz      (or from https://ffmpeg.org)
#   scripts/ffmpeg_static.sh SOURCES PREFIX [DAV1D]
#   FFMPEG_DIR=PREFIX scripts/cuda_build.sh
#
# DAV1D, the sources of dav1d (https://code.videolan.org/videolan/dav1d), adds AV1; it needs meson and ninja. FFmpeg itself
# decodes AV1 on graphics cards only.
set -euo pipefail

usage='usage: ffmpeg_static.sh SOURCES PREFIX [DAV1D]'
if [ "${1:-}" = --help ]; then sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0; fi
sources=$(cd "${1:?$usage}" && pwd -P)
prefix=$(realpath -m "${2:?$usage}")
dav1d=${3:+$(cd "$3" && pwd -P)}

decoders=h264,hevc,vp8,vp9,mpeg4,mpeg1video,mpeg2video,msmpeg4v1,msmpeg4v2,msmpeg4v3,h263,h263p,flv,mjpeg
decoders+=,wmv1,wmv2,wmv3,vc1,theora,prores,gif,png,rawvideo,ffv1,huffyuv
parsers=h264,hevc,av1,vp8,vp9,mpeg4video,mpegvideo,mjpeg,vc1,h263,png,gif
demuxers=mov,matroska,avi,flv,mpegts,mpegps,mpegvideo,asf,ogg,gif,h264,hevc,m4v,ivf,rm
filters=vp9_superframe_split,av1_frame_split,av1_frame_merge,extract_extradata,h264_mp4toannexb,hevc_mp4toannexb,null

zlib=$("${CC:-cc}" -print-file-name=libz.a)
if [ ! -f "$zlib" ]; then
  echo "zlib's static library (libz.a) is missing: without it no PNG is read. Debian: apt-get install zlib1g-dev" >&2
  exit 1
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cd "$build"
with_dav1d=()
if [ -n "$dav1d" ]; then
  meson setup "$build/dav1d" "$dav1d" --prefix "$build/av1" --libdir lib --default-library static --buildtype release \
    -Denable_tools=false -Denable_tests=false
  ninja -C "$build/dav1d" install
  export PKG_CONFIG_PATH=$build/av1/lib/pkgconfig
  decoders+=,libdav1d
  with_dav1d=(--enable-libdav1d --pkg-config-flags=--static)
fi
mkdir ffmpeg
cd ffmpeg
"$sources/configure" --prefix="$prefix" --enable-static --disable-shared --enable-pic --disable-programs --disable-doc \
  --disable-debug --disable-autodetect --enable-zlib --disable-network --disable-everything \
  --disable-avdevice --disable-avfilter --disable-swresample "${with_dav1d[@]}" \
  --enable-decoder=$decoders --enable-parser=$parsers --enable-demuxer=$demuxers --enable-bsf=$filters \
  --enable-encoder=mpeg4 --enable-muxer=mp4 --enable-protocol=file
make -j "$(nproc)"
make install

# Cargo links FFmpeg's libraries and no others.
cd "$build"
{
  echo create libavcodec.a
  printf 'addlib %s\n' "$prefix/lib/libavcodec.a" "$zlib"
  if [ -n "$dav1d" ]; then echo "addlib $build/av1/lib/libdav1d.a"; fi
  printf 'save\nend\n'
} | "${AR:-ar}" -M
mv libavcodec.a "$prefix/lib/libavcodec.a"

# What a copy of the libraries has to come with.
mkdir -p "$prefix/licenses"
cp "$sources/COPYING.LGPLv2.1" "$prefix/licenses/FFmpeg-LGPL-2.1.txt"
if [ -n "$dav1d" ]; then cp "$dav1d/COPYING" "$prefix/licenses/dav1d-BSD-2-Clause.txt"; fi
