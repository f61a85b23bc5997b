"""What a benchmark's result was measured on."""

import subprocess
from pathlib import Path


def device_name(device: str, threads: int) -> str:
    """The GPU, or the CPU and how many of its threads are used."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {threads} thread(s)"


def commit() -> str:
    """The commit of this checkout, with a + where files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + "+" * bool(git("status", "--short"))
