"""Estimates the memory of jobs with a model: of a GPU for the doctor, of the machine for Snakemake and for trainings on a CPU.

Estimates are bytes, of the largest batch: every row is counted with the greatest length. benchmarks/memory.py measures how
near they come.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.runtime.leases import visible_devices
from persuasion_rl.runtime.machine import memory
from persuasion_rl.study.gguf_size import numbers_in
from persuasion_rl.study.model_size import QWEN, Size, size_in
from persuasion_rl.study.names import BASE, model_folder
from persuasion_rl.study.study import Study

TRAINER, READER = 0.65e9, 0.5e9
"""Bytes of a process that has loaded torch and transformers, with trl and without (measured)."""
TOKEN = 80
"""Bytes of a token of the training data, as Python holds it."""
UNKNOWN_MB = {
    "training": 12_000, "kl": 12_000, "sampling": 8_000, "loss": 8_000, "scoring": 8_000, "unpacking": 4_000,
}  # fmt: skip
"""What jobs ask for where the model's shape is not known when the plan is made, since it is not downloaded yet. Snakemake
asks again when a job is ready to start."""
TOO_LARGE = {
    "training": "it runs alone, with as many rows at once as fit",
    "sampling": "lower sampling.batch_size, which changes no sample",
    "loss": "it runs alone, and may be ended for want of memory",
    "kl": "it runs alone, and may be ended for want of memory",
    "scoring": "it runs alone, and may be ended for want of memory",
}
"""What happens, or helps, where a job needs more memory than the machine has."""
FRAME = 64
"""Tokens that a prompt may have around its context."""
CPU_ROWS = 8
"""Rows at once on a CPU at most, where a recipe says nothing; more are not faster."""
CACHED = 1_200_000
"""Entries of a hidden state (tokens times width) that a CPU computes at once: 4.8 MB, which stay in its cache. More rows are not
faster, and take more memory."""
ON_GPU_MB = 8_000
"""What jobs ask for whose model is in a GPU's memory; weights pass through the machine's."""
HEAD_TILE = 4096, 32_768
"""Tokens and entries of the vocabulary whose logits trl's fused head computes at once."""
CACHE_ROOM = 128
"""Tokens that a cache has room for behind those of its rows (`sampling.cache.ROOM`)."""
LOSS_TOKENS = 2048
"""Tokens of a batch of `evaluation.loss`, whose replies' logits it computes."""
KL_TOKENS = 1024
"""Tokens of a batch of `evaluation.kl`."""
SCORED = 4096
"""Tokens that the delta judge reads at once (`judges.delta`)."""


@dataclass(frozen=True)
class Numbers:
    """What numbers take, in bytes.

    Attributes:
        weight, entry: a weight of the layers, and one of the embedding.
        state: an entry of a hidden state.
        kept_width, kept_inner, kept_input: what a layer keeps of a token for the backward pass, for each unit of its width,
            of its MLP, and for each input of an adapted module.
        kept_score: what a layer keeps of each score of attention with a soft cap; without one no kernel keeps scores.
        tile: an entry of the head's tile, with what is computed from it.
    """

    weight: float
    entry: float
    state: int
    kept_width: int
    kept_inner: int
    kept_input: int
    kept_score: int
    tile: int


HALF = Numbers(
    weight=2, entry=2, state=2, kept_width=24, kept_inner=6, kept_input=4, kept_score=8, tile=2
)
"""16 bits on a GPU. What layers keep is counted in the manner of Korthikanti et al. (2022, arXiv:2205.05198, section 4),
from what autograd keeps for this code (a test recounts it)."""
FOUR_BITS = Numbers(
    weight=4.127 / 8, entry=4, state=2, kept_width=24, kept_inner=6, kept_input=4, kept_score=8, tile=2
)  # fmt: skip
"""NF4 quantised twice (Dettmers et al. 2023, arXiv:2305.14314), and the embedding in float32."""
FLOAT32 = Numbers(
    weight=4, entry=4, state=4, kept_width=40, kept_inner=16, kept_input=1, kept_score=12, tile=0
)
"""float32 on a CPU, where adapters keep what they read once, and places of what dropout zeroed; the head's tile is small
(`training.fused`). Of a score 8 bytes are kept; what is freed between them is not used again (measured)."""


def rows_on_cpu(width: int, length: int) -> int:
    """Rows, or pairs, that a CPU trains on at once where a recipe says nothing.

    Args:
        width: of the model's hidden states. length: the distinct tokens of the longest row or pair.
    """
    return max(1, min(CPU_ROWS, CACHED // (width * length)))


def training_bytes(
    method: str,
    size: Size,
    shape: dict[str, Any],
    *,
    tokens: int,
    labelled: int,
    length: int,
    checkpointing: bool,
    numbers: Numbers,
) -> float:
    """The peak of an update, without what a process has anyway.

    An adapter's weights, gradients and Adam's two moments take 4 bytes each, and DPO's reference is a frozen copy of it.
    Checkpointed gradients leave a layer's input, and all of it of one layer. Whole logits never exist (trl's fused head works
    in tiles), nor does padding.

    Args:
        method: "sft", "dpo" or "reward".
        shape: the recipe with the adapter's shape.
        tokens, labelled: of the largest batch, those that go through the layers and through the head.
        length: of its longest row, which each token attends to.
    """
    weights = size.backbone * numbers.weight + (size.parameters - size.backbone) * numbers.entry
    modules = shape["lora_target_modules"]
    adapter = size.adapter(shape["lora_r"], modules) * 4 * (5 if method == "dpo" else 4)
    inputs = sum(size.linear[name][0] for name in modules if name in size.linear)
    layer = tokens * (
        numbers.kept_width * size.width
        + numbers.kept_inner * size.inner
        + numbers.kept_input * inputs
        + numbers.kept_score * size.capped_heads * length
    )
    activations = size.layers * layer
    if checkpointing:
        activations = size.layers * tokens * numbers.state * size.width + layer
    # Hidden states and their gradients, in 16 bits and in 32; the classifier has no vocabulary.
    head = tokens * 8 * size.width
    if method != "reward":
        head += numbers.tile * min(labelled, HEAD_TILE[0]) * min(size.vocab, HEAD_TILE[1])
    return weights + adapter + activations + head


def _forward(size: Size, tokens: int) -> float:
    """What a layer of a forward pass in float32 holds at once, without gradients."""
    return 4 * tokens * (8 * size.width + 3 * size.inner + 2 * size.queries)


def sampling_bytes(size: Size, rows: int, prompt: int, new: int) -> float:
    """The peak of a padded batch that is sampled on a CPU: the weights and their packed copy, the cache with its room, beside
    that of which it was made, the longest prompt's forward pass, and the sampler's copies of the logits.

    Args:
        rows: responses at once. prompt, new: the greatest lengths of a prompt and of a response, in tokens.
    """
    weights = (size.parameters + size.backbone + size.head) * 4
    cache = rows * (prompt + new + CACHE_ROOM) * size.layers * 2 * size.keys * 4
    logits = 8 * rows * size.vocab * 4
    return weights + 2 * cache + logits + _forward(size, prompt)


def loss_bytes(size: Size, length: int) -> float:
    """The peak of `evaluation.loss` on a CPU: the logits of a batch, all of its tokens a reply's at most.

    Args:
        length: the greatest length of a row, in tokens.
    """
    tokens = max(LOSS_TOKENS, length)
    return size.parameters * 4 + tokens * size.vocab * 4 + _forward(size, tokens)


def kl_bytes(size: Size, prompt: int, reply: int) -> float:
    """The peak of `evaluation.kl` on a CPU: two models, the logits of both for the replies of a batch, and four times those of one reply.

    Args:
        prompt, reply: their greatest lengths in tokens.
    """
    tokens = max(KL_TOKENS, prompt + reply)
    logits = (2 * tokens * reply / (prompt + reply) + 4 * reply) * size.vocab * 4
    return 2 * size.parameters * 4 + logits + _forward(size, tokens)


def scoring_bytes(size: Size, length: int) -> float:
    """The peak of the delta judge's reading on a CPU.

    Args:
        length: the greatest length of prompt and response together, in tokens.
    """
    return size.parameters * 4 + _forward(size, max(SCORED, length))


def _size_here(folder: str | Path) -> Size | None:
    """The size of the model in a folder, if it can be told. What is wrong with its config.json is for the jobs that load it."""
    with suppress(UserError):
        return size_in(folder)
    return None


class JobMemory:
    """The memory, in MB, that jobs of a study ask Snakemake for; each method is a resource of a rule, and grows with its attempt.

    With the model's shape, of its config.json, known for Qwen2.5-0.5B and for stand-ins, it is an estimate; else UNKNOWN_MB.

    Args:
        here: whether jobs run on this machine, where it shows whether they find a GPU.
    """

    def __init__(self, study: Study, here: bool):
        self._study, self._here = study, here
        self._said: set[str] = set()
        has_gpu = bool(visible_devices()) if here else True
        self._on_cpu = study.config.device == "cpu" or (
            study.config.device == "auto" and not has_gpu
        )

    def training(self, wildcards: Any, attempt: int) -> int:
        """Of train_sft and train_dpo."""
        study, name = self._study, wildcards.model
        shape = study.recipe(next(study.config.lineage(name)))
        method = study.models[name].method
        rows = study.split_sizes()["train"]
        if method == "dpo":
            rows = study.pool_sizes()[study.models[name].pool]
        return attempt * self._training(method, study.recipe(name), shape, rows)

    def delta_judge(self, wildcards: Any, attempt: int) -> int:
        """Of train_delta_judge. Every example may have a pair."""
        recipe = self._study.config.recipes.reward.settings()
        return attempt * self._training(
            "reward", recipe, recipe, self._study.config.data.max_examples
        )

    def _training(self, method: str, recipe: dict, shape: dict, rows: int) -> int:
        config, length = self._study.config, recipe["max_length"]
        reply = config.sampling.max_new_tokens if method == "dpo" else config.data.max_tokens
        row = length if method == "sft" else length + min(reply, length // 2)
        effective = recipe["effective_batch_size"]
        labelled = min(reply, length) * (1 if method == "sft" else 2)

        def needed(size: Size) -> float:
            rows = recipe.get("per_device_train_batch_size") or rows_on_cpu(size.width, row)
            at_once = min(rows, effective)
            return TRAINER + training_bytes(
                method, size, shape,
                tokens=at_once * row, labelled=at_once * labelled, length=length,
                checkpointing=recipe.get("gradient_checkpointing", False), numbers=FLOAT32,
            )  # fmt: skip

        return self._mb("training", self._size(), needed) + round(rows * row * TOKEN / 1e6)

    def standin(self, wildcards: Any, attempt: int) -> int:
        """Of pretrain_standin: float32, all weights with gradients and two moments, whole logits three times over."""
        standin, size = self._study.config.standin, self._standin
        tokens = standin.per_device_train_batch_size * standin.max_length
        activations = tokens * size.layers * (34 * size.width + 12 * size.inner)
        data = self._study.config.data.max_examples * standin.max_length * TOKEN
        needed = TRAINER + 16 * size.parameters + activations + 3 * tokens * size.vocab * 4 + data
        return attempt * round(needed / 1e6)

    def responses(self, wildcards: Any, attempt: int) -> int:
        """Of generate_responses."""
        return attempt * self._sampling(self._study.config.sampling.engine, self._size())

    def replies(self, wildcards: Any, attempt: int) -> int:
        """Of evaluate_model and preview_model."""
        player = self._study.player(wildcards.player)
        size = _size_here(model_folder(player.source)) if player.source else self._size()
        return attempt * self._sampling(self._study.engine(player.name)["engine"], size)

    def _sampling(self, engine: str, size: Size | None) -> int:
        if not self._study.engine_module(engine).endswith(".local"):
            return UNKNOWN_MB["sampling"]
        config = self._study.config
        lengths = self._prompt, config.sampling.max_new_tokens
        return self._mb(
            "sampling",
            size,
            lambda size: READER + sampling_bytes(size, config.sampling.batch_size, *lengths),
        )

    def loss(self, wildcards: Any, attempt: int) -> int:
        """Of evaluate_loss."""
        length = self._study.config.data.max_seq_length
        return attempt * self._mb(
            "loss", self._size(), lambda size: READER + loss_bytes(size, length)
        )

    def kl(self, wildcards: Any, attempt: int) -> int:
        """Of evaluate_kl."""
        lengths = self._prompt, self._study.config.sampling.max_new_tokens
        return attempt * self._mb(
            "kl", self._size(), lambda size: READER + kl_bytes(size, *lengths)
        )

    def judging(self, judge: str | None) -> Callable[..., int]:
        """Of what asks a judge; None is no judge."""
        if judge != "delta":
            return lambda wildcards, attempt: attempt * 2_000
        length = self._study.config.data.max_seq_length
        return lambda wildcards, attempt: (
            attempt
            * self._mb("scoring", self._size(), lambda size: READER + scoring_bytes(size, length))
        )

    def unpacking(self, wildcards: Any, attempt: int) -> int:
        """Of unpack_model: the weights of a GGUF file in float32, and again as they are read back."""
        study, folder = self._study, wildcards.base
        numbers = numbers_in(Path(study.packed_file(folder)), study.unpacking(folder)["inside"])
        if numbers is None:
            return attempt * UNKNOWN_MB["unpacking"]
        return attempt * round((READER + 8 * numbers) / 1e6)

    def export(self, wildcards: Any, attempt: int) -> int:
        """Of export_model: the weights in float32, and again as they are read back."""
        size = self._size()
        if size is None:
            return attempt * UNKNOWN_MB["kl"]
        return attempt * round((READER + 8 * size.parameters) / 1e6)

    @property
    def _prompt(self) -> int:
        """The greatest length of a prompt."""
        config = self._study.config
        return min(config.data.max_seq_length, config.data.max_context_tokens + FRAME)

    @property
    def _standin(self) -> Size:
        standin = self._study.config.standin
        return Size(
            layers=standin.num_hidden_layers,
            width=standin.hidden_size,
            inner=standin.intermediate_size,
            queries=standin.hidden_size,
            keys=standin.hidden_size // 2,
            vocab=standin.vocab_size,
        )

    def _size(self) -> Size | None:
        """The size of the study's base model."""
        source = self._study.models[BASE].source
        if source == "standin":
            return self._standin
        return _size_here(self._study.base_folder) or (QWEN if "Qwen2.5-0.5B" in source else None)

    def _mb(self, job: str, size: Size | None, needed: Callable[[Size], float]) -> int:
        if not self._on_cpu:
            return min(ON_GPU_MB, UNKNOWN_MB[job])
        if size is None:
            return UNKNOWN_MB[job]
        if self._here and needed(size) > memory():
            self._say_once(
                f"{job}: about {needed(size) / 1e9:.1f} GB (estimate), and this machine has {memory() / 1e9:.1f} GB:"
                f" {TOO_LARGE[job]}"
            )
        return round(needed(size) / 1e6)

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print(line, file=sys.stderr)
