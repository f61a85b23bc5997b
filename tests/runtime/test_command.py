"""The command line of a stage, and the files that it reads and writes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from persuasion_rl.files import (
    UserError,
    file_digest,
    keyed_number,
    read_json,
    read_jsonl,
    text_digest,
    write_json,
    write_jsonl,
    written_whole,
)
from persuasion_rl.runtime import command
from persuasion_rl.runtime.command import stage
from persuasion_rl.study.flags import flags
from persuasion_rl.training.recipe import split_recipe

WORKFLOW = Path(__file__).parents[2] / "workflow"
CALLS = []


def typed(
    *, corpora: list[Path], count: int, share: float, deep: bool, pools: dict[str, Path], name: str = "x",
    base: Path | None = None,
) -> None:  # fmt: skip
    """A stage with every type that stages use."""
    CALLS.append(locals())


def trainer(*, train: Path, beta: float = 0.1, **recipe) -> None:
    CALLS.append(locals())


@dataclass(frozen=True)
class Limits:
    """How a response ends. A second sentence of the same paragraph.

    A second paragraph.
    """

    max_new_tokens: int
    temperature: float = 1.0
    stops: list[str] = field(default_factory=lambda: ["\n"])
    adapters: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens: {self.max_new_tokens}; at least 1")


@dataclass(frozen=True)
class Server:
    address: str = "here"
    retries: int | None = None


def sampler(
    *,
    output: Path,
    limits: Limits,
    server: Server = Server("elsewhere", 3),
    seed: int = 1,
    **recipe,
) -> Limits:
    """A stage with groups, plain flags and a recipe. Its return type is no flag."""
    CALLS.append(locals())
    return limits


@dataclass(frozen=True)
class Judge:
    """Who judges."""

    PREFIX = "judge_"
    name: str
    budget: int | float | None = 5
    server: Server = Server()


def judging(*, judge: Judge, seed: int) -> None:
    CALLS.append(locals())


def failing(*, kind: str) -> None:
    raise {"user": UserError("the key is wrong"), "bug": ValueError("a bug")}[kind]


def call(monkeypatch, words: str | list[str], *functions):
    CALLS.clear()
    monkeypatch.setattr(
        sys, "argv", ["stage", *(shlex.split(words) if isinstance(words, str) else words)]
    )
    stage(*functions)
    return CALLS[0] if CALLS else None


TYPED = "--corpora a b/c --count 3 --share 0.5 --deep TRUE --pools ai=x.jsonl human=y=z"


def test_flags_get_the_types_of_the_parameters(monkeypatch):
    assert call(monkeypatch, TYPED, typed) == {
        "corpora": [Path("a"), Path("b/c")], "count": 3, "share": 0.5, "deep": True,
        "pools": {"ai": Path("x.jsonl"), "human": Path("y=z")}, "name": "x", "base": None,
    }  # fmt: skip
    assert call(monkeypatch, TYPED + " --base m --name y", typed)["base"] == Path("m")


@pytest.mark.parametrize("word", ["3", "3.0", "+3", "3.", "0.3e1", "3E0", "03"])
def test_a_whole_number_may_be_written_as_the_configuration_has_it(monkeypatch, word):
    count = call(monkeypatch, TYPED.replace("--count 3", f"--count {word}"), typed)["count"]
    assert (count, type(count)) == (3, int)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--count 3", "required"),
        (TYPED.replace("3", "three"), "--count: invalid int value: 'three'"),
        *(
            (TYPED.replace("--count 3", f"--count={word}"), f"--count: invalid int value: '{word}'")
            for word in (
                "3.5",
                "1e-1",
                "nan",
                "inf",
                "-inf",
                "1e999",
                "0x10",
                "٣",
                "1_",
                "true",
                "",
            )
        ),
        *(
            (TYPED.replace("0.5", word), f"--share: invalid float value: '{word}'")
            for word in ("nan", "inf", "1e999", "0x10", "infinity")
        ),
        (TYPED.replace("TRUE", "yes"), "expected true or false, got 'yes'"),
        (TYPED.replace("ai=", "ai:"), "expected KEY=VALUE, got 'ai:x.jsonl'"),
        (TYPED + " --coun 4", "unknown argument: --coun"),
        (TYPED + " --seed 4", "unknown argument: --seed"),
    ],
)
def test_wrong_arguments_end_with_a_usage_error(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, words, typed)
    assert error.value.code == 2 and message in capsys.readouterr().err


@dataclass(frozen=True)
class Api:
    """An API."""

    PREFIX: ClassVar[str] = "api_"

    temperature: int | float | None = 0
    limit: int | None = None
    prices: dict[str, float] | None = None


@dataclass(frozen=True)
class Judging:
    """How to judge."""

    seed: int
    base: Path | None = None
    api: Api = field(default_factory=Api)


def judged(*, output: Path, judging: Judging) -> None:
    """A stage with a group within a group."""
    CALLS.append(locals())


@pytest.mark.parametrize(
    ("words", "api"),
    [
        ("", Api()),
        ("--api_temperature 0.5 --api_limit 3", Api(0.5, 3)),
        ("--api_temperature none --api_prices a=1 b=.5", Api(None, None, {"a": 1.0, "b": 0.5})),
    ],
)  # fmt: skip
def test_a_dataclass_is_a_group_of_flags_and_may_hold_another(monkeypatch, words, api):
    actual = call(monkeypatch, f"--output o --seed 1 {words}", judged)
    assert actual == {"output": Path("o"), "judging": Judging(1, None, api)}


def test_a_number_stays_of_the_kind_that_the_configuration_has(monkeypatch):
    """0 and 0.0 have different digests."""
    for value in (0, 0.0, 1, 0.7):
        words = f"--output o --seed 1 {flags({'api_temperature': value})}"
        temperature = call(monkeypatch, words, judged)["judging"].api.temperature
        assert temperature == value and type(temperature) is type(value)


def test_a_group_is_its_object_beside_plain_flags_and_a_recipe(monkeypatch):
    words = (
        "--max_new_tokens 7 --output o --stops a b --beta 0.1 --adapters x=y/z --retries 5"
        " --temperature 0.5 --seed 2"
    )
    assert call(monkeypatch, words, sampler) == {
        "output": Path("o"), "seed": 2, "recipe": {"beta": 0.1}, "server": Server("elsewhere", 5),
        "limits": Limits(7, 0.5, ["a", "b"], {"x": Path("y/z")}),
    }  # fmt: skip


def test_flags_of_a_group_default_to_its_parameter_or_fields(monkeypatch):
    assert call(monkeypatch, "--max_new_tokens 7 --output o", sampler) == {
        "output": Path("o"), "seed": 1, "recipe": {}, "limits": Limits(7), "server": Server("elsewhere", 3),
    }  # fmt: skip
    none = call(monkeypatch, "--max_new_tokens 7 --output o --stops", sampler)
    assert none["limits"].stops == []


@pytest.mark.parametrize(
    ("words", "judge"),
    [
        ("", Judge("x")),
        ("--judge_budget 2", Judge("x", 2)),
        ("--judge_budget 2.5 --retries none", Judge("x", 2.5)),
        ("--judge_budget none --address there", Judge("x", None, Server("there"))),
    ],
)
def test_a_group_may_have_a_prefix_and_hold_another_group(monkeypatch, words, judge):
    actual = call(monkeypatch, f"--judge_name x --seed 1 {words}", judging)
    assert actual == {"judge": judge, "seed": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output o", "the following arguments are required: --seed"),
        ("--output o --seed none", "--seed: invalid int value: 'none'"),
        ("--output o --seed 1 --api_limit x", "--api_limit: invalid int value: 'x'"),
        ("--output o --seed 1 --api_temperature x", "invalid int or float value: 'x'"),
        ("--output o --seed 1 --limit 3", "unknown argument: --limit"),
    ],
)
def test_wrong_arguments_of_a_group_end_with_a_usage_error(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit):
        call(monkeypatch, words, judged)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output o", "required: --max_new_tokens"),
        ("--max_new_tokens many --output o", "--max_new_tokens: invalid int value: 'many'"),
        ("--max_new_tokens 7 --output o --adapters x", "expected KEY=VALUE, got 'x'"),
    ],
)
def test_wrong_flags_of_a_group_end_with_a_usage_error(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, words, sampler)
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_what_a_group_itself_refuses_is_one_line(monkeypatch):
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, "--max_new_tokens 0 --output o", sampler)
    assert error.value.code == "error: max_new_tokens: 0; at least 1" and not CALLS


def test_help_shows_a_group_under_its_name_and_what_it_is(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "--help", sampler)
    plain, group = capsys.readouterr().out.split("Limits:")
    assert "--output" in plain and "--seed" in plain
    group, server = group.split("Server:")
    assert (
        group.split("\n")[1].strip()
        == "How a response ends. A second sentence of the same paragraph."
    )
    assert "second paragraph" not in group
    assert [word for word in group.split() if word.startswith("--")] == [
        "--max_new_tokens", "--temperature", "--stops", "--adapters",
    ]  # fmt: skip
    assert "--address" in server and "--retries" in server


def test_a_recipe_takes_the_trainers_own_names(monkeypatch):
    recipe = {
        "learning_rate": 5e-05, "num_train_epochs": 3, "packing": True, "use_4bit": False, "lr_scheduler_type": "cosine",
        "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2], "max_steps": -1, "nothing": None,
        "report_to": "yes",
    }  # fmt: skip
    actual = call(monkeypatch, f"--train t.jsonl {flags(recipe)} --beta 0.3", trainer)
    del recipe["nothing"]
    assert actual == {"train": Path("t.jsonl"), "beta": 0.3, "recipe": recipe}


@pytest.mark.parametrize(
    "recipe", [{"loss_weights": [1.0]}, {"lora_target_modules": ["q_proj"]}], ids=str
)
def test_a_list_of_one_value_stays_a_list(monkeypatch, recipe):
    """trl takes no number for loss_weights, and peft reads a string of target_modules as a pattern."""
    batches = {"effective_batch_size": 8, "per_device_train_batch_size": 4}
    actual = call(monkeypatch, f"--train t.jsonl {flags(recipe | batches)}", trainer)["recipe"]
    settings, lora, _ = split_recipe(actual)
    assert recipe.items() <= (settings | lora).items()


def test_a_module_of_several_functions_takes_the_name_of_one(monkeypatch, capsys):
    assert call(monkeypatch, "trainer --train t.jsonl", typed, trainer)["train"] == Path("t.jsonl")
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, "nothing --train t.jsonl", typed, trainer)
    assert error.value.code == 2 and "typed" in capsys.readouterr().err


def test_the_log_of_a_workflow_begins_with_what_the_environment_chooses(monkeypatch, capsys):
    monkeypatch.setenv(command.WORKFLOW, str(os.getpid()))
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    call(monkeypatch, "--seed 1 --judge_name delta", judging)
    assert "MKL_CBWR=COMPATIBLE is in the environment" in capsys.readouterr().err


def test_what_the_user_can_mend_is_one_line_and_a_bug_is_not_hidden(monkeypatch):
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, "--kind user", failing)
    assert error.value.code == "error: the key is wrong"
    with pytest.raises(ValueError, match="a bug"):
        call(monkeypatch, "--kind bug", failing)


def test_a_file_that_is_not_there_is_one_line(command_line, tmp_path):
    run = command_line(
        "preferences.preference_pairs", "--labels", tmp_path / "none.jsonl", "--train", tmp_path / "t", "--val", tmp_path / "v",
        "--val_fraction", 0.1, "--seed", 1, "--report", tmp_path / "r",
    )  # fmt: skip
    assert run.returncode == 1
    assert (
        run.stderr.startswith("error: ")
        and "none.jsonl" in run.stderr
        and run.stderr.count("\n") == 1
    )


def test_help_tells_what_a_stage_does(command_line):
    run = command_line("data.cmv", "--help")
    assert run.returncode == 0
    assert "python -m persuasion_rl.data.cmv" in run.stdout and "Write SFT rows" in run.stdout


LIGHT = (
    "data.cmv",
    "study.config",
    "study.code",
    "preferences.label_ai",
    "data.leakage",
    "data.p4g",
    "preferences.preference_pairs",
    "data.sides",
    "data.split",
    "data.synthetic.synthesize",
    "evaluation.tables",
    "tables",
)


def test_light_stages_import_nothing_heavy():
    script = "import sys\n" + "".join(f"import persuasion_rl.{name}\n" for name in LIGHT)
    script += "print({'torch', 'transformers', 'trl', 'peft', 'convokit', 'pandas', 'datasets'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.stdout == "set()\n", run.stdout + run.stderr


def test_a_writer_that_fails_leaves_no_file_and_the_old_one_as_it_was(tmp_path):
    def rows():
        yield {"a": 1}
        raise RuntimeError("the disk is full")

    for old in (None, '{"a": 0}\n'):
        path = tmp_path / "new" / "rows.jsonl"
        if old is not None:
            path.write_text(old)
        with pytest.raises(RuntimeError):
            write_jsonl(path, rows())
        assert [p.name for p in path.parent.iterdir()] == ([] if old is None else ["rows.jsonl"])
        assert old is None or path.read_text() == old


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    with written_whole(path) as part:
        part.write_text("half")
        assert not path.exists() and part.parent == path.parent
    assert path.read_text() == "half" and list(tmp_path.iterdir()) == [path]


def test_files_are_read_as_they_were_written(tmp_path):
    rows = [{"text": "Ünï 日本 🙂\n\u2028 \x85 end", "number": 0.1}, {"text": ""}]
    assert write_jsonl(tmp_path / "rows.jsonl", rows) == 2
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows
    write_json(tmp_path / "value.json", rows)
    assert read_json(tmp_path / "value.json") == rows


def test_a_broken_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: not valid JSON .*cut off"):
        list(read_jsonl(path))
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: expected a JSON object"):
        list(read_jsonl(path))


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("content", [[{"a": 1}, {"a": 2}], {"a": {"b": 2}}])
def test_json_that_is_not_one_object_a_line_is_told_from_a_file_that_was_cut_off(
    tmp_path, content, indent
):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(content, indent=indent))
    if content == {"a": {"b": 2}} and indent is None:
        assert list(read_jsonl(path)) == [content]
        return
    with pytest.raises(UserError, match="line 1: expected a JSON object, one a line, and no array"):
        list(read_jsonl(path))


def test_digests_tell_values_apart_and_do_not_change():
    assert text_digest("a", "bc") != text_digest("ab", "c") != text_digest("abc")
    assert text_digest("side", 1, "t3_x") == "5d380a00c22b9afd"
    numbers = [keyed_number("x", i) for i in range(2000)]
    assert all(0 <= number < 1 for number in numbers) and 0.48 < sum(numbers) / 2000 < 0.52


def test_the_digest_of_a_file_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert (
        file_digest(tmp_path / "x")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


WAITS = """
import time
from persuasion_rl.runtime.command import stage

def waits() -> None:
    print("runs", flush=True)
    time.sleep(60)

stage(waits)
"""


def test_a_stage_ends_with_the_workflow_that_runs_it():
    """psutil tells the workflow from a later process with the same number by their start times."""
    workflow = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW), command.WORKFLOW: str(workflow.pid)}
    stage = subprocess.Popen([sys.executable, "-c", WAITS], env=environment, stdout=subprocess.PIPE)
    try:
        assert stage.stdout.readline() == b"runs\n"
        time.sleep(2 * command.POLL_S)
        assert stage.poll() is None
        workflow.kill()  # a zombie, until it is waited for
        assert stage.wait(timeout=20) == -signal.SIGTERM
    finally:
        stage.kill()
        workflow.kill()
        workflow.wait()
    late = subprocess.run([sys.executable, "-c", WAITS], env=environment, timeout=20)
    assert late.returncode == -signal.SIGTERM
