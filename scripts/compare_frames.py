#!/usr/bin/env python3
"""Compares `videothinker inspect video` with qwen-vl-utils (decord) on any clips: which frames, what size, every byte.

    scripts/compare_frames.py CLIP...            compare
    scripts/compare_frames.py --time 5 CLIP...   and measure CPU time (best of 5, both in one go)

Needs: pip install qwen-vl-utils decord torch torchvision safetensors. Exit code 1 when any clip differs.
decord can hang on files with edit lists or without an index: each reference run has its own process and three minutes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

VIDEO = {"fps": 2.0, "min_frames": 4, "max_frames": 16, "min_pixels": 100352, "max_pixels": 153664}

REFERENCE = """
import json, os, sys, time
os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
import logging; logging.disable(logging.CRITICAL)
import torch; torch.set_num_threads(1)
from qwen_vl_utils.vision_process import fetch_video
from safetensors.torch import save_file
request = json.load(sys.stdin)
seconds = []
for _ in range(request["repeats"]):
    start = time.process_time()
    (frames, facts), sample_fps = fetch_video(dict(request["element"]), return_video_sample_fps=True,
                                              return_video_metadata=True)
    seconds.append(time.process_time() - start)
if facts["video_backend"] != "decord":
    sys.exit("decord cannot read it")
save_file({"frames": frames.to(torch.uint8).contiguous()}, request["out"])
print(json.dumps({"total_frames": facts["total_num_frames"], "fps": float(facts["fps"]),
                  "indices": list(facts["frames_indices"]), "sample_fps": float(sample_fps),
                  "seconds": min(seconds)}))
"""


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(arguments, clip, out):
    overrides = [part for key, value in VIDEO.items() for part in ("--set", f"video.{key}={value}")]
    command = [arguments.binary, "inspect", "video", str(clip), *overrides]
    seconds = []
    for _ in range(arguments.time or 1):
        start = cpu_seconds()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(cpu_seconds() - start)
    result = subprocess.run([*command, "--save", str(out)], check=True, capture_output=True, text=True)
    return json.loads(result.stdout), min(seconds)


def reference(arguments, clip, out):
    request = {"element": {"video": str(clip), **VIDEO}, "out": str(out), "repeats": arguments.time or 1}
    try:
        result = subprocess.run([sys.executable, "-c", REFERENCE], input=json.dumps(request), text=True,
                                capture_output=True, timeout=180)
    except subprocess.TimeoutExpired:
        return None, "the reference did not finish"
    if result.returncode != 0:
        return None, "the reference fails: " + (result.stderr.strip().splitlines() or ["?"])[-1]
    return json.loads(result.stdout), None


def compare(arguments, clip, folder):
    """What differs, or an empty text; and the CPU times."""
    from safetensors.numpy import load_file

    try:
        found, seconds = ours(arguments, clip, folder / "ours.safetensors")
    except subprocess.CalledProcessError as error:
        return f"videothinker fails: {(error.stderr or str(error)).strip()}", None
    expected, failure = reference(arguments, clip, folder / "reference.safetensors")
    if failure:
        return failure, None
    times = (seconds, expected.pop("seconds"))
    for key, value in expected.items():
        if found[key] != value and not (isinstance(value, float) and abs(found[key] - value) < 1e-9 * abs(value)):
            return f"{key}: {found[key]}, reference {value}", times
    a = load_file(folder / "ours.safetensors")["frames"]
    b = load_file(folder / "reference.safetensors")["frames"]
    if a.shape != b.shape:
        return f"shape: {a.shape}, reference {b.shape}", times
    frames = (a != b).reshape(len(a), -1).any(axis=1)
    if frames.any():
        largest = abs(a.astype(int) - b).max()
        return f"{frames.sum()} of {len(a)} frames differ, largest difference {largest}", times
    return "", times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/videothinker")
    parser.add_argument("--time", type=int, default=0, metavar="REPEATS")
    parser.add_argument("clips", nargs="+", type=Path)
    arguments = parser.parse_args()
    different = 0
    for clip in arguments.clips:
        with tempfile.TemporaryDirectory() as folder:
            difference, times = compare(arguments, clip, Path(folder))
        different += bool(difference)
        line = f"{clip}: {difference or 'identical'}"
        if arguments.time and times:
            line += f"; CPU {times[0] * 1e3:.0f} ms (whole process), reference {times[1] * 1e3:.0f} ms (fetch_video alone)"
        print(line)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
