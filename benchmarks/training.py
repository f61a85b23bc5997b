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
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

from machine import commit, device_name
from training_material import SEED, Plan, plan_for, workload_of, write_all
from training_ways import WAYS, Turn, our_sft

from persuasion_rl.files import UserError, read_json
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.training.tokenize import Tokens

AIMS = {("sft", "predecessor"): 4, ("sft", "plain trl"): 1.5, ("dpo", "second model"): 2.5}
"""How many times as fast as another way ours is meant to be."""
TOLERANCE = {"cpu": 1e-3, "cuda": 5e-2}
"""By how much losses of plain trl and ours may differ: in float32, and in bfloat16, whose log-probabilities of
whole responses are off by more (`dpo.assert_start`)."""


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
    "language-model head": ("chunkedlogprob", "logprobs"),
    "attention": ("scaleddotproduct", "varlenattn", "flashattn", "flashattention"),
    "optimizer": ("optimizer.", "foreach", "fusedadam"),
}
"""What names an operation or one that it is part of, in lower case and without underscores."""
MATRIX_PRODUCTS = (
    "mkldnn::_linear_pointwise",
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
)
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
