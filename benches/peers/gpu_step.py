#!/usr/bin/env python3
"""The work of `videothinker inspect device decode` and `train`, done by transformers on the same card.

    python3 gpu_step.py --model DIR --grid 8,22,34 --text-tokens 200 --completion-tokens 300 [--cpu]

One question with a group of completions. Generation: the group as one batch, greedy, no end-of-turn, after a run that warms
up. Learning: forward and backward of the group as a batch of whole sequences with gradient checkpointing, which is what
trainers on transformers do; the loss is the mean log-probability of the completions. Prints one JSON object with seconds and
tokens a second. The model folder may hold random weights.
"""

import argparse
import json
import time

import torch
import transformers


def question(arguments, config, device, dtype):
    """Token ids [1, P] of a prompt with a clip, and the clip's patches [patches, 1176] and grid."""
    t, h, w = arguments.grid
    video = [config.video_token_id] * (t * h * w // 4)
    text = [7 + i % 200 for i in range(arguments.text_tokens - 2)]
    ids = [config.vision_start_token_id, *video, config.vision_end_token_id, *text]
    pixels = torch.sin(torch.arange(t * h * w * 1176, device=device, dtype=torch.float32) * 0.01)
    clip = {
        "pixel_values_videos": pixels.reshape(t * h * w, 1176).to(dtype),
        "video_grid_thw": torch.tensor([[t, h, w]], device=device),
        "second_per_grid_ts": torch.tensor([1.0], device=device),
    }
    return torch.tensor([ids], device=device), clip


def repeated(clip, times):
    return {name: torch.cat([value] * times) for name, value in clip.items()}


def timed(work, device):
    """Seconds of the second of two runs."""
    for _ in range(2):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def generation(model, ids, clip, arguments, device):
    def run(tokens):
        with torch.no_grad():
            model.generate(
                input_ids=ids.repeat(arguments.group_size, 1),
                attention_mask=torch.ones_like(ids).repeat(arguments.group_size, 1),
                **repeated(clip, arguments.group_size),
                do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)

    tokens = max(arguments.completion_tokens, 4)
    half = tokens // 2
    difference = timed(lambda: run(tokens), device) - timed(lambda: run(half), device)
    return arguments.group_size * (tokens - half) / difference


def sequences(ids, clip, arguments, vocabulary, device):
    group, length = arguments.group_size, arguments.completion_tokens
    completions = torch.arange(group * length, device=device).reshape(group, length) * 7919 % min(vocabulary, 500)
    whole = torch.cat([ids.repeat(group, 1), completions], 1)
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole), **repeated(clip, group)}
    return inputs, completions


def loss_of(model, inputs, completions):
    keep = completions.shape[1] + 1
    logits = model(**inputs, logits_to_keep=keep, use_cache=False).logits[:, :-1].float()
    return -torch.log_softmax(logits, -1).gather(-1, completions[..., None]).mean()


def learning(model, inputs, completions):
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss_of(model, inputs, completions).backward()
    model.zero_grad(set_to_none=True)


def scoring(model, inputs, completions):
    with torch.no_grad():
        loss_of(model, inputs, completions)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--grid", type=lambda text: [int(number) for number in text.split(",")], default=[8, 22, 34])
    parser.add_argument("--text-tokens", type=int, default=200)
    parser.add_argument("--completion-tokens", type=int, default=300)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    device = "cpu" if arguments.cpu else "cuda"
    dtype = torch.float32 if arguments.cpu else torch.bfloat16
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(arguments.model, torch_dtype=dtype).to(device)
    ids, clip = question(arguments, model.config, device, dtype)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    inputs, completions = sequences(ids, clip, arguments, vocabulary, device)
    result = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "rows": arguments.group_size,
        "prompt_tokens": ids.shape[1],
        "decode_tokens_per_second": generation(model, ids, clip, arguments, device),
        "score_seconds": timed(lambda: scoring(model, inputs, completions), device),
        "backward_seconds": timed(lambda: learning(model, inputs, completions), device),
    }
    if device == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(result, separators=(",", ":")))


if __name__ == "__main__":
    main()
