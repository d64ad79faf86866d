"""Golden end-to-end numbers: a clip and a question through decord, qwen-vl-utils and transformers with the tiny model.

Writes tests/golden/ask: a small clip, tokenizer files for tests/golden/model/tiny (its ids are fixed: 270 text tokens,
then the special ones), and golden.json with prompt ids, position ids, greedy tokens and log-probabilities. Run from the
repository root with torch, transformers, qwen-vl-utils, decord and av installed.
"""

import json
import os
import pathlib
import shutil
import tempfile

os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"

import av
import numpy
import qwen_vl_utils
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

FOLDER = pathlib.Path("tests/golden/ask")
TINY = pathlib.Path("tests/golden/model/tiny")
BIAS = pathlib.Path("tests/golden/model/bias")
SHARED = pathlib.Path("tests/golden/prompt/tokenizer")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
QUESTION = "What happens?\nA. red\nB. blue"
WORDING = (
    "  Output the thinking process in <think> </think> and final answer (letters separated by , if multiple) in "
    "<answer> </answer> tags."
)
COMPLETIONS = ["<think>It moves.</think><answer>A</answer>", "B"]
MAX_TOKENS = 24
VIDEO = {"fps": 2.0, "min_frames": 4, "max_frames": 6, "min_pixels": 4 * 784, "max_pixels": 12 * 784}


def write_clip():
    """Twelve frames of a moving square at 4 frames a second, odd enough in size to need resizing."""
    with av.open(str(FOLDER / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 130, 98, "yuv420p"
        rows, columns = numpy.mgrid[0:98, 0:130]
        for index in range(12):
            frame = numpy.stack([rows * 2, columns, 255 - rows], axis=-1).astype(numpy.uint8)
            frame[20:60, 8 * index : 8 * index + 30] = [220, 40, 30]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_tokenizer():
    """Byte-level tokens without merges: 256 bytes, the remaining ids up to 270 never occur in text."""
    tokenizer = json.loads((SHARED / "tokenizer.json").read_text())
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    for index in range(len(vocabulary), 270):
        vocabulary[f"<unused{index}>"] = index
    tokenizer["model"]["vocab"] = vocabulary
    tokenizer["model"]["merges"] = []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] = [{"id": 270 + i, "content": text, **flags} for i, text in enumerate(SPECIAL)]
    (FOLDER / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    config = json.loads((SHARED / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(270 + i): {"content": text, **flags} for i, text in enumerate(SPECIAL)}
    config.pop("additional_special_tokens", None)
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False))
    for name in ["chat_template.json", "preprocessor_config.json", "video_preprocessor_config.json"]:
        shutil.copy(SHARED / name, FOLDER / name)


def load(weights, folder):
    """The model of `weights` in a folder of its own with the tokenizer files."""
    for source in [*weights.iterdir(), *(p for p in FOLDER.iterdir() if p.suffix == ".json" and p.name != "golden.json")]:
        shutil.copy(source, folder)
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoProcessor.from_pretrained(folder)


def prompt_inputs(processor):
    message = {"role": "user", "content": [{"type": "video", "video": str(FOLDER / "clip.mp4"), **VIDEO},
                                           {"type": "text", "text": QUESTION + WORDING}]}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    _, videos, _ = qwen_vl_utils.process_vision_info([message], return_video_kwargs=True, return_video_metadata=True)
    frames, metadata = zip(*videos)
    return processor(text=[text], videos=list(frames), return_tensors="pt", videos_kwargs={
        "do_resize": False, "do_sample_frames": False, "video_metadata": list(metadata)})


def logprobs(model, inputs, ids):
    tokens = torch.tensor([ids])
    full = torch.cat([inputs["input_ids"], tokens], dim=1)
    extra = {key: inputs[key] for key in ["pixel_values_videos", "video_grid_thw", "second_per_grid_ts"]}
    if "mm_token_type_ids" in inputs:
        extra["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tokens)], dim=1)
    with torch.no_grad():
        logits = model(input_ids=full, attention_mask=torch.ones_like(full), **extra).logits[0]
    start = inputs["input_ids"].shape[1] - 1
    rows = torch.log_softmax(logits[start : start + len(ids)].float(), dim=-1)
    return rows.gather(1, tokens[0][:, None])[:, 0].tolist()


def main():
    FOLDER.mkdir(exist_ok=True)
    write_clip()
    write_tokenizer()
    with tempfile.TemporaryDirectory() as tiny_folder, tempfile.TemporaryDirectory() as bias_folder:
        model, processor = load(TINY, tiny_folder)
        bias, _ = load(BIAS, bias_folder)
    inputs = prompt_inputs(processor)
    position_keys = {key: inputs[key] for key in ["video_grid_thw", "second_per_grid_ts", "mm_token_type_ids"] if key in inputs}
    positions, _ = model.model.get_rope_index(inputs["input_ids"], attention_mask=inputs["attention_mask"], **position_keys)
    # Vision and padding tokens are never sampled.
    banned = [270, 273, 274, 275, 276]
    with torch.no_grad():
        generated = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS, suppress_tokens=banned)
    greedy = generated[0, inputs["input_ids"].shape[1] :].tolist()
    completions = []
    for text in COMPLETIONS:
        ids = processor.tokenizer(text)["input_ids"] + [272]
        completions.append({"text": text, "token_ids": ids, "logprobs": logprobs(model, inputs, ids),
                            "bias_logprobs": logprobs(bias, inputs, ids)})
    golden = {
        "versions": {m.__name__: m.__version__ for m in (torch, transformers)},
        "question": QUESTION, "video": VIDEO, "max_tokens": MAX_TOKENS,
        "grid_thw": inputs["video_grid_thw"][0].tolist(),
        "second_per_grid": float(inputs["second_per_grid_ts"][0]),
        "prompt_ids": inputs["input_ids"][0].tolist(),
        "position_ids": positions[:, 0].tolist(),
        "greedy": greedy,
        "completions": completions,
    }
    (FOLDER / "golden.json").write_text(json.dumps(golden) + "\n")
    print(golden["grid_thw"], golden["second_per_grid"], len(golden["prompt_ids"]), greedy)


if __name__ == "__main__":
    main()
