#!/usr/bin/env python3
"""Makes tests/golden/model: two tiny random Qwen2.5-VL models and what transformers and torch compute with them.

    python scripts/make_golden_model.py            # needs torch, transformers 5, safetensors; CPU, f32

`tiny/` is the policy (flat hub config, one file), `bias/` a second model (nested config, shards), `reference.safetensors`
the inputs and expected values, `manifest.json` versions, seeds and the settings behind every number.
Pixels are not stored: value i of the patches is the murmur3 finaliser of i, scaled to [-1.5, 1.5).
"""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors
import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "model"
SEEDS = {"tiny": 11, "bias": 23, "tokens": 9}
END_OF_TEXT, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = 270, 272, 273, 274, 275, 276
CLIP, SECOND_CLIP = [3, 6, 10], [1, 4, 4]
SECOND_PER_GRID = 1.0
COMPLETION_LENGTHS = [1, 5, 9]
ADVANTAGES = [0.9, -1.1, 0.4]
# Clips longer in time than in space, and intervals that do not fall on whole positions.
POSITION_CASES = {"long": ([[6, 4, 4]], [1.0]), "fraction": ([[5, 4, 6]], [0.7]), "two": ([[2, 4, 4], [3, 2, 6]], [0.5, 1.3])}
KL = {"direction": "repel", "estimator": "k3", "coefficient": 0.01, "clamp": 11.0}
ADAMW = {"lr": 5e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "max_grad_norm": 0.5, "steps": 5}

FLAT_CONFIG = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": IM_END,
    "pad_token_id": END_OF_TEXT,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "image_token_id": IMAGE_PAD,
    "video_token_id": VIDEO_PAD,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "max_position_embeddings": 4096,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 4,
        "hidden_act": "silu",
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
    "vocab_size": 280,
}


def pixels(start, patches):
    """Rows of 1176 values made from their index alone, so that any language can make them again."""
    x = np.arange(start * 1176, (start + patches) * 1176, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x85EBCA6B)) & mask
    x ^= x >> np.uint64(13)
    x = (x * np.uint64(0xC2B2AE35)) & mask
    x ^= x >> np.uint64(16)
    values = (x.astype(np.float64) / 2.0**32 - 0.5) * 3.0
    return torch.from_numpy(values.astype(np.float32).reshape(patches, 1176))


def hub_name(name):
    """transformers' module path -> the name the published checkpoint uses."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def make_model(seed):
    """A model with weights large enough that a wrong operation cannot hide."""
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(**json.loads(json.dumps(FLAT_CONFIG)))
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape)
            if "norm" in name or "ln_q" in name:
                parameter.copy_(1.0 + 0.2 * noise)
            elif "patch_embed" in name:
                parameter.copy_(0.04 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * 0.9 / parameter.shape[-1] ** 0.5)
    return model.eval()


def save_flat(model, folder):
    """The hub's layout: flat config, one file, hub names, no separate head."""
    folder.mkdir(parents=True)
    tensors = {hub_name(n): p.detach().clone() for n, p in model.named_parameters() if n != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(FLAT_CONFIG, indent=2) + "\n")
    generation = {"bos_token_id": END_OF_TEXT, "pad_token_id": END_OF_TEXT, "eos_token_id": [IM_END, END_OF_TEXT]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def save_nested(model, folder):
    """What transformers 5 writes itself, in shards."""
    folder.mkdir(parents=True)
    model.save_pretrained(folder, max_shard_size="120KB")


def forward(model, ids, grid, pixel_values):
    """Logits and hidden states of one sequence; position ids as transformers makes them."""
    ids = torch.tensor([ids])
    return model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=pixel_values,
        video_grid_thw=torch.tensor([grid]),
        second_per_grid_ts=torch.tensor([SECOND_PER_GRID]),
        mm_token_type_ids=(ids == VIDEO_PAD).int() * 2,
        output_hidden_states=True,
        use_cache=False,
    )


def completion_logprobs(model, prompt, completions, pixel_values):
    """[per completion] log-probabilities [len] and full log-softmax [len, V]."""
    result = []
    for completion in completions:
        logits = forward(model, prompt + completion, CLIP, pixel_values).logits[0]
        rows = torch.log_softmax(logits[len(prompt) - 1 : len(prompt) + len(completion) - 1], dim=-1)
        result.append((rows[torch.arange(len(completion)), torch.tensor(completion)], rows))
    return result


def rope_index(model, ids, grids, seconds):
    """Position ids [3, L] of one sequence."""
    ids = torch.tensor([ids])
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == VIDEO_PAD).int() * 2,
        video_grid_thw=torch.tensor(grids),
        second_per_grid_ts=torch.tensor(seconds),
    )
    return positions[:, 0]


def grpo_loss(logprobs, bias_logprobs):
    """The CDPO loss with on-policy ratios; `bias_logprobs` None is plain GRPO. Also the per-token k3."""
    losses, divergences = [], []
    for advantage, logprob, index in zip(ADVANTAGES, logprobs, range(len(logprobs))):
        ratio = torch.exp(logprob - logprob.detach())
        token = -torch.min(ratio * advantage, torch.clamp(ratio, 0.8, 1.28) * advantage)
        if bias_logprobs is not None:
            d = torch.clamp(bias_logprobs[index] - logprob, -KL["clamp"], KL["clamp"])
            k3 = torch.exp(d) - d - 1.0
            divergences.append(k3.detach())
            token = token - KL["coefficient"] * k3
        losses.append(token.mean())
    return torch.stack(losses).mean(), divergences


def trainable(model):
    return {hub_name(n): p for n, p in model.named_parameters() if n != "lm_head.weight"}


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    save_flat(make_model(SEEDS["tiny"]), OUT / "tiny")
    save_nested(make_model(SEEDS["bias"]), OUT / "bias")
    load = lambda name: Qwen2_5_VLForConditionalGeneration.from_pretrained(
        OUT / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model, bias = load("tiny"), load("bias")
    generator = torch.Generator().manual_seed(SEEDS["tokens"])
    text = lambda n: torch.randint(0, 256, (n,), generator=generator).tolist()
    video_tokens = CLIP[0] * CLIP[1] * CLIP[2] // 4
    prompt = text(4) + [VISION_START] + [VIDEO_PAD] * video_tokens + [VISION_END] + text(6)
    completions = [text(n) for n in COMPLETION_LENGTHS]
    completions[0][-1] = completions[2][-1] = IM_END
    clip = pixels(0, CLIP[0] * CLIP[1] * CLIP[2])
    second = pixels(len(clip), SECOND_CLIP[0] * SECOND_CLIP[1] * SECOND_CLIP[2])
    out = {"prompt_ids": torch.tensor(prompt)}
    for index, completion in enumerate(completions):
        out[f"completion.{index}.ids"] = torch.tensor(completion)

    with torch.no_grad():
        vision = model.model.visual(torch.cat([clip, second]), grid_thw=torch.tensor([CLIP, SECOND_CLIP]))
        out["vision.patch_embed"] = model.model.visual.patch_embed(clip)
        out["vision.last_hidden"] = vision.last_hidden_state
        out["vision.features"] = vision.pooler_output
        out["position_ids"] = rope_index(model, prompt, [CLIP], [SECOND_PER_GRID])
        for name, (grids, seconds) in POSITION_CASES.items():
            ids = []
            for t, h, w in grids:
                ids += [1, 2, VISION_START] + [VIDEO_PAD] * (t * h * w // 4) + [VISION_END, 3, 4]
            out[f"positions.{name}.ids"] = torch.tensor(ids)
            out[f"positions.{name}"] = rope_index(model, ids, grids, seconds)
        result = forward(model, prompt, CLIP, clip)
        for index, hidden in enumerate(result.hidden_states):
            out[f"hidden.{index}"] = hidden[0]
        out["logits"] = result.logits[0]
        greedy = []
        for _ in range(12):
            logits = forward(model, prompt + greedy, CLIP, clip).logits[0, -1]
            greedy.append(int(logits.argmax()))
        assert all(token < 256 for token in greedy), "a greedy token is special: choose another seed"
        out["greedy"] = torch.tensor(greedy)
        bias_logprobs = []
        for index, (chosen, rows) in enumerate(completion_logprobs(bias, prompt, completions, clip)):
            out[f"completion.{index}.bias_logprobs"] = chosen
            bias_logprobs.append(chosen)

    losses = {}
    for objective, reference in (("grpo", None), ("cdpo", bias_logprobs)):
        model.zero_grad()
        rows = completion_logprobs(model, prompt, completions, clip)
        loss, divergences = grpo_loss([chosen for chosen, _ in rows], reference)
        loss.backward()
        losses[objective] = float(loss.detach())
        gradients = {n: p.grad for n, p in trainable(model).items()}
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()]))
        out[f"{objective}.loss"], out[f"{objective}.grad_norm"] = loss.detach(), norm
        for name, gradient in gradients.items():
            out[f"{objective}.grad.{name}"] = gradient.clone()
        for index, (chosen, _) in enumerate(rows):
            out[f"completion.{index}.logprobs"] = chosen.detach()
        for index, k3 in enumerate(divergences):
            out[f"completion.{index}.k3"] = k3

    optimizer = torch.optim.AdamW(
        trainable(model).values(), lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"], weight_decay=0.0, foreach=False
    )
    step_losses, step_norms = [], []
    for _ in range(ADAMW["steps"]):
        optimizer.zero_grad()
        rows = completion_logprobs(model, prompt, completions, clip)
        loss, _ = grpo_loss([chosen for chosen, _ in rows], bias_logprobs)
        loss.backward()
        step_norms.append(torch.nn.utils.clip_grad_norm_(trainable(model).values(), ADAMW["max_grad_norm"]).detach())
        step_losses.append(loss.detach())
        optimizer.step()
    out["adamw.losses"], out["adamw.grad_norms"] = torch.stack(step_losses), torch.stack(step_norms)
    for name, parameter in trainable(model).items():
        out[f"adamw.weight.{name}"] = parameter.detach().clone()

    save_file({n: t.contiguous() for n, t in sorted(out.items())}, OUT / "reference.safetensors")
    manifest = {
        "script": "scripts/make_golden_model.py",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "safetensors": safetensors.__version__,
        },
        "seeds": SEEDS,
        "dtype": "float32",
        "grids": [CLIP, SECOND_CLIP],
        "second_per_grid": SECOND_PER_GRID,
        "positions": {name: {"grids": g, "second_per_grid": s} for name, (g, s) in POSITION_CASES.items()},
        "advantages": ADVANTAGES,
        "clip": [0.2, 0.28],
        "kl": KL,
        "adamw": ADAMW,
        "losses": losses,
        "tolerance": {"values": 1e-4, "gradient_relative": 1e-3},
    }
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps({"losses": losses, "grad_norms": [float(n) for n in step_norms],
                      "step_losses": [float(l) for l in step_losses], "greedy": out["greedy"].tolist(),
                      "parameters": sum(p.numel() for p in trainable(model).values())}))


if __name__ == "__main__":
    main()
