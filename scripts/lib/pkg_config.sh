#!/usr/bin/env bash
# pkg-config, as builds of this repository call it: where it or FFmpeg is missing, it names the packages that bring them.
if command -v pkg-config >/dev/null 2>&1; then
  pkg-config "$@" && exit
  status=$?
else
  echo "There is no pkg-config." >&2
  status=127
fi
case "$*" in
  *libav* | *libsw*)
    # shellcheck source=packages.sh
    . "${BASH_SOURCE%/*}/packages.sh"
    if have_ffmpeg; then
      :  # it is there: what is wrong is what pkg-config says
    elif manager=$(package_manager); then
      printf '\nvideothinker reads clips by FFmpeg: install what is missing, then build again:\n'
      echo "  $(install_command "$manager") $(missing_packages "$manager" | tr '\n' ' ')"
      echo "scripts/quickstart.sh does it by itself. A build that needs no FFmpeg on the system: docs/install.md"
    else
      printf '\n%s\n' "$NEEDED"
    fi >&2 ;;
esac
exit "$status"
