"""Sets threads, seeds, devices and number formats for every stage with a model."""

import os
import warnings

from persuasion_rl.files import UserError
from persuasion_rl.runtime.leases import lease_one


def prepare_torch(threads: int, seed: int, device: str) -> None:
    """Fix threads and seeds, and take a device, before torch is used. From then on no library uses the network.

    Fixed threads make a run on the CPU repeatable to the bit. The process leases a GPU, if there are any
    (`runtime.leases`), and sees no other, since transformers' Trainer would spread each batch over them. With the device
    "cpu" it sees none.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        lease_one()  # before torch looks for GPUs
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # trl uses deprecated arguments of transformers, and dataloaders warn without a GPU.
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed in v6.*")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.set_seed(seed)


def pick_device(requested: str) -> str:
    """The device to use, "cuda" or "cpu". The n-th of several processes gets the n-th GPU.

    Args:
        requested: "auto", "cuda" or "cpu".

    Raises:
        UserError: "cuda" is requested, and there is no CUDA device.
    """
    import torch

    if requested == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda, but no CUDA device is here; set `device: cpu` or `auto`")
    if requested == "cpu" or not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return "cuda"


def pick_dtype(device: str):
    """bfloat16 if the GPU has it, float16 on older ones (T4), float32 on a CPU."""
    import torch

    if device == "cpu":
        return torch.float32
    # Emulated bfloat16 would count as supported, but is very slow.
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float16


def peak_flops(device: str) -> float:
    """Floating-point operations a second of a large matrix product, measured in the call."""
    import time

    import torch

    from persuasion_rl.models.linear import linear

    size, times = (8192, 10) if device == "cuda" else (1024, 3)
    matrix = torch.rand(size, size, device=device, dtype=pick_dtype(device))
    linear(matrix, matrix)
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    finish()
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        linear(matrix, matrix)
        finish()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
