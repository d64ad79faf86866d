"""Golden order of questions: the authors' draw with `datasets`, then the batches that transformers' Trainer hands out.

Writes tests/golden/order/order.json. A case is a file of `rows` rows from which `samples` are drawn as the authors' code
draws (shuffled with seed 42 only when there are more), then epochs of Trainer.get_train_dataloader with batches of one,
`--data_seed 42`, for one process and for two (accelerate's own sharding, process after process of each step; two
processes of Trainer.train() under torchrun take the same). A sequence is kept whole when short; of a long one the first
and the last rows are kept and a digest of all. Also torch.randperm by itself.

Run from the repository root with torch 2.6.0, transformers 4.50.0, accelerate 1.5.2 and datasets 3.4.1 (CPU).
"""

import functools
import json
import pathlib
import tempfile

import accelerate
import datasets
import torch
import transformers
from accelerate.data_loader import prepare_data_loader

TARGET = pathlib.Path("tests/golden/order/order.json")
SEED = 42
EPOCHS = 3
CASES = [(1, 2000), (5, 2000), (100, 2000), (2000, 2000), (3000, 2000), (18473, 2000), (12, 7), (6, 6)]
PERMUTATIONS = [(42, 2000), (43, 2000), (0, 10), (2**31 + 5, 33), (2**32 + 42, 12), (2**40 + 3, 999), (7, 100_000)]
WHOLE, ENDS = 24, 12


def kept(rows):
    """Enough of a sequence to see where another one differs."""
    digest = functools.reduce(lambda digest, row: (digest * 31 + row) % 2**64, rows, 0)
    shown = {"rows": rows} if len(rows) <= WHOLE else {"first": rows[:ENDS], "last": rows[-ENDS:]}
    return {"count": len(rows), **shown, "digest": str(digest)}


def drawn(rows, samples, folder):
    path = pathlib.Path(folder) / f"{rows}.json"
    path.write_text("\n".join(json.dumps({"row": row}) for row in range(rows)))
    table = datasets.Dataset.from_json(str(path), cache_dir=folder)
    if len(table) > samples:
        table = table.shuffle(seed=42).select(range(samples))
    return table


def loaders(table, processes, folder):
    """The Trainer's own loader, sharded as on each of `processes`."""
    arguments = transformers.TrainingArguments(
        output_dir=folder, per_device_train_batch_size=1, data_seed=SEED, use_cpu=True, report_to=[],
        remove_unused_columns=False)
    for process in range(processes):
        trainer = transformers.Trainer(
            model=torch.nn.Linear(1, 1), args=arguments, train_dataset=table, data_collator=lambda batch: batch[0]["row"])
        own = trainer.accelerator
        own.prepare = lambda loader, own=own, process=process: prepare_data_loader(
            loader, torch.device("cpu"), num_processes=processes, process_index=process, put_on_device=False,
            use_seedable_sampler=own.use_seedable_sampler, data_seed=own.dataloader_config.data_seed,
            split_batches=own.split_batches, even_batches=own.even_batches, dispatch_batches=own.dispatch_batches)
        yield trainer.get_train_dataloader()


def epochs(table, processes, folder):
    shards = list(loaders(table, processes, folder))
    result = []
    for epoch in range(EPOCHS):
        for shard in shards:
            shard.set_epoch(epoch)
        result.append([row for step in zip(*shards, strict=True) for row in step])
    return result


def main():
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for rows, samples in CASES:
            table = drawn(rows, samples, folder)
            for processes in (1, 2):
                cases.append({
                    "rows": rows, "samples": samples, "questions_per_step": processes,
                    "epochs": [kept(epoch) for epoch in epochs(table, processes, folder)]})
    permutations = [
        {"seed": seed, "count": count,
         "order": kept(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())}
        for seed, count in PERMUTATIONS]
    versions = {module.__name__: module.__version__ for module in (torch, transformers, accelerate, datasets)}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'{{"versions": {json.dumps(versions)}, "seed": {SEED},', '"permutations": [',
             ",\n".join(map(json.dumps, permutations)), "],", '"cases": [', ",\n".join(map(json.dumps, cases)), "]}"]
    TARGET.write_text("\n".join(lines) + "\n")
    print(versions, TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
