"""Checks before the first update of a training, in every process. A failed check stops the training."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from persuasion_rl.files import check
from persuasion_rl.models.plain import LAST, plain_log_probs, refuse_difference
from persuasion_rl.runtime.command import note
from persuasion_rl.training.tokenize import Tokens


def assert_batch(trainer, tokenizer, tokens: Tokens) -> None:
    """Check that the first batch of the trainer's own collator supervises whole responses and nothing else.

    Args:
        tokens: the training data.

    Raises:
        AssertionError: see `assert_supervised`.
    """
    batch = next(iter(trainer.get_train_dataloader()))
    # trl's collator for preferences marks the responses; the others mask unsupervised tokens.
    mask = (
        batch["completion_mask"].bool() if "completion_mask" in batch else batch["labels"] != -100
    )
    rows = zip(batch["input_ids"].tolist(), mask.tolist(), strict=True)
    spans = [span for ids, supervised in rows for span in supervised_spans(ids, supervised)]
    assert_supervised(spans, tokenizer, tokens.responses())


def supervised_spans(ids: list[int], supervised: list[bool]) -> Iterator[tuple[int, ...]]:
    """The uninterrupted spans of a row's token ids that are supervised."""
    for inside, span in groupby(zip(ids, supervised, strict=True), key=itemgetter(1)):
        if inside:
            yield tuple(id_ for id_, _ in span)


def assert_supervised(spans: Iterable[tuple[int, ...]], tokenizer, responses: Iterable) -> None:
    """Check that the supervised tokens of a batch are exactly whole responses, each closed by EOS.

    Args:
        spans: the supervised token ids of one batch, as the trainer's own collator made it.
        responses: the ids of all responses of the training data.

    Raises:
        AssertionError: a prompt token is supervised, a response is cut, or its EOS is masked.
    """
    eos = tokenizer.eos_token_id
    expected = {tuple(ids) for ids in responses}
    spans = list(spans)
    check(bool(spans), "no token of the first batch is supervised")
    for span in spans:
        check(
            span in expected and span[-1] == eos and eos not in span[:-1],
            "the first batch does not supervise exactly a response and its EOS, but:"
            f" {tokenizer.decode(span)!r}",
        )
    note(f"checked: {len(spans)} supervised spans are whole responses that end with EOS")


def assert_trainable(model, heads: Iterable[str] = ()) -> None:
    """Check that only the adapter's two matrices on every module of its config are trainable.

    Args:
        heads: names of modules that are trainable as a whole (a classifier's score).
    """
    config = model.peft_config["default"]
    targets, heads = set(config.target_modules), set(heads)
    expected = 0
    for name, module in model.named_modules():
        last = name.split(".")[-1]
        if last in targets and hasattr(module, "in_features"):
            expected += config.r * (module.in_features + module.out_features)
        elif last == "default" and name.split(".")[-2] == "modules_to_save":
            expected += sum(parameter.numel() for parameter in module.parameters())
    training = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    stray = [
        name
        for name in training
        if not (".lora_A.default." in name or ".lora_B.default." in name)
        and not (".modules_to_save.default." in name and heads & set(name.split(".")))
    ]
    check(not stray, f"{' '.join(stray[:1])} trains, and is not part of the adapter")
    check(
        sum(training.values()) == expected,
        f"{sum(training.values()):,} parameters train, and an adapter of rank {config.r} on"
        f" {', '.join(sorted(targets))} has {expected:,}",
    )
    note(f"checked: {expected:,} trainable parameters, all of the adapter")


def assert_effective_batch(trainer, effective: int) -> None:
    """Check that an update takes as many rows as the recipe says, over all processes."""
    loader = trainer.get_train_dataloader()
    rows = loader.total_batch_size * trainer.args.gradient_accumulation_steps
    check(
        rows == effective,
        f"an update would have {rows} rows, and effective_batch_size is {effective}",
    )


def assert_as_plain(what: str, model, sequences: list[list[int]]) -> None:
    """Check that a model in its layout of batches computes what transformers computes for each row alone.

    Args:
        what: the stage, for the message.
        model: one of `unpadding.compute_without_padding`; a language model has trl's fused head.
        sequences: the token ids of two rows or more; if batches hold pairs, the two rows of a pair.

    Raises:
        UserError: it computes something else.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from persuasion_rl.training.unpadding import as_it_is

    trains = model.training
    model.eval()
    rows = [torch.tensor(ids, device=model.device) for ids in sequences]
    pad = max(0, model.config.pad_token_id or 0)  # a classifier finds the end of a row by it
    batch = {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=pad),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }
    classifies = model.get_base_model().get_output_embeddings() is None
    with torch.no_grad():
        if classifies:
            own = list(model(**batch).logits)
            with as_it_is(model):
                plain = [model(input_ids=row[None]).logits[0] for row in rows]
        else:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            for row, ids in zip(labels, sequences, strict=True):
                row[: max(1, len(ids) - LAST)] = -100
            output = model(**batch, labels=labels, fused_lm_head=True)
            own = [values[mask] for values, mask in zip(output.log_probs, output.label_mask.bool(), strict=True)]  # fmt: skip
            with as_it_is(model):
                plain = [plain_log_probs(model, ids) for ids in sequences]
    model.train(trains)
    refuse_difference(what, model, own, plain)
