#!/usr/bin/env python3
"""Loads a checkpoint folder in transformers and fails when a weight is missing, unexpected or has another shape.

    python scripts/check_export.py runs/cdpo/checkpoints/step-000500 [--reference FOLDER]

With --reference, the folder's weights are also compared with those of another folder (same names, same shapes).
"""

import argparse
import json
import sys
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration


def load(folder):
    """The model, once transformers reports no key out of place."""
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto", output_loading_info=True)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind != "error_msgs"}
    if info.get("error_msgs"):
        wrong["error_msgs"] = info["error_msgs"]
    if wrong:
        sys.exit(f"{folder}: {json.dumps(wrong, indent=2)}")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reference", type=Path)
    arguments = parser.parse_args()
    config = AutoConfig.from_pretrained(arguments.folder)
    model = load(arguments.folder)
    tied = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    if tied != bool(config.tie_word_embeddings):
        sys.exit(f"{arguments.folder}: tie_word_embeddings is {config.tie_word_embeddings}, the head is tied: {tied}")
    result = {
        "folder": str(arguments.folder),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype),
        "eos": model.generation_config.eos_token_id,
    }
    if (arguments.folder / "tokenizer.json").exists():
        result["tokens"] = len(AutoTokenizer.from_pretrained(arguments.folder))
    if arguments.reference:
        other = load(arguments.reference).state_dict()
        mine = model.state_dict()
        if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in other.items()}:
            sys.exit(f"{arguments.folder}: names or shapes differ from {arguments.reference}")
        result["largest_change"] = max((mine[n].float() - other[n].float()).abs().max().item() for n in mine)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
