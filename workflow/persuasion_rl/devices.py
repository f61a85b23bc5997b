"""Threads, seeds, devices and number formats, as every stage with a model has them."""

import os
import warnings

from persuasion_rl.files import UserError


def prepare_torch(threads: int, seed: int) -> None:
    """Fix threads and seeds before anything is made; nothing here looks for a network.

    Fixed threads make a run on the CPU repeatable to the bit.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # trl sets deprecated names of transformers' arguments, and dataloaders warn where no GPU is.
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed in v6.*")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.set_seed(seed)


def pick_device(wanted: str) -> str:
    """ "cuda" or "cpu"; UserError where "cuda" is wanted and there is none."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda, but no CUDA device is here; set `device: cpu` or `auto`")
    if wanted == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return "cuda"


def pick_dtype(device: str):
    """bfloat16 where the GPU has it, float16 on older ones (T4), float32 on a CPU."""
    import torch

    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
