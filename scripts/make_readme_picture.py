#!/usr/bin/env python3
"""Draws the README's picture from the quickstart's runs: a clip, a question that one model got wrong and the other right.

    python scripts/make_readme_picture.py --binary target/release/videothinker --world runs/mini/world \\
        --base runs/mini/eval/grpo --cdpo runs/mini/eval/cdpo --out docs/picture.png

Needs Pillow (10.1 or later) and numpy. The question is picked by rule, so equal runs give an equal picture: of the inferential
questions that --base answers wrong after telling what is seen, and --cdpo right after thinking the object away, those that
are shortest to read, and of these the one whose clip changes most.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Twice the width at which pages show it.
WIDTH, MARGIN, GAP = 1600, 40, 24
INK, PAPER, LINE = "#1f2328", "#ffffff", "#d0d7de"
WRONG, RIGHT = ("#fff1f0", "#b42318"), ("#effaf3", "#1a7f37")
CANDIDATES = 40


def predictions(folder):
    lines = (Path(folder) / "outputs.jsonl").read_text().splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def parts(completion):
    """The thinking of a completion as sentences, and its answer."""
    match = re.fullmatch(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", completion, re.S)
    if not match:
        return None
    thinking = [one.strip() for one in re.split(r"(?<=\.)\s+", match[1].strip()) if one.strip()]
    return thinking, match[2].strip()


def candidates(base, cdpo):
    """Questions that the one got wrong and the other right, the shortest to read first."""
    found = []
    for name, theirs in sorted(base.items()):
        ours = cdpo.get(name)
        if ours is None or theirs.get("kind") != "inferential":
            continue
        before, after = (parts(one["samples"][0]["completion"]) for one in (theirs, ours))
        # Who thinks the object away says so in a second sentence.
        if not before or not after or len(before[0]) != 1 or len(after[0]) != 2:
            continue
        if theirs["exact"] < 1 <= ours["exact"]:
            length = len(ours["question"]) + len(ours["samples"][0]["completion"])
            found.append((length, name))
    return [name for _, name in sorted(found)[:CANDIDATES]]


def tensors(path):
    """What a safetensors file holds."""
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    types = {"U8": np.uint8, "F32": np.float32}
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            values = np.frombuffer(data[8 + size + start : 8 + size + end], types[entry["dtype"]])
            found[name] = values.reshape(entry["shape"])
    return found


def frames(binary, clip, model, config):
    """The frames that the model sees, larger where the clip has the pixels: [T, H, W, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frames.safetensors"
        command = [binary, "inspect", "video", clip, "--model", model, "--config", config, "--save", out]
        larger = ["--set", "video.max_pixels=50176", "--set", "video.min_pixels=50176"]
        subprocess.run([str(word) for word in command + larger], check=True, stdout=subprocess.DEVNULL)
        return tensors(out)["frames"].transpose(0, 2, 3, 1)


def font(size):
    return ImageFont.load_default(size)


def wrapped(text, width, face):
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def shortened(sentences, width, face, most):
    """As many of the sentences as there is room for, the last ones; what is left out is marked. Each begins a line."""
    kept = list(sentences)
    while len(kept) > 1 and sum(len(wrapped(one, width, face)) for one in kept) > most:
        kept.pop(0)
    return kept if len(kept) == len(sentences) else [f"… {kept[0]}", *kept[1:]]


class Card:
    """A picture that grows downwards."""

    def __init__(self):
        self.image = Image.new("RGB", (WIDTH, 2000), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.top = MARGIN

    def write(self, text, size, left=MARGIN, width=WIDTH - 2 * MARGIN, top=None, fill=INK, bold=False):
        """Writes lines and says where they end."""
        face = font(size)
        y = self.top if top is None else top
        for line in wrapped(text, width, face):
            self.draw.text((left, y), line, fill=fill, font=face, stroke_width=0.6 if bold else 0)
            y += round(size * 1.36)
        return y

    def row(self, images):
        side = (WIDTH - 2 * MARGIN - 10 * (len(images) - 1)) / len(images)
        for index, one in enumerate(images):
            left = round(MARGIN + index * (side + 10))
            size = (round(side), round(side * one.shape[0] / one.shape[1]))
            scaled = Image.fromarray(one).resize(size, Image.LANCZOS)
            self.image.paste(scaled, (left, self.top))
            end = self.top + scaled.height
        self.frames_end = end
        self.top = end + GAP

    def box(self, left, width, height, title, verdict, sentences, colours):
        paper, ink = colours
        self.draw.rounded_rectangle((left, self.top, left + width, self.top + height), 18, paper, ink, 2)
        inner, room = left + 24, width - 48
        y = self.write(title, 32, inner, room, self.top + 16, ink, bold=True)
        self.draw.text((left + width - 24, self.top + 16), verdict, fill=ink, font=font(32), anchor="ra", stroke_width=0.6)
        for index, sentence in enumerate(sentences):
            y = self.write(sentence, 28, inner, room, y + 6, INK if index == 0 else ink)

    def save(self, path):
        height = self.top + MARGIN - GAP
        outline = (1, 1, WIDTH - 2, height - 2)
        self.draw.rounded_rectangle(outline, 28, None, LINE, 3)
        whole = self.image.crop((0, 0, WIDTH, height))
        # Colours enough for the frames and for the words make a small file; outside the corners the page shows.
        palette = []
        for part, colours in ((whole.crop((0, 0, WIDTH, self.frames_end)), 171), (whole.crop((0, self.frames_end, WIDTH, height)), 84)):
            palette += part.quantize(colours, method=Image.Quantize.MEDIANCUT).getpalette()[: 3 * colours]
        colours = Image.new("P", (1, 1))
        colours.putpalette(palette)
        flat = whole.quantize(palette=colours, dither=Image.Dither.NONE)
        outside = Image.new("L", (WIDTH, height), 255)
        ImageDraw.Draw(outside).rounded_rectangle(outline, 28, 0)
        flat.paste(255, mask=outside)
        flat.save(path, optimize=True, transparency=255)


def picture(arguments, pick, base, cdpo, images):
    theirs, ours = base[pick], cdpo[pick]
    card = Card()
    card.row(list(images))
    question, *options = ours["question"].splitlines()
    card.top = card.write(question, 40, bold=True) + 8
    for option in options:
        card.top = card.write(option, 30)
    card.top += GAP
    width = (WIDTH - 2 * MARGIN - GAP) // 2
    boxes = []
    for title, one, verdict, colours in (
        (arguments.base_name, theirs, "wrong", WRONG),
        ("CDPO", ours, "right", RIGHT),
    ):
        thinking, answer = parts(one["samples"][0]["completion"])
        sentences = shortened(thinking, width - 48, font(28), 10)
        boxes.append((title, f"answers {answer}: {verdict}", sentences, colours))
    tall = [
        sum(6 + round(28 * 1.36) * len(wrapped(one, width - 48, font(28))) for one in sentences)
        for _, _, sentences, _ in boxes
    ]
    height = 16 + round(32 * 1.36) + max(tall) + 18
    for index, (title, verdict, sentences, colours) in enumerate(boxes):
        card.box(MARGIN + index * (width + GAP), width, height, title, verdict, sentences, colours)
    card.top += height + GAP
    card.save(arguments.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/videothinker")
    parser.add_argument("--world", type=Path, default=Path("runs/mini/world"))
    parser.add_argument("--base", type=Path, default=Path("runs/mini/eval/grpo"), help="evaluation of the model to compare with")
    parser.add_argument("--base-name", default="GRPO", help="what the picture calls it")
    parser.add_argument("--cdpo", type=Path, default=Path("runs/mini/eval/cdpo"), help="evaluation of the CDPO model")
    parser.add_argument("--model", type=Path, default=Path("data/mini"), help="a model folder whose patches clips are to fit")
    parser.add_argument("--config", type=Path, default=Path("configs/mini/eval.toml"))
    parser.add_argument("--out", type=Path, default=Path("docs/picture.png"))
    arguments = parser.parse_args()

    base, cdpo = predictions(arguments.base), predictions(arguments.cdpo)
    names = candidates(base, cdpo)
    if not names:
        parser.exit(1, f"no inferential question that {arguments.base} answers wrong and {arguments.cdpo} right\n")
    best = None
    for name in names:
        clip = arguments.world.joinpath("videos", *Path(cdpo[name]["video"]).parts[-2:])
        images = frames(arguments.binary, clip, arguments.model, arguments.config)
        change = float(np.abs(np.diff(images.astype(np.float32), axis=0)).mean())
        if best is None or change > best[0]:
            best = (change, name, images)
    _, name, images = best
    picture(arguments, name, base, cdpo, images)
    print(f"{arguments.out}: question {name}, clip {Path(cdpo[name]['video']).name}, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
