# Downloads that can be stopped and continued, for scripts/download_*.sh. Needs curl, and unzip for archives.
# HF_TOKEN is sent to the Hugging Face hub, HF_ENDPOINT replaces its address.
# shellcheck shell=bash

# sha256_of FILE
sha256_of() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# fetch URL FILE [SHA256 [HEADER]]: continues a broken download; a finished file is checked and only then gets its name.
fetch() {
  local url=$1 file=$2 sha256=${3:-} header=${4:-}
  [ -e "$file" ] && return
  mkdir -p "$(dirname "$file")"
  echo "downloading $file" >&2
  curl --fail --location --retry 5 --continue-at - --output "$file.part" ${header:+--header "$header"} "$url"
  if [ -n "$sha256" ] && [ "$(sha256_of "$file.part")" != "$sha256" ]; then
    rm "$file.part"
    echo "$file: the download has another SHA-256 than published ($sha256); it is removed, start again" >&2
    return 1
  fi
  mv "$file.part" "$file"
}

# unpack ARCHIVE FOLDER: an archive is unpacked once; the marker is written last.
unpack() {
  [ -e "$1.unpacked" ] && return
  echo "unpacking $1" >&2
  mkdir -p "$2"
  unzip -q -o "$1" -d "$2"
  touch "$1.unpacked"
}

# hub_files OWNER/NAME: the files of a dataset on the hub, a line each: SHA-256 (or -), tab, path.
hub_files() {
  local next="${HF_ENDPOINT:-https://huggingface.co}/api/datasets/$1/tree/main?recursive=true" headers
  headers=$(mktemp)
  while [ -n "$next" ]; do
    # Large files carry the SHA-256 of their content in an object of its own, small ones only git's hash.
    curl --fail --silent --show-error --location --dump-header "$headers" \
      ${HF_TOKEN:+--header "Authorization: Bearer $HF_TOKEN"} "$next" | tr '{' '\n' | awk '
        /^"type":/ { file = /^"type":"file"/; hash = "-" }
        match($0, /"oid":"[0-9a-f]+"/) && RLENGTH == 72 { hash = substr($0, RSTART + 7, 64) }
        file && match($0, /"path":"[^"]*"/) { print hash "\t" substr($0, RSTART + 8, RLENGTH - 9) }'
    next=$(sed -n -E 's/^[Ll]ink: <([^>]*)>; rel="next".*/\1/p' "$headers" | tr -d '\r')
  done
  rm -f "$headers"
}

# hub_dataset OWNER/NAME FOLDER PATTERN…: downloads the files of a dataset on the hub whose paths match a pattern.
hub_dataset() {
  local name=$1 folder=$2 listed sha256 path pattern
  shift 2
  listed=$(hub_files "$name") || {
    echo "$name cannot be listed; where its page asks for consent, give it there and set HF_TOKEN" >&2
    return 1
  }
  while IFS=$'\t' read -r sha256 path; do
    for pattern in "$@"; do
      # shellcheck disable=SC2053  # a pattern, not a text
      if [[ $path == $pattern ]]; then
        fetch "${HF_ENDPOINT:-https://huggingface.co}/datasets/$name/resolve/main/${path// /%20}" "$folder/$path" \
          "${sha256#-}" "${HF_TOKEN:+Authorization: Bearer $HF_TOKEN}"
      fi
    done
  done <<<"$listed"
}
