"""How models are trained, as keys of the configuration: the lineage, the recipes, the stand-in base model."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from persuasion_rl.study.names import DATASET, DELTA_JUDGE, HUMAN
from persuasion_rl.study.section import (
    ONE_SPELLING,
    Count,
    Integer,
    NonNegative,
    Positive,
    Section,
    Seed,
    Share,
    Threads,
    Unique,
    Word,
    check_name,
    optional,
)


class Recipe(Section):
    """Arguments of trl's trainers, by their own names. A key that is not set is None here, and takes trl's default."""

    learning_rate: Positive = optional("Peak learning rate.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = optional(
        "Schedule of the learning rate."
    )
    warmup_steps: NonNegative = optional("Warm-up steps; below 1, their share of all steps.")
    weight_decay: NonNegative = optional("Weight decay.")
    max_grad_norm: Positive = optional("Gradient clipping.")
    num_train_epochs: Positive = optional("Passes over the data.")
    max_steps: Count = optional("Optimizer steps; overrides the epochs.")
    per_device_train_batch_size: Count = optional(
        "Rows on a device at once, at most; without it as many as its memory takes."
    )
    per_device_eval_batch_size: Count = optional("Rows of an evaluation on a device at once.")
    effective_batch_size: Count = optional(
        "Rows an update, whatever the number of devices; gradients are accumulated up to it."
    )
    max_length: Integer = optional("Tokens of a row at most.", ge=16)
    gradient_checkpointing: bool = optional(
        "Compute activations again in the backward pass: less memory, more time. Without this key it is done only where a single row would not fit."
    )
    eval_strategy: Literal["steps", "epoch"] = optional("When to evaluate and to save.")
    eval_steps: Positive = optional(
        "Steps between evaluations, with the strategy steps; below 1, a share of all steps."
    )
    save_steps: Positive = optional(
        "Steps between checkpoints, with the strategy steps; below 1, a share of all steps. For sft and reward a multiple of eval_steps."
    )
    logging_steps: Positive = optional("Steps between logged losses.")
    lora_r: Count = optional(
        "Rank of the LoRA adapter, of sft and reward; a dpo model keeps the shape of its parent's adapter."
    )
    lora_alpha: Count = optional("LoRA's scale.")
    lora_dropout: Share = optional("Dropout of LoRA's input.")
    lora_target_modules: Annotated[list[Word], Unique] = optional(
        "Linear layers that LoRA adapts.", min_length=1
    )
    use_4bit: bool = optional("QLoRA; needs CUDA and bitsandbytes.")
    beta: Positive = optional("DPO's beta.")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5), ONE_SPELLING] = optional(
        "Share of labels taken to be wrong; with the loss robust."
    )
    loss_type: Annotated[list[Literal["sigmoid", "sft", "hinge", "ipo", "robust"]], Unique] = (
        optional("DPO's losses, summed.", min_length=1)
    )
    loss_weights: list[NonNegative] = optional("The losses' weights.", min_length=1)

    def settings(self) -> dict[str, Any]:
        """The arguments that are set, and nothing else."""
        return self.resolved()


def _with_default(key: str, value: Any, **limits: Any) -> Any:
    """A key of a recipe with its description and a default of this project."""
    return Field(value, description=Recipe.model_fields[key].description, **limits)


class MethodRecipe(Recipe):
    """The recipe of a method: three arguments have defaults of ours, since every training needs them."""

    effective_batch_size: Count = _with_default("effective_batch_size", 64)
    max_length: Integer = _with_default("max_length", 1024, ge=16)
    eval_strategy: Literal["steps", "epoch"] = _with_default("eval_strategy", "epoch")


class LoraRecipe(MethodRecipe):
    """The recipe of a method that adds an adapter: its shape has defaults of ours, too. DPO keeps its parent's."""

    lora_r: Count = _with_default("lora_r", 8)
    lora_alpha: Count = _with_default("lora_alpha", 32)
    lora_dropout: Share = _with_default("lora_dropout", 0.05)
    lora_target_modules: Annotated[list[Word], Unique] = _with_default(
        "lora_target_modules", ["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1
    )


class Recipes(Section):
    sft: LoraRecipe = Field(LoraRecipe(), description="Arguments of trl's SFTTrainer.")
    dpo: MethodRecipe = Field(MethodRecipe(), description="Arguments of trl's DPOTrainer.")
    reward: LoraRecipe = Field(
        LoraRecipe(), description="Arguments of trl's RewardTrainer, for the delta judge."
    )

    def __getitem__(self, method: str) -> MethodRecipe:
        return dict(self.items())[method]


class Model(Section):
    """A model of the lineage: `base` has a source, every other one a parent and a method."""

    source: Word = optional(
        "Hub name, local folder or GGUF file (starts with ., / or ~), package of the Python registry (`pypi:NAME==VERSION`) or"
        " `standin`; of `base` only."
    )
    revision: Word = optional("The Hub revision that is downloaded; of `base` only.")
    parent: str = optional("The model that training starts from.")
    method: Literal["sft", "dpo"] = optional("How it is trained.")
    pool: Literal["ai", "human"] = optional("Whose labels a dpo model learns from.")
    seed: Seed = optional("Seed of this training; without it the study's.")
    run_name: Word = optional("Name of its run at Weights & Biases; without it study-model.")
    recipe: Recipe = optional("What differs from the method's recipe.")


def _model_name(name: str) -> str:
    if name in (HUMAN, DELTA_JUDGE, DATASET) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"{name!r} is no name of a model: a small letter, then small letters, digits and _; {HUMAN} is people,"
            f" {DELTA_JUDGE} the training of the judge, {DATASET} the exported rows"
        )
    return check_name(name)


ModelName = Annotated[
    str,
    AfterValidator(_model_name),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^(?!({HUMAN}|{DELTA_JUDGE}|{DATASET})$)[a-z][a-z0-9_]{{0,59}}$",
        }
    ),
]


class Standin(Section):
    vocab_size: Integer = Field(
        4096, ge=300, description="Tokens of the stand-in's byte-level BPE at most."
    )
    hidden_size: Integer = Field(192, ge=16, description="Width.")
    num_hidden_layers: Count = Field(4, description="Layers.")
    num_attention_heads: Integer = Field(
        8, ge=2, description="Query heads; half as many key and value heads."
    )
    intermediate_size: Integer = Field(512, ge=16, description="Width of the MLP.")
    max_length: Integer = Field(512, ge=32, description="Tokens of a training text at most.")
    max_steps: Count = Field(1000, description="Optimizer steps.")
    per_device_train_batch_size: Count = Field(8, description="Texts a step.")
    learning_rate: Positive = Field(0.005, description="Peak learning rate.")
    threads: Threads = Field(2, description="CPU threads that it is trained with.")
