"""Processes that write into a store of answers and keep it open, or end as if killed."""

import os
import subprocess
import sys
from pathlib import Path

from running import WORKFLOW


def start_writer(script: str, store: Path, then: str) -> subprocess.Popen:
    """Start a script that writes into a store.

    Args:
        script: Python code; gets the store's path and `then`, and with "stay" prints "ready" and waits for its input's end.
        then: "stay"; with any other value the script ends before this returns.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script, store, then],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    if then == "stay":
        assert process.stdout.readline() == b"ready\n"
    else:
        assert process.wait() == 0
    return process
