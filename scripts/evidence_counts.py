#!/usr/bin/env python3
"""Counts in the answers of scripts/evidence.sh that docs/evidence.md tells and `videothinker study` does not make, for they
are about the miniature's own words.

    scripts/evidence_counts.py [RUNS]        default runs/evidence

Of greedy answers that think: how many imagine the very verdicts that they have seen, and how many think away another object
than the question names. Of CDPO's training: which share of the repulsion's slopes the token has that decides on thinking.
Only evaluations that are finished count. Needs Python alone.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

ROWS = ["base", "bias", "grpo", "grpo-kl", "cdpo", "attract"]
KINDS = ["observational", "inferential"]
# Log-ratios beyond it have no slope (`kl.clamp` of configs/mini/cdpo.toml).
CLAMP = 3.0
WINDOW = 15


def slope(log_ratio):
    """Of `kl.estimator = "k3"`."""
    return abs(1 - math.exp(-log_ratio))


def lines(path):
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                sys.exit(f"{path}:{number}: {error}")


def verdicts(text):
    return dict(re.findall(r"\b([A-Z]): [^,.]*? (collide|do not)\b", text))


def count_answers(path):
    """By kind: answers, those that think, of these those with the verdicts seen, and those that remove another object."""
    counts = {kind: [0, 0, 0, 0] for kind in KINDS}
    for line in lines(path):
        count = counts[line["kind"]]
        count[0] += 1
        seen, thinks, imagined = line["samples"][0]["completion"].partition(" Without the ")
        if not thinks:
            continue
        count[1] += 1
        count[2] += verdicts(seen) == verdicts(imagined)
        asked = re.search(r"without the (\w+ \w+)", line["question"])
        removed = re.match(r"\w+ \w+", imagined)
        count[3] += bool(asked and removed and asked[1] != removed[0])
    return counts


def print_answers(seeds):
    for row in ROWS:
        folders = {seed: path / "eval" / row for seed, path in seeds.items()}
        finished = {seed: path for seed, path in folders.items() if (path / "scores.json").exists()}
        counted = {seed: count_answers(path / "outputs.jsonl") for seed, path in finished.items()}
        for kind in KINDS:
            counts = {seed: count[kind] for seed, count in counted.items()}
            shares = [100 * count[2] / count[1] for count in counts.values() if count[1]]
            same = f"{sum(shares) / len(shares):.1f} % (mean of {len(shares)} seeds)" if shares else "no answer thinks"
            others = ", ".join(f"{count[3]} of {count[0]} in seed {seed}" for seed, count in counts.items())
            if counts:
                print(f"{row}, {kind}: imagined as seen {same}; another object {others}")


def print_slopes(seeds):
    """A token weighs 1 / length of its completion, as `objective.loss = "grpo"` has it."""
    totals = {"first": {}, "last": {}}
    for seed, path in seeds.items():
        path = path / "cdpo" / "rollouts.jsonl"
        rollouts = [line for line in lines(path) if line.get("log_ratios")] if path.exists() else []
        last = max((line["step"] for line in rollouts), default=0)
        for line in rollouts:
            early, late = line["step"] <= WINDOW, line["step"] > last - WINDOW
            if not early and not late:
                continue
            decision = re.match(r"<think>[^.]*(\.)", "".join(line["tokens"]))
            place = decision.start(1) if decision else -1
            sums = {True: 0.0, False: 0.0}
            start = 0
            for token, ratio in zip(line["tokens"], line["log_ratios"]):
                decides = start <= place < start + len(token)
                start += len(token)
                if ratio is not None and abs(ratio) <= CLAMP:
                    sums[decides] += slope(ratio) / len(line["tokens"])
            for when, counts in [("first", early), ("last", late)]:
                if counts:
                    total = totals[when].setdefault(seed, {True: 0.0, False: 0.0})
                    for decides, sum_ in sums.items():
                        total[decides] += sum_
    for when, of_seeds in totals.items():
        shares = [100 * total[True] / (total[True] + total[False]) for total in of_seeds.values()]
        if shares:
            each = ", ".join(f"{share:.0f}" for share in shares)
            mean = sum(shares) / len(shares)
            print(f"cdpo, {when} {WINDOW} steps: {mean:.0f} % of the slopes at the token that decides on thinking ({each})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs/evidence"))
    runs = parser.parse_args().runs
    seeds = {int(path.name[5:]): path for path in runs.glob("seed-*") if re.fullmatch(r"seed-[0-9]+", path.name)}
    seeds = dict(sorted(seeds.items()))
    if not seeds:
        sys.exit(f"{runs}: no folders seed-N, which scripts/evidence.sh makes")
    print_answers(seeds)
    print_slopes(seeds)


if __name__ == "__main__":
    main()
