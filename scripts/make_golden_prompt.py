"""Golden prompts: what transformers' Qwen2.5-VL processor makes of the small tokenizer in tests/golden/prompt/tokenizer.

The tokenizer folder itself is written by the test suite (`UPDATE_GOLDEN=1 cargo test prompt`). Run from the repository
root with torch and transformers installed.
"""

import json
import pathlib

import tokenizers
import torch
import transformers

FOLDER = pathlib.Path("tests/golden/prompt/tokenizer")
WORDING = (
    "  Output the thinking process in <think> </think> and final answer (letters separated by , if multiple) in "
    "<answer> </answer> tags."
)
TEXTS = [
    "What would happen if the red cube were removed?",
    "What's 12+34, in the cafe\u0301?\r\n\n  A. naïve — it'LL\tdo  \n B. 你好 🙂\u00a0x",
    "  leading and trailing space ",
    "<tool_call>{\"a\": 1}</tool_call><|fim_pad|> <|object_ref_start|>x",
    "",
]
# Frames, height, width of each clip, in pixels that need no resizing.
CLIPS = [(4, 56, 84), (6, 112, 56)]


def main():
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    texts = [{"text": t, "ids": tokenizer(t)["input_ids"]} for t in TEXTS]
    prompts = []
    for question, clip in [(TEXTS[0], CLIPS[0]), (TEXTS[1], CLIPS[1]), (TEXTS[0], None)]:
        content = ([{"type": "video"}] if clip else []) + [{"type": "text", "text": question + WORDING}]
        chat = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        video = {}
        if clip:
            frames = torch.zeros((clip[0], 3, clip[1], clip[2]), dtype=torch.uint8)
            video = {"videos": [frames], "videos_kwargs": {"do_resize": False, "do_sample_frames": False}}
        inputs = processor(text=[chat], return_tensors="pt", **video)
        ids = inputs["input_ids"][0].tolist()
        grid = inputs["video_grid_thw"][0].tolist() if clip else None
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        prompts.append({"question": question, "grid_thw": grid, "text": text, "ids": ids})
    versions = {m.__name__: m.__version__ for m in (transformers, tokenizers, torch)}
    golden = {"versions": versions, "texts": texts, "prompts": prompts}
    pathlib.Path("tests/golden/prompt/golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
