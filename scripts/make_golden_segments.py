#!/usr/bin/env python3
"""Frames that MVBench's own evaluator takes -> tests/golden/video/segments.json

Runs `get_index` of `mvbench.ipynb` in a clone of OpenGVLab/Ask-Anything; of it only the numbers are stored. Needs numpy (made with
the version in the file).

  scripts/make_golden_segments.py CLONE
"""
import json
import pathlib
import re
import sys
import textwrap
import types

import numpy as np

OUT = pathlib.Path(__file__).parent.parent / "tests/golden/video/segments.json"
SEGMENTS = 16


def evaluator(clone):
    cells = json.loads((clone / "video_chat2/mvbench.ipynb").read_text())["cells"]
    source = next("".join(cell["source"]) for cell in cells if "class MVBench_dataset" in "".join(cell["source"]))
    method = re.search(r"    def get_index\(self.*?(?=\n    def )", source, re.S).group(0)
    scope = {"np": np}
    exec(textwrap.dedent(method), scope)
    return lambda *arguments, **named: scope["get_index"](types.SimpleNamespace(num_segments=SEGMENTS), *arguments, **named)


def main():
    get_index = evaluator(pathlib.Path(sys.argv[1]))
    cases = []
    for total, fps in [(5, 25.0), (16, 12.0), (33, 29.97), (128, 25.0), (451, 23.976), (9000, 30.0)]:
        length = total / fps
        for bound in [None, (0.0, length), (length * 0.31, length * 0.83), (0.1, 0.9 * length), (length * 0.5, length + 20)]:
            frames = get_index(bound, fps, total - 1, first_idx=0)
            cases.append({"total": total, "fps": fps, "bound": bound, "folder": False, "frames": frames.tolist()})
    for total in (7, 36, 115, 270):
        length = total / 3
        for bound in [None, (0.0, length), (length * 0.31, length * 0.83), (0.0, length + 4)]:
            # Frames of a folder are numbered from 1.
            frames = get_index(bound, 3, total, first_idx=1) - 1
            cases.append({"total": total, "fps": 3.0, "bound": bound, "folder": True, "frames": frames.tolist()})
    lines = ",\n".join(json.dumps(case) for case in cases)
    OUT.write_text(f'{{"numpy": "{np.__version__}", "cases": [\n{lines}\n]}}\n')
    print(f"{len(cases)} cases -> {OUT}")


if __name__ == "__main__":
    main()
