#!/usr/bin/env python3
"""Asks a checkpoint in transformers by the README's snippet and here, greedily, and fails when an answer differs.

    python scripts/check_transformers.py --model FOLDER --questions FILE --video-root DIR [--binary FILE] [--count N] [--set KEY=VALUE]…

Every question is answered by `videothinker eval run` without a config, so both sides know frames, pixels and words from the
checkpoint alone. The README's snippet runs as it stands, but for the folder, the clip and the question that it names. Needs
transformers 5, torch, av and accelerate. In f32 on a CPU all answers should be equal.
"""

import argparse
import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def snippet():
    """The README's Python block on transformers."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- transformers -->.*?```python\n(.*?)```", text, re.DOTALL)
    if not found:
        sys.exit("README.md has no Python block behind <!-- transformers -->")
    return found.group(1)


def with_values(code, values):
    """The code with the lines `name = …` of `values` replaced."""
    for name, value in values.items():
        code, count = re.subn(rf"^{name} = .*$", lambda _: f"{name} = {value!r}", code, flags=re.MULTILINE)
        if count != 1:
            sys.exit(f"the snippet has {count} lines `{name} = …`")
    return code


def in_transformers(code, values):
    """What the snippet prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(with_values(code, values), "README.md", "exec"), {"__name__": "snippet"})
    return printed.getvalue().removesuffix("\n")


def options(question):
    """The question as it is asked: with its options, where they stand apart."""
    listed = question.get("options") or []
    return "\n".join([question["problem"], *(f"{chr(65 + i)}. {text}" for i, text in enumerate(listed))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=pathlib.Path, required=True)
    parser.add_argument("--video-root", type=pathlib.Path, required=True)
    parser.add_argument("--binary", default=str(ROOT / "target/release/videothinker"))
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    code = snippet()
    chosen = json.loads(arguments.questions.read_text())
    # Different clips first.
    chosen = sorted(chosen, key=lambda q: sum(o["video"] == q["video"] for o in chosen[: chosen.index(q)]))[: arguments.count]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "questions.json"
        file.write_text(json.dumps(chosen))
        settings = [f"data.questions={file}", f"data.video_root={arguments.video_root.resolve()}", *arguments.set]
        command = [arguments.binary, "eval", "run", "--model", arguments.model, "--out", f"{folder}/out"]
        subprocess.run([*command, *(part for one in settings for part in ("--set", one))], check=True, stdout=subprocess.DEVNULL)
        lines = (pathlib.Path(folder) / "out/outputs.jsonl").read_text().splitlines()
    ours = {line["id"]: line["samples"][0]["completion"] for line in map(json.loads, lines) if "id" in line}
    equal = 0
    for question in chosen:
        clip = str(arguments.video_root / question["video"])
        theirs = in_transformers(code, {"folder": arguments.model, "clip": clip, "question": options(question)})
        same = theirs == ours[question["id"]]
        equal += same
        if not same:
            print(f"{question['id']}\n  here:         {ours[question['id']]}\n  transformers: {theirs}")
    print(f"{equal} of {len(chosen)} answers are equal")
    sys.exit(equal != len(chosen))


if __name__ == "__main__":
    main()
