#!/usr/bin/env python3
"""One GRPO step side by side: videothinker against transformers (the authors' way) and TRL's GRPOTrainer.

    benches/peers/step.py [--quick] [--growth] [--trl] [--vocabulary 32768] [--group 8] [--binary target/release/videothinker]

Needs: pip install torch transformers av (and trl datasets for --trl); the binary built with `cargo build --release`.
Everything runs in one go on the same threads, ours and the peer by turns, f32, on a model of about 50 million random
weights (8 text layers of width 512, 8 vision blocks of width 320). One question with a clip in CLEVRER's format
(480x320, 10 frames, 935 video tokens), G completions.

train     log-probs of the policy and of a frozen reference, backward, clipping, AdamW, on given completions of 32 to
          256 tokens. The peer does it as the authors' trainer does: G full sequences with the video repeated G times,
          log_softmax row by row, gradient checkpointing. It gets our pixels and token ids, and is not timed on reading
          the video. Ours are the phases bias + backward + update of `train-cdpo --replay`.
rollout   G completions of a fixed length. The peer: `generate` with num_return_sequences. Ours: the phase generate.
whole     train + rollout, the rollout at the mean length of the given completions.
memory    highest resident memory of the process that did it (a process each).

The peer keeps some three copies of the logits in f32: a vocabulary of 151,936 with --group 8 takes it beyond 20 GB.

The best of the repeats counts, without the first step of a process. Ratios are peer / ours. That both saw the same
sequences is checked: the mean log-probability of the given completions has to agree.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = [32, 48, 64, 80, 96, 128, 168, 256]
KL = 0.01
# 8-bit moments, and a bias model whose layers are 8-bit.
COMPACT = ["optimizer.memory=compact", "model.bias_placement=int8"]
LEARNING_RATE = 1e-6


def model_spec(vocabulary):
    """config.json of the benchmark's model; the special tokens are those of the miniature's tokenizer."""
    spec = json.loads((ROOT / "data/mini/config.json").read_text())
    spec.update(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=vocabulary, rope_theta=1000000.0, max_window_layers=8,
    )
    spec["rope_scaling"] = {"type": "mrope", "mrope_section": [8, 12, 12]}
    spec["vision_config"].update(
        depth=8, hidden_size=320, intermediate_size=864, num_heads=8, out_hidden_size=512, fullatt_block_indexes=[3, 7]
    )
    return spec


def make_model(folder, vocabulary):
    import torch
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir(parents=True)
    spec = model_spec(vocabulary)
    (folder / "config.json").write_text(json.dumps(spec))
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder)
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.json", "generation_config.json",
                 "preprocessor_config.json", "video_preprocessor_config.json"]:
        shutil.copy(ROOT / "data/mini" / name, folder / name)
    (folder / "config.json").write_text(json.dumps(spec))
    return sum(parameter.numel() for parameter in model.parameters())


def make_clip(path, frames=128, width=480, height=320):
    import av
    import numpy as np

    random = np.random.default_rng(1)
    texture = random.integers(60, 190, (height // 8, width // 4, 3)).astype(np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            picture = np.ascontiguousarray(texture[:, 2 * i : 2 * i + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def completion_texts(lengths):
    """Texts of exactly so many tokens, the end-of-turn token included; every other one is right."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ROOT / "data/mini/tokenizer.json"))
    count = lambda text: len(tokenizer.encode(text).ids) + 1
    words = "the red cube and the blue sphere collide in the video without the green cylinder ".split()
    texts = []
    for row, length in enumerate(lengths):
        answer = "<answer>A</answer>" if row % 2 else "<answer>B</answer>"
        text, i = "", row
        while count(text + " " + words[i % len(words)] + answer) <= length:
            text, i = text + " " + words[i % len(words)], i + 1
        while count(text + answer) < length:
            text += "."
        assert count(text + answer) == length, (length, text)
        texts.append(text + answer)
    return texts


class Ours:
    """Runs the binary and reads what it wrote down."""

    def __init__(self, binary, work, model, threads):
        self.binary, self.work, self.model = binary, work, model
        self.environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), CANDLE_NUM_THREADS=str(threads))
        self.question = "What will happen without the red cube?\nA. The blue sphere and the green cylinder collide"
        (work / "questions.json").write_text(json.dumps([{
            "id": "q", "problem": self.question, "solution": "<answer>A</answer>", "video": "clip.mp4",
            "kind": "inferential"}]))

    def run(self, *arguments):
        done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, env=self.environment)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, arguments))}:\n{done.stderr}")
        return done.stdout

    def inputs(self, frames):
        """The prompt's token ids and the clip's pixels, for the peer."""
        clip = self.work / "clip.mp4"
        pixels = self.work / f"pixels{frames}.safetensors"
        settings = ["--set", f"video.max_frames={frames}"]
        video = json.loads(self.run("inspect", "video", clip, "--model", self.model, "--save", pixels, *settings))
        prompt = json.loads(self.run("inspect", "prompt", "--model", self.model, "--video", clip, "--question",
                                     self.question, *settings))
        return {"pixels": str(pixels), "grid": video["grid_thw"], "second_per_grid": video["second_per_grid"],
                "video_tokens": video["video_tokens"], "prompt_ids": prompt["prompt_ids"]}

    def mean_log_prob(self, lengths, frames):
        """Of the given completions' tokens."""
        completions = [word for text in completion_texts(lengths) for word in ("--completion", text)]
        found = json.loads(self.run(
            "inspect", "logprobs", "--model", self.model, "--video", self.work / "clip.mp4", "--question", self.question,
            "--set", f"video.max_frames={frames}", "--set", "model.dtype=f32", *completions))
        values = [value for completion in found["completions"] for value in completion["logprobs"]]
        return sum(values) / len(values)

    def train(self, lengths, frames, steps, max_new_tokens=None, settings=()):
        """Steps on given completions, or with `max_new_tokens` on sampled ones: timings and the peak."""
        config, out = self.work / "run.toml", self.work / "run"
        shutil.rmtree(out, ignore_errors=True)
        config.write_text(f"""
output_dir = {json.dumps(str(out))}
[model]
path = {json.dumps(str(self.model))}
bias_model = {json.dumps(str(self.model))}
dtype = "f32"
device = "cpu"
[data]
questions = {json.dumps(str(self.work / "questions.json"))}
video_root = {json.dumps(str(self.work))}
[video]
max_frames = {frames}
[sampling]
group_size = {len(lengths)}
max_new_tokens = {max_new_tokens or max(lengths)}
[kl]
coefficient = {KL}
[optimizer]
learning_rate = {LEARNING_RATE}
[train]
steps = {steps}
questions_per_step = 1
[checkpoint]
every = 1000000
""")
        arguments = ["train-cdpo", "--config", config]
        if max_new_tokens is None:
            replay = self.work / "replay.jsonl"
            line = {"question_id": "q", "completions": [{"text": t, "finish": "stop"} for t in completion_texts(lengths)]}
            replay.write_text((json.dumps(line) + "\n") * steps)
            arguments += ["--replay", replay]
        for setting in settings:
            arguments += ["--set", setting]
        self.run(*arguments)
        timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        later = timings[1:] or timings
        phase = lambda *names: min(sum(step.get(f"time/{name}", 0.0) for name in names) for step in later)
        return {
            "train": phase("bias", "backward", "update"), "rollout": phase("generate"),
            "whole": min(step["step_time"] for step in later), "peak": timings[-1]["memory/peak_bytes"],
            "length": metrics[0]["completions/mean_length"],
        }


def peer_main(request):
    """The peer's part, in a process of its own: prints its result as JSON."""
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.set_num_threads(request["threads"])
    load = lambda: Qwen2_5_VLForConditionalGeneration.from_pretrained(request["model"], dtype=torch.float32)
    model = load()
    inputs = request["inputs"]
    pixels = load_file(inputs["pixels"])["pixel_values"]
    prompt = torch.tensor([inputs["prompt_ids"]])
    grid = torch.tensor([inputs["grid"]])
    seconds = [inputs["second_per_grid"]]
    types = (prompt == model.config.video_token_id).int() * 2
    result = {}
    if request["what"] == "rollout":
        group, length = request["group"], request["length"]
        times = []
        for _ in range(request["repeats"]):
            start = time.perf_counter()
            with torch.no_grad():
                out = model.generate(
                    input_ids=prompt, attention_mask=torch.ones_like(prompt), mm_token_type_ids=types,
                    pixel_values_videos=pixels, video_grid_thw=grid, second_per_grid_ts=seconds, do_sample=True,
                    temperature=1.0, top_k=50, num_return_sequences=group, max_new_tokens=length, min_new_tokens=length)
            times.append(time.perf_counter() - start)
            assert out.shape == (group, prompt.shape[1] + length), out.shape
        result["rollout"] = min(times)
    else:
        result |= peer_train(request, model, load(), prompt, types, pixels, grid, seconds)
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


def peer_train(request, model, reference, prompt, types, pixels, grid, seconds):
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(request["model"]) / "tokenizer.json"))
    end = model.config.get_text_config().eos_token_id
    completions = [tokenizer.encode(text).ids + [end] for text in request["texts"]]
    longest, group = max(map(len, completions)), len(completions)
    ids = torch.tensor([c + [end] * (longest - len(c)) for c in completions])
    mask = torch.tensor([[1.0] * len(c) + [0.0] * (longest - len(c)) for c in completions])
    sequences = torch.cat([prompt.repeat(group, 1), ids], dim=1)
    attention = torch.cat([torch.ones(group, prompt.shape[1]), mask], dim=1).long()
    full_types = torch.cat([types.repeat(group, 1), torch.zeros_like(ids)], dim=1)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    reference.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=request["learning_rate"], weight_decay=0.0)
    # Rewards that differ, as in a group that teaches something.
    advantages = torch.tensor([1.0 if i % 2 else -1.0 for i in range(group)]).unsqueeze(1)

    def log_probs(network):
        logits = network(
            input_ids=sequences, attention_mask=attention, mm_token_type_ids=full_types,
            pixel_values_videos=pixels.repeat(group, 1), video_grid_thw=grid.repeat(group, 1),
            second_per_grid_ts=seconds * group, use_cache=False).logits
        per_token = []
        for row, targets in zip(logits[:, :-1], sequences[:, 1:]):
            per_token.append(row.log_softmax(dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1))
        return torch.stack(per_token)[:, prompt.shape[1] - 1 :]

    times, first = [], None
    for _ in range(request["repeats"]):
        start = time.perf_counter()
        logp = log_probs(model)
        with torch.inference_mode():
            bias = log_probs(reference)
        distance = (bias - logp).clamp(-11, 11)
        kl = distance.exp() - distance - 1
        loss = -(torch.exp(logp - logp.detach()) * advantages) - request["kl"] * kl
        loss = ((loss * mask).sum(1) / mask.sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 20.0)
        optimizer.step()
        times.append(time.perf_counter() - start)
        first = first or {"tokens": int(mask.sum()), "log_prob": float((logp.detach() * mask).sum() / mask.sum())}
    return {"train": min(times[1:] or times), **first}


def trl_main(request):
    """TRL's GRPOTrainer on the text part of the model alone, with a prompt as long as ours."""
    import random

    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(request["threads"])
    spec = model_spec(request["vocabulary"])
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        hidden_size=spec["hidden_size"], intermediate_size=spec["intermediate_size"], head_dim=64,
        num_hidden_layers=spec["num_hidden_layers"], num_attention_heads=spec["num_attention_heads"],
        num_key_value_heads=spec["num_key_value_heads"], vocab_size=spec["vocab_size"], tie_word_embeddings=True,
        eos_token_id=spec["vocab_size"] - 1, pad_token_id=spec["pad_token_id"]))
    # TRL loads its reference from the folder the policy came from.
    source = Path(request["out"]) / "model"
    model.save_pretrained(source)
    model = Qwen2ForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(ROOT / "data/mini/tokenizer.json"),
                                        eos_token="<|im_end|>", pad_token="<|endoftext|>")
    word = tokenizer.encode(" the")
    assert len(word) == 1, word
    prompt = " the" * request["prompt_tokens"]
    group, steps = request["group"], request["repeats"]
    config = GRPOConfig(
        output_dir=request["out"], per_device_train_batch_size=group, num_generations=group, max_steps=steps,
        max_completion_length=request["length"], beta=request["kl"], learning_rate=request["learning_rate"], top_k=50,
        gradient_checkpointing=True, use_cpu=True, report_to=[], logging_steps=1, save_strategy="no", bf16=False,
        model_init_kwargs=None, disable_tqdm=True, max_grad_norm=20.0)
    random.seed(0)
    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, args=config, train_dataset=Dataset.from_list([{"prompt": prompt}] * steps),
        reward_funcs=lambda completions, **_: [random.random() for _ in completions])
    trainer.train()
    lines = [line for line in trainer.state.log_history if "step_time" in line]
    later = lines[1:] or lines
    print("\n" + json.dumps({
        "whole": min(line["step_time"] for line in later), "length": later[-1]["completions/mean_length"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def child(request):
    done = subprocess.run([sys.executable, __file__, "--child"], input=json.dumps(request), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def gigabytes(count):
    return f"{count / 1e9:.2f} GB"


def row(name, peer, ours, unit="s"):
    show = gigabytes if unit == "bytes" else lambda value: f"{value:.2f} {unit}"
    print(f"{name:<28}{show(peer):>14}{show(ours):>14}{peer / ours:>9.1f}x", flush=True)


def compare(bench, lengths, frames, peer_repeats, with_rollout=True):
    """Both sides of one setting, by turns."""
    ours, inputs = bench["ours"], bench["ours"].inputs(frames)
    mean = round(sum(lengths) / len(lengths))
    common = {"threads": bench["threads"], "model": str(ours.model), "inputs": inputs, "kl": KL,
              "learning_rate": LEARNING_RATE}
    result = {"inputs": inputs, "mean": mean}
    result["ours_train"] = ours.train(lengths, frames, 3)
    result["peer_train"] = child(common | {"what": "train", "texts": completion_texts(lengths), "repeats": peer_repeats})
    gap = abs(result["peer_train"]["log_prob"] - ours.mean_log_prob(lengths, frames))
    assert gap < 1e-4, f"the two disagree about the completions' log-probability by {gap}"
    assert result["peer_train"]["tokens"] == sum(lengths), result["peer_train"]
    if with_rollout:
        result["ours_compact"] = ours.train(lengths, frames, 2, settings=COMPACT)
        result["ours_whole"] = ours.train(lengths, frames, 3, max_new_tokens=mean)
        result["peer_rollout"] = child(
            common | {"what": "rollout", "group": len(lengths), "length": mean, "repeats": peer_repeats})
    return result


def main_table(bench, repeats):
    group = bench["group"]
    lengths = LENGTHS[:: len(LENGTHS) // group]
    result = compare(bench, lengths, 10, repeats)
    inputs, mean = result["inputs"], result["mean"]
    ours_train, ours_whole = result["ours_train"], result["ours_whole"]
    peer_train, peer_rollout = result["peer_train"], result["peer_rollout"]
    print(f"\n{len(inputs['prompt_ids'])} prompt tokens ({inputs['video_tokens']} of video), G = {group}, "
          f"completions of {lengths} tokens, rollout {group} x {mean}")
    print(f"{'':<28}{'transformers':>14}{'videothinker':>14}{'ratio':>10}")
    row("train", peer_train["train"], ours_train["train"])
    row("rollout", peer_rollout["rollout"], ours_whole["rollout"])
    tokens = group * mean
    print(f"{'rollout, tokens/s':<28}{tokens / peer_rollout['rollout']:>14.0f}{tokens / ours_whole['rollout']:>14.0f}")
    row("whole", peer_train["train"] + peer_rollout["rollout"], ours_train["train"] + ours_whole["rollout"])
    row("memory, train", peer_train["peak"], ours_train["peak"], "bytes")
    row("memory, train, compact", peer_train["peak"], result["ours_compact"]["peak"], "bytes")
    row("memory, rollout", peer_rollout["peak"], ours_whole["peak"], "bytes")
    return result


def growth_tables(bench, peer_repeats):
    """How the train part grows with G, with the completions' length and with the video; prompt and completion tokens once."""
    print(f"\n{'':<28}{'transformers':>14}{'videothinker':>14}{'ratio':>10}")
    settings = {f"G = {group}": ([64] * group, 10) for group in [2, 4, 8, 16, 32]}
    settings |= {f"G = 8, {length} tokens each": ([length] * 8, 10) for length in [32, 128, 256]}
    settings |= {f"G = 8, {frames} frames": ([64] * 8, frames) for frames in [4, 16]}
    for name, (lengths, frames) in settings.items():
        if len(lengths) * 0.75e9 > bench["memory"]:
            ours = bench["ours"].train(lengths, frames, 3)
            print(f"{name:<28}{'no memory':>14}{ours['train']:>12.2f} s", flush=True)
            continue
        result = compare(bench, lengths, frames, peer_repeats, with_rollout=False)
        row(f"{name} ({result['inputs']['video_tokens']} video)", result["peer_train"]["train"],
            result["ours_train"]["train"])


def trl_table(bench, repeats):
    ours, group, length = bench["ours"], 8, 109
    inputs = ours.inputs(10)
    mine = ours.train([length] * group, 10, 3, max_new_tokens=length)
    theirs = child({
        "what": "trl", "threads": bench["threads"], "vocabulary": bench["vocabulary"], "group": group, "length": length,
        "prompt_tokens": len(inputs["prompt_ids"]), "repeats": repeats, "out": str(ours.work / "trl"), "kl": KL,
        "learning_rate": LEARNING_RATE})
    print(f"\nTRL trains the text part alone ({theirs['parameters'] / 1e6:.0f} M of {bench['parameters'] / 1e6:.0f} M "
          f"parameters); ours does the video as well. {group} x {length} tokens sampled "
          f"(TRL {theirs['length']:.0f}, ours {mine['length']:.0f} on average)")
    print(f"{'':<28}{'TRL':>14}{'videothinker':>14}{'ratio':>10}")
    row("whole step", theirs["whole"], mine["whole"])
    row("memory", theirs["peak"], mine["peak"], "bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat of the peer")
    parser.add_argument("--growth", action="store_true", help="also how both grow with G, length and video")
    parser.add_argument("--trl", action="store_true", help="also TRL's GRPOTrainer")
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--group", type=int, default=8, choices=[1, 2, 4, 8], help="completions (G) of the first table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=str(ROOT / "target/release/videothinker"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        request = json.load(sys.stdin)
        return trl_main(request) if request["what"] == "trl" else peer_main(request)

    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if arguments.trl:
        import trl

        versions += f", trl {trl.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_clip(work / "clip.mp4")
        parameters = make_model(work / "model", arguments.vocabulary)
        ours = Ours(arguments.binary, work, work / "model", arguments.threads)
        version = ours.run("--version").strip()
        print(f"{version}; {versions}; Python {platform.python_version()}; {arguments.threads} threads; "
              f"{parameters / 1e6:.1f} M parameters, vocabulary {arguments.vocabulary}")
        bench = {"ours": ours, "threads": arguments.threads, "vocabulary": arguments.vocabulary,
                 "group": arguments.group, "parameters": parameters, "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")}
        repeats = 1 if arguments.quick else 3
        main_table(bench, repeats)
        if arguments.trl:
            trl_table(bench, 2 if arguments.quick else 3)
        if arguments.growth:
            growth_tables(bench, 1)


if __name__ == "__main__":
    main()
