"""The memory of jobs with a model, estimated (study/memory.py) and measured: training, sampling, measuring, judging.

python benchmarks/memory.py --shapes demo small --rows 8 --length 512
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import commit, device_name

from persuasion_rl.files import write_jsonl, write_text
from persuasion_rl.study.flags import flags
from persuasion_rl.study.memory import (
    FLOAT32,
    LOSS_TOKENS,
    READER,
    TRAINER,
    kl_bytes,
    loss_bytes,
    sampling_bytes,
    scoring_bytes,
    training_bytes,
)
from persuasion_rl.study.model_size import size_in

SHAPES = {
    "demo": dict(
        num_hidden_layers=2, hidden_size=128, num_attention_heads=8, num_key_value_heads=4,
        intermediate_size=384, vocab_size=2048,
    ),
    "small": dict(
        num_hidden_layers=12, hidden_size=384, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=1024, vocab_size=16_384,
    ),
    "SmolLM2-135M": dict(
        num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, vocab_size=49_152,
    ),
}  # fmt: skip
"""Layers and widths of models with random weights, in Llama's architecture and with tied embeddings."""
WORDS = 1000
AT_ONCE = 64
"""Responses that are sampled at once."""
LORA = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
LORA |= {"lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
RECIPE = {
    "max_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "learning_rate": 0.001,
}
METADATA = ("conversation_id", "prompt_id", "utterance_id", "reply_to", "winner_id", "loser_id")
ENDED = {
    "finish_reason": "length",
    "tokens": 1,
    "response_tokens": 1,
    "context_tokens": 1,
    "context_cut": False,
}
JOBS = ("sft", "dpo", "reward", "sampling", "loss", "kl", "judging")


def make_base(folder: Path, shape: dict[str, int]) -> None:
    """A model of a shape with random weights, whose tokenizer has a token for each word w0 to w999."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<|end|>", *(f"w{number}" for number in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(**shape, tie_word_embeddings=True, max_position_embeddings=4096, eos_token_id=0)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def text(tokens: int, first: int) -> str:
    return " ".join(f"w{(first + 7 * place) % WORDS}" for place in range(tokens))


class Bench:
    """The files of one shape, and its jobs."""

    def __init__(self, folder: Path, rows: int, length: int):
        self.folder, self.rows, self.length = folder, rows, length
        self.prompt, self.reply = length // 2, length - length // 2 - 1  # and EOS
        self.base = folder / "base"

    def make_rows(self) -> None:
        """Rows of every kind, each of the greatest length."""
        from persuasion_rl.training.tokenize import tokenize

        ids = [
            {key: f"{key}{i}" for key in METADATA} | {"source": "cmv"}
            for i in range(max(AT_ONCE, 4 * self.rows))
        ]
        prompts = [text(self.prompt, i) for i in range(len(ids))]
        replies = [[text(self.reply, 100 * i + k) for i in range(len(ids))] for k in (1, 2)]
        kinds = {
            "sft": ("input_text", "response", "full_text"),
            "dpo": ("prompt", "chosen", "rejected"),
            "pairs": ("prompt", "winner", "loser"),
            "prompts": ("prompt", "response", "second"),
            "replies": ("prompt", "response", "second"),
        }
        for name, keys in kinds.items():
            texts = zip(prompts, *replies, strict=True)
            rows = [
                dict(zip(keys, each, strict=True)) | {"metadata": metadata | ENDED}
                for each, metadata in zip(texts, ids, strict=True)
            ]
            # Only the judge and the sampler take many at once.
            enough = max(2 * self.rows, -(-LOSS_TOKENS // self.length))
            few = rows[:enough] if name in ("sft", "dpo", "replies") else rows
            write_jsonl(self.folder / f"{name}.jsonl", few)
            if name not in ("prompts", "replies"):
                tokenize(
                    rows=self.folder / f"{name}.jsonl",
                    base=self.base,
                    output=self.folder / f"{name}.parquet",
                )
        for name, sides in (("sides", ("train", "val")), ("judged", ("test", "test"))):
            lines = [f"{row['conversation_id']},{sides[i % 2]}" for i, row in enumerate(ids)]
            write_text(self.folder / f"{name}.csv", "\n".join(["conversation_id,side", *lines, ""]))

    def command(self, job: str) -> list[str]:
        base, here = ["--base", str(self.base)], self.folder
        common = {"device": "cpu", "seed": 1}
        if job in ("sft", "dpo", "reward"):
            effective = self.rows if job == "sft" else max(1, self.rows // 2)
            recipe = RECIPE | {"max_length": self.length + 1, "effective_batch_size": effective}
            recipe |= {
                "per_device_train_batch_size": effective,
                "per_device_eval_batch_size": effective,
            }
            recipe |= {} if job == "dpo" else LORA
            out = here / job / "adapter_model.safetensors"
            words = ["--adapter", str(out), "--state", str(here / "state" / job), "--threads", "1"]
            if job == "reward":
                words += [
                    "--pairs",
                    str(here / "pairs.parquet"),
                    "--sides",
                    str(here / "sides.csv"),
                ]
            else:
                table = str(here / f"{job}.parquet")
                words += ["--train", table, "--val", table]
                words += ["--lineage", str(here / "sft/adapter_model.safetensors"), "--parent", "sft"] if job == "dpo" else []  # fmt: skip
            return [f"training.{job}", *base, *words, *flags(common | recipe).split()]
        sampled = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": self.reply, "model": "base"}
        return {
            "sampling": ["sampling.evaluate_model", *base, "--lineage", "--prompts", f"{here}/prompts.jsonl",
                         "--output", f"{here}/sampled.jsonl", "--state", f"{here}/samples",
                         *flags(common | sampled | {"batch_size": AT_ONCE}).split()],
            "loss": ["evaluation.loss", *base, "--lineage", "--held_out", f"{here}/sft.jsonl",
                     "--output", f"{here}/loss.json", *flags(common).split()],
            "kl": ["evaluation.kl", *base, "--lineage", f"{here}/sft/adapter_model.safetensors",
                   f"{here}/dpo/adapter_model.safetensors", "--responses", f"{here}/replies.jsonl",
                   "--output", f"{here}/kl.jsonl", *flags(common).split()],
            "judging": ["judges.judge_trust", *base, "--judges", "delta", "--delta_adapter",
                        f"{here}/reward/adapter_model.safetensors", "--delta_pairs", f"{here}/pairs.jsonl",
                        "--sides", f"{here}/judged.csv", "--output", f"{here}/trust.csv", "--draws", "10",
                        *flags(common).split()],
        }[job]  # fmt: skip

    def estimate(self, job: str) -> float:
        """Bytes, those of a process included."""
        size, rows, length = size_in(self.base), self.rows, self.length
        if job in ("sft", "dpo", "reward"):
            pairs = max(1, rows // 2)
            tokens = rows * length if job == "sft" else pairs * (length + self.reply)
            labelled = rows * self.reply if job == "sft" else 2 * pairs * self.reply
            needed = training_bytes(
                job,
                size,
                LORA,
                tokens=tokens,
                labelled=labelled,
                length=length,
                checkpointing=False,
                numbers=FLOAT32,
            )
        else:
            needed = {
                "sampling": lambda: sampling_bytes(size, AT_ONCE, self.prompt, self.reply),
                "loss": lambda: loss_bytes(size, length),
                "kl": lambda: kl_bytes(size, self.prompt, self.reply),
                "judging": lambda: scoring_bytes(size, length),
            }[job]()
        return needed + (TRAINER if job in ("sft", "dpo", "reward") else READER)


def peak(words: list[str]) -> float:
    """The peak memory of a module that runs with these words, in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"persuasion_rl.{words[0]}", *words[1:]],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)}\n{log[-3000:]}")
    return usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--rows", type=int, default=8, help="rows at once; half as many pairs")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    options = parser.parse_args()
    print(f"{device_name('cpu', 1)}; commit {commit()}; {options.rows} rows of {options.length} tokens\n")  # fmt: skip
    print("| shape | job | estimated, GB | measured, GB | ratio |\n|---|---|---:|---:|---:|")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), options.rows, options.length)
            make_base(bench.base, SHAPES[shape])
            bench.make_rows()
            for job in options.jobs:
                estimated, measured = bench.estimate(job), peak(bench.command(job))
                ratio = estimated / measured
                print(f"| {shape} | {job} | {estimated / 1e9:.2f} | {measured / 1e9:.2f} | {ratio:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
