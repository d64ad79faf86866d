# scripts/reproduce_paper.sh --mini: a workplace in which the same commands and configs meet a miniature world in the place of
# CLEVRER and a few invented questions about its clips in the place of the other benchmarks, in the layouts of their archives.
# shellcheck shell=bash disable=SC2154,SC2034

# Settings that make a training take seconds. What the benchmarks' protocols fix stays.
mini_settings() {
  local tiny setting
  base=$root/data/mini
  videorft=$base released_policy=$base released_bias=$base
  device=cpu
  tiny=(model.dtype=f32 data.samples=4 train.steps=2 train.questions_per_step=2 video.min_frames=4 video.max_frames=4
    video.min_pixels=12544 video.max_pixels=12544 sampling.group_size=4 sampling.max_new_tokens=32)
  for setting in "${tiny[@]}"; do settings+=(--set "$setting"); done
  eval_settings=(--set model.dtype=f32)
}

# The folder in which the rest of the script runs.
mini_workplace() {
  local work=$root/runs/paper_mini
  mkdir -p "$work"
  cd "$work" || return
  ln -sfn "$root/configs" configs
  [ -d data ] && return
  # Made under another name first, so that an interruption leaves no half of it; another run may be as far at once.
  local part
  part=$(mktemp -d data.XXXXXX)
  mini_clevrer "$part/clevrer"
  local clips=("$part"/clevrer/videos/*/*.mp4)
  mini_mmvu "$part/mmvu" "${clips[@]}"
  mini_video_holmes "$part/video_holmes" "${clips[@]}"
  mini_mvbench "$part/mvbench" "${clips[@]}"
  mini_tempcompass "$part/tempcompass" "${clips[@]}"
  mini_videomme "$part/videomme" "${clips[@]}"
  if [ -d data ]; then rm -rf "$part"; else mv "$part" data; fi
}

put() { # FILE COPY
  mkdir -p "$(dirname "$2")"
  cp "$1" "$2"
}

mini_clevrer() { # FOLDER
  local split
  "$run" data mini --out "$1" --seed 2026 --train 8 --validation 3 >&2
  for split in train validation; do mv "$1/$split.json" "$1/questions_$split.json"; done
  rm "$1"/{train,validation}_questions.json
}

mini_mmvu() { # FOLDER CLIP…
  put "$2" "$1/videos/Mechanics/0.mp4"
  put "$3" "$1/videos/Art/1.mp4"
  cat >"$1/validation.json" <<'END'
[{"id": "validation_0", "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Mechanics/0.mp4", "youtube_url": "",
  "question_type": "multiple-choice", "metadata": {"subject": "Mechanics", "textbook": "", "knowledge": [], "rationale": ""},
  "question": "What happens to two shapes that meet?", "choices": {"A": "They stop.", "B": "They collide.", "C": "They vanish.",
  "D": "They grow.", "E": "They split."}, "answer": "B"},
 {"id": "validation_1", "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Art/1.mp4", "youtube_url": "",
  "question_type": "multiple-choice", "metadata": {"subject": "Art", "textbook": "", "knowledge": [], "rationale": ""},
  "question": "From where are the shapes seen?", "choices": {"A": "from above", "B": "from below", "C": "from within", "D": "from behind",
  "E": "from nowhere"}, "answer": "A"},
 {"id": "validation_2", "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Art/1.mp4", "youtube_url": "",
  "question_type": "open-ended", "metadata": {"subject": "Art", "textbook": "", "knowledge": [], "rationale": ""},
  "question": "What is drawn?", "choices": {"A": "", "B": "", "C": "", "D": "", "E": ""}, "answer": "shapes"}]
END
}

mini_video_holmes() { # FOLDER CLIP…
  put "$2" "$1/videos/case-one.mp4"
  cat >"$1/test_Video-Holmes.json" <<'END'
[{"video ID": "case-one", "Question ID": "1", "Question Type": "SR", "Question": "What have the shapes to do with each other?",
  "Options": {"A": "They collide.", "B": "They are siblings.", "C": "They are rivals.", "D": "They are one.", "E": "They hide.",
  "F": "They never meet."}, "Answer": "A", "Explanation": ""},
 {"video ID": "case-one", "Question ID": "2", "Question Type": "TCI", "Question": "Why does one of them turn?",
  "Options": {"A": "It is tired.", "B": "It is hit.", "C": "It is lost.", "D": "It is late.", "E": "It is bored.", "F": "It does not."},
  "Answer": "B", "Explanation": ""}]
END
}

mini_mvbench() { # FOLDER CLIP…
  put "$2" "$1/video/clevrer/video_validation/video_10000.mp4"
  put "$3" "$1/video/star/Charades_v1_480/ABCDE.mp4"
  mkdir -p "$1/json"
  cat >"$1/json/moving_count.json" <<'END'
[{"video": "video_10000.mp4", "question": "How many shapes move?", "candidates": ["0", "1", "2", "3"], "answer": "2"}]
END
  cat >"$1/json/action_sequence.json" <<'END'
[{"video": "ABCDE.mp4", "question": "What came first?", "candidates": ["They moved.", "They stopped.", "They met.", "They left."],
  "answer": "They moved.", "start": 0.0, "end": 2.0}]
END
}

mini_tempcompass() { # FOLDER CLIP…
  put "$2" "$1/videos/1000001.mp4"
  mkdir -p "$1/questions"
  cat >"$1/questions/multi-choice.json" <<'END'
{"1000001": {"direction": [{"question": "Where do the shapes go?\nA. nowhere\nB. towards each other\nC. away", "answer": "B. towards each other"}]}}
END
  cat >"$1/questions/yes_no.json" <<'END'
{"1000001": {"speed": [{"question": "Do the shapes move?", "answer": "yes"}]}}
END
  cat >"$1/questions/caption_matching.json" <<'END'
{"1000001": {"order": [{"question": "Which caption matches the video better?\nCaption A: Shapes move, then collide.\nCaption B: Shapes collide, then move.",
 "answer": "Caption A: Shapes move, then collide."}]}}
END
  cat >"$1/questions/captioning.json" <<'END'
{"1000001": {"direction": [{"question": "One of these is right: say it in a sentence.\nInformation A: {'subject': 'shapes', 'direction': 'away'}\nInformation B: {'subject': 'shapes', 'direction': 'towards each other'}\nGenerated Caption:",
 "answer": "B. towards each other"}]}}
END
}

# The official file is parquet: the invented rows that the tests read.
mini_videomme() { # FOLDER CLIP…
  put "$root/tests/golden/benchmark/videomme.parquet" "$1/videomme/test-00000-of-00001.parquet"
  put "$2" "$1/data/clip0.mp4"
  put "$3" "$1/data/clip1.mp4"
  put "$4" "$1/data/clip2.mp4"
}

mini_caveat() {
  cat <<'END'

This is the miniature: two steps of training of a tiny model, and a handful of invented questions in the place of each benchmark. Its
rows show that everything works and nothing else; the published rows belong to the real ones.
END
}
