"""Measures speed, memory and work of a training while it runs, and stops it if a loss or gradient is not a number."""

import math
import os
import resource
import shutil
import time

from persuasion_rl.files import UserError, check
from persuasion_rl.models.devices import peak_flops
from persuasion_rl.models.following import follow
from persuasion_rl.models.plain import without_wrapper
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.training.checkpoints import EvaluationStopped
from persuasion_rl.training.means import Means, counts_of
from persuasion_rl.training.unpadding import Workload


def forward_flops(model, workload: Workload) -> float:
    """Floating-point operations of the forward passes of a workload.

    Two for each weight and token, for the head only at labels, plus attention's two products (Kaplan et al. 2020,
    arXiv:2001.08361, without embeddings).
    """
    import torch

    base = without_wrapper(model)
    config = base.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = sum(
        module.in_features * module.out_features
        for name, module in base.base_model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith(".ref")  # DPO's frozen copy
    )
    head = base.get_output_embeddings()
    outputs = head.weight.shape[0] if head is not None else base.config.num_labels
    attention = (
        4 * config.num_hidden_layers * config.num_attention_heads * width * workload.attended
    )
    return (
        2 * weights * workload.tokens
        + 2 * outputs * config.hidden_size * workload.labelled
        + attention
    )


class Meter:
    """Measures the training steps of this process between two readings.

    A step counts as twice its forward pass: LoRA needs the gradients of activations, and hardly any of weights.
    Recomputation by gradient checkpointing does not count.
    """

    def __init__(self, model, workload: Workload, device: str, processes: int):
        self._model, self._workload, self._device, self._processes = (
            model,
            workload,
            device,
            processes,
        )
        self.peak = peak_flops(device)
        self._begun = time.perf_counter()
        self._busy = 0.0
        self._seen = Workload(**vars(workload))

    def step_begins(self) -> None:
        self._step = time.perf_counter()

    def step_ends(self) -> None:
        self._busy += time.perf_counter() - self._step

    def read(self) -> dict[str, float]:
        """Since the last reading: tokens and labelled tokens a second of all processes, FLOP/s of this one and their share
        of a large matrix product's. Since the start: peak memory (GB) and seconds."""
        done = Workload(**{key: value - getattr(self._seen, key) for key, value in vars(self._workload).items()})  # fmt: skip
        busy, self._busy, self._seen = self._busy, 0.0, Workload(**vars(self._workload))
        if not busy:
            return {}
        flops = 2 * forward_flops(self._model, done) / busy
        return {
            "tokens_per_second": self._processes * done.tokens / busy,
            "labelled_tokens_per_second": self._processes * done.labelled / busy,
            "flops_per_second": flops,
            "share_of_peak": flops / self.peak,
            "memory_gb": peak_memory(self._device) / 1e9,
            "seconds": time.perf_counter() - self._begun,
        }


def peak_memory(device: str) -> int:
    """Peak memory of the GPU, or of this process, in bytes."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def monitored(trainer_class: type) -> type:
    """A subclass of a trl trainer with a meter that stops at the first loss that is not a number."""
    import torch
    from transformers import PrinterCallback
    from trl.kernels import chunked_logprob

    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        # Triton needs a compiler for its launcher; without one, trl's head computes in torch.
        chunked_logprob._TRITON_AVAILABLE = False

    class Monitored(trainer_class):
        meter: Meter | None = None
        evaluation_tokens: float | None = None  # what an evaluation computes, about

        def __init__(self, *args, **kwargs):
            self._means = {"train": Means(), "eval": Means()}
            self.progress = Progress("training")
            self.reading = Progress("reading without learning", unit="batches")
            follow(kwargs["model"], self.reading, self.progress)
            super().__init__(*args, **kwargs)
            self.remove_callback(PrinterCallback)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            counts = counts_of(inputs)
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            mode = "train" if self.model.training else "eval"
            loss = (result[0] if return_outputs else result).item()
            if num_items_in_batch is not None and "labels" in inputs:
                # The batch's part of the loss of an update, whose tokens are those of all processes.
                shared = (
                    self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
                )
                loss *= float(num_items_in_batch) / shared / max(1, counts["tokens"])
            self._means[mode].add(
                *self._of_all_processes(loss, counts), self._sft_loss(mode, counts)
            )
            return result

        def _of_all_processes(self, loss: float, counts: dict) -> tuple[float, dict]:
            if self.accelerator.num_processes == 1:
                return loss, counts
            sums = [loss * counts["pairs"], *counts.values()]
            total = self.accelerator.reduce(torch.tensor(sums, device=self.args.device), "sum")
            summed, *all_counts = total.tolist()
            counts = dict(zip(counts, all_counts, strict=True))
            return summed / max(1, counts["pairs"]), counts

        def _sft_loss(self, mode: str, counts: dict) -> float:
            """The part of a DPO's loss that is trl's "sft": a mean over the tokens of all chosen responses of a batch."""
            weights = dict(zip(getattr(self, "loss_types", []), getattr(self, "loss_weights", []), strict=True))  # fmt: skip
            if "sft" not in weights or not counts["chosen"]:
                return 0.0
            logp = self._metrics[mode]["logps/chosen"][-1]
            return -weights["sft"] * logp * counts["pairs"] / counts["chosen"]

        def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
            self._means["eval"] = Means()
            self._metrics["eval"].clear()
            with self.progress.paused():
                self.reading.begin(len(dataloader), self.evaluation_tokens)
                output = super().evaluation_loop(
                    dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
                )
                self.reading.end()
                self.evaluation_tokens = self.reading.tokens
            if self._means["eval"]:
                output.metrics[f"{metric_key_prefix}_loss"] = self._means["eval"].loss()
            return output

        def prediction_step(self, *args, **kwargs):
            outcome = super().prediction_step(*args, **kwargs)
            self.reading.add(done=1)
            return outcome

        def training_step(self, model, *args, **kwargs):
            check(
                self.accelerator.num_processes == 1
                or isinstance(model, torch.nn.parallel.DistributedDataParallel),
                "several processes train, and do not share their gradients",
            )
            loss = super().training_step(model, *args, **kwargs)
            if not math.isfinite(loss.item()):
                raise UserError(not_a_number("loss", self.state.global_step))
            return loss

        def evaluate(self, *args, **kwargs) -> dict[str, float]:
            # The training draws the same random numbers whether it is evaluated here, later, or never.
            device = self.args.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                try:
                    return super().evaluate(*args, **kwargs)
                except EvaluationStopped:
                    self.control.should_save = self.control.should_training_stop = True
                    return {}

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            mode = "train" if self.model.training else "eval"
            means, self._means[mode] = self._means[mode], Means()
            if means:
                for name, values in self._metrics[mode].items():
                    self._metrics[mode][name] = [means.combine(name, values)]
                if "loss" in logs:
                    logs["loss"] = means.loss()
            if self.meter and "loss" in logs:
                logs.update(self.meter.read())
            super().log(logs, start_time)
            note(logged(self.state.log_history[-1]))

    return Monitored


def logged(row: dict[str, float | None]) -> str:
    """A row of a trainer's history as a line, its step first."""
    numbers = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in row.items()}
    numbers = {"step": numbers["step"]} | numbers
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def not_a_number(what: str, step: int) -> str:
    """The message when a training stops at a loss or gradient."""
    return (
        f"the {what} is not a number after step {step}; the checkpoint before it is kept. Lower"
        " learning_rate, or look for rows that are out of the ordinary"
    )


def meter_callback(meter: Meter):
    """A trainer callback that times steps for the meter, and checks gradients before they change a weight."""
    import torch
    from transformers import TrainerCallback

    class TimeAndCheck(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            meter.step_begins()

        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            if args.fp16:  # the gradient scaler skips such a step and lowers its scale
                return
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
                raise UserError(not_a_number("gradient", state.global_step))

        def on_step_end(self, args, state, control, **_):
            meter.step_ends()

    return TimeAndCheck()
