"""Golden positions of short and long clips: get_rope_index and generate() of transformers 4.50.

Writes tests/golden/positions/positions.json. `positions` holds clips of 5 to 300 seconds at 2 to 32 frames with text
before and behind: where the clip starts and ends, the time of each grid, where text goes on, the rope delta, the position
of the first generated token and a digest of all. `long_clip` is a clip of 60 seconds and 32 frames through the tiny
model of tests/golden/model: log-probabilities of two completions, the greedy tokens, and the positions that generate()
gave the tokens it read. Run from the repository root with torch 2.6.0 and transformers 4.50.0 (CPU, f32).
"""

import functools
import importlib.util
import json
import pathlib

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "tests/golden/positions/positions.json"
BEFORE, AFTER = 14, 9
SECONDS, FRAMES = [5, 30, 60, 300], [2, 4, 8, 16, 32]
# 308 × 476 pixels as the authors' clips, upright, square, wide; patches before the merge of 2 × 2.
GRIDS = [(22, 34), (34, 22), (28, 28), (8, 60)]
# Grids and seconds that no whole frame rate gives; what the authors' trainer says of every clip is 1.
ODD = [((16, 22, 34), 0.083), ((16, 22, 34), 1.0), ((150, 8, 12), 1.0), ((9, 12, 8), 0.49999999), ((40, 4, 4), 0.3333)]
COMPLETIONS = [[84, 104, 101, 32, 114, 101, 100, 272], [66, 272]]
GREEDY = 12


def golden_model():
    """The script that made the tiny model knows its pixels."""
    spec = importlib.util.spec_from_file_location("model", ROOT / "scripts/make_golden_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest(values):
    return str(functools.reduce(lambda digest, value: (digest * 31 + value) % 2**64, values, 0))


def prompt(made, grid):
    video = [made.VIDEO_PAD] * (grid[0] * grid[1] * grid[2] // 4)
    return list(range(BEFORE - 1)) + [made.VISION_START, *video, made.VISION_END] + list(range(AFTER - 1))


def rope_index(model, made, grid, second_per_grid):
    ids = prompt(made, grid)
    positions, deltas = model.get_rope_index(
        torch.tensor([ids]), video_grid_thw=torch.tensor([grid]),
        # As the processor hands it on: a float32 tensor.
        second_per_grid_ts=torch.tensor([second_per_grid]))
    time, height, width = positions[:, 0].tolist()
    last = len(ids) - AFTER - 1
    per_grid = grid[1] * grid[2] // 4
    return {
        "grid_thw": grid, "second_per_grid": second_per_grid, "before": BEFORE, "after": AFTER,
        "video_first": [time[BEFORE], height[BEFORE], width[BEFORE]],
        "video_times": time[BEFORE : last + 1 : per_grid],
        "video_last": [time[last], height[last], width[last]],
        "text_first": [axis[last + 1] for axis in (time, height, width)],
        "text_last": [axis[-1] for axis in (time, height, width)],
        "rope_delta": int(deltas[0]),
        "first_generated": len(ids) + int(deltas[0]),
        "digest": digest(time + height + width),
    }


def long_clip(model, made):
    grid, second_per_grid = [16, 4, 6], 2 * 60 / 32
    ids = prompt(made, grid)
    video = {
        "pixel_values_videos": made.pixels(0, 16 * 4 * 6), "video_grid_thw": torch.tensor([grid]),
        "second_per_grid_ts": torch.tensor([second_per_grid])}
    seen = []
    hook = model.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["position_ids"][:, 0].tolist()), with_kwargs=True)
    with torch.no_grad():
        generated = model.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **video,
            do_sample=False, max_new_tokens=GREEDY, eos_token_id=-1, return_dict_in_generate=True, output_scores=True)
    hook.remove()
    greedy = generated.sequences[0, len(ids) :].tolist()
    assert all(token < 256 for token in greedy), "a greedy token is special"
    scores = [torch.log_softmax(score[0], dim=-1)[token].item() for score, token in zip(generated.scores, greedy)]
    completions = []
    for completion in COMPLETIONS:
        model.rope_deltas = None
        whole = torch.tensor([ids + completion])
        with torch.no_grad():
            logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), **video, use_cache=False).logits[0]
        rows = torch.log_softmax(logits[len(ids) - 1 : -1], dim=-1)
        completions.append({"token_ids": completion, "logprobs": rows[range(len(completion)), completion].tolist()})
    return {
        "grid_thw": grid, "second_per_grid": second_per_grid, "prompt_ids": ids,
        "prompt_positions": [[axis[0], axis[-1]] for axis in seen[0]], "greedy": greedy, "greedy_logprobs": scores,
        # Of the tokens read one by one: every generated one but the last.
        "generated_positions": [[axis[0] for axis in step] for step in seen[1:]], "completions": completions,
    }


def main():
    torch.set_num_threads(1)
    made = golden_model()
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        made.OUT / "tiny", torch_dtype=torch.float32, attn_implementation="eager").eval()
    positions = []
    for seconds in SECONDS:
        for frames in FRAMES:
            for rows, columns in GRIDS:
                case = rope_index(model, made, [frames // 2, rows, columns], 2 * seconds / frames)
                positions.append({"seconds": seconds, "frames": frames, **case})
    positions += [rope_index(model, made, list(grid), second) for grid, second in ODD]
    versions = {module.__name__: module.__version__ for module in (torch, transformers)}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'{{"versions": {json.dumps(versions)},', '"positions": [', ",\n".join(map(json.dumps, positions)), "],",
             f'"long_clip": {json.dumps(long_clip(model, made))}}}']
    TARGET.write_text("\n".join(lines) + "\n")
    print(versions, len(positions), "cases,", TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
