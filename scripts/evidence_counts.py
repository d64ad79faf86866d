#!/usr/bin/env python3
"""Counts in the answers of scripts/evidence.sh that docs/evidence.md tells and `videothinker study` does not make, for they
are about the miniature's own words.

    scripts/evidence_counts.py [RUNS]        default runs/evidence

Of greedy answers that think: how many imagine the very verdicts that they have seen, and how many think away another object
than the question names. Of CDPO's training: which share of the repulsion's slopes the token has that decides on thinking.
Needs Python alone.
"""

import json
import math
import re
import sys
from pathlib import Path

ROWS = ["base", "bias", "grpo", "grpo-kl", "cdpo", "attract"]
KINDS = ["observational", "inferential"]
# Log-ratios beyond it have no slope (`kl.clamp` of configs/mini/cdpo.toml), and `kl.estimator = "k3"` has this one within.
CLAMP = 3.0
WINDOW = 15


def slope(log_ratio):
    return abs(1 - math.exp(-log_ratio))


def lines(path):
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


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


def mean(shares):
    shares = [share for share in shares if share is not None]
    return f"{100 * sum(shares) / len(shares):.1f} %" if shares else "none"


def print_answers(seeds):
    for row in ROWS:
        files = [seed / "eval" / row / "outputs.jsonl" for seed in seeds]
        counted = [count_answers(file) for file in files if file.exists()]
        for kind in KINDS:
            counts = [count[kind] for count in counted]
            same = mean([count[2] / count[1] if count[1] else None for count in counts])
            others = [f"{count[3]} of {count[0]}" for count in counts]
            print(f"{row}, {kind}: imagined as seen {same} (mean of {len(counts)} seeds); another object {', '.join(others)}")


def print_slopes(seeds):
    sums = {}
    for seed in seeds:
        path = seed / "cdpo" / "rollouts.jsonl"
        if not path.exists():
            continue
        rollouts = [line for line in lines(path) if line.get("log_ratios")]
        last = max(line["step"] for line in rollouts)
        for line in rollouts:
            when = "first" if line["step"] <= WINDOW else "last" if line["step"] > last - WINDOW else None
            if when is None:
                continue
            decision = re.match(r"<think>[^.]*(\.)", "".join(line["tokens"]))
            place = decision.start(1) if decision else -1
            start = 0
            for token, ratio in zip(line["tokens"], line["log_ratios"]):
                decides = start <= place < start + len(token)
                start += len(token)
                if ratio is not None and abs(ratio) <= CLAMP:
                    total = sums.setdefault(when, {True: 0.0, False: 0.0})
                    total[decides] += slope(ratio)
    for when, total in sums.items():
        share = total[True] / (total[True] + total[False])
        print(f"cdpo, {when} {WINDOW} steps: {100 * share:.0f} % of the slopes at the token that decides on thinking")


def main():
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/evidence")
    seeds = sorted(runs.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    if not seeds:
        sys.exit(f"{runs}: no folders seed-N, which scripts/evidence.sh makes")
    print_answers(seeds)
    print_slopes(seeds)


if __name__ == "__main__":
    main()
