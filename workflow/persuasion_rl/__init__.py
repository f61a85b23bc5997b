"""persuasion-rl: the stages of the study, one module a stage, each with a command line."""

import os

from persuasion_rl.runtime.environment import settle

__version__ = "0.1.0"

settle()

# Threads that wait for each other sleep: spinning, two jobs that share cores take several times as long. Here, since
# OpenMP reads it once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load_study(study):
    """The tables and rows of a study as pandas data frames: `load_study("demo").ranking`.

    It is `tools.results.load_study`, imported when it is called, so that light stages stay light.

    Args:
        study: its name, or its folder, results/{study}.

    Raises:
        UserError: it is no folder of a study.
    """
    from persuasion_rl.tools.results import load_study

    return load_study(study)
