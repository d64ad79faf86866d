#!/usr/bin/env python3
"""Decoding side by side: videothinker against decord and PyAV on the same frames of the same clips.

    benches/peers/decode.py [--repeats 5] [CLIP...]

Without clips it makes three: two like CLEVRER's (480x320, 128 frames, 10 taken), one of them lossless as CLEVRER's files
are, the other of their size; and ten minutes of 1280x720 (32 taken). Needs: pip install av decord numpy pillow torch torchvision.

videothinker is timed as `data check` of many copies of a clip (one of a long clip), divided by their number: what its
training loader does, from the file to frames of the model's size, and a share of the program's start; copies go side by side on all cores.
The peers are timed in a process that has already imported them, one clip after the other: decoding alone, and with the resizing of
qwen-vl-utils (torchvision, bicubic, antialiased), which is what a loader made of them does. CPU time counts every thread.
Rounds of all three alternate; the median is shown. The frames of all three are compared: the peers' with each other bit by
bit, ours with theirs after resizing with Pillow, where rounding leaves a mean difference below one level in 256.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = """
import json, sys, time
request = json.load(sys.stdin)
indices, path = request["indices"], request["clip"]
import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

def with_decord():
    import decord
    return lambda: decord.VideoReader(path).get_batch(indices).asnumpy()

def with_pyav():
    import av
    def read():
        wanted, frames = set(indices), {}
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for i, frame in enumerate(container.decode(video=0)):
                if i in wanted:
                    frames[i] = frame.to_ndarray(format="rgb24")
                if i >= indices[-1]:
                    break
        return np.stack([frames[i] for i in indices])
    return read

read = {"decord": with_decord, "PyAV": with_pyav}[request["peer"]]()

def load():
    video = torch.from_numpy(read()).permute(0, 3, 1, 2)
    return resize(video, request["size"], interpolation=InterpolationMode.BICUBIC, antialias=True).float()

def clocked(work):
    best = None
    for _ in range(request["repeats"]):
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        times = time.process_time() - cpu, time.perf_counter() - wall
        best = min(best or times, times)
    return result, best

frames, decoding = clocked(read)
_, loading = clocked(load)
np.save(request["out"], frames)
print(json.dumps([decoding, loading]))
"""


def textured(width, height, index, state):
    """A moving texture with hard edges and camera noise."""
    import numpy as np

    if not state:
        random = np.random.default_rng(1)
        texture = random.integers(60, 190, (height // 8 + 1, width // 8 * 2, 3)).astype(np.uint8)
        state["texture"] = texture.repeat(8, axis=0).repeat(8, axis=1)[:height]
        state["noise"] = [random.integers(-5, 6, (height, width, 3)).astype(np.int8) for _ in range(8)]
    shift = index * 2 % width
    picture = state["texture"][:, shift : shift + width] + state["noise"][index % 8]
    x, y = index * 5 % (width - 80), index * 3 % (height - 80)
    picture[y : y + 80, x : x + 80] = [index % 256, 255 - index % 256, 40]
    return picture.astype(np.uint8)


def rendered(width, height, index, state):
    """Shaded balls that roll over a still, lit floor: what a renderer gives, without noise."""
    import numpy as np

    if not state:
        y, x = np.mgrid[0:height, 0:width]
        light = 120 + 50 * np.exp(-((x - 0.4 * width) ** 2 + (y - 0.3 * height) ** 2) / (0.2 * width * height))
        state["x"], state["y"], state["floor"] = x, y, np.stack([light, light * 0.98, light * 0.95], axis=2)
    picture = state["floor"].copy()
    for ball, color in enumerate([(200, 60, 50), (60, 160, 200), (90, 180, 80), (170, 170, 60), (150, 90, 170)]):
        center = (60 + 90 * ball + 1.7 * index * (-1) ** ball) % width, 90 + 38 * ball + 0.3 * index
        offset = [(state["x"] - center[0]) / 26, (state["y"] - center[1]) / 26]
        depth = 1 - offset[0] ** 2 - offset[1] ** 2
        shade = 0.35 + 0.65 * np.sqrt(np.clip(depth, 0, 1)) - 0.2 * offset[0]
        cover = np.clip(depth * 12, 0, 1)[..., None]
        picture = picture * (1 - cover) + cover * shade[..., None] * np.array(color)
    return np.clip(picture, 0, 255).astype(np.uint8)


def encode(path, picture, width, height, rate, frames, options):
    """A clip in groups of pictures of 250 frames."""
    import av

    print(f"making {path}", file=sys.stderr)
    part, state = path.with_suffix(".part.mp4"), {}
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": "250", **options}
        for index in range(frames):
            array = picture(width, height, index, state)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    part.rename(path)


def made_clips(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, *clip in [
        ("clevrer_like.mp4", textured, 480, 320, 25, 128, {"preset": "veryfast", "b": "1900000"}),
        ("clevrer_lossless.mp4", rendered, 480, 320, 25, 128, {"preset": "medium", "qp": "0"}),
        ("ten_minutes.mp4", textured, 1280, 720, 30, 18_000, {"preset": "veryfast", "b": "2000000"}),
    ]:
        if not (folder / name).exists():
            encode(folder / name, *clip)
        yield folder / name


def is_long(clip):
    return clip.stat().st_size > 20_000_000


def settings(clip):
    least, most = (32, 32) if is_long(clip) else (4, 16)
    return [f"--set=video.min_frames={least}", f"--set=video.max_frames={most}"]


class Ours:
    """`data check` of copies of a clip."""

    def __init__(self, arguments, clip, folder):
        self.count = 1 if is_long(clip) else arguments.copies
        questions = []
        for i in range(self.count):
            copy = folder / f"{i}{clip.suffix}"
            copy.symlink_to(clip.resolve())
            questions.append(json.dumps({"problem": "?", "solution": "A", "video": str(copy)}))
        (folder / "q.jsonl").write_text("\n".join(questions))
        self.check = [arguments.binary, "data", "check", "--questions", folder / "q.jsonl", *settings(clip)]
        saved = folder / "ours.safetensors"
        inspect = [arguments.binary, "inspect", "video", clip, *settings(clip), "--save", saved]
        self.facts = json.loads(subprocess.run(inspect, check=True, capture_output=True, text=True).stdout)
        self.frames = saved_frames(saved)

    def times(self):
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(self.check, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall = time.perf_counter() - wall
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return cpu / self.count, wall / self.count


def peer(name, clip, facts, out):
    """Its frames, and its times for decoding and for loading; or why it fails."""
    repeats = 1 if is_long(clip) else 5
    request = {"peer": name, "clip": str(clip), "indices": facts["indices"], "size": facts["resized"], "out": str(out),
               "repeats": repeats}
    result = subprocess.run([sys.executable, "-c", PEER], input=json.dumps(request), text=True, capture_output=True)
    if result.returncode != 0:
        return None, (result.stderr.strip().splitlines() or ["?"])[-1]
    import numpy as np

    return np.load(out), json.loads(result.stdout)


def saved_frames(path):
    """`frames` of a safetensors file as [T, H, W, 3]."""
    import numpy as np

    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        entry = header["frames"]
        start = file.tell() + entry["data_offsets"][0]
        file.seek(start)
        count = entry["data_offsets"][1] - entry["data_offsets"][0]
        return np.frombuffer(file.read(count), np.uint8).reshape(entry["shape"]).transpose(0, 2, 3, 1)


def resized(frames, height, width):
    import numpy as np
    from PIL import Image

    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])


def medians(rounds):
    """CPU and wall time, each the median over the rounds."""
    return [statistics.median(times) for times in zip(*rounds)]


def compare(arguments, clip, folder):
    import numpy as np

    ours = Ours(arguments, clip, folder)
    facts = ours.facts
    own, others, frames, failures = [], {}, {}, {}
    for _ in range(arguments.repeats):
        own.append(ours.times())
        for name in ["decord", "PyAV"]:
            frames[name], times = peer(name, clip, facts, folder / "peer.npy")
            if frames[name] is None:
                failures[name] = times
                continue
            for work, clocked in zip(["", " + resize"], times):
                others.setdefault(name + work, []).append(clocked)
    size = clip.stat().st_size / 1e6
    print(f"{clip.name} ({size:.1f} MB): {len(facts['indices'])} of {facts['total_frames']} frames")
    cpu, wall = medians(own)
    print(f"  {'videothinker':<16} CPU {cpu * 1e3:8.0f} ms   wall {wall * 1e3:8.0f} ms")
    for name, rounds in others.items():
        times = medians(rounds)
        print(f"  {name:<16} CPU {times[0] * 1e3:8.0f} ms   wall {times[1] * 1e3:8.0f} ms   "
              f"{times[0] / cpu:.2f}x and {times[1] / wall:.2f}x ours")
    for name, reason in failures.items():
        print(f"  {name:<16} fails: {reason}")
    read = [array for array in frames.values() if array is not None]
    differences = [abs(resized(array, *facts["resized"]).astype(int) - ours.frames).mean(axis=(1, 2, 3)).max() for array in read]
    print(f"  largest mean difference of a frame: {max(differences, default=0):.2f}")
    return max(differences, default=0) < 1 and all(np.array_equal(read[0], array) for array in read)


def versions(binary):
    import importlib.metadata

    ours = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    peers = ["decord", "av", "torch", "torchvision", "numpy"]
    return ", ".join([ours, *(f"{name} {importlib.metadata.version(name)}" for name in peers), f"{os.cpu_count()} cores"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/videothinker")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=40, help="of a short clip")
    parser.add_argument("--folder", type=Path, default=Path("target/peers"), help="where clips are made")
    parser.add_argument("clips", nargs="*", type=Path)
    arguments = parser.parse_args()
    print(versions(arguments.binary))
    same = True
    for clip in arguments.clips or made_clips(arguments.folder):
        with tempfile.TemporaryDirectory() as folder:
            same &= compare(arguments, clip, Path(folder))
    print("all frames agree" if same else "frames differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
