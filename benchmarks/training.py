"""Times three ways to train, SFT and DPO, in turns: as this project's predecessor did, plain trl, and ours.

python benchmarks/training.py compare --corpora FOLDER --tokenizer FOLDER    # a Markdown table
python benchmarks/training.py profile --corpora FOLDER --tokenizer FOLDER    # where our SFT's time goes

The corpora's folder holds winning-args-corpus/; the tokenizer's is what AutoTokenizer loads. Models have random
weights. On a GPU the model has Qwen2.5-0.5B's shape; on a CPU it is a small one, everything is float32, and
tokens are folded into a vocabulary that gives the head Qwen2.5's share of the work. Every way gets the same rows in the
same order. README.md beside this file tells what is measured, and has results.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from machine import commit, device_name

from persuasion_rl.files import UserError, read_json, read_jsonl, write_json, write_jsonl
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.study.names import BASE
from persuasion_rl.training.tokenize import RESPONSES, Tokens, tokenize

CORPUS = "winning-args-corpus"
BUDGET = dict(min_tokens=20, max_tokens=1024, max_context_tokens=700, max_seq_length=1024)
LENGTH = BUDGET["max_seq_length"]
SEED = 1
LEARNING_RATE = {"sft": 1e-4, "dpo": 5e-5}
"""Those of config/config.yaml, held constant here."""
ADAPTER = "adapter_model.safetensors"
AIMS = {("sft", "predecessor"): 4, ("sft", "plain trl"): 1.5, ("dpo", "second model"): 2.5}
"""How many times as fast as another way ours is meant to be."""
TOLERANCE = {"cpu": 1e-3, "cuda": 5e-2}
"""By how much losses of plain trl and ours may differ: in float32, and in bfloat16, whose log-probabilities of
whole responses are off by more (`dpo.assert_start`)."""

MODELS = {
    "qwen2.5-0.5b": dict(
        vocab_size=151_936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, intermediate_size=4864,
    ),
    "small": dict(
        vocab_size=8192, hidden_size=256, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, intermediate_size=1024,
    ),
    "tiny": dict(
        vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=64,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a comparison trains on.

    Attributes:
        model: one of MODELS.
        rows: by method, SFT rows and pairs of an epoch. effective: by method, those of an update.
        at_once: by method and way, the rows (or pairs) that go through the model at once; ours finds its own.
    """

    device: str
    threads: int
    model: str
    rows: dict[str, int]
    effective: dict[str, int]
    at_once: dict[str, dict[str, int]]


def plan_for(device: str, threads: int, model: str, rows: int) -> Plan:
    """The usual plan of a device; `model` and `rows` change it where they are not empty or 0."""
    from persuasion_rl.models.devices import pick_device

    device = pick_device(device)
    cuda = device == "cuda"
    model = model or ("qwen2.5-0.5b" if cuda else "small")
    if model not in MODELS:
        raise UserError(f"--model: {model!r} is none of {', '.join(MODELS)}")
    usual = {"sft": 512, "dpo": 512} if cuda else {"sft": 48, "dpo": 24}
    effective = {"sft": 64, "dpo": 16} if cuda else {"sft": 16, "dpo": 8}
    return Plan(
        device=device,
        threads=threads,
        model=model,
        rows={method: (rows or usual[method]) // size * size for method, size in effective.items()},
        effective=effective,
        at_once={
            "sft": {"predecessor": 4 if cuda else 2, "plain trl": 8},
            "dpo": {"second model": 2, "plain trl": 4},
        },
    )


# What is trained on and from, made once


def make(
    *,
    made: Path,
    corpora: Path,
    tokenizer: Path,
    rows: int = 0,
    model: str = "",
    device: str = "auto",
    threads: int = os.cpu_count() or 1,
) -> None:
    """Write what `one` needs into `made`: tokens (sft.parquet, dpo.parquet), a base model, an SFT adapter for
    DPO, and plan.json with the rows that there are. For the parameters see `compare`.
    """
    from persuasion_rl.models.devices import prepare_torch

    prepare_torch(threads, SEED, device)
    write_all(made, corpora, tokenizer, plan_for(device, threads, model, rows))


def write_all(folder: Path, corpora: Path, tokenizer: Path, plan: Plan) -> None:
    from transformers import AutoTokenizer

    from persuasion_rl.data.cmv import process_cmv
    from persuasion_rl.data.examples import Budget

    texts = folder / "tokenizer"
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(texts)
    sources = {"sft": folder / "examples.jsonl", "dpo": folder / "pairs.jsonl"}
    process_cmv(
        corpora=[corpora / CORPUS],
        tokenizer=texts / "tokenizer.json",
        examples=sources["sft"],
        pairs=sources["dpo"],
        counts=folder / "counts.json",
        budget=Budget(**BUDGET),
    )
    vocabulary = MODELS[plan.model]["vocab_size"]
    folded = plan.model != "qwen2.5-0.5b"
    for method, source in sources.items():
        rows = list(read_jsonl(source))
        random.Random(SEED).shuffle(rows)
        size = plan.effective[method]
        plan.rows[method] = min(plan.rows[method], len(rows) // size * size)
        if plan.rows[method] < 2 * size:
            raise UserError(
                f"{method}: {plan.rows[method]} rows are fewer than two updates of {size}"
            )
        for name, count in ((method, plan.rows[method]), (f"{method}_val", 2)):
            write_jsonl(folder / f"{name}.jsonl", rows[:count])
            table = folder / f"{name}.parquet"
            tokenize(rows=folder / f"{name}.jsonl", base=texts, output=table)
            if folded:
                fold(table, vocabulary)
    base = folder / "base"
    if folded:
        numbered_tokenizer(vocabulary).save_pretrained(base)
    else:
        AutoTokenizer.from_pretrained(texts).save_pretrained(base)
    write_base(base, plan)
    write_adapter(base, folder / "adapter" / ADAPTER, plan.device)
    write_json(folder / "plan.json", asdict(plan))


def fold(table: Path, vocabulary: int) -> None:
    """Take a table's token ids modulo a smaller vocabulary, whose last two are kept for padding and EOS."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    read = pq.read_table(table)
    columns = read.to_pydict()
    for name in ("prompt_ids", *RESPONSES):
        if name in columns:
            ends = [] if name == "prompt_ids" else [vocabulary - 1]
            columns[name] = [
                [id_ % (vocabulary - 2) for id_ in ids[: len(ids) - len(ends)]] + ends
                for ids in columns[name]
            ]
    pq.write_table(pa.table(columns, schema=read.schema), table)


def numbered_tokenizer(vocabulary: int):
    """A tokenizer whose tokens are numbers, with padding and EOS as `fold` leaves them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {str(number): number for number in range(vocabulary - 2)}
    words |= {"<pad>": vocabulary - 2, "<eos>": vocabulary - 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")),
        eos_token="<eos>",
        pad_token="<pad>",
    )


def write_base(base: Path, plan: Plan) -> None:
    """A model of random weights beside its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, set_seed

    from persuasion_rl.models.devices import pick_dtype
    from persuasion_rl.models.loading import load_tokenizer

    tokenizer = load_tokenizer(base)
    config = Qwen2Config(
        **MODELS[plan.model],
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    set_seed(SEED)
    with torch.device(plan.device):
        model = AutoModelForCausalLM.from_config(config)
    model.to(pick_dtype(plan.device)).save_pretrained(base)


def write_adapter(base: Path, adapter: Path, device: str) -> None:
    """An adapter as SFT leaves one, with its record; its second matrices are small noise."""
    import torch

    from persuasion_rl.models.lineage import base_digest
    from persuasion_rl.models.loading import load_base
    from persuasion_rl.training import trainer as training
    from persuasion_rl.training.arguments import JobArguments

    model = training.add_lora(load_base(base, device), lora_settings(), task_type="CAUSAL_LM")
    torch.manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.01)
    model.save_pretrained(adapter.parent)
    job = JobArguments(
        base=base, adapter=adapter, state=adapter.parent, seed=SEED, threads=1, device=device
    )
    run = training.TrainingRun("sft", job, device, {}, {}, BASE, base_digest(base))
    training.write_record(run, history=[], metrics={}, batches={}, resolved={})


def lora_settings() -> dict:
    from persuasion_rl.training.recipe import LORA_DEFAULTS

    return {**LORA_DEFAULTS, "use_4bit": False}


# The ways


@dataclass
class Turn:
    """One training of a comparison: what `make` wrote, its plan, and a folder for what it writes itself."""

    method: str
    way: str
    made: Path
    out: Path
    plan: Plan

    @property
    def base(self) -> Path:
        return self.made / "base"

    @property
    def adapter(self) -> Path:
        return self.made / "adapter" / ADAPTER

    @property
    def table(self) -> Path:
        return self.made / f"{self.method}.parquet"

    @property
    def is_cuda(self) -> bool:
        return self.plan.device == "cuda"

    def schedule(self) -> dict:
        """What every way has in common, in the trainers' own argument names."""
        return {
            "num_train_epochs": 1,
            "learning_rate": LEARNING_RATE[self.method],
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",  # `make` shuffled the rows
            "logging_steps": 1,
        }

    def arguments(self, **further) -> dict:
        """The schedule with what decides batches, for the ways that are not ours."""
        rows = self.plan.at_once[self.method][self.way]
        return {
            **self.schedule(),
            "output_dir": str(self.out),
            "seed": SEED,
            "use_cpu": not self.is_cuda,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": self.plan.effective[self.method] // rows,
            "save_strategy": "no",
            "report_to": [],
            **further,
        }


def predecessor_sft(turn: Turn) -> None:
    """transformers' Trainer: every row padded to the full length, a loss on all its tokens."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from persuasion_rl.training.trainer import add_lora

    tokens = Tokens.read(turn.table)
    model = AutoModelForCausalLM.from_pretrained(
        turn.base, dtype=torch.float16 if turn.is_cuda else torch.float32
    )
    pad = model.config.pad_token_id
    model = add_lora(model, lora_settings(), task_type="CAUSAL_LM")
    model.enable_input_require_grads()

    def collate(rows: list[dict]) -> dict:
        lengths = [len(row["input_ids"]) for row in rows]
        ids = torch.tensor([row["input_ids"] + [pad] * (LENGTH - len(row["input_ids"])) for row in rows])  # fmt: skip
        mask = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": ids.masked_fill(mask == 0, -100),
        }

    columns = tokens.columns
    rows = [p + r for p, r in zip(columns["prompt_ids"], columns["response_ids"], strict=True)]
    Trainer(
        model=model,
        args=TrainingArguments(**turn.arguments(gradient_checkpointing=True, fp16=turn.is_cuda)),
        data_collator=collate,
        train_dataset=Dataset.from_dict({"input_ids": rows}),
    ).train()


def plain_sft(turn: Turn) -> None:
    """trl's SFTTrainer as it comes: it loads the model itself and checkpoints gradients."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from persuasion_rl.models.loading import load_tokenizer
    from persuasion_rl.training.sft import labelled_dataset

    lora = lora_settings()
    config = SFTConfig(
        **turn.arguments(dataset_kwargs={"skip_prepare_dataset": True}), **precision(turn)
    )
    SFTTrainer(
        model=str(turn.base),
        args=config,
        processing_class=load_tokenizer(turn.base),
        train_dataset=labelled_dataset(Tokens.read(turn.table)),
        peft_config=LoraConfig(
            r=lora["lora_r"],
            lora_alpha=lora["lora_alpha"],
            lora_dropout=lora["lora_dropout"],
            target_modules=lora["lora_target_modules"],
            task_type="CAUSAL_LM",
        ),
    ).train()


def precision(turn: Turn) -> dict:
    """trl's default where the device has it: bfloat16 on a GPU, and never on a CPU here."""
    import torch

    from persuasion_rl.models.devices import pick_dtype

    dtype = pick_dtype(turn.plan.device)
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


def our_sft(turn: Turn) -> None:
    from persuasion_rl.training.sft import train_sft

    train_sft(**our_arguments(turn), **lora_settings())


def our_arguments(turn: Turn, **start: object) -> dict:
    """Arguments of the project's own stages; they evaluate on two rows, outside the updates.

    Args:
        start: the parent and its lineage, where it is not the base.
    """
    from persuasion_rl.training.arguments import JobArguments, PolicyArguments

    return {
        **turn.schedule(),
        "job": JobArguments(
            base=turn.base,
            adapter=turn.out / "trained" / ADAPTER,
            state=turn.out / "state",
            seed=SEED,
            threads=turn.plan.threads,
            device=turn.plan.device,
        ),
        "policy": PolicyArguments(
            train=turn.table, val=turn.table.with_stem(f"{turn.method}_val"), **start
        ),
        "effective_batch_size": turn.plan.effective[turn.method],
        "max_length": LENGTH,
        "eval_strategy": "epoch",
    }


def second_model_dpo(turn: Turn) -> None:
    """trl's DPOTrainer with the reference as a second whole model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype = torch.float16 if turn.is_cuda else torch.float32

    def load(**further):
        model = AutoModelForCausalLM.from_pretrained(turn.base, dtype=dtype)
        return PeftModel.from_pretrained(model, turn.adapter.parent, **further)

    train_dpo(turn, load(is_trainable=True), load().merge_and_unload(), fp16=turn.is_cuda, bf16=False)  # fmt: skip


def plain_dpo(turn: Turn) -> None:
    """trl's DPOTrainer as it comes, going on from an adapter."""
    from peft import PeftModel

    from persuasion_rl.models.loading import load_base

    model = load_base(turn.base, turn.plan.device)
    model = PeftModel.from_pretrained(model, turn.adapter.parent, is_trainable=True)
    train_dpo(turn, model, None, **precision(turn))


def train_dpo(turn: Turn, model, reference, **further) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from persuasion_rl.models.loading import load_tokenizer

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    columns = Tokens.read(turn.table).columns
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    Tokenized(
        model=model,
        ref_model=reference,
        args=DPOConfig(**turn.arguments(**further)),
        processing_class=load_tokenizer(turn.base),
        train_dataset=Dataset.from_dict({name: columns[name] for name in names}),
    ).train()


def our_dpo(turn: Turn) -> None:
    from persuasion_rl.training.dpo import train_dpo

    train_dpo(**our_arguments(turn, lineage=[turn.adapter], parent="sft"))


WAYS: dict[str, dict[str, Callable[[Turn], None]]] = {
    "sft": {"predecessor": predecessor_sft, "plain trl": plain_sft, "ours": our_sft},
    "dpo": {"second model": second_model_dpo, "plain trl": plain_dpo, "ours": our_dpo},
}


# One turn, measured


def clock_for(device: str):
    """A callback for every trainer of this process: when updates ended, their losses, memory at its peak.

    `reference` is the time (s) of log-probabilities that trl's DPOTrainer computes before a training.
    """
    import torch
    from transformers import TrainerCallback

    from persuasion_rl.training.meter import peak_memory

    class Clock(TrainerCallback):
        reference = 0.0

        def on_train_begin(self, args, state, control, model=None, **_):
            self.model, self.ends, self.losses = model, [], []
            if device == "cuda":  # what was tried before, to find a batch that fits, does not count
                torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args, state, control, **_):
            if device == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.memory = peak_memory(device)

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:
                self.losses.append(logs["loss"])

    return Clock()


def watch(callback) -> None:
    """Give a callback to every trainer that is made from now on, the project's among them."""
    from transformers import trainer

    trainer.DEFAULT_CALLBACKS.append(callback)


def time_reference(clock) -> None:
    """Let the clock know how long the reference's log-probabilities of the training pairs take."""
    from trl import DPOTrainer

    compute = DPOTrainer._precompute_ref_logps

    def timed(self, dataset, name, *further):
        started = time.perf_counter()
        log_probabilities = compute(self, dataset, name, *further)
        if name == "train":
            clock.reference = time.perf_counter() - started
        return log_probabilities

    DPOTrainer._precompute_ref_logps = timed


def one(*, made: Path, method: str, way: str) -> None:
    """Train in one way on what `compare` made, and print what was measured as a line of JSON.

    Args:
        made: a folder that the command make wrote.
        method: sft or dpo. way: predecessor (of dpo: second model), plain trl or ours.
    """
    from persuasion_rl.models.devices import peak_flops, prepare_torch

    if way not in WAYS.get(method, {}):
        raise UserError(f"there is no way {way!r} of {method!r}")
    plan = Plan(**read_json(made / "plan.json"))
    prepare_torch(plan.threads, SEED, plan.device)
    clock = clock_for(plan.device)
    watch(clock)
    if method == "dpo":
        time_reference(clock)
    with tempfile.TemporaryDirectory() as out:
        WAYS[method][way](Turn(method, way, made, Path(out), plan))
    measured = rates(clock, Tokens.read(made / f"{method}.parquet"), plan.effective[method])
    measured["peak_flops_per_second"] = peak_flops(plan.device)
    print(json.dumps({"method": method, "way": way, **measured}))


def rates(clock, tokens: Tokens, effective: int) -> dict:
    """Response tokens and useful FLOP/s of the updates after the first, which has the start-up in it.

    Useful is twice the forward pass of every distinct token of the rows, and the head's for responses only,
    whatever a way computes beside it; a reference's forward pass is not counted.
    """
    from persuasion_rl.training.meter import forward_flops

    updates = len(tokens) // effective
    assert len(clock.ends) == updates, f"{len(clock.ends)} updates, not {updates}"
    timed = range(effective, len(tokens))
    seconds = clock.ends[-1] - clock.ends[0] + clock.reference * len(timed) / len(tokens)
    workload = workload_of(tokens, timed)
    return {
        "tokens_per_second": workload.labelled / seconds,
        "flops_per_second": 2 * forward_flops(clock.model, workload) / seconds,
        "memory_gb": clock.memory / 1e9,
        "losses": clock.losses,
        "reference_seconds": clock.reference,
    }


def workload_of(tokens: Tokens, timed: range):
    """The distinct tokens of some rows, those of their responses, and what attends to what."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from persuasion_rl.training.unpadding import Workload, lay_out

    columns = tokens.columns
    names = [name for name in RESPONSES if name in columns]
    rows = [
        torch.tensor(columns["prompt_ids"][i] + columns[name][i]) for name in names for i in timed
    ]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    layout = lay_out(pad_sequence(rows, batch_first=True), mask, paired=len(names) == 2)
    workload = Workload()
    workload.add(layout, labelled=sum(len(columns[name][i]) for name in names for i in timed))
    return workload


# The comparison


def compare(
    *,
    corpora: Path,
    tokenizer: Path,
    rounds: int = 3,
    rows: int = 0,
    model: str = "",
    device: str = "auto",
    threads: int = os.cpu_count() or 1,
) -> None:
    """Time SFT and DPO in three ways each, in turns, a process a turn, and print a table.

    Args:
        corpora: the folder that holds winning-args-corpus.
        tokenizer: the folder of the base model or its tokenizer.
        rows: SFT rows and pairs, rounded down to whole updates; 0 is the device's usual number.
        model: qwen2.5-0.5b, small or tiny; else the device's usual one.
    """
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own too: a child's peak of memory is at least what its parent has in use.
        wanted = dict(
            corpora=corpora, tokenizer=tokenizer, rows=rows, device=device, threads=threads
        )
        run("make", made=folder, model=model, **wanted)
        plan = Plan(**read_json(Path(folder, "plan.json")))
        turns = [
            turn(folder, method, way)
            for method, ways in WAYS.items()
            for _ in range(rounds)
            for way in ways
        ]
    print(header(plan, rounds) + "\n")
    print("\n".join(table(turns)) + "\n")
    checks = list(agreements(turns, TOLERANCE[plan.device]))
    print("\n".join(f"{text}: {'agree' if agree else 'DIFFER'}" for text, agree in checks))
    if not all(agree for _, agree in checks):
        raise UserError("plain trl and ours do not train alike")


def turn(made: str, method: str, way: str) -> dict:
    """Run a turn in a process of its own, and return what it measured."""
    measured = json.loads(run("one", made=made, method=method, way=way).splitlines()[-1])
    note(f"{method}, {way}: {measured['tokens_per_second']:.0f} response tokens/s")
    return measured


def run(command: str, **arguments: object) -> str:
    """A command of this file in a process of its own; what it printed."""
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, __file__, command, *words], capture_output=True, text=True
    )
    if done.returncode:
        errors = done.stderr.strip().splitlines() or ["no reason given"]
        of_what = ", ".join(str(arguments[key]) for key in ("method", "way") if key in arguments)
        raise UserError(f"{of_what or command}: {errors[-1].removeprefix('error: ')}")
    return done.stdout.strip()


def header(plan: Plan, rounds: int) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "trl", "transformers"))
    return (
        f"{device_name(plan.device, plan.threads)}; {date.today()}, commit {commit()}; {packages}. Model {plan.model};"
        f" {plan.rows['sft']} rows, {plan.effective['sft']} an update;"
        f" {plan.rows['dpo']} pairs, {plan.effective['dpo']} an update; {rounds} round(s)"
    )


def table(turns: list[dict]) -> Iterator[str]:
    """Medians over the rounds, and how many times as fast as another way ours was in its round: median, range.

    The peak is the highest of all turns: what else a machine does can only lower it.
    """
    peak = max(turn["peak_flops_per_second"] for turn in turns)
    yield (
        "| method | way | response tokens/s | share of peak | peak memory (GB) | last update's loss"
        " | ours is faster by (range) | aim |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for method, ways in WAYS.items():
        ours = of(turns, method, "ours", "tokens_per_second")
        for way in ways:
            speeds = of(turns, method, way, "tokens_per_second")
            ratios = [mine / other for mine, other in zip(ours, speeds, strict=True)]
            faster = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            aim = AIMS.get((method, way))
            cells = [
                method.upper(),
                way,
                f"{statistics.median(speeds):,.0f}",
                f"{statistics.median(of(turns, method, way, 'flops_per_second')) / peak:.1%}",
                f"{max(of(turns, method, way, 'memory_gb')):.2f}",
                f"{of(turns, method, way, 'losses')[0][-1]:.4f}",
                "" if way == "ours" else faster,
                f"{aim}" if aim else "",
            ]
            yield f"| {' | '.join(cells)} |"


def of(turns: list[dict], method: str, way: str, name: str) -> list:
    """What was measured of a way, a value a round."""
    return [turn[name] for turn in turns if (turn["method"], turn["way"]) == (method, way)]


def agreements(turns: list[dict], tolerance: float) -> Iterator[tuple[str, bool]]:
    """Whether plain trl and ours have the same loss where they must.

    SFT in the first update, in which a new adapter adds nothing and its dropout nothing either; DPO, which has
    no dropout, in the last, after all others.
    """
    for method, place, which in (("sft", 0, "first"), ("dpo", -1, "last")):
        plain, ours = (of(turns, method, way, "losses")[0][place] for way in ("plain trl", "ours"))
        text = (
            f"{method.upper()}, loss of the {which} update: plain trl {plain:.5f}, ours {ours:.5f}"
        )
        yield text, abs(plain - ours) <= tolerance


# Where the time goes


MARKS = {
    "language-model head": ("chunkedlogprob",),
    "attention": ("scaleddotproduct", "varlenattn", "flashattn", "flashattention"),
    "optimizer": ("optimizer.", "foreach", "fusedadam"),
}
"""What names an operation or one that it is part of, in lower case and without underscores."""
MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
MOVES = (
    "aten::copy_", "aten::cat", "aten::index", "aten::index_select", "aten::index_put_", "aten::gather",
    "aten::_index_put_impl_", "aten::index_add_", "aten::repeat_interleave", "aten::masked_scatter",
    "aten::scatter_", "aten::embedding_dense_backward", "aten::constant_pad_nd",
)  # fmt: skip


def category(event) -> str:
    """The category of an operation's own time."""
    names, at = [], event
    while at is not None:
        names.append(at.name.lower().replace("_", ""))
        at = at.cpu_parent
    for kind, marks in MARKS.items():
        if any(mark in name for mark in marks for name in names):
            return kind
    if event.name in MATRIX_PRODUCTS:
        return "linear layers"
    if event.name in MOVES:
        return "moving data"
    return "elementwise and norms" if event.name.startswith("aten::") else "other"


def profiler_for(device: str, updates: int):
    """A callback that profiles some updates after the first; `.shares()` divides their time."""
    import torch
    from torch.profiler import ProfilerActivity
    from transformers import TrainerCallback

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None

    class Profiler(TrainerCallback):
        seconds = 0.0

        def on_step_end(self, args, state, control, **_):
            finish()
            if state.global_step == 1:
                self.profiler = torch.profiler.profile(activities=activities)
                self.profiler.start()
                self.started = time.perf_counter()
            elif state.global_step == 1 + updates:
                self.seconds = time.perf_counter() - self.started
                self.profiler.stop()

        def shares(self) -> dict[str, float]:
            """Of the time of the device, by category, the largest first; the rest is where it did nothing
            or where Python ran."""
            own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
            spent: Counter = Counter()
            for event in self.profiler.events():
                if event.device_type == torch.autograd.DeviceType.CPU and not event.is_async:
                    spent[category(event)] += getattr(event, own) / 1e6
            spent.pop("other", None)
            spent["other, and idle"] = max(0.0, self.seconds - spent.total())
            return {kind: seconds / spent.total() for kind, seconds in spent.most_common()}

    return Profiler()


def profile(
    *,
    corpora: Path,
    tokenizer: Path,
    updates: int = 2,
    model: str = "",
    device: str = "auto",
    threads: int = os.cpu_count() or 1,
) -> None:
    """Print where the time of our SFT goes, as shares of some updates' time, the profiler's own included.

    Args:
        updates: how many are profiled, after a first one.
    """
    from persuasion_rl.models.devices import prepare_torch

    prepare_torch(threads, SEED, device)
    plan = plan_for(device, threads, model, 0)
    plan.rows["sft"] = (1 + updates) * plan.effective["sft"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
        write_all(Path(folder), corpora, tokenizer, plan)
        updates = plan.rows["sft"] // plan.effective["sft"] - 1
        profiler = profiler_for(plan.device, updates)
        watch(profiler)
        our_sft(Turn("sft", "ours", Path(folder), Path(out), plan))
    made_on = f"{device_name(plan.device, plan.threads)}; {date.today()}, commit {commit()}. Model {plan.model}"
    print(
        f"{made_on}; {updates} update(s) of {plan.effective['sft']} rows, {profiler.seconds:.1f} s\n"
    )
    print("| | share of the time |\n|---|---:|")
    for kind, share in profiler.shares().items():
        print(f"| {kind} | {share:.1%} |")


if __name__ == "__main__":
    stage(compare, profile, make, one)
