"""The documentation is correct: commands run, settings load, files, tests and links exist."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import pytest
import yaml

from doc_commands import RUN_ON_A_STUDY, run_as_typed
from persuasion_rl.study.study import Study
from persuasion_rl.tools.cli import main
from persuasion_rl.tools.workload import estimates
from running import ROOT, copy_project, succeed

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")),
    *(ROOT / name for name in ("profiles/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
OF_THE_PROJECT = ("workflow/", "config/", "docs/", "envs/", "profiles/", "benchmarks/", "tests/", "resources/rubrics/")  # fmt: skip
OF_A_READER = {"config/NAME.yaml"}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)

RUN = {
    "persuasion-rl doctor": "^next: ",
    "persuasion-rl why results/cmv/report.html": "jobs; none of them has run yet$",
    "persuasion-rl why results/demo/report.html --configfile config/demo.yaml": "jobs; none of them has run yet$",
    "python -c 'import torch; print(torch.version.cuda, torch.cuda.is_available())'": r"^\S+ (True|False)$",
    "python -m persuasion_rl.study.reference": "^config/README.md$",
    "python -m persuasion_rl.preferences.label_ai --help": "--llm_model LLM_MODEL",
    "python -m persuasion_rl.training.sft --help": "--adapter ADAPTER",
    "python benchmarks/judges.py --help": "--delta DELTA",
    "snakemake --profile aws-gpu -n": r"^train_dpo +3$",
    "snakemake --profile aws-gpu unattended -n": "^report_study +1$",
    "snakemake --rulegraph mermaid-js": "^flowchart ",
    "snakemake --touch": r"\(100%\) done$",
    "snakemake --touch FILE": r"\(100%\) done$",
    "snakemake --unlock": "^Unlocked working directory",
    "snakemake -n": "^train_dpo +3$",
    "snakemake -n --configfile config/demo.yaml": "^evaluate_truth +1$",
    "snakemake results/cmv/config.yaml --cores 1": r"\(100%\) done$|^Nothing to be done",
}  # fmt: skip
"""Commands that run here as shown, in a checkout without results, with a pattern of their output."""
RUN_SLOWLY = {
    "python benchmarks/annotation.py": "^0 lost, 0 more than a pair was to get, 0 that nobody gave$",
    "snakemake data --configfile config/NAME.yaml --cores 2": r"\(100%\) done$",
}
"""The same for slow tests."""
RUN_BY = {
    "make clean*": "test_docs.py::test_make_clean_leaves_the_state_of_a_study",
    "persuasion-rl annotate*": "test_annotation_browser.py::serve_page",
    "persuasion-rl export-answers *": "test_exchange.py::test_people_fill_in_a_table_and_bring_it_back",
    "persuasion-rl import-answers*": "test_exchange.py::test_people_fill_in_a_table_and_bring_it_back",
    "python benchmarks/coverage.py*": "test_benchmarks.py::test_coverage_is_counted_of_every_interval",
    "python benchmarks/data.py *": "test_benchmarks.py::test_the_data_stages_are_timed_on_a_corpus_of_any_size",
    "python benchmarks/generation.py *": "test_benchmarks.py::test_generation_is_timed_in_three_ways_within_the_studys_limit",
    "python benchmarks/judges.py --base *": "test_judges_benchmark.py::test_a_trained_delta_judge_stands_beside_the_baseline",
    "python benchmarks/memory.py*": "test_benchmarks.py::test_the_estimate_of_memory_is_near_what_jobs_take",
    "python benchmarks/planning.py": "test_benchmarks.py::test_planning_is_timed_beside_a_workflow_of_one_rule",
    "python benchmarks/staleness.py": "test_benchmarks.py::test_an_edit_is_counted_by_the_jobs_that_it_makes_stale",
    "python benchmarks/training.py compare *": "test_benchmarks.py::test_a_comparison_has_all_ways_and_the_losses_agree",
    "python benchmarks/training.py profile *": "test_benchmarks.py::test_a_profile_tells_where_all_of_the_time_goes",
    "python tests/plans.py": "test_plans.py::test_a_study_is_planned_as_recorded",
    "sed *": "test_docs.py::test_the_line_that_demands_a_gpu_does",
    "snakemake --report *": "test_study.py::test_snakemakes_own_report_has_captions_and_categories",
}  # fmt: skip
"""Commands that another test runs, on less data."""
NOT_RUN = {
    "aws *": "needs an account",
    "ssh *": "needs another machine",
    "*make real": "a real model on real corpora, for an hour; test_real_data.py has the data stages, test_unpack.py the model",
    ".ci/run": "all of CI",
    "cd *": "of the shell",
    "git clone *": "needs an address",
    "make PYTHON=* demo": "installs, and trains for ten minutes; test_study.py makes a smaller study",
    "make demo": "installs, and trains for ten minutes; test_study.py makes a smaller study",
    "make demo-seeds": "three times the demo",
    "make lint*": "installs; a stage of .ci/run",
    "make test*": "installs; a stage of .ci/run",
    "nvidia-smi": "needs a GPU",
    "pip install *": "installs; its extras and files are looked for below",
    "python benchmarks/overhead.py *": "twice the demo",
    "python tests/interruptions.py *": "half an hour; test_interruptions.py kills four times",
    "snakemake * --profile aws-gpu": "needs a GPU",
    "snakemake * -f": "needs the demo's results; test_study.py makes a study's files again",
    "snakemake --cores 2 --configfile config/smollm2.yaml *": "hours; test_values.py has size_factor",
    "snakemake --configfile config/NAME.yaml --cores 2": "trains; test_study.py makes a study",
    "snakemake --cores 2 results/cmv/splits/summary.json": "downloads a corpus",
    "snakemake --profile aws-gpu*": "needs a GPU",
    "snakemake --profile profiles/aws-batch": "needs an account",
    "snakemake --profile profiles/slurm": "needs a cluster; test_slurm.py starts one",
    "snakemake data --cores 2": "downloads a corpus",
    "snakemake publish *": "sends models away; test_publish.py has a Hub of its own",
    "ollama *": "another program; test_export_gguf.py renders its template, and asks llama.cpp if it is here",
    "snakemake export *": "trains; test_export_model.py and test_export_gguf.py export models",
    "snakemake export_dataset *": "trains; test_export_dataset.py exports rows",
    "snakemake results/cmv/exported/*": "trains; test_export_model.py and test_export_gguf.py export models",
    "snakemake sft --cores 2 --configfile config/demo.yaml": "trains; test_study.py makes a study",
    "snakemake unattended --configfile config/NAME.yaml --cores 2": "trains; test_study.py makes a study",
    "source *": "of the shell",
    "sudo *": "sets up a machine",
    "tmux *": "a terminal",
    "vllm *": "another program, in an environment of its own",
}  # fmt: skip
"""Commands that no test runs, with the reason. Those of snakemake are planned, and the flags of the others checked."""
TABLES = (RUN, RUN_SLOWLY, RUN_ON_A_STUDY, RUN_BY, NOT_RUN)
STANDS_FOR = {"STUDY": "cmv", "MODEL": "sft", "FILE": "results/cmv/splits/summary.json"}
"""Values for the placeholders of the pages."""


def blocks(page, *languages):
    """The fenced blocks of a page in some languages, without the indentation of a list."""
    return [
        re.sub(rf"^{indent}", "", text, flags=re.M)
        for indent, language, text in BLOCK.findall(page.read_text())
        if language in languages
    ]


def documented_commands():
    """Each command in a block or code span of a page, with the names of its pages."""
    pages_of = defaultdict(set)
    for page in PAGES:
        for block in blocks(page, "", "bash", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.sub(r"(^|\s)#.*", "", line).split(" && "):
                    pages_of[" ".join(command.split())].add(page.name)
        for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text())):
            if re.match(r"(snakemake|persuasion-rl|make|python) [\w-]", span):
                pages_of[span].add(page.name)
    pages_of.pop("", None)
    return {command: ", ".join(sorted(pages)) for command, pages in sorted(pages_of.items())}


def fill_in(command):
    """A command with its placeholders filled in."""
    for name, value in STANDS_FOR.items():
        command = re.sub(rf"\b{name}\b", value, command)
    return command


def words_of(command):
    """The words of a command without the variables before it."""
    words = shlex.split(fill_in(command))
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def entry_of(command):
    """The first entry of the tables above that matches a command."""
    entries = (entry for table in TABLES for entry in table if fnmatchcase(command, entry))
    return next(entries, None)


COMMANDS = documented_commands()


def commands_of(program):
    """The commands of a program that no test runs as shown."""
    return [c for c in COMMANDS if words_of(c)[0] == program and entry_of(c) in {*NOT_RUN, *RUN_BY}]


def dry_runs():
    """Dry runs for the commands of snakemake that no test runs: options -> targets.

    Commands that differ only in their targets are planned together, to save time.
    """
    runs = defaultdict(list)
    for command in commands_of("snakemake"):
        words = words_of(command)[1:]
        if "--report" in words:
            continue
        options, targets = [], []
        while words:
            word = words.pop(0)
            if word in ("--profile", "--configfile"):
                options += [word, words.pop(0)]
            elif word == "--cores":  # does not change a plan
                words.pop(0)
            elif word.startswith("-"):
                options += [word, *words]  # some take several values: together with their targets
                break
            else:
                targets.append(word)
        runs[" ".join(options)] += targets or ["all"]
    return {name: [*dict.fromkeys(targets)] for name, targets in runs.items()}


PLANNED = dry_runs()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout without results, with a study NAME, as the pages call the reader's study."""
    folder = copy_project(tmp_path_factory.mktemp("checkout") / "project")
    (folder / "config/NAME.yaml").write_text("extends: ../tests/tiny.yaml\nstudy: NAME\n")
    return folder


def test_every_command_is_run_or_listed_with_the_reason_why_not():
    assert {command: COMMANDS[command] for command in COMMANDS if not entry_of(command)} == {}
    entries = [entry for table in TABLES for entry in table]
    assert sorted(entries) == sorted({entry_of(command) for command in COMMANDS}), "each fits one"
    for named in RUN_BY.values():
        file, test = named.split("::")
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {test}(" in path.read_text(), named


@pytest.mark.parametrize(
    "command", [*RUN, *(pytest.param(command, marks=pytest.mark.slow) for command in RUN_SLOWLY)]
)
def test_a_command_does_what_is_said(command, checkout):
    output = run_as_typed(fill_in(command), checkout)
    assert re.search((RUN | RUN_SLOWLY)[command], output, re.M), output[-4000:]


def test_a_command_that_runs_jobs_tells_how_many_at_once():
    """Snakemake refuses other commands; a profile may set the number."""
    no_jobs = {"-n", "--report", "--rulegraph", "--touch", "--unlock", "--cores", "--profile"}
    commands = [command for command in COMMANDS if words_of(command)[0] == "snakemake"]
    assert [command for command in commands if not no_jobs & {*words_of(command)}] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make clean")])
def test_make_clean_leaves_the_state_of_a_study(command, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    study = tmp_path / "results" / (command.partition("STUDY=")[2] or "demo")
    for name in ("report.html", "models/sft/README.md", "state/human_answers.sqlite"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).touch()
    run_as_typed(command, tmp_path)
    files = [path.relative_to(study) for path in study.rglob("*") if path.is_file()]
    assert list(map(str, files)) == ["state/human_answers.sqlite"]


@pytest.mark.parametrize("options", PLANNED)
def test_the_commands_of_snakemake_are_planned(options, checkout):
    words = [*PLANNED[options], *shlex.split(options)]
    for profile, plugin in (("slurm", "slurm"), ("aws-batch", "aws_batch")):
        if f"profiles/{profile}" in words and not find_spec(f"snakemake_executor_plugin_{plugin}"):
            pytest.skip(f"the executor of profiles/{profile} is not installed")
    output = succeed(*words, "-n", root=checkout)
    assert "Job stats" in output, "no dry run"


@cache
def help_of(*words):
    """The output of a command's --help."""
    run = subprocess.run(
        [sys.executable, *words, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def flags_of(words):
    return {word.partition("=")[0] for word in words if word.startswith("-") and word != "--help"}


@pytest.mark.parametrize("command", commands_of("persuasion-rl"))
def test_a_command_of_ours_has_the_flags_that_are_shown(command, capsys):
    name, *words = words_of(command)[1:]
    with pytest.raises(SystemExit) as error:
        main([name, "--help"])
    assert error.value.code == 0
    assert flags_of(words) <= {*re.findall(r"--?[\w-]+", capsys.readouterr().out)}


@pytest.mark.parametrize("command", commands_of("python"))
def test_a_benchmark_has_the_flags_that_are_shown(command):
    words = words_of(command)[1:]
    entry, rest = words[:1], words[1:]
    if rest and rest[0] in ("compare", "profile", "scale"):
        entry, rest = [*entry, rest[0]], rest[1:]
    assert flags_of(rest) <= {*re.findall(r"--?[\w-]+", help_of(*entry))}


@pytest.mark.parametrize("command", commands_of("make"))
def test_a_target_of_make_is_one(command):
    run = subprocess.run(
        ["make", "-n", *words_of(command)[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_the_line_that_demands_a_gpu_does(tmp_path):
    (command,) = [command for command in COMMANDS if command.startswith("sed ")]
    shutil.copytree(ROOT / "config", tmp_path / "config")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    changed = yaml.safe_load((tmp_path / "config/config.yaml").read_text())
    assert changed == yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"device": "cuda"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_shown_are_a_study(page, tmp_path, monkeypatch):
    """A block of YAML is a file in config/, or a part of one that extends the published study."""
    (tmp_path / "corpora/my-corpus").mkdir(parents=True)
    for name in ("conversations.json", "utterances.jsonl"):
        (tmp_path / "corpora/my-corpus" / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    for block in blocks(page, "yaml"):
        settings = {"extends": "config.yaml", "study": "shown"} | yaml.safe_load(block)
        Study.read(settings, ROOT / "config/shown.yaml")


def test_the_picture_of_the_workflow_is_that_of_its_rules(checkout):
    """Every arrow is an input, directly or through rules that the picture omits."""
    [picture] = [block for page in PAGES for block in blocks(page, "mermaid")]
    arrows = set()
    for line in picture.splitlines():
        steps = [step.split(" & ") for step in line.strip().split(" --> ")]
        for froms, tos in pairwise(steps):
            arrows |= {(one.strip(), other.strip()) for one in froms for other in tos}
    assert len(arrows) > 15
    graph = succeed("--rulegraph", "mermaid-js", root=checkout)
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    follows = defaultdict(set)
    for one, other in re.findall(r"(id\d+) --> (id\d+)", graph):
        follows[names[one]].add(names[other])
    rules = {rule for arrow in arrows for rule in arrow}
    assert rules <= {*names.values()}

    def reached(rule, left_out=()):
        for following in follows[rule]:
            if following in rules:
                yield following
            elif following not in left_out:
                yield from reached(following, (*left_out, following))

    assert {arrow for arrow in arrows if arrow[1] not in reached(arrow[0])} == set()


def test_estimates_that_are_shown_are_the_doctors():
    def estimates_for(examples):
        settings = {"extends": "config.yaml", "study": "shown", "data": {"max_examples": examples}}
        study = Study.read(settings, ROOT / "config/shown.yaml")
        return study, estimates(study)

    rows = (ROOT / "docs/aws.md").read_text().splitlines()
    for stage, _, *hours in estimates_for(50_000)[1][1:]:
        assert f"| {stage} | {hours[0]} | {hours[1]} |" in rows
    rows = (ROOT / "docs/data.md").read_text().splitlines()
    for examples in (30_000, 50_000, 100_000):
        study, estimated = estimates_for(examples)
        sides, pools = study.split_sizes(), study.pool_sizes()
        cells = [
            f"{examples:,}",
            " / ".join(f"{sides[side]:,}" for side in ("train", "val", "test")),
        ]
        cells += [
            f"{pools['ai']:,}",
            f"{pools['human']:,}",
            f"{study.config.data.final_eval_size:,}",
        ]
        assert f"| {' | '.join([*cells, *estimated[-1][2:4]])} |" in rows


def test_messages_that_are_explained_are_said():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    table = page.split("\n## ")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    messages = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell) if " " in span]
    package = find_spec("snakemake").submodule_search_locations[0]
    sources = [*(ROOT / "workflow").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk")]
    source = "\n".join(path.read_text() for path in sources)
    with open(f"{package}/exceptions.py") as file:
        source += file.read() + os.strerror(errno.ENOENT)
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # a text in several lines
    assert len(messages) > 8
    for message in messages:
        # Variable parts are a name in capitals, a number as a letter, or the name of a study.
        parts = re.split(r"\b[A-Z]+\b|'?\bdemo\b'?|'?\bcmv\b'?|\.\.\.", message)
        pattern = r"[^\n]{1,60}?".join(map(re.escape, parts))
        assert re.search(pattern, source), message


def test_extras_and_files_to_install_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    files = [*PAGES, *(ROOT / "profiles").rglob("*.yaml"), *(ROOT / "envs").iterdir()]
    files += (ROOT / "workflow/persuasion_rl").rglob("*.py")
    files_by_extra = defaultdict(set)
    for path in files:
        for listed in re.findall(r"\.\[([\w,-]+)\]", path.read_text()):
            for extra in listed.split(","):
                files_by_extra[extra].add(path.name)
    assert {"annotate", "openai", "qlora"} <= files_by_extra.keys()
    assert {extra: paths for extra, paths in files_by_extra.items() if extra not in extras} == {}
    locks = {lock for page in PAGES for lock in re.findall(r"envs/[\w.-]+\.txt", page.read_text())}
    assert len(locks) > 2 and {lock for lock in locks if not (ROOT / lock).is_file()} == set()


def test_every_test_that_is_named_is_there():
    tests = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(tests) > 15
    assert {name for name in tests if f"def {name}(" not in sources} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_of_the_project_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    paths = [word for word in re.findall(r"`([\w./-]+)`", text) if word.startswith(OF_THE_PROJECT)]
    missing += [path for path in paths if path not in OF_A_READER and not (ROOT / path).exists()]
    for target, anchor in re.findall(r"\]\(([^):]*)#([^)]+)\)", text):
        headings = re.findall(r"^#+ (.+)$", (page.parent / target if target else page).read_text(), re.M)  # fmt: skip
        if anchor not in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}:
            missing.append(f"{target}#{anchor}")
    assert missing == []


def test_every_guide_is_found_from_the_first_page():
    first = (ROOT / "README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"(docs/{p.name}" not in first] == []
