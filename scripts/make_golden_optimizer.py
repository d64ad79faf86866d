"""Golden AdamW: five clipped steps of torch.optim.AdamW on three small tensors. Run from the repository root."""

import pathlib

import torch
from safetensors.torch import save_file

SHAPES = {"a.weight": (24, 16), "b.bias": (37,), "c.weight": (3, 5, 7)}
SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
MAX_GRAD_NORM = 4.0
STEPS = 5


def main():
    torch.manual_seed(7)
    parameters = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}
    tensors = {f"start.{name}": p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), **SETTINGS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / STEPS))
    norms = []
    for step in range(STEPS):
        # The norms fall from well above to below the limit, so both sides of the clipping are walked.
        for name, p in parameters.items():
            p.grad = torch.randn(p.shape) * 0.8 / (step + 1)
            tensors[f"gradient.{step}.{name}"] = p.grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_GRAD_NORM))
        optimizer.step()
        schedule.step()
        for name, p in parameters.items():
            tensors[f"after.{step}.{name}"] = p.detach().clone()
    tensors["norms"] = torch.stack(norms)
    metadata = {"torch": torch.__version__, "seed": "7"}
    target = pathlib.Path("tests/golden/optimizer")
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "adamw.safetensors", metadata)


if __name__ == "__main__":
    main()
