# Downloads that can be stopped and continued, for scripts/download_*.sh. Needs curl, and unzip for archives.
# HF_TOKEN is sent to the Hugging Face hub, HF_ENDPOINT replaces its address.
# shellcheck shell=bash

# The head of the script that reads this, on request and before anything is downloaded.
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0 ;;
esac

# sha256_of FILE
sha256_of() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# fetch URL FILE [SHA256 [HEADER]]: continues a broken download; a finished file is checked and only then gets its name.
fetch() {
  local url=$1 file=$2 sha256=${3:-} header=${4:-} attempt failure status
  [ -e "$file" ] && return
  mkdir -p "$(dirname "$file")"
  echo "downloading $file" >&2
  # --retry does not take up a transfer that breaks in the middle.
  for attempt in 1 2 3 4 5; do
    failure=0
    status=$(curl --fail --location --retry 5 --continue-at - --output "$file.part" --write-out '%{http_code}' \
      ${header:+--header "$header"} "$url") || failure=$?
    case $failure in
      18 | 28 | 52 | 55 | 56 | 92) echo "$file: the connection broke (attempt $attempt of 5)" >&2 ;;
      *) break ;;
    esac
    sleep 1
  done
  # 416: the part is as long as the file, or longer; its hash tells, or it is fetched again.
  if [ "$status" = 416 ] && [ -z "$sha256" ]; then
    rm "$file.part"
    fetch "$@"
    return
  fi
  if [ $failure != 0 ] && [ "$status" != 416 ]; then
    refused "$file" "$url" "$status" >&2
    return 1
  fi
  if [ -n "$sha256" ] && [ "$(sha256_of "$file.part")" != "$sha256" ]; then
    rm "$file.part"
    echo "$file: the download has another SHA-256 than published ($sha256); it is removed, start again" >&2
    return 1
  fi
  mv "$file.part" "$file"
}

# refused FILE URL STATUS: why there is no download, and what to do.
refused() {
  case $3 in
    401 | 403) echo "$1: $2 refuses (HTTP $3): give your consent on the dataset's page, and set HF_TOKEN to a token that may read it" ;;
    404) echo "$1: there is nothing at $2 (HTTP 404): the source has moved; data/README.md says where each dataset comes from" ;;
    *) echo "$1: $2 cannot be downloaded (HTTP $3): check the network, then start again to continue" ;;
  esac
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
    # Large files carry the SHA-256 of their content in an object of its own, small ones only git's hash. A caller's
    # `||` switches errexit off in here: a failure has to be passed on.
    curl --fail --silent --show-error --location --dump-header "$headers" \
      ${HF_TOKEN:+--header "Authorization: Bearer $HF_TOKEN"} "$next" | tr '{' '\n' | awk '
        /^"type":/ { file = /^"type":"file"/; hash = "-" }
        match($0, /"oid":"[0-9a-f]+"/) && RLENGTH == 72 { hash = substr($0, RSTART + 7, 64) }
        file && match($0, /"path":"[^"]*"/) { print hash "\t" substr($0, RSTART + 8, RLENGTH - 9) }' || {
      rm -f "$headers"
      return 1
    }
    next=$(sed -n -E 's/^[Ll]ink: <([^>]*)>; rel="next".*/\1/p' "$headers" | tr -d '\r')
  done
  rm -f "$headers"
}

# hub_dataset OWNER/NAME FOLDER PATTERN…: downloads the files of a dataset on the hub whose paths match a pattern.
hub_dataset() {
  local name=$1 folder=$2 listed sha256 path pattern matched=0
  shift 2
  listed=$(hub_files "$name") || {
    echo "$name cannot be listed; where its page asks for consent, give it there and set HF_TOKEN" >&2
    return 1
  }
  while IFS=$'\t' read -r sha256 path; do
    for pattern in "$@"; do
      # shellcheck disable=SC2053  # a pattern, not a text
      if [[ $path == $pattern ]]; then
        matched=1
        fetch "${HF_ENDPOINT:-https://huggingface.co}/datasets/$name/resolve/main/${path// /%20}" "$folder/$path" \
          "${sha256#-}" "${HF_TOKEN:+Authorization: Bearer $HF_TOKEN}" || return
      fi
    done
  done <<<"$listed"
  if [ $matched = 0 ]; then
    echo "$name holds no file named $*: its layout has changed; data/README.md says what is needed" >&2
    return 1
  fi
}
