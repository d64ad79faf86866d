#!/usr/bin/env python3
"""Reading clips side by side: videothinker against decord and PyAV on the same frames of the same clips.

    benches/peers/decode.py [--repeats 5] [--copies 40] [--threads 2] [CLIP...]

Without clips it makes three: two like CLEVRER's (480x320, 128 frames, 10 taken), one lossless as CLEVRER's are and one
lossy, and ten minutes of 1280x720 (32 taken). Needs: pip install av decord numpy torch torchvision transformers, and cargo.

Three stages are timed. `frames`: RGB frames in the file's size. `resized`: those in the model's size, which is what
`data check` reads; the peers do it as qwen-vl-utils does, with torchvision's antialiased bicubic. `loader`: normalised
patches, by our training loader; the peers make them with transformers' Qwen2VLVideoProcessor.

Each figure is of one clip. Of a short clip many copies are read, side by side on --threads threads of a process that has read two
before; a long one is read once, by us on --threads threads. The peers give a clip's decoder one thread, or leave it to
FFmpeg ("auto": decord's default, and so qwen-vl-utils'); torch has one thread a clip, of a long one --threads. CPU time
counts every thread. All take turns; medians are shown.

The frames of all must be the same to the bit. PyAV decodes every frame up to the last one taken; in a long clip it seeks.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLOCKS = ["cpu", "wall"]
OURS = ("videothinker", "1 a share")
STAGES = ["frames", "resized", "loader"]
LONG_BYTES = 20_000_000
# Of CLEVRER's 5 seconds, 10 are taken all the same.
MAX_FRAMES = 32

PEER = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np

request = json.load(sys.stdin)
clips, indices, stage, auto = request["clips"], request["indices"], request["stage"], request["auto"]

def with_decord(path):
    import decord
    return decord.VideoReader(path, num_threads=0 if auto else 1).get_batch(indices).asnumpy()

def with_pyav(path):
    import av
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if auto else "NONE"
        if not auto:
            stream.codec_context.thread_count = 1
        frames = at_times(container, stream) if len(clips) == 1 else from_the_start(container)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])

def from_the_start(container):
    wanted = set(indices)
    for i, frame in enumerate(container.decode(video=0)):
        if i in wanted:
            yield frame
        if i >= indices[-1]:
            break

def at_times(container, stream):
    ticks = 1 / stream.average_rate / stream.time_base
    for i in indices:
        wanted = round(i * ticks) + (stream.start_time or 0)
        container.seek(wanted, stream=stream)
        yield next(frame for frame in container.decode(stream) if frame.pts >= wanted)

decode = {"decord": with_decord, "PyAV": with_pyav}[request["peer"]]
if stage != "frames":
    import torch
    from torchvision.transforms import InterpolationMode, functional
    torch.set_num_threads(request["threads"] if len(clips) == 1 else 1)
if stage == "loader":
    from transformers import Qwen2VLVideoProcessor
    processor = Qwen2VLVideoProcessor(do_resize=False, do_sample_frames=False)

def read(path):
    frames = decode(path)
    if stage == "frames":
        return frames
    frames = torch.tensor(frames).permute(0, 3, 1, 2)
    resized = functional.resize(frames, request["size"], interpolation=InterpolationMode.BICUBIC, antialias=True)
    if stage == "resized":
        return resized.numpy()
    return processor([resized.float()], return_tensors="pt")["pixel_values_videos"].numpy()

if len(clips) > 1:
    for clip in clips[:2]:
        read(clip)
with ThreadPoolExecutor(request["threads"]) as pool:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in pool.map(read, clips):
        pass
    times = {"cpu": (time.process_time() - cpu) / len(clips), "wall": (time.perf_counter() - wall) / len(clips)}
if request["save"]:
    np.ascontiguousarray(read(clips[0])).tofile(request["save"])
print(json.dumps(times))
"""


def moving_texture(width, height, frames):
    """A moving texture with hard edges and camera noise."""
    import numpy as np

    random = np.random.default_rng(1)
    texture = random.integers(60, 190, (height // 8 + 1, width // 8 * 2, 3)).astype(np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)[:height]
    noise = [random.integers(-5, 6, (height, width, 3)).astype(np.int8) for _ in range(8)]
    for i in range(frames):
        shift = i * 2 % width
        picture = texture[:, shift : shift + width] + noise[i % 8]
        x, y = i * 5 % (width - 80), i * 3 % (height - 80)
        picture[y : y + 80, x : x + 80] = [i % 256, 255 - i % 256, 40]
        yield picture.astype(np.uint8)


def rolling_balls(width, height, frames):
    """Shaded balls with soft shadows on a floor, grained as a renderer leaves it whose seed is the same for each frame."""
    import numpy as np

    random = np.random.default_rng(2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    floor = 150 - 45 * ((x / width - 0.5) ** 2 + (1 - y / height) ** 2)
    grain = random.normal(0, 1, (height, width, 3)).astype(np.float32)
    balls = [(random.uniform(14, 30), random.uniform(0, width), random.uniform(90, height - 40),
              random.uniform(-3, 3), random.uniform(30, 220, 3)) for _ in range(5)]
    for i in range(frames):
        picture = np.repeat(floor[..., None], 3, axis=2)
        for radius, left, top, speed, _ in balls:
            far = ((x - left - speed * i - radius / 2) / 1.6) ** 2 + ((y - top - radius) * 1.8) ** 2
            picture *= 1 - 0.45 * np.exp(-far / radius**2)[..., None]
        for radius, left, top, speed, colour in balls:
            dx, dy = (x - left - speed * i) / radius, (y - top) / radius
            light = 0.35 + 0.65 * np.clip(1 - (dx + 0.4) ** 2 - (dy + 0.5) ** 2, 0, 1)
            inside = dx**2 + dy**2 < 1
            picture[inside] = (light[..., None] * colour)[inside]
        picture += grain * (0.5 + picture / 150)
        yield np.clip(picture, 0, 255).astype(np.uint8)


def encode(path, pictures, width, height, rate, options):
    """Groups of pictures of 250 frames."""
    import av

    print(f"making {path}", file=sys.stderr)
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": "250", **options}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    part.rename(path)


def made_clips(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content, width, height, rate, frames, options in [
        ("clevrer_lossless.mp4", rolling_balls, 480, 320, 25, 128, {"qp": "0"}),
        ("clevrer_lossy.mp4", moving_texture, 480, 320, 25, 128, {"preset": "veryfast", "b": "1900000"}),
        ("ten_minutes.mp4", moving_texture, 1280, 720, 30, 18_000, {"preset": "veryfast", "b": "2000000"}),
    ]:
        path = folder / name
        if not path.exists():
            encode(path, content(width, height, frames), width, height, rate, options)
        yield path


def is_long(clip):
    return clip.stat().st_size > LONG_BYTES


def copies(clip, count, folder):
    """Each of its own name: what has been read under one name may be kept."""
    paths = []
    for i in range(count):
        path = folder / f"{clip.stem}-{i}{clip.suffix}"
        path.symlink_to(clip.resolve())
        paths.append(str(path))
    return paths


def built_bench():
    build = ["cargo", "bench", "--no-run", "--bench", "decode", "--message-format", "json"]
    lines = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines]
    return next(line["executable"] for line in built
                if line["reason"] == "compiler-artifact" and line["target"]["name"] == "decode" and line["executable"])


def ours(bench, threads, clips, stage, save=None):
    settings = ["--stage", stage, "--threads", str(threads), "--max-frames", str(MAX_FRAMES)]
    command = [bench, *settings, *clips, *(["--save", str(save)] if save else [])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def theirs(peer, auto, threads, clips, stage, clip, save=None):
    request = {"peer": peer, "auto": auto, "threads": threads, "clips": clips, "stage": stage,
               "indices": clip["indices"], "size": clip["resized"], "save": str(save) if save else None}
    result = subprocess.run([sys.executable, "-c", PEER], input=json.dumps(request), text=True, capture_output=True)
    if result.returncode != 0:
        raise RuntimeError((result.stderr.strip().splitlines() or ["?"])[-1])
    return json.loads(result.stdout)


def compare(arguments, bench, path, folder):
    """Prints a clip's table; whether all frames are the same."""
    clips = copies(path, 1 if is_long(path) else arguments.copies, folder)
    clip = ours(bench, arguments.threads, clips[:1], "frames")["clip"]
    taken, size = f"{len(clip['indices'])} of {clip['total_frames']} frames", path.stat().st_size / 1e6
    print(f"\n{path.name}: {taken}, {size:.1f} MB\n")
    print("| stage | reader | decoder threads | CPU ms | wall ms | CPU, times ours | wall, times ours |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    same = True
    for stage in STAGES[: 2 if is_long(path) else 3]:
        times, frames = take_turns(arguments, bench, clips, clip, stage, folder)
        base = times[OURS]
        for reader, found in times.items():
            ratios = [f"{found[clock] / base[clock]:.2f}" if reader != OURS else "" for clock in CLOCKS]
            cells = [stage, *reader, *(f"{found[clock] * 1e3:.1f}" for clock in CLOCKS), *ratios]
            print("| " + " | ".join(cells) + " |", flush=True)
        for reader, content in frames.items():
            if content != frames[OURS]:
                same = False
                print(f"\n{stage} of {reader[0]} ({reader[1]}) differ\n")
    return same


def take_turns(arguments, bench, clips, clip, stage, folder):
    """Median times of every reader, and, but for patches, what it read."""
    runs = {OURS: lambda save: ours(bench, arguments.threads, clips, stage, save)}
    for peer in ["decord", "PyAV"]:
        for threads in ["1", "auto"]:
            runs[peer, threads] = lambda save, peer=peer, auto=threads == "auto": theirs(
                peer, auto, arguments.threads, clips, stage, clip, save)
    times, frames = {reader: [] for reader in runs}, {}
    for repeat in range(arguments.repeats):
        for reader, read in runs.items():
            save = folder / "frames" if repeat == 0 and stage != "loader" else None
            times[reader].append(read(save))
            if save:
                frames[reader] = save.read_bytes()
    median = {reader: {clock: statistics.median(t[clock] for t in found) for clock in CLOCKS}
              for reader, found in times.items()}
    return median, frames


def versions(decoder):
    import av
    import decord
    import torch
    import torchvision
    import transformers

    found = {module.__name__: module.__version__ for module in [decord, av, torch, torchvision, transformers]}
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"videothinker on {decoder}; {listed} (PyAV on FFmpeg {av.ffmpeg_version_info}), Python {platform.python_version()}; {len(os.sched_getaffinity(0))} cores of {model}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=40, help="of a short clip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "target/peers", help="where clips are made")
    parser.add_argument("clips", nargs="*", type=Path)
    arguments = parser.parse_args()
    bench = built_bench()
    same = True
    for i, clip in enumerate(arguments.clips or made_clips(arguments.folder)):
        if i == 0:
            print(versions(ours(bench, 1, [str(clip)], "frames")["decoder"]))
        with tempfile.TemporaryDirectory() as folder:
            same &= compare(arguments, bench, clip, Path(folder))
    print("\nall frames are the same" if same else "\nframes differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
