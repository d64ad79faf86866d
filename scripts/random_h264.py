#!/usr/bin/env python3
"""Whether leaving out pictures that are not needed changes any frame: random H.264 clips, random frames of them.

    scripts/random_h264.py [--clips 300] [--seed 1] [--keep FOLDER]

Makes small clips with x264 (references, pyramids, weights, motion guessed in either way, both kinds of entropy coding, slices,
open groups of pictures, numbers that begin again, 4:0:0 to 4:4:4, 8 and 10 bits, lossless, interlaced, refreshed in parts), each with
settings drawn at random, and has the unit test of `src/video/decode.rs` compare chosen frames with a full decode of the same clip. Of a
clip that differs, the settings are printed. Needs: pip install av numpy, and cargo.
"""

import argparse
import multiprocessing
import os
import random
import subprocess
import tempfile
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TEST = "pictures_that_are_not_needed_are_left_out_and_change_nothing"
CHOICES = {
    "ref": [1, 1, 1, 2, 3, 5, 16],
    "bframes": [1, 2, 3, 3, 5, 8, 16],
    "b-pyramid": ["none", "strict", "normal", "normal"],
    "b-adapt": [0, 1, 2],
    "b-bias": [0, 50],
    "weightp": [0, 1, 2],
    "weightb": [0, 1],
    "direct": ["spatial", "temporal", "auto"],
    "keyint": [12, 30, 250, "infinite"],
    "scenecut": [0, 40],
    "open-gop": [0, 0, 0, 1],
    "cabac": [0, 1],
    "8x8dct": [0, 1],
    "slices": [1, 1, 1, 2, 4],
    "deblock": ["0,0", "-3,2"],
    "no-deblock": [0, 0, 0, 1],
    "constrained-intra": [0, 0, 1],
    "intra-refresh": [0, 0, 0, 0, 1],
    "aud": [0, 1],
    "stitchable": [0, 1],
    "interlaced": [0] * 9 + [1],
}
FORMATS = ["yuv420p"] * 6 + ["yuv422p", "yuv444p", "gray", "yuv420p10le"]


def picture(i, width, height, noise, cut):
    """A gradient and a square that move, a cut now and then, grain."""
    y, x = np.mgrid[:height, :width]
    jump = i // cut * 37
    values = np.stack([2 * x + 3 * i + jump, 3 * y - 2 * i + jump, 2 * (x + y) + i + jump], axis=-1) % 256
    top, left = 20 + i % 40, 30 + 2 * i % 80
    values[top : top + 30, left : left + 30] = [200, 30 + i % 100, 60]
    values = values + np.random.default_rng(i).integers(-noise, noise + 1, values.shape)
    return values.clip(0, 255).astype(np.uint8)


def draw(rnd):
    drawn = {name: rnd.choice(values) for name, values in CHOICES.items()}
    return {
        "format": rnd.choice(FORMATS),
        "size": rnd.choice([(168, 112), (176, 144), (122, 90)]),
        "frames": rnd.choice([40, 75, 90, 300]),
        "noise": rnd.choice([0, 0, 4]),
        "cut": rnd.choice([1000, 23]),
        "options": {
            "preset": rnd.choice(["superfast", "veryfast", "faster", "fast", "medium", "slow"]),
            "qp": str(rnd.choice([0, 18, 26, 34, 42])),
            "x264-params": ":".join(f"{name}={value}" for name, value in drawn.items()),
        },
    }


def make(path, settings):
    av.logging.set_level(av.logging.PANIC)
    width, height = settings["size"]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, settings["format"]
        stream.options = settings["options"]
        for i in range(settings["frames"]):
            values = picture(i, width, height, settings["noise"], settings["cut"])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="leave the clips in this folder")
    arguments = parser.parse_args()
    rnd = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {}
        for i in range(arguments.clips):
            path = folder / f"{arguments.seed}_{i}.{rnd.choice(['mp4', 'mp4', 'mkv'])}"
            settings[path.name] = draw(rnd)
            # x264 refuses some settings together, and crashes with others.
            maker = multiprocessing.Process(target=make, args=(path, settings[path.name]))
            maker.start()
            maker.join()
            if maker.exitcode != 0:
                path.unlink(missing_ok=True)
        command = ["cargo", "test", "--lib", TEST, "--", "--nocapture"]
        environment = {**os.environ, "VIDEOTHINKER_TEST_CLIPS": str(folder.resolve())}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    for line in (result.stdout + result.stderr).splitlines():
        if "clips:" in line or "panicked" in line or ".m" in line:
            print(line)
    for name, drawn in settings.items():
        if result.returncode and f"/{name}:" in result.stdout + result.stderr:
            print(drawn)
    raise SystemExit(result.returncode)


if __name__ == "__main__":
    main()
