# What the paper's experiments need and make, for scripts/reproduce_paper.sh --dry-run: where it comes from, how large it is
# published to be, and what is here.
# shellcheck shell=bash disable=SC2154

# BENCHMARK|PATH|PUBLISHED SIZE|SOURCE, a line each; - is a size that is not published. Sizes are those of the file lists on the hub
# and of the authors' README.
needed_files() {
  local clevrer=http://data.csail.mit.edu/clevrer hub=https://huggingface.co/datasets chunk
  cat <<END
clevrer|data/clevrer/questions_train.json|-|$clevrer/questions/train.json
clevrer|data/clevrer/questions_validation.json|-|$clevrer/questions/validation.json
clevrer|data/clevrer/annotation_train.zip|157 MB|$clevrer/annotations/train/annotation_train.zip
clevrer|data/clevrer/annotation_validation.zip|78 MB|$clevrer/annotations/validation/annotation_validation.zip
clevrer|data/clevrer/video_train.zip|12.4 GB|$clevrer/videos/train/video_train.zip
clevrer|data/clevrer/video_validation.zip|6.2 GB|$clevrer/videos/validation/video_validation.zip
clevrer|data/clevrer/annotations|-|unpacked
clevrer|data/clevrer/videos|18.6 GB|unpacked
mmvu|data/mmvu/validation.json|-|$hub/yale-nlp/MMVU
mmvu|data/mmvu/videos|0.9 GB|$hub/yale-nlp/MMVU
mvbench|data/mvbench/json|-|$hub/OpenGVLab/MVBench (consent, HF_TOKEN)
mvbench|data/mvbench/video/FunQA_test.zip|1.35 GB|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/Moments_in_Time_Raw.zip|67 MB|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/clevrer.zip|1.12 GB|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/data0613.zip|43 MB|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/perception.zip|11.2 GB|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/scene_qa.zip|526 MB|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/ssv2_video.zip|-|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/sta.zip|-|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/star.zip|-|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/tvqa.zip|-|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/vlnqa.zip|-|$hub/OpenGVLab/MVBench
mvbench|data/mvbench/video/nturgbd|-|a licence of its own: rose1.ntu.edu.sg/dataset/actionRecognition (200 questions)
tempcompass|data/tempcompass/questions|-|https://github.com/llyx97/TempCompass
tempcompass|data/tempcompass/tempcompass_videos.zip|418 MB|$hub/lmms-lab/TempCompass
videomme|data/videomme/videomme/test-00000-of-00001.parquet|-|$hub/lmms-lab/Video-MME
videomme|data/videomme/subtitle.zip|7.5 MB|$hub/lmms-lab/Video-MME
END
  for chunk in 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19 20; do
    echo "videomme|data/videomme/videos_chunked_$chunk.zip|5 GB|$hub/lmms-lab/Video-MME"
  done
  cat <<END
videomme|data/videomme/data|101 GB|unpacked
video_holmes|data/video_holmes/test_Video-Holmes.json|-|$hub/TencentARC/Video-Holmes
video_holmes|data/video_holmes/videos.zip|5 GB|$hub/TencentARC/Video-Holmes
protocols|data/protocols/authors/src/eval/eval_bench.py|11 KB|https://github.com/falonss703/VideoThinker
END
}

size_of() { du -shL "$1" | cut -f 1; }

# A folder of the Hugging Face cache, for a hub id.
cached_model() {
  local hub=${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}
  echo "$hub/models--${1//\//--}"
}

line() { printf '%-8s %8s  %9s  %-53s %s\n' "$@"; }

# Whether an archive is gone because all of it is unpacked: the record of data/NAME says so.
is_unpacked() { # PATH
  local below=${1#data/}
  local record=data/${below%%/*}/.download/files.jsonl
  [ -e "$record" ] && grep -qF "\"what\":\"unpacked\",\"archive\":\"${below#*/}\"" "$record"
}

# list_file PATH PUBLISHED SOURCE
list_file() {
  if [ -e "$1" ]; then
    line there "$(size_of "$1")" "$2" "$1" "$3"
  elif is_unpacked "$1"; then
    line unpacked '' "$2" "$1" "$3"
  else
    line missing '' "$2" "$1" "$3"
  fi
}

list_files() { # BENCHMARK…
  local wanted=" $* " benchmark path published source
  line state here published path from
  while IFS='|' read -r benchmark path published source; do
    if [[ $wanted == *" $benchmark "* ]]; then list_file "$path" "$published" "$source"; fi
  done < <(needed_files)
}

list_model() { # MODEL
  if [ -d "$1" ]; then
    line there "$(size_of "$1")" '' "$1" 'a folder'
  elif [ -d "$(cached_model "$1")" ]; then
    line there "$(size_of "$(cached_model "$1")")" '7.5 GB' "$1" 'the cache of Hugging Face'
  else
    line missing '' '7.5 GB' "$1" "https://huggingface.co/$1"
  fi
}

# A run keeps its last checkpoint, with the state of the optimizer, and while one is replaced a second.
list_run() { # NAME
  if [ -d "runs/clevrer/$1" ]; then
    line there "$(size_of "runs/clevrer/$1")" '53 GB' "runs/clevrer/$1" 'made here'
  else
    line 'to make' '' '53 GB' "runs/clevrer/$1" "configs/clevrer/$1.toml"
  fi
}

# estimates CONFIG VERB [ARGUMENT…]: memory and time on the cards that the paper and this script are about.
estimates() {
  settings_of "$2"
  local arguments=(--config "$1" --for "$2" --set "model.path=$base" ${chosen[@]+"${chosen[@]}"} "${@:3}")
  "$run" estimate --card h200 "${arguments[@]}"
  echo
  "$run" estimate --card a6000 --ranks 2 "${arguments[@]}" --set optimizer.memory=compact
}
