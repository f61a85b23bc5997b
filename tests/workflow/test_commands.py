"""Modules accept the commands that Snakemake plans, whatever a study lacks."""

import contextlib
import io
import re
import runpy
import shlex
import sys

import pytest

from persuasion_rl.runtime import command
from running import study_file, succeed

NO_DPO = {"rlaif": None, "rlhf": None, "rlaif_rlhf": None}
BY_PEOPLE = {"human": {"source": "people", "min_labels": 50}}
STUDIES = {
    "the demo": {},
    "no dpo model": {"models": NO_DPO, "evaluation": {"players": ["base", "sft", "human"]}},
    "the base model alone": {
        "models": {"sft": None, **NO_DPO},
        "pools": {"ai": {"responses_from": "base"}, "human": {"responses_from": "base"}},
        "evaluation": {"players": ["base", "human"]},
    },
    "no model of the lineage plays": {
        "evaluation": {
            "players": ["base_length", "human"],
            "other_players": {"base_length": {"model": "base", "match_length": True}},
        }
    },
    "only people label": {
        "models": {"rlaif": None, "rlaif_rlhf": None},
        "labels": BY_PEOPLE,
        "evaluation": {"players": ["base", "sft", "rlhf", "human"]},
    },
}


def planned_commands(output: str) -> list[list[str]]:
    """The words of each planned command of a module, beginning with the module's name."""
    lines = output.replace("\\\n", " ").splitlines()
    commands = [line.partition("2> >(")[0] for line in lines if "persuasion_rl." in line]
    return [
        shlex.split(match[1])
        for line in commands
        if (match := re.search("-m (persuasion_rl.*)", line))
    ]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_every_planned_command_is_one_that_its_module_reads(empty_checkout, monkeypatch, changes):
    """Their own parsers check them: a required flag that an empty value omits would fail a job after its trainings."""
    file = study_file(empty_checkout, **changes)
    words = ("all", "unattended", "-np", "--forceall", "--configfile", file)
    commands = planned_commands(succeed(*words, root=empty_checkout))
    assert {"persuasion_rl.report.report_study"} < {module for module, *_ in commands}
    monkeypatch.setattr(command, "stage", lambda *all_: command.read_words(all_, sys.argv[1:]))
    wrong = set()
    for module, *arguments in commands:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        stderr = io.StringIO()
        try:
            with contextlib.redirect_stderr(stderr):
                runpy.run_module(module, run_name="__main__")
        except SystemExit:
            wrong.add(f"{module}: {stderr.getvalue().splitlines()[-1]}")
    assert not wrong
