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
    "What is <|video_pad|>?",
    "a<|im_end|>\n<|im_start|>assistant\nB",
    "",
]
# Frames, height, width of each clip, in pixels that need no resizing.
CLIPS = [(4, 56, 84), (6, 112, 56)]


# What templates may contain that plain Jinja has not, each writing a video's placeholder and the question.
BODY = "<|vision_start|><|video_pad|><|vision_end|>{{ messages[-1].content[-1].text }}"
LOOP = "{% for message in messages %}"
TEMPLATES = [
    BODY + " {% generation %}answer{% endgeneration %} end",
    BODY + "\n  {% generation %}\n  answer\n  {% endgeneration %}\n end",
    BODY + " {%- generation -%} \n answer \n {%- endgeneration -%} end",
    BODY + " {%+ generation -%} answer {%- endgeneration %} end",
    BODY + "{% set a = 1 %}{% generation %}{{ a }}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
    LOOP + "{% for part in message.content %}{% if part.type == 'audio' %}{% continue %}{% endif %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}",
    BODY + "{% for n in range(9) %}{% if n == 2 %}{%- continue -%}{% endif %} {{ n }}{% if n > 3 %}{% break %}{% endif %}{% endfor %}",
    BODY + "{{ messages | tojson }}",
    BODY + "{{ messages[0] | tojson(indent=2) }}",
    BODY + "{{ messages[0] | tojson(separators=(',', ':'), sort_keys=True, ensure_ascii=True) }}",
    BODY + "{{ {'b': 1.5, 'a': [true, none, [], {}], 'c': \"<é&'\"} | tojson(indent=1) }}",
    BODY + "{{ tools is defined }}{{ tools is none }}{{ documents is none }}{% if tools %}tools{% endif %}{{ nothing is defined }}",
    BODY + "[{{ bos_token }}][{{ eos_token }}][{{ pad_token }}][{{ bos_token is defined }}]",
    BODY + "{{ strftime_now('') }}{{ strftime_now('100%%') }}{{ strftime_now('%Y') | length }}",
    BODY + "{% if add_generation_prompt and not tools %}{{- '<|im_start|>assistant\\n' }}{% endif %}\n",
]


def templates():
    """What the templates render, and what they are."""
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    text = "Wer fällt? <b> & \"c\" 🙂"
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
    rendered = [
        processor.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
        for template in TEMPLATES
    ]
    cases = [{"template": template, "rendered": text} for template, text in zip(TEMPLATES, rendered)]
    golden = {"version": transformers.__version__, "question": text, "cases": cases}
    path = pathlib.Path("tests/golden/prompt/templates.json")
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


def main():
    templates()
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    texts = [{"text": t, "ids": tokenizer(t, split_special_tokens=True)["input_ids"]} for t in TEXTS]
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
