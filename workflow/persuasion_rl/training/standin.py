"""Makes a stand-in base model: Qwen2's architecture at a small size, with a tokenizer of its own.

It replaces Qwen2.5-0.5B-Instruct where no model can be downloaded. It learns from winning and losing replies of the
train side alike, so that it can write but does not know yet what persuades.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.data.clean import clean
from persuasion_rl.data.cmv import replies
from persuasion_rl.data.contexts import Turn
from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.delta_pairs import conversations_on
from persuasion_rl.data.examples import CleanTexts, Counts
from persuasion_rl.data.p4g import persuader_turns
from persuasion_rl.files import UserError, write_json
from persuasion_rl.models.devices import prepare_torch
from persuasion_rl.models.following import follow
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.prompts.wording import PLAIN
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT = "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


LONGEST_TOKEN = 128
"""Characters of a token at most. What is before the last so many times `max_length` of a text is not read."""


def training_texts(corpora: list[Path], sides: Path, max_length: int) -> Iterator[tuple[str, str]]:
    """Prompt and response of every usable persuader's message on the train side, won or lost.

    Args:
        max_length: the tokens at the end of a text that are learned from; a longer prompt loses most of what is before.
    """
    train = conversations_on("train", sides)
    uncounted: Counts = defaultdict(Counter)
    texts = CleanTexts(clean, Counter())
    comment_ids: set[tuple[str, str]] = set()
    longest = max_length * LONGEST_TOKEN
    for corpus in corpora:
        for conversation in read_threads(corpus):
            if conversation.id not in train:
                continue
            if conversation.title is not None:
                for reply in replies(conversation, uncounted, comment_ids, max_length):
                    yield _prompt(reply.turns, "cmv")[-longest:], reply.text
            else:
                for utterance, turns in persuader_turns(conversation, texts, max_length):
                    if len(turns) > 1:
                        yield _prompt(turns, "p4g")[-longest:], texts[utterance.text]


def _prompt(turns: list[Turn], source: str) -> str:
    return PLAIN.render("\n".join(map(str, turns)), source)


def train_tokenizer(texts: list[str], vocab_size: int, folder: Path):
    """A byte-level BPE tokenizer in Qwen2's manner, saved to `folder` with its chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Split as Qwen2 does: words with their leading space, single digits, punctuation, and line ends.
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def pretrain_standin(
    *,
    corpora: list[Path],
    sides: Path,
    output: Path,
    history: Path,
    seed: int,
    threads: int,
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    intermediate_size: int,
    max_length: int,
    max_steps: int,
    per_device_train_batch_size: int,
    learning_rate: float,
) -> None:
    """Train tokenizer and model on the train side's text; write a Hugging Face model folder `output`.

    Every token counts in the loss, also those of prompts. Texts longer than `max_length` tokens lose their beginning, so
    that every response has its end.
    """
    prepare_torch(threads, seed, "cpu")
    from datasets import Dataset
    from transformers import (
        Qwen2Config,
        Qwen2ForCausalLM,
        Trainer,
        TrainingArguments,
    )

    pairs = list(training_texts(corpora, sides, max_length))
    if not pairs:
        raise UserError(f"{sides}: no usable reply on the train side to train a stand-in on")
    texts = [prompt + response for prompt, response in pairs]
    Progress("tokenizer of the stand-in")
    tokenizer = train_tokenizer(texts, vocab_size, output)
    token_ids = [
        [*ids, tokenizer.eos_token_id][-max_length:]
        for ids in TextTokenizer(output).prompt_ids(texts)
    ]
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_attention_heads // 2,
            intermediate_size=intermediate_size,
            max_position_embeddings=4 * max_length,
            tie_word_embeddings=True,
            # The default of .02 is for models a hundred times wider.
            initializer_range=0.06,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    note(
        f"{len(texts):,} texts, {sum(map(len, token_ids)):,} tokens;"
        f" {model.num_parameters():,} parameters, vocabulary {len(tokenizer):,}"
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output),
            use_cpu=True,
            max_steps=max_steps,
            per_device_train_batch_size=per_device_train_batch_size,
            train_sampling_strategy="group_by_length",
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.01,
            adam_beta2=0.98,
            logging_steps=50,
            save_strategy="no",
            report_to=[],
            seed=seed,
            disable_tqdm=True,
        ),
        data_collator=pad_for_language_modeling(tokenizer.pad_token_id),
        train_dataset=Dataset.from_dict({"input_ids": token_ids}),
    )
    seen = max_steps * per_device_train_batch_size
    mean = sum(map(len, token_ids)) / len(token_ids)
    progress = Progress("stand-in", total_tokens=seen * mean)
    follow(model, progress, progress)
    trainer.train()
    model.save_pretrained(output)
    write_json(history, trainer.state.log_history)


def pad_for_language_modeling(pad_token_id: int):
    """A collator that pads on the right and masks only the padding.

    The one of transformers masks every token equal to the pad token, which here would be the end of each text too.
    """
    import torch

    def collate(rows: list[dict]) -> dict:
        ids = [torch.tensor(row["input_ids"]) for row in rows]

        def pad(value: int, tensors: list) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(tensors, True, value)

        return {
            "input_ids": pad(pad_token_id, ids),
            "attention_mask": pad(0, [torch.ones_like(row) for row in ids]),
            "labels": pad(-100, ids),
        }

    return collate


if __name__ == "__main__":
    stage(pretrain_standin)
