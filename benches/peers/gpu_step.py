#!/usr/bin/env python3
"""The work of `videothinker inspect device decode` and `train`, done by transformers on the same card.

    python3 gpu_step.py --model DIR --work FILE [--completion-tokens 128] [--only NAME,…] [--cpu]

FILE is what `inspect device train --record FILE` wrote: prompts, clips, completions and their log-probabilities there, so
that both programs read the same numbers. The model folder may hold random weights.

    logprobs    how far the log-probabilities of the same ids are apart: ours (`ours_peer`) from this program's in the same
                format, and both from this program's in f32 (`ours_f32`, `peer_f32`): the noise of the format itself
    score       seconds of a forward pass of every completion
    backward    seconds of forward and backward with gradient checkpointing, which is what trainers on transformers do;
                the loss is the mean log-probability of the completions
    decode      tokens a second of all rows as one batch, greedy, no end-of-turn

Seconds are those of a second run. Prints one JSON object a line, each with more of the parts than the one before: the last is
the whole. Exit code 1: the log-probabilities are further from those in f32 than twice this program's own.
"""

import argparse
import inspect
import json
import sys
import time

import torch
import transformers
from safetensors.torch import load_file

PARTS = ["logprobs", "score", "backward", "decode"]
# Of the mean distance from f32, which is that of thousands of tokens.
NOISE = 2.0
# Sums in another order, where both programs compute in f32.
REORDERED = 1e-3


class Work:
    """Prompts [Q, P], completions [Q, G, L] and clips, on the device."""

    def __init__(self, path, config, device, dtype):
        tensors = load_file(path)
        self.prompts = tensors["prompt_ids"].to(device)
        self.completions = tensors["completion_ids"].to(device)
        self.logprob = tensors["logprob"]
        self.pixels = tensors["pixel_values_videos"].to(device)
        self.grids = tensors["video_grid_thw"].to(device)
        self.seconds = tensors["second_per_grid_ts"].to(device)
        self.video_token = config.video_token_id
        self.dtype = dtype

    @property
    def rows(self):
        return self.completions.shape[0] * self.completions.shape[1]

    def inputs(self, questions, completions=None):
        """The model's arguments for every completion of `questions`, or for their prompts alone."""
        group = self.completions.shape[1]
        ids = self.prompts[questions].repeat_interleave(group, 0)
        if completions is not None:
            ids = torch.cat([ids, completions.flatten(0, 1)], 1)
        clips = self.pixels[questions].to(self.dtype).repeat_interleave(group, 0)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": clips.flatten(0, 1),
            "video_grid_thw": self.grids[questions].repeat_interleave(group, 0),
            "second_per_grid_ts": self.seconds[questions].repeat_interleave(group, 0),
        }
        if int(transformers.__version__.split(".")[0]) >= 5:
            # Which ids stand for a clip is read from here; without it every position is a text's.
            inputs["mm_token_type_ids"] = 2 * (ids == self.video_token).int()
        return inputs

    def questions(self):
        """One question at a time, with its completions."""
        for question in range(self.prompts.shape[0]):
            of_it = slice(question, question + 1)
            completions = self.completions[of_it]
            yield self.inputs(of_it, completions), completions.flatten(0, 1)


def logprobs(model, inputs, completions):
    """[G, L]"""
    keep = completions.shape[1] + 1
    # Before version 4.51 the model always gives the logits of all rows.
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs = {**inputs, "logits_to_keep": keep}
    logits = model(**inputs, use_cache=False).logits[:, -keep:-1].float()
    return torch.log_softmax(logits, -1).gather(-1, completions[..., None])[..., 0]


def all_logprobs(model, work):
    """[Q, G, L]"""
    with torch.no_grad():
        return torch.stack([logprobs(model, *question).cpu() for question in work.questions()])


def in_format(model, dtype):
    """Weights alone: the tables of the positions stay as they are in every format."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def score(model, work):
    with torch.no_grad():
        for question in work.questions():
            logprobs(model, *question)


def backward(model, work):
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for question in work.questions():
        (-logprobs(model, *question).mean()).backward()
    model.zero_grad(set_to_none=True)
    model.gradient_checkpointing_disable()
    model.eval()


def decode(model, work, tokens):
    with torch.no_grad():
        model.generate(**work.inputs(slice(None)), do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)


def timed(job, device):
    """Seconds of the second of two runs."""
    for _ in range(2):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        job()
        if device == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def distance(values, expected):
    difference = (values - expected).abs()
    return {"mean": difference.mean().item(), "max": difference.max().item()}


def compared(model, work):
    """Distances of log-probabilities."""
    peer = all_logprobs(model, work)
    result = {"tokens": peer.numel(), "ours_peer": distance(work.logprob, peer)}
    if work.dtype == torch.float32:
        agrees = result["ours_peer"]["max"] <= REORDERED
    else:
        dtype, work.dtype = work.dtype, torch.float32
        exact = all_logprobs(in_format(model, torch.float32), work)
        work.dtype = dtype
        in_format(model, dtype)
        result["ours_f32"] = distance(work.logprob, exact)
        result["peer_f32"] = distance(peer, exact)
        agrees = result["ours_f32"]["mean"] <= NOISE * result["peer_f32"]["mean"]
    return {**result, "agrees": agrees}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--completion-tokens", type=int, default=128)
    parser.add_argument("--only", type=lambda text: text.split(","), default=PARTS)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    device = "cpu" if arguments.cpu else "cuda"
    # f32 is the reference here: the default for convolutions rounds to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    dtype = getattr(torch, arguments.dtype)
    load = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model = load(arguments.model, **{name: dtype}).to(device).eval()
    work = Work(arguments.work, model.config, device, dtype)
    result = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "rows": work.rows,
        "prompt_tokens": work.prompts.shape[1],
    }

    def add(**more):
        result.update(more)
        print(json.dumps(result, separators=(",", ":")), flush=True)

    agrees = True
    if "logprobs" in arguments.only:
        found = compared(model, work)
        agrees = found["agrees"]
        add(logprobs=found)
    if "score" in arguments.only:
        add(score_seconds=timed(lambda: score(model, work), device))
    if "backward" in arguments.only:
        add(backward_seconds=timed(lambda: backward(model, work), device))
    if "decode" in arguments.only:
        tokens = max(arguments.completion_tokens, 4)
        whole = timed(lambda: decode(model, work, tokens), device)
        half = timed(lambda: decode(model, work, tokens // 2), device)
        add(decode_tokens_per_second=work.rows * (tokens - tokens // 2) / (whole - half))
    if device == "cuda":
        add(peak_bytes=torch.cuda.max_memory_allocated())
    sys.exit(0 if agrees else 1)


if __name__ == "__main__":
    main()
