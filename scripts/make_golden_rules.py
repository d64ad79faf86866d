#!/usr/bin/env python3
"""What the benchmarks' own evaluators make of invented answers -> tests/golden/benchmark/official_rules.json

Runs the functions in clones of their repositories; nothing of them is stored but their verdicts. Python's standard library only.

  scripts/make_golden_rules.py --tempcompass CLONE --mvbench CLONE --video-holmes CLONE --video-mme CLONE

CLONE: llyx97/TempCompass, OpenGVLab/Ask-Anything, TencentARC/Video-Holmes, thanku-all/parse_answer.
"""
import argparse
import hashlib
import importlib
import json
import pathlib
import re
import sys
import textwrap
import types

OUT = pathlib.Path(__file__).parent.parent / "tests/golden/benchmark/official_rules.json"

CHOICE = "What does the kite do?\nA. climbs slowly\nB. sinks\nC. turns left\nD. stays"
CAPTIONS = [
    "Which caption matches the video better?\nCaption A: A kite climbs: it is red.\nCaption B: A kite sinks.",
    "Which description is a more suitable match for the video?\nOption 1: The kite sinks.\nOption 2: A kite climbs (fast) away.",
    "Which sentence better captures the essence of the video?\nSentence A: The kite turns.\nSentence B: The kite stays.",
]
# Answers in the ways models write them, with what the rules stumble over.
ANSWERS = [
    "A", "B", "C", "D", "E", "a", "b.", "A.", "B. sinks", "B) sinks", "(B) sinks", "(b)", "[C]", "C: turns left", "D stays",
    "A. climbs slowly", " B. sinks\n", "B. something else", "sinks", "Sinks.", "The best option is B. sinks", "The answer is C",
    "Answer: D", "The correct answer is (A) because B sinks", "<think>A?</think><answer>B</answer>",
    "<answer>A</answer> no, <answer>C: turns left</answer>", "<answer></answer>", "<answer>none</answer>", "DNA is not A kite",
    "Best option:(C", "It does nothing of that kind and nobody can say what it will do next in the clip",
    "An answer of more than ten words in which no capital letter of the options stands at all", "", " ", ".", "(", "()", "1", "2", "Yes", "no, B",
    "Caption A", "Caption B.", "Caption B: A kite sinks.", "A kite sinks.", "A kite climbs", "A kite climbs: it is red.", "Option 1", "Option 2.", "Option 2: A kite climbs (fast) away.",
    "The kite sinks.", "(fast) away.", "B) A kite sinks.", "Sentence B", "Sentence A: The kite turns.", "The kite stays.", "**B**", "</s>B", "B</s>", "C.)",
    "Answer: B ", "All of this: C \n", "<answer> B </answer>",
]
YES_NO = ["Yes", "yes.", "No", "no, it does not", "Yes and no", "not at all", "None", "It is not", " yes", "<answer>yes</answer>", "Nothing", "", "</s>yes", "no</s>"]


def tempcompass(clone):
    for name in ("requests", "tqdm"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["tqdm"].tqdm = lambda items: items
    sys.path.insert(0, str(clone))
    cases = [("multi-choice", CHOICE, f"{letter}. {text}") for letter, text in (("A", "climbs slowly"), ("B", "sinks"))]
    cases += [("caption_matching", question, question.split("\n")[right]) for question in CAPTIONS for right in (1, 2)]
    cases += [("yes_no", "Does the kite sink?", answer) for answer in ("yes", "no")]
    for task, question, answer in cases:
        module = importlib.import_module(f"eval_{task}")
        module.print_result = lambda results: None
        texts = YES_NO if task == "yes_no" else ANSWERS
        asked = [{"question": question, "answer": answer, "prediction": text} for text in texts]
        results = {}
        module.main({"clip": {"action": asked}}, results, "/dev/null", True)
        for text, result in zip(texts, results["clip"]["action"]):
            read = result["match_success"]
            yield row("tempcompass", question, answer, text, read, result["rating"] == 1)


def mvbench(clone):
    cells = json.loads((clone / "video_chat2/mvbench.ipynb").read_text())["cells"]
    scope = {}
    for cell in cells:
        source = "".join(cell["source"])
        if source.startswith("def check_ans"):
            exec(source, scope)
    options = CHOICE.split("\n")[1:]
    for letter, text in (option.split(". ") for option in options[:2]):
        for answer in ANSWERS:
            said = "(" + answer.strip().split("\n")[0]
            right = scope["check_ans"](pred=said, gt=f"({letter}) {text}")
            yield row("mvbench", CHOICE, letter, answer, True, right)


def video_holmes(clone):
    source = (clone / "evaluate.py").read_text()
    block = re.search(r"        pattern = r'<answer>.*?predicted_answer = 'WRONG'\n", source, re.S).group(0)
    code = compile(textwrap.dedent(block), "evaluate.py", "exec")
    for letter in "AC":
        for answer in ANSWERS:
            scope = {"re": re, "predicted_answer": answer}
            exec(code, scope)
            found = scope["predicted_answer"]
            yield row("video_holmes", CHOICE, letter, answer, found != "WRONG", found == letter)


def video_mme(clone):
    source = (clone / "eval_your_results.py").read_text()
    function = re.search(r"def extract_characters_regex.*?\n\n\n", source, re.S).group(0)
    scope = {"re": re}
    exec(function, scope)
    for letter in "AD":
        for answer in ANSWERS:
            found = scope["extract_characters_regex"](answer)
            yield row("videomme", CHOICE, letter, answer, found != "", found == letter)


def row(benchmark, question, answer, text, read, right):
    return (benchmark, question, answer), [text, "right" if right else "wrong" if read else "left"]


FILES = {
    "tempcompass": ["eval_multi-choice.py", "eval_caption_matching.py", "eval_yes_no.py"],
    "mvbench": ["video_chat2/mvbench.ipynb"],
    "video-holmes": ["evaluate.py"],
    "video-mme": ["eval_your_results.py"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    readers = {"tempcompass": tempcompass, "mvbench": mvbench, "video-holmes": video_holmes, "video-mme": video_mme}
    for name in readers:
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    arguments = vars(parser.parse_args())
    clones = {name: arguments[name.replace("-", "_")].resolve() for name in readers}
    sources = {file: hashlib.sha256((clones[name] / file).read_bytes()).hexdigest() for name in readers for file in FILES[name]}
    cases = {}
    for name, read in readers.items():
        for case, verdict in read(clones[name]):
            cases.setdefault(case, []).append(verdict)
    lines = [
        json.dumps({"benchmark": benchmark, "question": question, "answer": answer, "verdicts": verdicts}, ensure_ascii=False)
        for (benchmark, question, answer), verdicts in cases.items()
    ]
    OUT.write_text('{"sha256": ' + json.dumps(sources) + ',\n"cases": [\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{sum(map(len, cases.values()))} verdicts -> {OUT}")


if __name__ == "__main__":
    main()
