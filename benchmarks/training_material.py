"""What benchmarks/training.py trains on and from: rows, tokens, a base model and an adapter."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path

from persuasion_rl.files import UserError, read_jsonl, write_json, write_jsonl
from persuasion_rl.study.names import BASE
from persuasion_rl.study.recipes import LoraRecipe
from persuasion_rl.training.recipe import LORA
from persuasion_rl.training.tokenize import RESPONSES, Tokens, tokenize

CORPUS = "winning-args-corpus"
BUDGET = dict(min_tokens=20, max_tokens=1024, max_context_tokens=700, max_seq_length=1024)
LENGTH = BUDGET["max_seq_length"]
SEED = 1
ADAPTER = "adapter_model.safetensors"
MODELS = {
    "qwen2.5-0.5b": dict(
        vocab_size=151_936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, intermediate_size=4864,
    ),
    "smollm2-135m": dict(
        vocab_size=49_152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, intermediate_size=1536,
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
    folded = len(AutoTokenizer.from_pretrained(texts)) > vocabulary
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
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<pad>",  # else Qwen2's class adds one of its own, behind the vocabulary
    )


def write_base(base: Path, plan: Plan) -> None:
    """A model of random weights beside its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, set_seed

    from persuasion_rl.models.devices import pick_dtype

    tokenizer = AutoTokenizer.from_pretrained(base)
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
    """The adapter that a recipe has which says nothing of it."""
    shape = {name: value for name, value in LoraRecipe().items() if name in LORA}
    return shape | {"use_4bit": False}


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
