"""The full plan of a study as JSON: the jobs of `snakemake -n --forceall`.

python tests/plans.py              # compares the plans of all studies with the recorded ones
python tests/plans.py --record     # records them: the diff of tests/plans/ shows what a change does to the workflow
"""

import json
import os
import subprocess
import sys
import tempfile
from difflib import unified_diff
from pathlib import Path

from running import copy_project

RECORDED = Path(__file__).parent / "plans"
STUDIES = {
    Path(file).stem: file
    for file in (
        "config/config.yaml",
        "config/demo.yaml",
        "config/seeds-and-betas.yaml",
        "config/smollm2.yaml",
        "tests/small.yaml",
        "tests/tiny.yaml",
    )
}
# Not what this machine has: threads and memory are given, and no GPU is seen.
TARGETS = ("all", "unattended", "export", "export_dataset", "publish", "explore_data")
CORPORA = {"winning-args-corpus"}
PLANNER = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

configfile, *targets = sys.argv[1:]
with SnakemakeApi(OutputSettings(dryrun=True)) as api:
    planned = api.workflow(
        resource_settings=ResourceSettings(cores=1, resources={"mem_mb": 1_000_000}),
        config_settings=ConfigSettings(configfiles=[Path(configfile)], config={"threads": 2}),
        snakefile=Path("Snakefile"),
    )
    workflow = planned.dag(DAGSettings(targets=set(targets), forceall=True)).workflow_api._workflow
    workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True)
    workflow._build_dag()
    jobs = [
        {
            "rule": job.rule.name,
            "input": sorted(map(str, job.input)),
            "output": sorted(map(str, job.output)),
            "log": sorted(map(str, job.log)),
            "benchmark": str(job.benchmark),
            "threads": job.threads,
            "resources": {
                name: value
                for name, value in sorted(job.resources.items())
                if name in ("gpu", "mem_mb", "runtime")
            },
            "local": job.is_local,
            "command": [line.strip() for line in (job.shellcmd or "").strip().splitlines()],
        }
        for level in workflow.dag.toposorted()
        for job in level
    ]
jobs.sort(key=lambda job: (job["rule"], job["output"], job["input"]))
print("PLAN" + json.dumps(jobs))
"""


def project_with_corpora(folder: Path) -> Path:
    """A checkout without results, with empty corpora for the study that reads local ones."""
    root = copy_project(folder)
    for corpus in CORPORA:
        (root / "corpora" / corpus).mkdir(parents=True)
        for file in ("conversations.json", "utterances.jsonl"):
            (root / "corpora" / corpus / file).touch()
    return root


def plan(configfile: str, root: Path) -> str:
    """The jobs of a study in a checkout as JSON, formatted for diffs."""
    run = subprocess.run(
        [sys.executable, "-c", PLANNER, configfile, *TARGETS],
        cwd=root,
        env=os.environ | {"PERSUASION_RL_CORPORA": "corpora", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("PLAN")]
    if not lines:
        raise RuntimeError(run.stdout + run.stderr)
    return (
        json.dumps(json.loads(lines[0].removeprefix("PLAN")), indent=1, ensure_ascii=False) + "\n"
    )


def changes(study: str, root: Path) -> str:
    """The diff between the recorded plan of a study and its plan in a checkout; empty if they are equal."""
    before = (RECORDED / f"{study}.json").read_text().splitlines()
    after = plan(STUDIES[study], root).splitlines()
    return "\n".join(unified_diff(before, after, "recorded", "now", lineterm=""))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = project_with_corpora(Path(folder) / "checkout")
        for study, configfile in STUDIES.items():
            if "--record" in sys.argv:
                (RECORDED / f"{study}.json").write_text(plan(configfile, root))
            else:
                print(changes(study, root) or f"{study}: as recorded")


if __name__ == "__main__":
    main()
