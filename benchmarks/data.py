"""Times the data stages on a generated corpus with the shape of `winning-args-corpus`.

python benchmarks/data.py compare  --tokenizer FOLDER           # beside convokit.Corpus, the same file
python benchmarks/data.py scale    --tokenizer FOLDER --utterances 1250000 2500000 5000000

FOLDER is that of a base model or its tokenizer. Each measured part is a process of its own; memory is the
peak of its resident set. Corpora are generated into a temporary folder (about 1.4 KB an utterance).
"""

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = {
    "conversations": 3_051,
    "utterances": 293_297,
    "speakers": 34_911,
    "won": 12_420,
    "lost": 7_294,
}
"""The published `winning-args-corpus`."""
LENGTHS = {"post": (1_250, 0.6), "labelled": (936, 0.82), "other": (339, 1.23)}
"""Median and log-normal spread of texts, in characters, as in the real part at hand (there with ten full
threads): labelled comments are longer than others, and posts end with the moderators' footnote."""
ANSWERS_THE_POST = {"labelled": 0.74, "other": 0.17}
"""The share of comments that answer the post itself, from the same files."""
POSTERS_OWN = 0.11
FOOTNOTE = (
    "\n\n_____\n\n&gt; *Hello, users of CMV! " + "This is a footnote from your moderators. " * 20
)


def generate(folder: Path, utterances: int, seed: int = 1) -> None:
    """Write a corpus of that many utterances, with the real one's shares of everything else."""
    rng = random.Random(seed)
    text = _english(rng, 4_000_000)
    per_thread = SHAPE["utterances"] / SHAPE["conversations"]
    threads = max(1, round(utterances / per_thread))
    speakers = max(10, round(utterances * SHAPE["speakers"] / SHAPE["utterances"]))
    won, lost = (SHAPE[name] / SHAPE["utterances"] for name in ("won", "lost"))
    folder.mkdir(parents=True)
    conversations, number = {}, 0
    with (folder / "utterances.jsonl").open("w") as lines:
        for thread in range(threads):
            size = (utterances * (thread + 1)) // threads - (utterances * thread) // threads
            poster, root = f"user_{rng.randrange(speakers)}", f"t3_{thread:x}"
            ids = [root]
            for place in range(size):
                success = None
                if place:
                    chance = rng.random()
                    success = 1 if chance < won else 0 if chance < won + lost else None
                own = place == 0 or rng.random() < POSTERS_OWN
                kind = "post" if place == 0 else "other" if success is None else "labelled"
                to_root = len(ids) == 1 or rng.random() < ANSWERS_THE_POST.get(kind, 1)
                row = {
                    "id": root if place == 0 else f"t1_{number:x}",
                    "conversation_id": root,
                    "text": _cut(text, rng, kind) + (FOOTNOTE if place == 0 else ""),
                    "speaker": poster if own else f"user_{rng.randrange(speakers)}",
                    "meta": META | {"success": success, "score": rng.randrange(100)},
                    "reply-to": None if place == 0 else root if to_root else rng.choice(ids[1:]),
                    "timestamp": 1_400_000_000 + number,
                    "vectors": [],
                }
                if place:
                    ids.append(row["id"])
                else:
                    meta = {"op-userID": poster, "op-title": f"CMV: {_cut(text, rng, 'post')[:90]}"}
                    conversations[root] = meta | {"op-text-body": row["text"], "pair_ids": []}
                lines.write(json.dumps(row) + "\n")
                number += 1
    nested = {id_: {"meta": meta, "vectors": []} for id_, meta in conversations.items()}
    (folder / "conversations.json").write_text(json.dumps(nested))
    names = {f"user_{i}": {"meta": {}, "vectors": []} for i in range(speakers)}
    (folder / "speakers.json").write_text(json.dumps(names))
    (folder / "corpus.json").write_text('{"name": "generated"}')
    index = {f"{kind}-index": {} for kind in ("utterances", "speakers", "conversations", "overall")}
    (folder / "index.json").write_text(json.dumps(index | {"version": 1, "vectors": []}))


# The fields that Reddit's comments carry in the real file, most of them empty.
META = {
    "pair_ids": [], "approved_by": None, "author_flair_css_class": None, "author_flair_text": None,
    "banned_by": None, "controversiality": 0, "distinguished": None, "downs": 0, "edited": False,
    "gilded": 0, "likes": None, "mod_reports": [], "num_reports": None, "report_reasons": None,
    "saved": False, "score_hidden": False, "subreddit": "changemyview", "subreddit_id": "t5_2w2s8",
    "ups": 3, "user_reports": [],
}  # fmt: skip


def _english(rng: random.Random, characters: int) -> str:
    """A long text of the words of the embedded study's grammar, in Zipf's frequencies, in sentences."""
    source = (
        Path(__file__).parent.parent / "workflow/persuasion_rl/data/synthetic/grammar.py"
    ).read_text()
    words = sorted(set(re.findall(r"[a-z]{2,}", source)), key=lambda word: (len(word), word))
    weights = [1 / (rank + 1) for rank in range(len(words))]
    parts, length = [], 0
    while length < characters:
        sentence = " ".join(rng.choices(words, weights, k=rng.randrange(6, 25))).capitalize() + "."
        parts.append(sentence + ("\n\n" if rng.random() < 0.15 else " "))
        length += len(parts[-1])
    return "".join(parts)


def _cut(text: str, rng: random.Random, kind: str) -> str:
    median, spread = LENGTHS[kind]
    size = int(min(10_000, rng.lognormvariate(math.log(median), spread)))
    start = rng.randrange(len(text) - size)
    return text[start : start + size].strip() or "Yes."


def walk_with_convokit(folder: Path, tokenizer: Path) -> None:
    """Load the corpus whole and count the tokens of each comment with a call of its own."""
    from convokit import Corpus
    from transformers import AutoTokenizer

    count = AutoTokenizer.from_pretrained(tokenizer)
    corpus = Corpus(filename=str(folder))
    tokens = sum(len(count.encode(utterance.text)) for utterance in corpus.iter_utterances())
    print(f"convokit: {tokens:,} tokens", file=sys.stderr)


def stages(folder: Path, tokenizer: Path, out: Path) -> dict[str, list[str]]:
    """The commands of the data stages, with the published study's settings."""
    module = [sys.executable, "-m"]
    budget = (
        "--min_tokens 20 --max_tokens 1024 --max_context_tokens 700 --max_seq_length 1024".split()
    )
    plan = (
        "--train 40000 --val 5000 --test 5000 --use_val_set true --human_pool_size 300"
        " --final_eval_size 1700 --seed 1"
    ).split()
    return {
        "assign_sides": [
            *module, "persuasion_rl.data.sides", "--corpora", folder, "--output", out / "sides.csv",
            "--duplicates", out / "near_duplicates.json", "--seed", "1",
            *"--train 0.8 --val 0.1 --test 0.1".split(),
        ],
        "process_cmv": [
            *module, "persuasion_rl.data.cmv", "--corpora", folder, "--tokenizer", tokenizer / "tokenizer.json",
            "--examples", out / "examples.jsonl", "--pairs", out / "pairs.jsonl",
            "--counts", out / "counts.json", *budget,
        ],
        "split": [
            *module, "persuasion_rl.data.split", "--examples", out / "examples.jsonl",
            "--sides", out / "sides.csv", *(f"--sft_{side}={out}/{side}.jsonl" for side in SIDES),
            *(f"--{pool}={out}/{pool}.jsonl" for pool in ("ai_pool", "human_pool", "final_eval")),
            "--summary", out / "summary.json", *plan,
        ],
        "check_leakage": [
            *module, "persuasion_rl.data.leakage", "--corpora", folder, "--sides", out / "sides.csv", "--pairs", out / "pairs.jsonl",
            "--sft", *(f"{side}={out}/{side}.jsonl" for side in SIDES),
            "--pools", f"ai={out}/ai_pool.jsonl", f"human={out}/human_pool.jsonl",
            f"final_eval={out}/final_eval.jsonl", "--output", out / "leakage.json",
        ],
    }  # fmt: skip


SIDES = ("train", "val", "test")


def measured(command: list) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a process."""
    before = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    output = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command[:4]))}: {output[-2000:]}")
    print(output.strip().splitlines()[-1], file=sys.stderr)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return time.perf_counter() - before, usage.ru_maxrss / unit


def run_stages(folder: Path, tokenizer: Path, out: Path) -> dict[str, tuple[float, float]]:
    out.mkdir()
    commands = stages(folder, tokenizer, out)
    return {name: measured(command) for name, command in commands.items()}


def compare(tokenizer: Path, utterances: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus")
        generate(corpus, utterances)
        ours = run_stages(corpus, tokenizer, Path(scratch, "out"))
        theirs = measured(
            [sys.executable, __file__, "walk", "--tokenizer", tokenizer, "--folder", corpus]
        )
    print(f"{utterances:,} utterances\n\n| | seconds | peak memory (MB) |\n|---|---:|---:|")
    print(f"| convokit.Corpus, one tokenizer call a comment | {theirs[0]:.1f} | {theirs[1]:.0f} |")
    for name, (seconds, memory) in ours.items():
        print(f"| {name} | {seconds:.1f} | {memory:.0f} |")
    total = sum(seconds for seconds, _ in ours.values())
    print(f"| all four stages | {total:.1f} | {max(memory for _, memory in ours.values()):.0f} |")
    print(
        f"\nprocess_cmv is {theirs[0] / ours['process_cmv'][0]:.1f} times as fast, all four stages"
        f" {theirs[0] / total:.1f} times."
    )


def scale(tokenizer: Path, sizes: list[int]) -> None:
    print("| utterances | corpus (GB) | stage | seconds | µs an utterance | peak memory (MB) |")
    print("|---:|---:|---|---:|---:|---:|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            corpus = Path(scratch, "corpus")
            generate(corpus, size)
            gigabytes = (corpus / "utterances.jsonl").stat().st_size / 1e9
            for name, (seconds, memory) in run_stages(
                corpus, tokenizer, Path(scratch, "out")
            ).items():
                each = seconds / size * 1e6
                print(
                    f"| {size:,} | {gigabytes:.1f} | {name} | {seconds:.1f} | {each:.1f} | {memory:.0f} |"
                )
                sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["compare", "scale", "walk"])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--utterances", type=int, nargs="+", default=[SHAPE["utterances"]])
    parser.add_argument("--folder", type=Path, help="of the corpus to walk")
    given = parser.parse_args()
    if given.what == "walk":
        walk_with_convokit(given.folder, given.tokenizer)
    elif given.what == "compare":
        compare(given.tokenizer, given.utterances[0])
    else:
        scale(given.tokenizer, given.utterances)


if __name__ == "__main__":
    main()
