#!/usr/bin/env python3
"""Writes tests/golden/video/{frames,plan}.json and arrays.safetensors from qwen-vl-utils, decord, torchvision,
PyAV and transformers, and the clips/ that Pillow makes: an animated GIF, an animated PNG and a folder of images. Needs an x86-64 CPU
with AVX2. Run after scripts/make_test_clips.sh.

Frames come from `qwen_vl_utils.fetch_video` with decord. Where decord gives wrong frames (open groups of pictures,
edit lists, AVI, a beginning inside a group of pictures) or none (GIF, a folder) they come from a full decode by PyAV, converted to RGB the same way, resized by the same function.
"""

import json
import math
import os
import platform
import random
import sys
import zlib
from pathlib import Path

os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import decord
import numpy as np
import torch
import torchvision
import transformers
from importlib.metadata import version
from av.video.reformatter import Interpolation
from PIL import Image, ImageSequence
from qwen_vl_utils import vision_process as reference
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from transformers import Qwen2VLVideoProcessor

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "video"
SMALL = {"fps": 6.0, "min_frames": 4, "max_frames": 16, "min_pixels": 3136, "max_pixels": 12544}
PAPER = {"fps": 2.0, "min_frames": 4, "max_frames": 16, "min_pixels": 100352, "max_pixels": 153664}
BY_DECORD = ["h264.mp4", "gops.mp4", "h264_444_odd.mp4", "odd.webm", "vp9.webm", "vfr.mp4", "full_range.mp4",
             "large.mp4", "rotated.mp4"]
BY_FULL_DECODE = ["open_gop.mp4", "edit_list.mp4", "mpeg4.avi", "partial.gif", "frames#fps=3", "null_frames.avi", "packed.avi",
                  "mid_gop.ts", "no_key.mkv", "open_start.mp4", "partial.png"]
# Of each frame of the GIF, in milliseconds, and what becomes of it when the next one comes.
DELAYS = [100, 30, 500, 70, 1000, 50, 200, 40, 300, 60, 100, 250]
DISPOSALS = [1, 1, 1, 3, 1, 1, 3, 1, 1, 1, 3, 1]
SEED = 7


def picture(i, width, height):
    """A square that moves over stripes."""
    y, x = np.mgrid[:height, :width]
    values = np.stack([x // 8 * 40 % 256, y // 4 * 30 % 256, (x + y) // 16 * 60 % 256], axis=-1).astype(np.uint8)
    values[4 + i : 20 + i, 5 * i : 5 * i + 12] = [255 - 15 * i, 20 * i, 128]
    return values


def make_gif(path):
    """Frames of different lengths that hold only what changes, with transparent pixels, some of them taken back."""
    frames = [Image.fromarray(picture(i, 72, 48)).quantize(32) for i in range(len(DELAYS))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=DELAYS, disposal=DISPOSALS, loop=0)
    with Image.open(path) as image:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    for frame, ours in zip(shown, rgb_frames(path)[0], strict=True):
        assert np.array_equal(frame, ours)


def make_apng(path):
    """The same as an animated PNG, by the name of a PNG."""
    frames = [Image.fromarray(picture(i, 72, 48)) for i in range(len(DELAYS))]
    disposals = [min(disposal, 2) - 1 for disposal in DISPOSALS]
    frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:], duration=DELAYS, disposal=disposals, loop=0)
    for frame, ours in zip(frames, rgb_frames(path)[0], strict=True):
        assert np.array_equal(np.asarray(frame), ours)


SMOOTH = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def make_folder(path):
    path.mkdir(exist_ok=True)
    for i in range(9):
        image = Image.fromarray(picture(i, 84, 60))
        # A PNG under the name of a JPEG, as some datasets have them.
        name = path / f"{i + 1:05d}.jpg"
        image.save(name, **({"format": "PNG"} if i == 3 else {"quality": 80}))
        by_pillow = np.asarray(Image.open(name).convert("RGB")).astype(int)
        assert abs(rgb_image(name) - by_pillow).max() <= 3


def rgb_image(path):
    """An image, a JPEG's colours spread over its pixels as Pillow does it."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    if frame.format.name.startswith("yuv"):
        frame = frame.reformat(format="yuvj444p", interpolation=SMOOTH)
    return frame.reformat(format="rgb24", interpolation=SMOOTH).to_ndarray()


def rgb_frames(path):
    """All frames of a clip and how many of them a second has."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        fps = 1000 * len(DELAYS) / sum(DELAYS) if path.suffix in (".gif", ".png") else float(stream.average_rate)
        return [frame.reformat(format="rgb24", interpolation="BILINEAR").to_ndarray()
                for frame in container.decode(stream)], fps


def held(path, frames):
    """The frames of an AVI, each until the slot of the next one's packet."""
    with av.open(str(path)) as container:
        slots = sorted(packet.dts for packet in container.demux(video=0) if packet.size)
        count = container.streams.video[0].frames
    lengths = np.diff([*slots, max(count, slots[-1] + 1)])
    return [frame for frame, length in zip(frames, lengths, strict=True) for _ in range(length)]


def full_decode(path, config):
    """As fetch_video, from the frames that a player shows."""
    folder, _, fps = path.name.partition("#fps=")
    if fps:
        images = sorted((path.parent / folder).iterdir())
        frames, fps = [rgb_image(image) for image in images], float(fps)
    else:
        frames, fps = rgb_frames(path)
    if path.suffix == ".avi":
        frames = held(path, frames)
    count = reference.smart_nframes(dict(config), total_frames=len(frames), video_fps=fps)
    indices = torch.linspace(0, len(frames) - 1, count).round().long().tolist()
    video = torch.from_numpy(np.stack([frames[i] for i in indices])).permute(0, 3, 1, 2)
    size = reference.smart_resize(*video.shape[2:], factor=28, min_pixels=config["min_pixels"],
                                  max_pixels=config["max_pixels"])
    video = resize(video, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return video, {"fps": fps, "frames_indices": indices, "total_num_frames": len(frames)}, \
        count / len(frames) * fps, list(frames[0].shape[:2])


def case(name, config, by_decord):
    path = GOLDEN / "clips" / name
    if by_decord:
        (video, metadata), sample_fps = reference.fetch_video(
            {"video": str(path), **config}, return_video_sample_fps=True, return_video_metadata=True)
        assert metadata["video_backend"] == "decord"
        first = decord.VideoReader(str(path))[0].asnumpy()
        source_size = list(first.shape[:2])
    else:
        video, metadata, sample_fps, source_size = full_decode(path, config)
    frames = video.numpy().astype(np.uint8)
    count, _, height, width = frames.shape
    grid = [count // 2, height // 14, width // 14]
    clip = {"total_frames": metadata["total_num_frames"], "fps": float(metadata["fps"]),
            "indices": list(metadata["frames_indices"]), "sample_fps": float(sample_fps),
            "source_size": source_size, "resized": [height, width], "grid_thw": grid,
            "video_tokens": math.prod(grid) // 4, "second_per_grid": 2 / float(sample_fps)}
    return {"file": name, "reference": "decord" if by_decord else "full decode", "config": config, "clip": clip,
            "crc32": [zlib.crc32(np.ascontiguousarray(frame).tobytes()) for frame in frames]}


def plan_tables(rng):
    counts, sizes = [], []
    for _ in range(200):
        total, fps = rng.randint(1, 2000), rng.choice([5.0, 23.976, 24.0, 25.0, 30000 / 1001, 30.0, 60.0])
        config = {"fps": rng.choice([0.5, 1.0, 2.0, 4.0]), "min_frames": rng.choice([2, 4, 5, 8]),
                  "max_frames": rng.choice([8, 9, 16, 32])}
        try:
            count = reference.smart_nframes(dict(config), total_frames=total, video_fps=fps)
            indices = torch.linspace(0, total - 1, count).round().long().tolist()
        except ValueError:
            count, indices = None, []
        counts.append({"total": total, "fps": fps, "config": config, "count": count, "indices": indices})
    for _ in range(200):
        height, width = rng.randint(16, 1500), rng.randint(16, 2000)
        min_tokens = rng.choice([4, 16, 128])
        max_tokens = min_tokens + rng.choice([0, 12, 68, 640])
        if rng.random() < 0.05:
            height, width = 7, 1500
        bounds = {"min_pixels": min_tokens * 784, "max_pixels": max_tokens * 784}
        try:
            size = reference.smart_resize(height, width, 28, **bounds)
        except ValueError:
            size = None
        if size is not None and 0 in size:
            continue  # upstream cannot resize to nothing; ours keeps one factor
        sizes.append({"height": height, "width": width, **bounds, "size": size})
    return {"counts": counts, "sizes": sizes}


def arrays():
    generator = np.random.default_rng(SEED)
    out = {}
    for i, (source, target) in enumerate([((37, 53), (28, 56)), ((64, 48), (28, 28)), ((20, 31), (56, 84)),
                                          ((91, 40), (28, 56)), ((28, 60), (28, 28))]):
        image = generator.integers(0, 256, (3, *source), dtype=np.uint8)
        resized = resize(torch.from_numpy(image), list(target), interpolation=InterpolationMode.BICUBIC, antialias=True)
        out[f"resize.{i}.source"] = np.ascontiguousarray(image.transpose(1, 2, 0))
        out[f"resize.{i}.target"] = np.ascontiguousarray(resized.numpy().transpose(1, 2, 0))
    processor = Qwen2VLVideoProcessor(do_resize=False, do_sample_frames=False)
    for i, shape in enumerate([(4, 3, 28, 56), (3, 3, 28, 28), (2, 3, 56, 28)]):
        frames = generator.integers(0, 256, shape, dtype=np.uint8)
        # As in qwen-vl-utils' hand-over: resized frames as floats 0..255.
        result = processor(videos=[torch.from_numpy(frames).float()], return_tensors="pt")
        out[f"patches.{i}.frames"] = frames
        out[f"patches.{i}.values"] = result["pixel_values_videos"].numpy().astype(np.float32)
        out[f"patches.{i}.grid_thw"] = result["video_grid_thw"][0].numpy().astype(np.int64)
    return out


def main():
    make_gif(GOLDEN / "clips" / "partial.gif")
    make_apng(GOLDEN / "clips" / "partial.png")
    make_folder(GOLDEN / "clips" / "frames")
    versions = {name: version(name) for name in
                ["qwen-vl-utils", "decord", "torch", "torchvision", "transformers", "av", "pillow"]}
    meta = {"versions": versions, "seed": SEED, "python": platform.python_version(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    cases = [case(name, SMALL, True) for name in BY_DECORD] + [case(name, SMALL, False) for name in BY_FULL_DECODE]
    cases += [case(name, PAPER, True) for name in ["h264.mp4", "h264_444_odd.mp4", "large.mp4"]]
    (GOLDEN / "frames.json").write_text(json.dumps({"made_with": meta, "cases": cases}, indent=1) + "\n")
    tables = plan_tables(random.Random(SEED))
    (GOLDEN / "plan.json").write_text(json.dumps({"made_with": meta, **tables}) + "\n")
    save_file(arrays(), GOLDEN / "arrays.safetensors", metadata={"made_with": json.dumps(meta)})


if __name__ == "__main__":
    sys.exit(main())
