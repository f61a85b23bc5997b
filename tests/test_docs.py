"""What the documentation says is so: commands run, settings load, files, tests and links are there."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import pytest
import yaml

from persuasion_rl.cli import main
from persuasion_rl.config import load_study, pool_sizes, split_sizes
from persuasion_rl.doctor import estimates
from running import ROOT, copy_project, succeed

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")),
    *(ROOT / name for name in ("profiles/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
OF_THE_PROJECT = ("workflow/", "config/", "docs/", "envs/", "profiles/", "benchmarks/", "tests/", "resources/rubrics/")  # fmt: skip
OF_A_READER = {"config/NAME.yaml"}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)

NOT_RUN = {
    "pip": "installs; its extras and files are looked for below",
    "pytest": "the tests",
    ".ci/run": "all of CI",
    "vllm": "another program, in an environment of its own",
    "source": "of the shell",
    "export": "of the shell",
    "cd": "of the shell",
    "git": "needs an address",
    "sudo": "sets up a machine",
    "nvidia-smi": "needs a GPU",
    "tmux": "a terminal",
    "ssh": "needs another machine",
    "aws": "needs an account",
    "accelerate": "started by rules",
    "python -c": "a line about torch",
    "sed": "run by a test of its own below",
}
"""What is shown and not run, and why."""
NOT_PLANNED = {"--report": "reads a study that was made", "--lint": "make lint runs it"}
"""Options of snakemake with which a command is not planned, and why."""
FLAGLESS = ("-m persuasion_rl.config",)
"""What takes no flags, and so has no --help."""
STANDS_FOR = {"STUDY": "cmv", "MODEL": "sft", "FILE": "results/cmv/splits/summary.json"}
"""What the pages write for something of the reader's."""


def blocks(page, *languages):
    """The fenced blocks of a page in some languages, without the indentation of a list."""
    return [
        re.sub(rf"^{indent}", "", text, flags=re.M)
        for indent, language, text in BLOCK.findall(page.read_text())
        if language in languages
    ]


def shown_commands():
    """Each command that a page shows, in a block or as a span of code, and the pages that do."""
    shown = defaultdict(set)
    for page in PAGES:
        for block in blocks(page, "", "bash", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.sub(r"(^|\s)#.*", "", line).split(" && "):
                    shown[" ".join(command.split())].add(page.name)
        for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text())):
            if re.match(r"(snakemake|persuasion-rl|make|python) [\w-]", span):
                shown[span].add(page.name)
    shown.pop("", None)
    return {command: ", ".join(sorted(pages)) for command, pages in sorted(shown.items())}


def words_of(command):
    """The words of a command without the variables before it, what stands for the reader's own filled in."""
    for name, value in STANDS_FOR.items():
        command = re.sub(rf"\b{name}\b", value, command)
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


COMMANDS = shown_commands()


def dry_runs():
    """What to plan so that every command of snakemake is: name -> options and targets.

    Commands that differ in their targets alone are planned together, since planning is what takes the time.
    """
    runs = defaultdict(list)
    for command in COMMANDS:
        words = words_of(command)[1:]
        if words_of(command)[0] != "snakemake" or {*words} & {*NOT_PLANNED}:
            continue
        options, targets = [], []
        while words:
            word = words.pop(0)
            if word in ("--profile", "--configfile"):
                options += [word, words.pop(0)]
            elif word == "--cores":  # of no matter to a plan
                words.pop(0)
            elif word.startswith("-") and word != "-n":
                options += [word, *words]  # some take several values: together with their targets
                break
            elif word != "-n":
                targets.append(word)
        if not targets and not {"--touch", "--unlock", "--rulegraph"} & {*options}:
            targets = ["all"]
        runs[" ".join(options)] += targets
    return {name: [*dict.fromkeys(targets)] for name, targets in runs.items()}


PLANNED = dry_runs()
OURS = ("snakemake", "persuasion-rl", "make", "python")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout without results, with a study NAME, as the pages call that of a reader."""
    folder = copy_project(tmp_path_factory.mktemp("checkout") / "project")
    (folder / "aws-gpu").symlink_to("profiles/aws-gpu")
    (folder / "config/NAME.yaml").write_text("extends: demo.yaml\nstudy: NAME\n")
    return folder


@pytest.mark.parametrize("options", PLANNED)
def test_the_commands_of_snakemake_are_planned(options, checkout):
    words = [*PLANNED[options], *shlex.split(options)]
    for profile, plugin in (("slurm", "slurm"), ("aws-batch", "aws_batch")):
        if f"profiles/{profile}" in words and not find_spec(f"snakemake_executor_plugin_{plugin}"):
            pytest.skip(f"the executor of profiles/{profile} is not installed")
    output = succeed(*words, "-n", root=checkout)
    # A dry run that says nothing of jobs was none.
    assert "--unlock" in words or "Job stats" in output or "flowchart" in output, output[-2000:]


@cache
def help_of(*words):
    """What a command's --help says."""
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


@pytest.mark.parametrize("command", [c for c in COMMANDS if words_of(c)[0] == "persuasion-rl"])
def test_a_command_of_ours_has_the_flags_that_are_shown(command, capsys):
    name, *words = words_of(command)[1:]
    if name == "COMMAND":
        return
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert flags_of(words) <= {*re.findall(r"--?[\w-]+", capsys.readouterr().out)}


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith("python ") and not c.startswith("python -c")]
)
def test_a_module_or_benchmark_has_the_flags_that_are_shown(command):
    words = words_of(command)[1:]
    entry = words[: 2 if words[0] == "-m" else 1]
    rest = words[len(entry) :]
    if rest and rest[0] in ("compare", "profile", "scale"):
        entry, rest = [*entry, rest[0]], rest[1:]
    if " ".join(entry) in FLAGLESS:
        assert not flags_of(rest)
        return
    assert flags_of(rest) <= {*re.findall(r"--?[\w-]+", help_of(*entry))}


@pytest.mark.parametrize("command", [c for c in COMMANDS if words_of(c)[0] == "make"])
def test_a_target_of_make_is_one(command):
    run = subprocess.run(
        ["make", "-n", *words_of(command)[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_what_is_shown_and_not_run_is_listed_with_its_reason():
    rest = [command for command in COMMANDS if words_of(command)[0] not in OURS]
    rest += [command for command in COMMANDS if command.startswith("python -c")]
    unlisted = [c for c in rest if not {c.split()[0], " ".join(c.split()[:2])} & {*NOT_RUN}]
    assert {command: COMMANDS[command] for command in unlisted} == {}
    assert len(COMMANDS) - len(rest) > 60


def test_the_line_that_demands_a_gpu_does(tmp_path):
    (command,) = [command for command in COMMANDS if command.startswith("sed ")]
    shutil.copytree(ROOT / "config", tmp_path / "config")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    changed = yaml.safe_load((tmp_path / "config/config.yaml").read_text())
    assert changed == yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"device": "cuda"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_shown_are_a_study(page, tmp_path, monkeypatch):
    """A block of YAML is a file in config/, whole or a part of one that is laid over the published study."""
    (tmp_path / "corpora/my-corpus").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    for block in blocks(page, "yaml"):
        settings = {"extends": "config.yaml", "study": "shown"} | yaml.safe_load(block)
        load_study(settings, ROOT / "config/shown.yaml")


def test_the_picture_of_the_workflow_is_that_of_its_rules(checkout):
    """Every arrow is an input, or a way to one through rules that the picture leaves out."""
    [picture] = [block for page in PAGES for block in blocks(page, "mermaid")]
    arrows = set()
    for line in picture.splitlines():
        steps = [step.split(" & ") for step in line.strip().split(" --> ")]
        for froms, tos in pairwise(steps):
            arrows |= {(one.strip(), other.strip()) for one in froms for other in tos}
    assert len(arrows) > 15
    drawn = succeed("--rulegraph", "mermaid-js", root=checkout)
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn))
    follows = defaultdict(set)
    for one, other in re.findall(r"(id\d+) --> (id\d+)", drawn):
        follows[names[one]].add(names[other])
    shown = {rule for arrow in arrows for rule in arrow}
    assert shown <= {*names.values()}

    def reached(rule, left_out=()):
        for following in follows[rule]:
            if following in shown:
                yield following
            elif following not in left_out:
                yield from reached(following, (*left_out, following))

    assert {arrow for arrow in arrows if arrow[1] not in reached(arrow[0])} == set()


def test_estimates_that_are_shown_are_the_doctors():
    def told(examples):
        settings = {"extends": "config.yaml", "study": "shown", "data": {"max_examples": examples}}
        study = load_study(settings, ROOT / "config/shown.yaml")
        return study["data"], estimates(study)

    rows = (ROOT / "docs/aws.md").read_text().splitlines()
    for stage, _, *hours in told(50_000)[1][1:]:
        assert f"| {stage} | {hours[0]} | {hours[1]} |" in rows
    rows = (ROOT / "docs/data.md").read_text().splitlines()
    for examples in (30_000, 50_000, 100_000):
        data, estimated = told(examples)
        sides, pools = split_sizes(data), pool_sizes(data)
        cells = [
            f"{examples:,}",
            " / ".join(f"{sides[side]:,}" for side in ("train", "val", "test")),
        ]
        cells += [f"{pools['ai']:,}", f"{pools['human']:,}", f"{data['final_eval_size']:,}"]
        assert f"| {' | '.join([*cells, *estimated[-1][2:4]])} |" in rows


def test_messages_that_are_explained_are_said():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    table = page.split("\n## ")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    explained = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell) if " " in span]
    package = find_spec("snakemake").submodule_search_locations[0]
    sources = [*(ROOT / "workflow").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk")]
    said = "\n".join(path.read_text() for path in sources)
    with open(f"{package}/exceptions.py") as file:
        said += file.read() + os.strerror(errno.ENOENT)
    said = re.sub(r'"\s*\n\s*f?"', "", said)  # a text in several lines
    assert len(explained) > 8
    for message in explained:
        # What differs each time is a name in capitals, a number as a letter, or a study's.
        parts = re.split(r"\b[A-Z]+\b|'?\bdemo\b'?|'?\bcmv\b'?|\.\.\.", message)
        pattern = r"[^\n]{1,60}?".join(map(re.escape, parts))
        assert re.search(pattern, said), message


def test_extras_and_files_to_install_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    files = [*PAGES, *(ROOT / "profiles").rglob("*.yaml"), *(ROOT / "envs").iterdir()]
    files += (ROOT / "workflow/persuasion_rl").glob("*.py")
    named = defaultdict(set)
    for path in files:
        for listed in re.findall(r"\.\[([\w,-]+)\]", path.read_text()):
            for extra in listed.split(","):
                named[extra].add(path.name)
    assert {"annotate", "openai", "qlora"} <= named.keys()
    assert {extra: paths for extra, paths in named.items() if extra not in extras} == {}
    locks = {lock for page in PAGES for lock in re.findall(r"envs/[\w.-]+\.txt", page.read_text())}
    assert len(locks) > 2 and {lock for lock in locks if not (ROOT / lock).is_file()} == set()


def test_every_test_that_is_named_is_there():
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in sources} == set()


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
