#!/usr/bin/env python3
"""Decoding side by side: videothinker against decord and PyAV on the same frames of the same clips.

    benches/peers/decode.py [--repeats 5] [CLIP...]

Without clips it makes two: one like CLEVRER's (480x320, 128 frames, 10 taken) and ten minutes of 1280x720 (32 taken).
Needs: pip install av decord numpy pillow. videothinker is timed as `data check` of many copies of a clip (one of a long
clip), divided by their number: start and resizing included, copies side by side on all cores. The peers are timed
inside a process that has already imported them, one clip after the other, and do not resize. CPU time counts every
thread; the best of the repeats is shown. The frames of all three are compared: the peers' with each other bit by bit, ours with
theirs after resizing with Pillow, where rounding leaves a mean difference below one level in 256.
"""

import argparse
import json
import resource
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
times = []
for _ in range(request["repeats"]):
    cpu, wall = time.process_time(), time.perf_counter()
    frames = read()
    times.append((time.process_time() - cpu, time.perf_counter() - wall))
np.save(request["out"], frames)
print(json.dumps([min(t[0] for t in times), min(t[1] for t in times)]))
"""


def encode(path, width, height, rate, frames, bits):
    """A moving texture with hard edges and camera noise, in groups of pictures of 250 frames."""
    import av
    import numpy as np

    print(f"making {path}", file=sys.stderr)
    part = path.with_suffix(".part.mp4")
    random = np.random.default_rng(1)
    texture = random.integers(60, 190, (height // 8 + 1, width // 8 * 2, 3)).astype(np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)[:height]
    noise = [random.integers(-5, 6, (height, width, 3)).astype(np.int8) for _ in range(8)]
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", bits
        stream.options = {"preset": "veryfast", "g": "250"}
        for i in range(frames):
            shift = i * 2 % width
            picture = texture[:, shift : shift + width] + noise[i % 8]
            x, y = i * 5 % (width - 80), i * 3 % (height - 80)
            picture[y : y + 80, x : x + 80] = [i % 256, 255 - i % 256, 40]
            picture = picture.astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    part.rename(path)


def made_clips(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, *size in [("clevrer_like.mp4", 480, 320, 25, 128, 1_900_000),
                        ("ten_minutes.mp4", 1280, 720, 30, 18_000, 2_000_000)]:
        if not (folder / name).exists():
            encode(folder / name, *size)
        yield folder / name


def is_long(clip):
    return clip.stat().st_size > 20_000_000


def settings(clip):
    least, most = (32, 32) if is_long(clip) else (4, 16)
    return [f"--set=video.min_frames={least}", f"--set=video.max_frames={most}"]


def ours(arguments, clip, folder):
    """What is taken from the clip, and the best CPU and wall times of `data check` for one clip."""
    count = 1 if is_long(clip) else arguments.copies
    questions = []
    for i in range(count):
        copy = folder / f"{i}{clip.suffix}"
        copy.symlink_to(clip.resolve())
        questions.append(json.dumps({"problem": "?", "solution": "A", "video": str(copy)}))
    (folder / "q.jsonl").write_text("\n".join(questions))
    check = [arguments.binary, "data", "check", "--questions", folder / "q.jsonl", *settings(clip)]
    times = []
    for _ in range(arguments.repeats):
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(check, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall = time.perf_counter() - wall
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((cpu / count, wall / count))
    inspect = [arguments.binary, "inspect", "video", clip, *settings(clip), "--save", folder / "ours.safetensors"]
    result = subprocess.run(inspect, check=True, capture_output=True, text=True)
    return json.loads(result.stdout), (min(t[0] for t in times), min(t[1] for t in times))


def peer(arguments, name, clip, indices, out):
    request = {"peer": name, "clip": str(clip), "indices": indices, "out": str(out), "repeats": arguments.repeats}
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


def compare(arguments, clip, folder):
    import numpy as np

    facts, times = ours(arguments, clip, folder)
    print(f"{clip.name}: {len(facts['indices'])} of {facts['total_frames']} frames")
    print(f"  {'videothinker':<13} CPU {times[0] * 1e3:8.0f} ms   wall {times[1] * 1e3:8.0f} ms")
    found = saved_frames(folder / "ours.safetensors")
    first, same = None, True
    for name in ["decord", "PyAV"]:
        frames, peer_times = peer(arguments, name, clip, facts["indices"], folder / "peer.npy")
        if frames is None:
            print(f"  {name:<13} fails: {peer_times}")
            continue
        difference = abs(resized(frames, *facts["resized"]).astype(int) - found).mean(axis=(1, 2, 3)).max()
        same &= difference < 1 and (first is None or np.array_equal(frames, first))
        first = frames if first is None else first
        ratio = peer_times[0] / times[0], peer_times[1] / times[1]
        print(f"  {name:<13} CPU {peer_times[0] * 1e3:8.0f} ms   wall {peer_times[1] * 1e3:8.0f} ms   "
              f"{ratio[0]:.1f}x and {ratio[1]:.1f}x ours; largest mean difference of a frame {difference:.2f}")
    return same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/videothinker")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=40, help="of a short clip")
    parser.add_argument("--folder", type=Path, default=Path("target/peers"), help="where clips are made")
    parser.add_argument("clips", nargs="*", type=Path)
    arguments = parser.parse_args()
    same = True
    for clip in arguments.clips or made_clips(arguments.folder):
        with tempfile.TemporaryDirectory() as folder:
            same &= compare(arguments, clip, Path(folder))
    print("all frames agree" if same else "frames differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
