#!/usr/bin/env python3
"""Writes tests/golden/benchmark/*.parquet: invented rows in the shapes of Video-MME and MMVU, as pyarrow writes them.

Needs pyarrow (made with 26.0.1; the files record their writer).
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path(__file__).resolve().parent.parent / "tests/golden/benchmark"


def videomme(index: int) -> dict:
    clip, question = divmod(index, 3)
    return {
        "video_id": f"{clip + 1:03}",
        "duration": ["short", "medium", "long"][clip],
        "domain": "Knowledge",
        "sub_category": "Biology",
        "url": "u",
        "videoID": f"clip{clip}",
        "question_id": f"{clip + 1:03}-{question + 1}",
        "task_type": "Counting",
        "question": f"How many cells are there at moment {index}?",
        "options": [f"A. {index}.", "B. none.", "C. two.", "D. all."],
        "answer": "ABCD"[index % 4],
    }


def mmvu(index: int) -> dict:
    multiple = index % 2 == 0
    return {
        "id": f"validation_{index}",
        "video": f"https://example.org/videos/Art/{index}.mp4",
        "youtube_url": "u",
        "question_type": "multiple-choice" if multiple else "open-ended",
        "metadata": {"subject": "Art", "textbook": None, "knowledge": ["k1", "k2"], "rationale": "r"},
        "question": f"Which style is shown in clip {index}?",
        "choices": {letter: f"style {letter}" if multiple else "" for letter in "ABCDE"},
        "answer": "C" if multiple else "Late Gothic",
    }


OUT.mkdir(parents=True, exist_ok=True)
pq.write_table(pa.Table.from_pylist([videomme(i) for i in range(9)]), OUT / "videomme.parquet")
pq.write_table(pa.Table.from_pylist([mmvu(i) for i in range(4)]), OUT / "mmvu.parquet")
